# SPDX-License-Identifier: Apache-2.0
"""Finds a running kvcaskd, or starts one that outlives its starter.

    path = autostart.ensure(socket="auto", data_dir="auto")      # a socket that answers

Two engines that start at the same time start one daemon: a lock file beside the socket is held while looking and starting. The daemon is
a session of its own with its log beside the socket; SIGTERM ends it cleanly. Nothing ends it by itself.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import socket as sockets
import stat
import subprocess
import time
from typing import Any

log = logging.getLogger("kvcask.autostart")

START_SECONDS = 20.0


class AutostartError(Exception):
    pass


def default_socket() -> str:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = os.path.join(runtime, "kvcask") if runtime else f"/tmp/kvcask-{os.getuid()}"
    return os.path.join(folder, "kvcask.sock")


def default_data_dir() -> str:
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "kvcask")


def cache_dir() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(cache, "kvcask")


def find_daemon(given: str = "auto") -> str:
    if given != "auto":
        return given
    for path in (os.environ.get("KVCASK_DAEMON"), os.path.join(os.path.dirname(__file__), "bin", "kvcaskd")):
        if path and os.access(path, os.X_OK):
            return path
    found = shutil.which("kvcaskd")
    if found is None:
        raise AutostartError("no kvcaskd in this package, in $KVCASK_DAEMON or in $PATH")
    return found


def answers(path: str) -> bool:
    """Whether somebody listens at the socket."""
    probe = sockets.socket(sockets.AF_UNIX, sockets.SOCK_SEQPACKET)
    probe.settimeout(1.0)
    try:
        probe.connect(path)
        return True
    except OSError:
        return False
    finally:
        probe.close()


def _private_folder(folder: str) -> None:
    """The socket's folder is a credential: made for this user alone, and refused when another user could have put it there."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid not in (os.getuid(), 0) or (found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX):
        raise AutostartError(f"{folder} belongs to another user or is open to all")


def _config_text(path: str, data_dir: str, options: dict[str, Any]) -> str:
    """YAML, of which JSON is a part: quoting is JSON's."""
    lines = [f"socket: {json.dumps(path)}"]
    if data_dir:
        lines.append(f"data_dir: {json.dumps(data_dir)}")
    lines += [f"{key}: {json.dumps(value if isinstance(value, bool) else str(value))}" for key, value in options.items()]
    return "\n".join(lines) + "\n"


def _environment(stated: list[str]) -> dict[str, str]:
    """Without what would count over the options that are stated: KVCASK_SOCKET may be there for the tools, and name another daemon's."""
    hidden = {"KVCASK_" + key.upper().replace(".", "_") for key in stated}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def ensure(
    socket: str = "auto", data_dir: str = "auto", daemon: str = "auto", options: dict[str, Any] | None = None
) -> str:
    """The path of a socket at which a daemon answers; AutostartError when none can be started."""
    path = default_socket() if socket == "auto" else socket
    if answers(path):
        return path
    folder = os.path.dirname(os.path.abspath(path))
    _private_folder(folder)
    with open(path + ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not answers(path):
            _start(path, data_dir, find_daemon(daemon), options or {})
    return path


def _start(path: str, data_dir: str, program: str, options: dict[str, Any]) -> None:
    stated = ["socket", "sockets", *options]
    if data_dir == "auto":
        data_dir = default_data_dir()
    else:
        stated.append("data_dir")
    if data_dir:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
    config, logfile = path + ".yaml", path + ".log"
    with open(config, "w", encoding="utf-8") as file:
        file.write(_config_text(path, data_dir, options))
    with open(logfile, "ab") as out:
        process = subprocess.Popen(
            [program, "--config", config],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            close_fds=True,
            env=_environment(stated),
            preexec_fn=_wide_affinity,
        )
    log.info("kvcask: started %s (pid %d), log in %s", program, process.pid, logfile)
    until = time.monotonic() + START_SECONDS
    while not answers(path):
        if process.poll() is not None:
            raise AutostartError(f"{program} ended with {process.returncode}; its last words: {_tail(logfile)}")
        if time.monotonic() > until:
            process.terminate()
            raise AutostartError(f"{program} does not answer at {path} after {START_SECONDS:.0f} s; see {logfile}")
        time.sleep(0.02)


def _wide_affinity() -> None:
    """The starter may be bound to the engine's cores; its children should not be."""
    try:
        os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()) | set(range(os.cpu_count() or 1)))
    except OSError:
        pass


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 400))
        return file.read().decode(errors="replace").strip()
