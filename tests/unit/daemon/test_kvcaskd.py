#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real kvcaskd from outside: command line, configuration, signals, sockets, the web server, what it costs when idle."""
import array
import json
import mmap
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "support"))
import harness  # noqa: E402
from harness import SLOW, Daemon, check, loadgen  # noqa: E402

MESSAGE = struct.Struct("<IHHIiIIIIQQQQQQQQ16s48s32s")
MAGIC = 0x4C435651
HELLO, BIND, MATCH, RESERVE, SLAB_MAPPED, ADMIN, PING = 1, 2, 3, 8, 9, 17, 19
NO_SESSION = 2
PENDING, PROTOCOL = 202, 409
FIELDS = ("magic", "type", "high", "tag", "status", "flags", "binding", "count", "first", "array_offset", "array_bytes",
          "reply_offset", "reply_bytes", "a", "b", "c", "d", "id", "text", "reserved")


def message(kind, **fields):
    values = dict.fromkeys(FIELDS, 0)
    values.update(magic=MAGIC, type=kind, id=b"", text=b"", reserved=b"")
    values.update(fields)
    return MESSAGE.pack(*(values[name] for name in FIELDS))


class Raw:
    """A client without our library."""

    def __init__(self, daemon, hello=True):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(daemon.socket)  # waits while the backlog is full
        self.socket.settimeout(10 * SLOW)
        self.window = None
        if hello:
            self.socket.send(message(HELLO, a=1, flags=NO_SESSION, text=b"raw"))
            answer, fds = self.receive()
            check(answer["status"] == 0, f"HELLO: {answer}")
            self.window = mmap.mmap(fds[0], answer["a"])
            os.close(fds[0])

    def receive(self):
        data, ancillary, _, _ = self.socket.recvmsg(4096, socket.CMSG_SPACE(16))
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        if not data:
            return None, []
        return dict(zip(FIELDS, MESSAGE.unpack(data))), list(fds)

    def ask(self, kind, **fields):
        self.socket.send(message(kind, **fields))
        return self.receive()

    def alive(self):
        try:
            answer, _ = self.ask(PING, tag=77)
        except OSError:
            return False
        return answer is not None and answer["tag"] == 77

    def alive_or_refused(self):
        """True: accepted, and answers; False: hung up on."""
        try:
            answer, fds = self.ask(HELLO, a=1, flags=NO_SESSION, text=b"raw")
        except ConnectionError:
            return False
        for fd in fds:
            os.close(fd)
        return answer is not None and answer["status"] == 0

    def hung_up(self):
        try:
            while True:
                answer, _ = self.receive()
                if answer is None:
                    return True
        except ConnectionError:
            return True
        except socket.timeout:
            return False

    def close(self):
        self.socket.close()


def run(*arguments, **options):
    done = subprocess.run([harness.program("kvcaskd"), *arguments], capture_output=True, text=True, timeout=60 * SLOW, check=False,
                          stdin=subprocess.DEVNULL, **options)
    return done.returncode, done.stdout, done.stderr


# ---- command line and configuration ----

def help_and_version():
    for option, expected in (("--help", "--config FILE"), ("--help-config", "memory.capacity"), ("--help-config-yaml", "# "),
                             ("--help-admin", "| `verify` |"), ("--version", "kvcaskd 0.")):
        code, out, err = run(option)
        check(code == 0 and expected in out and not err, f"{option}: {code} {out[:200]} {err}")
    return None


def admin_document_is_up_to_date():
    _, out, _ = run("--help-admin")
    with open(os.path.join(harness.TOP, "docs", "admin.md"), encoding="utf-8") as text:
        check(text.read() == out, "docs/admin.md is out of date: kvcaskd --help-admin > docs/admin.md")


