#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The main job of tools/quickstart, after setup and build: a daemon with a fresh store, requests, a table, and a look inside.

With --engine the requests come from tests/e2e/quickstart.py (the real vLLM), else from `kvcask loadgen`.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
GIB = 1 << 30
MIB = 1 << 20
_began = time.monotonic()


def say(text: str) -> None:
    print(f"[quickstart {time.monotonic() - _began:3.0f}s] {text}", flush=True)


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1023.95 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 4 * GIB


def choose_sizes(folder: Path) -> tuple[int, int]:
    """Memory and disk for the store: a part of what is free, in whole MiB, no more than the job can use."""
    free = shutil.disk_usage(folder).free
    memory = min(2 * GIB, memory_available() // 4)
    disk = min(8 * GIB, free // 4)
    if disk < 512 * MIB or memory < 256 * MIB:
        sys.exit(f"quickstart: too little is free: {size(memory * 4)} of memory, {size(free)} on the disk of {folder}")
    return memory // MIB * MIB, disk // MIB * MIB


class Tool:
    """kvcask, asking the daemon at a socket."""

    def __init__(self, build: Path, socket: str):
        self.build, self.socket = build, socket

    def ask(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run([self.build / "bin" / "kvcask", *arguments, "--socket", self.socket], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=None if check else subprocess.DEVNULL, text=True)
        if check and done.returncode != 0:
            sys.exit(f"quickstart: kvcask {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}")
        return done

    def show(self, *arguments: str) -> None:
        print(f"\n$ kvcask {' '.join(arguments)}", flush=True)
        print(self.ask(*arguments).stdout, end="", flush=True)


class Store(Tool):
    """kvcaskd as a child, with its config in the folder."""

    def __init__(self, build: Path, folder: Path):
        socket = str(folder / "kvcask.sock")
        if len(socket) > 100:  # a socket address is short
            socket = f"/tmp/kvcask-quickstart-{os.getpid()}.sock"
        super().__init__(build, socket)
        self.folder = folder
        self.config = folder / "kvcaskd.yaml"
        self.log = folder / "kvcaskd.log"
        self.process: subprocess.Popen | None = None
        memory, disk = choose_sizes(folder)
        say(f"memory tier {size(memory)} (of {size(memory_available())} available), disk tier {size(disk)} (of "
            f"{size(shutil.disk_usage(folder).free)} free)")
        lines = [
            "# what kvcaskd runs with here; `kvcaskd --help-config` says what else there is",
            f"socket: {json.dumps(self.socket)}",
            f"data_dir: {json.dumps(str(folder / 'data'))}",
            f"memory.capacity: {memory // MIB}MiB",
            f"disk.capacity: {disk // MIB}MiB",
        ]
        self.config.write_text("\n".join(lines) + "\n")
        (folder / "data").mkdir()

    def start(self) -> None:
        began = time.monotonic()
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen([self.build / "bin" / "kvcaskd", "--config", self.config], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out)
        while True:
            if self.process.poll() is not None:
                sys.exit(f"quickstart: kvcaskd ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
            asked = self.ask("stat", "--json", check=False)
            if asked.returncode == 0 and json.loads(asked.stdout)["ready"]:
                break
            if time.monotonic() - began > 60:
                sys.exit(f"quickstart: kvcaskd is not ready after a minute:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        say(f"kvcaskd is ready after {duration(time.monotonic() - began)}: {self.socket}")

    def stop(self) -> None:
        """Cleanly: SIGTERM flushes."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(90)
        self.process = None
        if code != 0:
            sys.exit(f"quickstart: kvcaskd ended with {code}:\n{self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


# ---- without an engine ----

PREFILL = 1650  # tokens a second: SmolLM2-135M in bfloat16 on one core


def load(store: Store, label: str, *options: str) -> list[dict]:
    say(label)
    out = store.ask("loadgen", "--json", "--prefill", str(PREFILL), *options).stdout
    return [json.loads(line) for line in out.splitlines()]


def job_without_engine(store: Store) -> None:
    store.start()
    without = load(store, "requests without kvcask", "--without")[0]
    cold, again = load(store, "the same with kvcask, cold, and once more", "--rounds", "2", "--flush")
    second = load(store, "the same from a second process")[0]
    say("restart of kvcaskd")
    store.stop()
    store.start()
    restarted = load(store, "the same after the restart")[0]
    rows = [
        ("(a) cold, prompts share prefixes", cold),
        ("(b) the same prompts again", again),
        ("(c) a second process", second),
        ("(d) after a restart, from disk", restarted),
        ("(e) without kvcask", without),
    ]
    print_table(rows)
    for name, row in rows[1:4]:
        if row["loaded_tokens"] < 0.95 * (row["prompt_tokens"] - row["requests"] * 64):
            sys.exit(f"quickstart: {name}: only {row['loaded_tokens']} of {row['prompt_tokens']} tokens were loaded")
    if restarted["disk_tokens"] == 0:
        sys.exit("quickstart: after the restart nothing came from the disk")
    print(f"Computing is modelled: {PREFILL} tokens a second are waited for, as SmolLM2-135M takes on one core. All else is real.")
    print("Every loaded byte was compared with what its block must hold: all equal.")


def print_table(rows: list[tuple[str, dict]]) -> None:
    head = ["", "time to first token", "longest", "tokens", "loaded", "of these from disk", "load", "wrong bytes"]
    lines = [head]
    for name, row in rows:
        lines.append([
            name,
            duration(row["first_token_p50_s"]),
            duration(row["first_token_max_s"]),
            f"{row['prompt_tokens']:,}",
            f"{row['loaded_tokens']:,}",
            f"{row['disk_tokens']:,}",
            size(row["load_bytes_per_s"]) + "/s" if row["loaded_tokens"] else "-",
            f"{row['wrong_bytes']:,}",
        ])
    widths = [max(len(line[c]) for line in lines) for c in range(len(head))]
    print()
    for line in lines:
        print("  ".join(text.ljust(w) if c == 0 else text.rjust(w) for c, (text, w) in enumerate(zip(line, widths))))
    print()


# ---- with vLLM ----


def job_with_engine(store: Store, build: Path) -> None:
    """tests/e2e/quickstart.py starts and stops the daemon, and looks inside at the end by calling this program."""
    environment = dict(os.environ, KVC_BUILD=str(build))
    command = [sys.executable, str(TOP / "tests" / "e2e" / "quickstart.py"), "--folder", str(store.folder), "--config", str(store.config),
               "--socket", store.socket, "--look", sys.executable, __file__, "--look", store.socket, "--build", str(build)]
    if subprocess.run(command, env=environment, stdin=subprocess.DEVNULL).returncode != 0:
        sys.exit("quickstart: the engine's part failed")


def look_inside(store: Tool) -> None:
    store.show("stat")
    store.show("ls", "--sort", "position", "--limit", "8")
    blocks = json.loads(store.ask("ls", "--sort", "hits", "--limit", "1", "--json").stdout)["blocks"]
    if blocks:
        store.show("show", blocks[0]["key"][:16], "--content")


def main() -> None:
    global _began
    parser = argparse.ArgumentParser(prog="tools/quickstart")
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--engine", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--look", metavar="SOCKET", help="only look into the daemon at this socket")
    arguments = parser.parse_args()
    if arguments.look:
        look_inside(Tool(arguments.build, arguments.look))
        return
    _began -= arguments.seconds
    # The environment is over the config file: what the user's other daemon is told is not meant for this one.
    for name in [name for name in os.environ if name.startswith("KVCASK_")]:
        del os.environ[name]
    store = None
    try:
        store = Store(arguments.build, arguments.folder)
        if arguments.engine:
            job_with_engine(store, arguments.build)
        else:
            job_without_engine(store)
            look_inside(store)
            store.stop()
    finally:
        if store is not None:
            store.kill()
        if not arguments.keep:
            shutil.rmtree(arguments.folder, ignore_errors=True)
    print()
    if arguments.keep:
        say(f"kept: {arguments.folder} (start again: {arguments.build}/bin/kvcaskd --config {store.config})")
    say("done. To put kvcask beside a vLLM that already runs: README.md")


if __name__ == "__main__":
    main()
