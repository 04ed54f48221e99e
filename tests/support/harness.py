# SPDX-License-Identifier: Apache-2.0
"""A real kvcaskd for tests: started in a folder of its own, asked through the real tools, ended by its process id.

Environment: KVC_BUILD (the build folder; default: build/ of the checkout), KVC_LONG=1 (more rounds).
"""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("KVC_BUILD", os.path.join(TOP, "build"))
LONG = os.environ.get("KVC_LONG") == "1"
# Sanitizers make everything slower: waits, never what is checked, are stretched by it.
SLOW = float(os.environ.get("KVC_SLOW", "1"))


class Failure(AssertionError):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text)


def program(name):
    for folder in ("bin", "tests"):
        path = os.path.join(BUILD, folder, name)
        if os.path.exists(path):
            return path
    raise Failure(f"{name} is not built in {BUILD}")


class Daemon:
    """One kvcaskd. Its folder lives in the build folder: a real disk, where O_DIRECT works."""

    def __init__(self, name, **options):
        os.makedirs(os.path.join(BUILD, "tests", "run"), exist_ok=True)
        self.folder = tempfile.mkdtemp(prefix=name + "-", dir=os.path.join(BUILD, "tests", "run"))
        # A socket's path is short: 107 bytes.
        self.socket_folder = tempfile.mkdtemp(prefix="kvc-", dir="/tmp")
        self.socket = os.path.join(self.socket_folder, "s")
        self.data_dir = os.path.join(self.folder, "data")
        self.log_path = os.path.join(self.folder, "log")
        self.options = {
            "memory.capacity": "64MiB",
            "memory.slab": "8MiB",
            "disk.capacity": "512MiB",
            "disk.segment": "8MiB",
            "log.level": "info",
        }
        self.options.update({key.replace("__", "."): value for key, value in options.items()})
        self.process = None
        os.mkdir(self.data_dir)

    @property
    def target(self):
        return "unix:" + self.socket

    def config(self):
        path = os.path.join(self.folder, "kvcaskd.yaml")
        with open(path, "w", encoding="utf-8") as out:
            out.write(f"socket: {self.socket}\ndata_dir: {self.data_dir}\n")
            for key, value in self.options.items():
                out.write(f"{key}: {value}\n")
        return path

    def start(self, wait=True):
        log = open(self.log_path, "ab")
        self.process = subprocess.Popen([program("kvcaskd"), "--config", self.config()], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=20):
        """Serving, and the index read."""
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise Failure(f"kvcaskd ended with {self.process.returncode}:\n{self.log()}")
            health = self.ask("health", check_rc=False)
            if health is not None and not health.get("index_loading", False):
                return
            time.sleep(0.02)
        raise Failure("kvcaskd is not ready:\n" + self.log())

    def ask(self, question, arguments=None, check_rc=True):
        """An admin question and its JSON answer."""
        command = [program("loadgen"), "ask", "--target", self.target, "--question", question]
        if arguments is not None:
            command += ["--arguments", json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120 * SLOW, check=False)
        if done.returncode != 0:
            if check_rc:
                raise Failure(f"{question}: {done.stderr.strip()}")
            return None
        return json.loads(done.stdout)

    def stats(self):
        return self.ask("stat")["stats"]

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, seconds=60):
        """SIGTERM: it flushes and ends cleanly."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=seconds * SLOW)
        check(code == 0, f"kvcaskd ended with {code} after SIGTERM:\n{self.log()}")

    def restart(self):
        self.stop()
        return self.start()

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as text:
            return text.read()

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.socket_folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(f"--- log of kvcaskd ({self.folder})\n{self.log()[-6000:]}---", file=sys.stderr)
            if os.environ.get("KVC_KEEP") == "1" and self.process is not None:
                if self.process.poll() is None:
                    self.process.kill()
                return
        self.close()


def loadgen_start(command, daemon, **options):
    line = [program("loadgen"), command, "--target", daemon.target]
    for key, value in options.items():
        line.append("--" + key.replace("_", "-"))
        if value is not True:
            line.append(str(value))
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def loadgen(command, daemon, expect=(0,), **options):
    """Runs to its end; its figures. WRONG BYTES (exit code 3) is always a failure."""
    process = loadgen_start(command, daemon, **options)
    out, err = process.communicate(timeout=900 * SLOW)
    check(process.returncode != 3, "WRONG BYTES:\n" + err)
    check(process.returncode in expect, f"loadgen {command} ended with {process.returncode}: {err}")
    lines = [line for line in out.splitlines() if line.startswith("{")]
    figures = json.loads(lines[-1]) if lines else {}
    if "list" in options:
        figures["blocks"] = {line.split()[1]: line.split()[2] for line in out.splitlines() if line.startswith("b ")}
    return figures


def main(cases):
    """Runs the named cases (all without names); a line each."""
    names = sys.argv[1:] or list(cases)
    seed = int(os.environ.get("KVC_SEED", random.SystemRandom().randrange(1 << 32)))
    print(f"seed {seed} (repeat with KVC_SEED={seed})", flush=True)
    failed = []
    for name in names:
        random.seed(f"{seed} {name}")
        began = time.monotonic()
        try:
            told = cases[name]()
        except Failure as failure:
            failed.append(name)
            print(f"FAILED {name} ({time.monotonic() - began:.1f} s): {failure}", flush=True)
            continue
        print(f"ok     {name} ({time.monotonic() - began:.1f} s){': ' + told if told else ''}", flush=True)
    sys.exit(1 if failed else 0)