def config_mistakes():
    """Each: exit code 2 and one line that names what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kvcaskd.yaml")
        sock = os.path.join(folder, "s")
        cases = [
            (f"socket: {sock}\nmemory.capcity: 1GiB\n", [path, "2", "memory.capcity", "memory.capacity"]),
            (f"socket: {sock}\nmemory.capacity: lots\n", [path, "memory.capacity", "lots"]),
            (f"socket: {sock}\nmemory.capacity: 1KiB\n", ["memory.capacity", "1MiB"]),
            (f"socket: {sock}\ndisk.io: floppy\n", ["disk.io", "floppy", "uring"]),
            (f"socket: [{sock}\n", [path]),
            ("memory.capacity: 8MiB\n", ["no socket"]),
            (f"socket: {sock}\nmemory.capacity: 8MiB\nmemory.slab: 16MiB\n", ["memory.slab", "memory.capacity"]),
            (f"socket: {sock}\nhttp.listen: nowhere\n", ["http.listen", "nowhere"]),
            (f"socket: {sock}\nhttp.listen: 127.0.0.1:99999\n", ["http.listen", "99999"]),
            ("socket: /" + "x" * 200 + "\n", ["socket", "107"]),
            (f"socket: {sock}\ndata_dir: {folder}\ndisk.fault: 'read:dance'\n", ["dance"]),
        ]
        for text, expected in cases:
            with open(path, "w", encoding="utf-8") as out:
                out.write(text)
            code, _, err = run("--config", path)
            check(code == 2, f"exit code {code} for {text!r}: {err}")
            last = err.strip().splitlines()[-1]
            check(last.startswith("kvcaskd: ") and all(word in last for word in expected), f"{text!r}: {last!r} lacks one of {expected}")
            if "disk.fault" not in text:
                check(run("--config", path, "--check-config") == (2, "", last + "\n"), f"--check-config does not see {text!r}")
        code, _, err = run("--config", os.path.join(folder, "missing.yaml"))
        check(code == 2 and "missing.yaml" in err, f"{code}: {err}")
        code, _, err = run("--set", f"socket={sock}", "--set", "memory.capacity")
        check(code == 2 and "memory.capacity" in err, f"{code}: {err}")
        code, _, err = run("nonsense")
        check(code == 2 and "nonsense" in err and "--config" in err, f"{code}: {err}")
        code, _, err = run("--config", path, "--config", path, "--check-config")
        check(code == 2 and "twice" in err, f"{code}: {err}")
        code, out, err = run("--set", f"socket={sock}", "--check-config")
        check(code == 0 and not os.path.exists(sock), f"{code} {out} {err}")
        # The environment counts over the file, --set over both.
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"socket: {sock}\nmemory.capacity: 8MiB\n")
        code, _, err = run("--config", path, "--check-config", env={**os.environ, "KVCASK_MEMORY_CAPACITY": "many"})
        check(code == 2 and "KVCASK_MEMORY_CAPACITY" in err, f"{code}: {err}")
    return f"{len(cases) + 5} mistakes"


def folders_and_sockets_that_will_not_do():
    """Exit code 1 and one line, also when somebody else has the socket or the port."""
    with Daemon("taken") as daemon, tempfile.TemporaryDirectory() as folder:
        daemon.options["http.listen"] = "127.0.0.1:0"
        daemon.start()
        port = re.search(r"metrics at port (\d+)", daemon.log()).group(1)
        file = os.path.join(folder, "file")
        with open(file, "w", encoding="ascii") as out:
            out.write("no folder")
        for sets, expected in (
                ([f"socket={folder}/s", f"data_dir={folder}/missing"], ["does not exist", "mkdir"]),
                ([f"socket={folder}/s", f"data_dir={file}"], [file, "Not a directory"]),
                ([f"socket={folder}/s", f"data_dir={daemon.data_dir}"], ["in use", str(daemon.process.pid)]),
                ([f"socket={daemon.socket}"], [daemon.socket]),
                ([f"socket={file}"], [file]),
                ([f"socket={folder}/none/s"], [f"{folder}/none"]),
        ):
            arguments = [part for one in sets for part in ("--set", one)]
            code, _, err = run(*arguments, "--set", "memory.capacity=8MiB")
            last = err.strip().splitlines()[-1]
            check(code == 1 and last.startswith("kvcaskd: ") and all(word in last for word in expected), f"{sets}: {code} {last!r}")
        code, _, err = run("--set", f"socket={folder}/s", "--set", f"http.listen=127.0.0.1:{port}", "--set", "memory.capacity=8MiB")
        check(code in (1, 2) and port in err, f"{code} {err}")
        check(os.path.exists(file), "a file that is no socket was removed")
        loadgen("run", daemon, seed=1, chains=1, requests=2)


# ---- signals ----

def readiness_is_told():
    with Daemon("notify") as daemon, tempfile.TemporaryDirectory() as folder:
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.settimeout(20 * SLOW)
        notify.bind(os.path.join(folder, "n"))
        os.environ["NOTIFY_SOCKET"] = os.path.join(folder, "n")
        try:
            daemon.start(wait=False)
            check(notify.recv(100) == b"READY=1", "no READY=1")
        finally:
            del os.environ["NOTIFY_SOCKET"]
        Raw(daemon).close()  # it serves at that moment
        daemon.stop()
        check(notify.recv(100) == b"STOPPING=1", "no STOPPING=1")
        check("ready: socket " + daemon.socket in daemon.log(), "no line says that it is ready")
        check(not os.path.exists(daemon.socket), "the socket file is left behind")


def second_signal_ends_at_once():
    with Daemon("twice", **{"disk.fault": '"write:hang"'}) as daemon:
        daemon.start()
        loadgen("run", daemon, seed=3, chains=2, requests=4)
        daemon.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        check(daemon.process.poll() is None, "it did not wait for its flush")
        daemon.process.send_signal(signal.SIGTERM)
        check(daemon.process.wait(timeout=10 * SLOW) == 0, "exit code")
        check("second signal" in daemon.log(), daemon.log())


# ---- clients that misbehave ----

def malformed_messages():
    """Each ends or answers its sender alone; the daemon and its other clients go on."""
    with Daemon("malformed") as daemon:
        daemon.start()
        witness = Raw(daemon)
        good = message(PING)
        cases = {
            "empty of magic": b"\0" * MESSAGE.size,
            "short": good[:100],
            "one byte": b"x",
            "long": good + b"\0",
            "very long": b"\xff" * 60000,
            "wrong magic": b"XXXX" + good[4:],
            "high flags": message(PING, high=1),
            "nothing": b"",
            "text without end": message(PING, text=b"y" * 48),
            "unknown type": message(9999),
            "type 0": message(0),
            "event of the daemon": message(5),
        }
        for name, data in cases.items():
            client = Raw(daemon)
            client.socket.send(data)
            check(client.hung_up(), f"{name}: the connection goes on")
            client.close()
            check(witness.alive(), f"{name}: another client is disturbed")
        client = Raw(daemon, hello=False)
        answer, _ = client.ask(MATCH, tag=9)
        check(answer["status"] == PROTOCOL and answer["tag"] == 9 and client.hung_up(), f"before HELLO: {answer}")
        # An fd that nobody asked for.
        client = Raw(daemon)
        client.socket.sendmsg([good], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
        check(client.hung_up(), "a message with an fd goes on")
        # Random bytes of the right length.
        for _ in range(200):
            client = Raw(daemon, hello=False)
            client.socket.send(struct.pack("<I", MAGIC) + os.urandom(MESSAGE.size - 4))
            client.close()
        check(witness.alive(), "after random messages")
        check(daemon.stats()["protocol_errors"] >= len(cases), "protocol errors are not counted")
        opened = len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        check(opened < 60, f"{opened} fds are open: some leak")
    return f"{len(cases) + 202} messages"


def client_that_does_not_read():
    """It is cut off when its queue is full; another one's requests go on as before."""
    with Daemon("deaf") as daemon:
        daemon.start()
        witness, deaf = Raw(daemon), Raw(daemon)
        deaf.socket.setblocking(False)
        sent = blocked = 0
        worst = 0.0
        while blocked < 200 and sent < 200000:
            try:
                deaf.socket.send(message(PING, tag=sent))
                sent += 1
            except BlockingIOError:
                blocked += 1
                time.sleep(0.005)
            except (BrokenPipeError, ConnectionResetError):
                break
            if sent % 500 == 0:
                began = time.monotonic()
                check(witness.alive(), "another client is disturbed")
                worst = max(worst, time.monotonic() - began)
        check(worst < 0.5 * SLOW, f"another client waited {worst:.3f} s")
        end = time.monotonic() + 10 * SLOW
        while daemon.stats()["clients_cut_off"] == 0 and time.monotonic() < end:
            time.sleep(0.05)
        check(daemon.stats()["clients_cut_off"] == 1, "it is not cut off")
        with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as text:
            status = dict(line.split(":", 1) for line in text)
        check(int(status["VmRSS"].split()[0]) - int(status["RssShmem"].split()[0]) < (60 << 10) * SLOW, status["VmRSS"])
        clients = len(daemon.ask("clients")["clients"])
        deaf.close()
        time.sleep(0.3)
        check(len(daemon.ask("clients")["clients"]) == clients - 1, "what was cut off is not let go when it hangs up")
        check(witness.alive(), "after all")
    return f"{sent} messages unread; another client waited {worst * 1e3:.1f} ms at most"


