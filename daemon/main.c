/* SPDX-License-Identifier: Apache-2.0
 *
 * kvcaskd: one store served on unix sockets. Exit codes: 0 ended by a signal after a flush, 1 cannot start or run, 2 the
 * configuration or the command line is wrong.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "daemon/admin.h"
#include "daemon/core.h"
#include "daemon/metrics.h"
#include "daemon/sizes.h"
#include "rpc/local/channel.h"

enum { MAIN_OK = 0, MAIN_FAILED = 1, MAIN_CONFIG = 2, MAIN_SETS_MAX = 256 };
#define MAIN_FLUSH_NS (60 * KVCI_SECOND)

struct main_arguments {
	const char *config_path;
	const char *sets[MAIN_SETS_MAX];
	unsigned set_count;
	bool check_only;
};

struct main_signals {
	struct kvci_core *core;
	struct kvci_watch *watch;
	struct kvci_timer limit; /* of the last flush */
	int fd;
	bool asked;
};

static int main_error(int code, char *error, const char *otherwise)
{
	fprintf(stderr, "kvcaskd: %s\n", error != NULL ? error : otherwise);
	kvci_free(error);
	return code;
}

static void main_usage(FILE *out)
{
	fprintf(out,
	        "usage: kvcaskd --config FILE [--set KEY=VALUE]... [--check-config]\n"
	        "       kvcaskd --help | --help-config | --help-config-yaml | --help-admin | --version\n"
	        "\n"
	        "Serves a KV-cache store on the sockets of the configuration, in the foreground. The least that is needed:\n"
	        "    socket: /run/kvcask.sock\n"
	        "    data_dir: /var/lib/kvcask\n"
	        "Without data_dir it keeps blocks in memory only. Options come from the file, then the environment\n"
	        "(KVCASK_MEMORY_CAPACITY for memory.capacity), then --set; the last one counts.\n"
	        "\n"
	        "  --config FILE       YAML file\n"
	        "  --set KEY=VALUE     one option\n"
	        "  --check-config      say what is wrong with the configuration, and end\n"
	        "  --help-config       all options (--help-config-yaml: as a file with comments)\n"
	        "  --help-admin        the questions a running daemon answers\n"
	        "  --version\n"
	        "\n"
	        "SIGTERM or SIGINT: no new requests, flush, end with 0; a second one: end at once.\n"
	        "Exit codes: 0 ended after a signal, 1 cannot start or run, 2 wrong configuration or command line.\n");
}

/* ---- command line ---- */

enum { OPTION_HELP_CONFIG = 256, OPTION_HELP_YAML, OPTION_HELP_ADMIN, OPTION_CHECK, OPTION_VERSION, OPTION_SET };

/* Negative: go on; otherwise the exit code. */
static int main_parse(int argc, char **argv, struct main_arguments *arguments)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"set", required_argument, NULL, OPTION_SET},
		{"check-config", no_argument, NULL, OPTION_CHECK},
		{"help", no_argument, NULL, 'h'},
		{"help-config", no_argument, NULL, OPTION_HELP_CONFIG},
		{"help-config-yaml", no_argument, NULL, OPTION_HELP_YAML},
		{"help-admin", no_argument, NULL, OPTION_HELP_ADMIN},
		{"version", no_argument, NULL, OPTION_VERSION},
		{"foreground", no_argument, NULL, 'f'}, /* there is no other mode */
		{NULL, 0, NULL, 0},
	};
	int option;

	while ((option = getopt_long(argc, argv, "c:hf", options, NULL)) != -1) {
		switch (option) {
		case 'c':
			if (arguments->config_path != NULL)
				return main_error(MAIN_CONFIG, NULL, "--config is there twice: there is one file");
			arguments->config_path = optarg;
			break;
		case OPTION_SET:
			if (arguments->set_count == MAIN_SETS_MAX)
				return main_error(MAIN_CONFIG, NULL, "too many --set");
			arguments->sets[arguments->set_count++] = optarg;
			break;
		case OPTION_CHECK:
			arguments->check_only = true;
			break;
		case 'f':
			break;
		case 'h':
			main_usage(stdout);
			return MAIN_OK;
		case OPTION_HELP_CONFIG:
			kvci_config_print(stdout, KVCI_CONFIG_HELP);
			return MAIN_OK;
		case OPTION_HELP_YAML:
			kvci_config_print(stdout, KVCI_CONFIG_YAML);
			return MAIN_OK;
		case OPTION_HELP_ADMIN:
			kvci_admin_print(stdout);
			return MAIN_OK;
		case OPTION_VERSION:
			printf("kvcaskd %s\n", KVCI_DAEMON_VERSION);
			return MAIN_OK;
		default:
			main_usage(stderr);
			return MAIN_CONFIG;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "kvcaskd: what is \"%s\"? A configuration file is named by --config; see kvcaskd --help\n", argv[optind]);
		return MAIN_CONFIG;
	}
	return -1;
}

static int main_configure(const struct main_arguments *arguments, struct kvci_config *config)
{
	extern char **environ;
	char *error = NULL;
	kvc_status_t status = KVC_OK;

	if (arguments->config_path != NULL)
		status = kvci_config_load_file(config, arguments->config_path, &error);
	if (status == KVC_OK)
		status = kvci_config_load_environment(config, environ, &error);
	for (unsigned i = 0; i < arguments->set_count && status == KVC_OK; i++)
		status = kvci_config_set(config, arguments->sets[i], "--set", &error);
	if (status != KVC_OK)
		return main_error(MAIN_CONFIG, error, kvc_status_text(status));
	if (config->socket_count == 0)
		return main_error(MAIN_CONFIG, NULL,
		                  "no socket: name one in the configuration (socket: /run/kvcask.sock) or by --set socket=PATH");
	kvci_log_set_level((enum kvci_log_level)config->log_level);
	return -1;
}