def reserve_raw(client):
    """Binds and reserves one block, as far as a client without our library can: the slab is mapped by nobody."""
    form = struct.pack("<16I", 64, 2, 16, 16, 1, 64, 64, 2, 2, 1, 0, 1, 0, 0, 1, 0)
    fields = struct.pack("<I", 3)
    for name, value in (("model", "m"), ("kv_dtype", "bfloat16"), ("hash_algorithm", "h")):
        fields += struct.pack("<H", len(name)) + name.encode() + struct.pack("<I", len(value)) + value.encode()
    client.window[: len(form + fields)] = form + fields
    answer, _ = client.ask(BIND, array_bytes=len(form + fields))
    check(answer["status"] == 0, f"BIND: {answer}")
    client.window[:80] = os.urandom(32) + bytes(32) + struct.pack("<QII", 0, 16, 0)
    reserve = {"binding": answer["binding"], "count": 1, "array_bytes": 80, "reply_offset": 4096, "reply_bytes": 48}
    answer, fds = client.ask(RESERVE, **reserve)
    if answer["status"] == PENDING:
        os.close(fds[0])
        mapped, _ = client.ask(SLAB_MAPPED, a=answer["a"])
        check(mapped["status"] == 0, f"SLAB_MAPPED: {mapped}")
        answer, _ = client.ask(RESERVE, **reserve)
    check(answer["status"] == 0 and struct.unpack_from("<i", client.window, 4096)[0] == 0, f"RESERVE: {answer}")


def memory_of_a_client_that_is_cut_off():
    """It may still be writing: what it reserved stays reserved until it hangs up or dies."""
    with Daemon("cut") as daemon:
        daemon.start()
        ways = {
            "malformed message": lambda client: client.socket.send(b"x"),
            "nothing": lambda client: client.socket.send(b""),
            "half closed": lambda client: client.socket.shutdown(socket.SHUT_WR),
            "unknown message": lambda client: client.socket.send(message(9999)),
        }
        for name, break_it in ways.items():
            client = Raw(daemon)
            reserve_raw(client)
            break_it(client)
            # A half-closed one is told by nothing: shutting the other half would read as its own hang-up.
            check(name == "half closed" or client.hung_up(), f"{name}: not cut off")
            time.sleep(0.2)
            check(daemon.ask("stat")["totals"]["reserved_bytes"] > 0, f"{name}: its memory was given away while it lives")
            client.close()
            end = time.monotonic() + 5 * SLOW
            while daemon.ask("stat")["totals"]["reserved_bytes"] > 0 and time.monotonic() < end:
                time.sleep(0.02)
            check(daemon.ask("stat")["totals"]["reserved_bytes"] == 0, f"{name}: not free after it hung up")
        # A dead client whose forked child keeps the socket open.
        pid = os.fork()
        if pid == 0:
            client = Raw(daemon)
            reserve_raw(client)
            if os.fork() == 0:
                time.sleep(20)
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        time.sleep(0.2)
        check(daemon.ask("stat")["totals"]["reserved_bytes"] == 0, "a forked child keeps a dead client's memory")
        check(daemon.ask("check") == {"whole": True}, "invariants")
    return f"{len(ways)} ways to be cut off"