/* What the table of options cannot see; nothing is made or opened. */
static int main_check(const struct kvci_config *config)
{
	struct kvci_sizes sizes;
	char *error = NULL;
	kvc_status_t status = kvci_sizes_resolve(config, NULL, &sizes, &error);

	for (uint32_t i = 0; i < config->socket_count && status == KVC_OK; i++) {
		if (strlen(config->sockets[i].path) <= kvci_channel_path_max())
			continue;
		status = KVC_CONFIG;
		error = kvci_asprintf("socket path of %zu bytes: the system takes at most %zu: %s", strlen(config->sockets[i].path),
		                      kvci_channel_path_max(), config->sockets[i].path);
	}
	if (status == KVC_OK && config->http_listen != NULL && config->http_listen[0] != '\0')
		status = kvci_http_check(config->http_listen, &error);
	if (status != KVC_OK)
		return main_error(MAIN_CONFIG, error, kvc_status_text(status));
	printf("the configuration is right\n");
	return MAIN_OK;
}

/* ---- signals ---- */

static void main_flush_limit(void *context)
{
	struct main_signals *signals = context;

	kvci_log(KVCI_LOG_WARN, "main", "the last flush takes too long: ended without it");
	kvci_loop_stop(signals->core->loop);
}

static void main_signal(void *context, uint32_t epoll_events)
{
	struct main_signals *signals = context;
	struct signalfd_siginfo info;

	if (read(signals->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	if (signals->asked) {
		kvci_log(KVCI_LOG_WARN, "main", "second signal: ends at once");
		kvci_loop_stop(signals->core->loop);
		return;
	}
	signals->asked = true;
	kvci_log(KVCI_LOG_INFO, "main", "%s: flushes and ends", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
	kvci_loop_timer_arm(signals->core->loop, &signals->limit, kvci_clock_ns() + MAIN_FLUSH_NS);
	kvci_core_finish(signals->core);
}

/* Before any thread starts: they inherit the mask. */
static int main_block_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* ---- readiness ---- */

/* systemd's protocol: one datagram to the socket in $NOTIFY_SOCKET. */
static void main_notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = path != NULL ? strlen(path) : 0;
	int fd;

	if (length < 2 || length >= sizeof(address.sun_path) || (path[0] != '/' && path[0] != '@'))
		return;
	memcpy(address.sun_path, path, length);
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address,
	           (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)) < 0)
		kvci_log(KVCI_LOG_WARN, "main", "cannot tell %s: %s", path, strerror(errno));
	close(fd);
}

static void main_raise_fd_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max < 65536 ? limit.rlim_max : 65536;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int main_serve(const struct kvci_config *config, int signal_fd)
{
	struct main_signals signals = {.fd = signal_fd};
	struct kvci_core *core = NULL;
	char *error = NULL;
	kvc_status_t status = kvci_core_create(config, &core, &error);

	if (status != KVC_OK)
		return main_error(status == KVC_CONFIG ? MAIN_CONFIG : MAIN_FAILED, error, kvc_status_text(status));
	signals.core = core;
	signals.limit = (struct kvci_timer){.run = main_flush_limit, .context = &signals};
	status = kvci_core_listen(core, &error);
	if (status == KVC_OK)
		status = kvci_loop_watch(core->loop, signal_fd, EPOLLIN, main_signal, &signals, &signals.watch);
	if (status != KVC_OK) {
		kvci_core_destroy(core);
		return main_error(status == KVC_CONFIG || status == KVC_TOO_BIG ? MAIN_CONFIG : MAIN_FAILED, error,
		                  kvc_status_text(status));
	}
	for (uint32_t i = 0; i < config->socket_count; i++)
		kvci_log(KVCI_LOG_INFO, "main", "ready: socket %s (tenant %s)", config->sockets[i].path,
		         config->sockets[i].tenant != NULL ? config->sockets[i].tenant : "default");
	main_notify("READY=1");
	status = kvci_core_run(core);
	main_notify("STOPPING=1");
	kvci_loop_timer_disarm(core->loop, &signals.limit);
	kvci_loop_unwatch(core->loop, signals.watch);
	kvci_core_destroy(core);
	kvci_log(KVCI_LOG_INFO, "main", "ended");
	return status == KVC_OK ? MAIN_OK : MAIN_FAILED;
}

int main(int argc, char **argv)
{
	struct main_arguments arguments = {0};
	struct kvci_config config;
	int code = main_parse(argc, argv, &arguments), signal_fd;

	if (code >= 0)
		return code;
	kvci_alloc_settle();
	if (kvci_config_init(&config) != KVC_OK)
		return main_error(MAIN_FAILED, NULL, "out of memory");
	code = main_configure(&arguments, &config);
	if (code < 0 && arguments.check_only)
		code = main_check(&config);
	if (code < 0) {
		signal_fd = main_block_signals();
		main_raise_fd_limit();
		code = signal_fd >= 0 ? main_serve(&config, signal_fd)
		                      : main_error(MAIN_FAILED, NULL, "no signalfd");
		if (signal_fd >= 0)
			close(signal_fd);
	}
	kvci_config_fini(&config);
	return code;
}