def client_that_floods():
    """As fast as it can, reading its answers: others still get theirs."""
    with Daemon("flood") as daemon:
        daemon.start()
        flooder = subprocess.Popen([sys.executable, "-c", f"""
import socket, sys
sys.path.insert(0, {os.path.dirname(os.path.abspath(__file__))!r})
import test_kvcaskd as t
class D: socket = {daemon.socket!r}
client = t.Raw(D)
client.window[0:32 * 8192] = bytes(32 * 8192)
data = t.message(t.PING)
print("up", flush=True)
while True:
    for _ in range(64): client.socket.send(data)
    for _ in range(64): client.receive()
"""], stdout=subprocess.PIPE)
        try:
            flooder.stdout.readline()
            witness, times = Raw(daemon), []
            end = time.monotonic() + 2
            while time.monotonic() < end:
                began = time.monotonic()
                check(witness.alive(), "another client is disturbed")
                times.append(time.monotonic() - began)
        finally:
            flooder.kill()
            flooder.wait()
        times.sort()
        check(times[len(times) * 99 // 100] < 0.1 * SLOW, f"p99 {times[len(times) * 99 // 100] * 1e3:.1f} ms")
        return f"p50 {times[len(times) // 2] * 1e6:.0f} us, p99 {times[len(times) * 99 // 100] * 1e6:.0f} us beside a flood"


def many_clients_come_and_go():
    with Daemon("many") as daemon:
        daemon.start()
        for _ in range(5):
            clients = [Raw(daemon) for _ in range(60)]
            check(all(client.alive() for client in clients[::7]), "one of many is not served")
            for client in clients:
                client.close()
        time.sleep(0.3)
        check(len(daemon.ask("clients")["clients"]) == 1, "clients that left are still there")
        check(len(os.listdir(f"/proc/{daemon.process.pid}/fd")) < 60, "fds leak")


def no_descriptor_is_free():
    """Clients get their part of the descriptors; when there is none for a new one, the daemon does not turn for nothing, and goes on when there is."""
    with Daemon("fds") as daemon:
        daemon.process = subprocess.Popen([harness.program("kvcaskd"), "--config", daemon.config()], stderr=open(daemon.log_path, "ab"),
                                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512)))
        daemon.wait_ready()
        clients = [Raw(daemon, hello=False) for _ in range(100)]
        check(sum(client.alive_or_refused() for client in clients) == (512 - 192) // 4, "not as many as there are descriptors for")
        check(len(os.listdir(f"/proc/{daemon.process.pid}/fd")) < 400, "nothing is left for blocks")
        for client in clients:
            client.close()
        loadgen("run", daemon, seed=1, chains=1, requests=2)
        witness = Raw(daemon)
        used = max(int(fd) for fd in os.listdir(f"/proc/{daemon.process.pid}/fd")) + 1
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (used, 512))
        holes = used - len(os.listdir(f"/proc/{daemon.process.pid}/fd"))
        began = time.monotonic()
        waiting = [Raw(daemon, hello=False) for _ in range(holes + 5)]
        while time.monotonic() - began < 1.5:
            check(witness.alive(), "a client that was there is not served")
            time.sleep(0.05)
        tries = daemon.log().count("cannot accept a client") + sum(map(int, re.findall(r"(\d+) lines like", daemon.log())))
        elapsed = time.monotonic() - began
        check(0 < tries <= elapsed / 0.1 + 2, f"{tries} tries to accept in {elapsed:.1f} s")
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (512, 512))
        check(all(client.alive_or_refused() for client in waiting), "who waited is not served when there is room again")
        return f"{tries} tries in {elapsed:.1f} s"


# ---- the web server ----

def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10 * SLOW) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def web_server():
    with Daemon("web", **{"http.listen": '"127.0.0.1:0"'}) as daemon:
        daemon.start()
        port = re.search(r"metrics at port (\d+)", daemon.log()).group(1)
        loadgen("run", daemon, seed=5, chains=4, requests=20)
        time.sleep(1.2)
        check(get(port, "/healthz") == (200, "ok\n"), "healthz")
        check(get(port, "/readyz") == (200, "ready\n"), "readyz")
        check(get(port, "/other")[0] == 404, "404")
        code, text = get(port, "/metrics")
        check(code == 200, "metrics")
        values = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                check(re.fullmatch(r'[a-z_]+(\{[a-z_]+="[^"]*"\})? [0-9.e+-]+', line), f"not Prometheus text: {line!r}")
                name, value = line.rsplit(" ", 1)
                check(name not in values, f"{name} is there twice")
                values[name] = float(value)
        helps = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
        types = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
        check(helps == types and len(helps) > 40, "HELP and TYPE")
        misses = sum(value for name, value in values.items() if name.startswith("kvcask_miss_keys_total"))
        check(values["kvcask_match_keys_total"] == values["kvcask_match_hit_keys_total"] + misses, "misses do not add up")
        check(values["kvcask_match_keys_total"] > 0 and misses > 0, "nothing was matched")
        check(values["kvcask_match_seconds_count"] == values['kvcask_match_seconds_bucket{le="+Inf"}'] == values["kvcask_match_calls_total"],
              "the histogram of matches")
        # The disk fails: not ready, and it says why.
        daemon.ask("fault", {"set": "any:fail=io"})
        loadgen("run", daemon, seed=6, chains=4, requests=8)
        end = time.monotonic() + 10 * SLOW
        while get(port, "/readyz")[0] == 200 and time.monotonic() < end:
            time.sleep(0.1)
        code, text = get(port, "/readyz")
        check(code == 503 and "disk" in text, f"{code} {text}")
        check(get(port, "/healthz")[0] == 200, "healthz with a failing disk")
    return f"{len(values)} values"


# ---- what it costs ----

def idle_daemon_costs_little():
    with Daemon("idle", **{"http.listen": '"127.0.0.1:0"'}) as daemon:
        daemon.start()
        client = Raw(daemon)
        time.sleep(1)

        def ticks():
            with open(f"/proc/{daemon.process.pid}/stat", encoding="ascii") as text:
                fields = text.read().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        seconds = 60 if harness.LONG else 10
        before = ticks()
        time.sleep(seconds)
        share = (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds
        with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as text:
            status = dict(line.split(":", 1) for line in text)
        own = int(status["VmRSS"].split()[0]) - int(status["RssShmem"].split()[0])
        check(client.alive(), "the client")
        # One tick of the clock is 0.1 % of 10 s.
        check(share <= 0.005 * SLOW, f"{share * 100:.2f} % of a core when idle")
        if SLOW == 1:
            check(own <= 30 << 10, f"{own} KiB of its own")
    return f"{share * 100:.2f} % of a core over {seconds} s with one client, {own / 1024:.1f} MiB of its own"


# ---- questions ----

def questions_about_blocks():
    with Daemon("ask") as daemon:
        daemon.start()
        loadgen("run", daemon, seed=11, chains=12, blocks=16, requests=60)
        seen, cursor = {}, 0
        while True:
            answer = daemon.ask("ls", {"limit": 50, "cursor": cursor})
            for block in answer["blocks"]:
                check(block["key"] not in seen, "a block is listed twice")
                seen[block["key"]] = block
            cursor = answer["cursor"]
            if cursor == 0:
                break
        check(len(seen) == daemon.ask("stat")["totals"]["blocks"] > 0, "ls does not list all")
        key = next(iter(seen))
        shown = daemon.ask("show", {"key": key[:20], "content": True})
        check(shown["checked"] == "ok" and shown["header"]["hash"] == key, str(shown)[:300])
        for part in ("k", "v"):
            content = shown["content"][part]
            check(content["elements"] == sum(bin["count"] for bin in content["exponents"]), "the histogram does not add up")
        daemon.restart()
        end = time.monotonic() + 20 * SLOW
        while daemon.ask("stat")["totals"]["disk_blocks"] < len(seen) and time.monotonic() < end:
            time.sleep(0.05)
        from_disk = daemon.ask("show", {"key": key, "content": True})
        check(from_disk["source"] == "disk" and from_disk["checked"] == "ok", str(from_disk)[:300])
        check("content" not in from_disk or from_disk["content"] == shown["content"], "what is on the disk differs")
        check(from_disk["sections"] == shown["sections"], "the sections on the disk differ")
        verified = verify(daemon)
        check(verified["blocks_done"] == verified["blocks_total"] == len(seen) and verified["damaged"] == 0, str(verified))
        # Damage one record behind the daemon's back.
        record = from_disk["blocks"][0]
        path = os.path.join(daemon.data_dir, f"seg-{record['segment']:08x}.kvs")
        if not os.path.exists(path):
            path = os.path.join(daemon.data_dir, f"seg-{record['segment']:08d}.kvs")
        with open(path, "r+b") as file:
            file.seek(record["segment_offset_bytes"] + shown["sections"][0]["offset_bytes"] + 100)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        verified = verify(daemon)
        check([block["key"] for block in verified["damaged_blocks"]] == [key] and verified["damaged"] == 1, str(verified))
        check(daemon.ask("ls", {"prefix": key})["blocks"] == [], "the damaged block is still listed")
        check(daemon.stats()["verify_damaged"] == 1 and daemon.stats()["damaged_blocks"] == 1, "not counted")
        # Match says why, once an engine has bound the space.
        loadgen("run", daemon, seed=999, chains=1, blocks=1, requests=1)
        other = next(name for name in seen if name != key)
        answer = daemon.ask("match", {"hashes": [other, key, "00" * 32]})
        check([(one["hit"], one.get("miss")) for one in answer["keys"]] == [(True, None), (False, "damaged"), (False, "never_stored")], str(answer))
        check(daemon.ask("drop", {"key": other})["dropped"] == other, "drop")
        check(daemon.ask("match", {"hashes": [other]})["keys"][0]["miss"] == "dropped", "a dropped block")
        check(daemon.ask("check") == {"whole": True}, str(daemon.ask("check")))
        check(daemon.ask("epochs")["ledger"]["spaces"] == len(daemon.ask("spaces")["spaces"]) > 0, "spaces")
    return f"{len(seen)} blocks"


def verify(daemon):
    daemon.ask("verify", {"action": "start", "rate": 1 << 30})
    end = time.monotonic() + 60 * SLOW
    while time.monotonic() < end:
        answer = daemon.ask("verify")
        if not answer["running"]:
            return answer
        time.sleep(0.05)
    raise harness.Failure("verify does not end")


def verify_keeps_to_its_rate_and_stops():
    with Daemon("rate") as daemon:
        daemon.start()
        loadgen("run", daemon, seed=12, chains=16, blocks=16, requests=60)
        daemon.ask("flush")
        daemon.ask("verify", {"action": "start", "rate": 1 << 20})
        time.sleep(1.5)
        answer = daemon.ask("verify")
        check(answer["running"] and 0 < answer["bytes_done"] < 4 << 20, str(answer))
        daemon.ask("verify", {"action": "stop"})
        time.sleep(0.2)
        check(not daemon.ask("verify")["running"], "it goes on")


def ledger_lost_means_misses():
    """Both copies of the ledger deleted: nothing that lies on the disk is served, also not after the next restart."""
    with Daemon("ledger") as daemon:
        daemon.start()
        log = os.path.join(daemon.folder, "stores")
        loadgen("run", daemon, seed=13, chains=8, blocks=16, requests=40, log=log, flush_every=8)
        loadgen("check", daemon, seed=13, log=log, blocks=1)
        for _ in range(2):
            daemon.stop()
            for name in ("spaces", "spaces.copy"):
                if os.path.exists(os.path.join(daemon.data_dir, name)):
                    os.unlink(os.path.join(daemon.data_dir, name))
            daemon.start()
            figures = loadgen("check", daemon, seed=13, log=log, blocks=1)
            check(figures["hits"] == 0 and figures["loaded"] == 0, f"blocks of an unknown space are served: {figures}")
            daemon.restart()
            figures = loadgen("check", daemon, seed=13, log=log, blocks=1)
            check(figures["hits"] == 0 and figures["loaded"] == 0, f"after one more restart: {figures}")
        # With one copy nothing is lost.
        log = os.path.join(daemon.folder, "more")
        loadgen("run", daemon, seed=14, chains=4, blocks=16, requests=20, log=log, flush_every=4)
        daemon.stop()
        with open(os.path.join(daemon.data_dir, "spaces"), "r+b") as file:
            file.seek(60)
            file.write(b"\xff" * 8)
        daemon.start()
        figures = loadgen("check", daemon, seed=14, log=log, blocks=1)
        check(figures["hits_flushed"] == figures["expected_flushed"] > 0, f"one damaged copy of the ledger costs blocks: {figures}")
        check("taken from its twin" in daemon.log(), "it is not said")


def tenants_by_socket():
    with Daemon("tenants") as daemon:
        path = os.path.join(daemon.folder, "two.yaml")
        other = daemon.socket + "2"
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"sockets:\n  - {{path: {daemon.socket}, mode: '0600', tenant: a}}\n  - {{path: {other}, mode: '0666', tenant: b}}\n"
                      "memory.capacity: 16MiB\nmemory.slab: 1MiB\n")
        daemon.process = subprocess.Popen([harness.program("kvcaskd"), "--config", path], stderr=open(daemon.log_path, "ab"))
        daemon.wait_ready()
        check(os.stat(daemon.socket).st_mode & 0o777 == 0o600 and os.stat(other).st_mode & 0o777 == 0o666, "modes")
        first = loadgen("run", daemon, seed=21, chains=2, requests=10)
        check(first["hits"] > 0, "the first tenant")
        daemon.socket, own = other, daemon.socket
        second = loadgen("run", daemon, seed=21, chains=2, requests=1)
        daemon.socket = own
        check(second["hits"] == 0, f"another tenant's blocks hit: {second}")
        spaces = daemon.ask("spaces")["spaces"]
        check({space["tenant"] for space in spaces} == {"a", "b"}, str(spaces))
        check(json.dumps(spaces).count('"loadgen"') >= 2, "one space each")


CASES = {
    "help_and_version": help_and_version,
    "admin_document_is_up_to_date": admin_document_is_up_to_date,
    "config_mistakes": config_mistakes,
    "folders_and_sockets_that_will_not_do": folders_and_sockets_that_will_not_do,
    "readiness_is_told": readiness_is_told,
    "second_signal_ends_at_once": second_signal_ends_at_once,
    "malformed_messages": malformed_messages,
    "client_that_does_not_read": client_that_does_not_read,
    "memory_of_a_client_that_is_cut_off": memory_of_a_client_that_is_cut_off,
    "client_that_floods": client_that_floods,
    "many_clients_come_and_go": many_clients_come_and_go,
    "no_descriptor_is_free": no_descriptor_is_free,
    "web_server": web_server,
    "questions_about_blocks": questions_about_blocks,
    "verify_keeps_to_its_rate_and_stops": verify_keeps_to_its_rate_and_stops,
    "ledger_lost_means_misses": ledger_lost_means_misses,
    "tenants_by_socket": tenants_by_socket,
    "idle_daemon_costs_little": idle_daemon_costs_little,
}

if __name__ == "__main__":
    harness.main(CASES)
