# SPDX-License-Identifier: Apache-2.0
"""Never slower, never wrong, never failed: the daemon is stopped or killed before a match, between match and load, during a load and during a
store; the disk is full, slow, or never answers. The first request is at most its deadline later, the next ones are as without kvcask; all
tokens are the same; and when the trouble is over, hits come back by themselves."""

from __future__ import annotations

import json
import os
import signal
import statistics
import time

import harness
from harness import Daemon, Engine, Prompts, kv_config, say

LENGTH = 640
TOKENS = 6
DEADLINE = 1.0
# What this machine's other work may add: the shares are held by bench_vllm.py, with pairs and intervals.
NOISE = 1.6
POINTS = ("before match", "between match and load", "during the load", "during the store")


class Late(AssertionError):
    pass


def twice(case, *arguments) -> None:
    """What is late once may have met this machine's other work; late twice is late. Wrong or failed is wrong at once."""
    try:
        case(*arguments)
    except Late as error:
        say(f"again: {error}")
        case(*arguments)


class Bed:
    """An engine, a daemon, and known answers."""

    def __init__(self, folder, engine: Engine, daemon: Daemon, hook: str):
        self.engine, self.daemon, self.hook = engine, daemon, hook
        self.source = Prompts(31)
        self.cold: list[float] = []
        self.asked: list[tuple[float, float, str]] = []

    def known(self, count: int) -> list[tuple[list, list]]:
        """Prompts that are stored, with what the engine said when it computed them."""
        made = []
        for _ in range(count):
            prompt = self.source.fresh(LENGTH)
            answer = self.engine.generate([prompt], TOKENS)
            self.cold.append(answer["seconds"])
            made.append((prompt, answer["results"][0]["tokens"]))
        return made

    def limit(self, late: float = 0.0) -> float:
        return statistics.median(self.cold) * NOISE + late + 0.25

    def ask(self, prompt: list, tokens: list | None, what: str, late: float) -> dict:
        answer = self.engine.generate([prompt], TOKENS)
        result = answer["results"][0]
        assert result["finish"] == "length", f"{what}: the request failed: {result}"
        assert tokens is None or result["tokens"] == tokens, f"{what}: other tokens"
        self.asked.append((answer["seconds"], self.limit(late), what))
        return answer

    def judge(self) -> None:
        """After the trouble has been cleared away."""
        asked, self.asked = self.asked, []
        for seconds, limit, what in asked:
            if seconds >= limit:
                raise Late(f"{what}: {seconds:.2f} s, and {limit:.2f} s are allowed; computing takes {statistics.median(self.cold):.2f} s")

    def arm(self, point: str, number: int) -> None:
        with open(self.hook + ".new", "w", encoding="utf-8") as file:
            json.dump({"point": point, "pid": self.daemon.process.pid, "signal": number}, file)
        os.rename(self.hook + ".new", self.hook)

    def fired(self) -> bool:
        return not os.path.exists(self.hook)

    def reset(self) -> None:
        assert self.engine.reset(), "vLLM did not reset its prefix cache"

    def wait_for_hits(self, what: str) -> float:
        """A prompt is stored and found again."""
        began = time.monotonic()
        while time.monotonic() - began < 45:
            prompt = self.source.fresh(100)
            self.engine.generate([prompt], 1)
            time.sleep(0.1)
            self.reset()
            if self.engine.generate([prompt], 1)["results"][0]["cached"]:
                return time.monotonic() - began
        raise AssertionError(f"{what}: no hits again after 45 s")


def daemon_fault(bed: Bed, name: str, number: int, point: str) -> None:
    what = f"daemon {name} {point}"
    known = bed.known(1)[0]
    bed.daemon.flush()
    bed.reset()
    if point == "during the store":
        known = (bed.source.fresh(LENGTH), None)
    bed.arm(point, number)
    first = bed.ask(*known, what, 0.05 if point in ("before match", "during the store") else DEADLINE)
    assert bed.fired(), f"{what}: that point was not reached"
    second = bed.ask(bed.source.fresh(LENGTH), None, what + ", next request", 0.05)
    bed.reset()
    third = bed.ask(bed.source.fresh(LENGTH), None, what + ", third request", 0.05)
    if number == signal.SIGKILL:
        bed.daemon.process.wait()
        bed.daemon.start()
    else:
        bed.daemon.signal(signal.SIGCONT)
    back = bed.wait_for_hits(what)
    say(
        f"{what}: {first['seconds']:.2f}, then {second['seconds']:.2f} and {third['seconds']:.2f} s (computing: "
        f"{statistics.median(bed.cold):.2f}); hits again after {back:.1f} s"
    )
    bed.judge()


def push_out(bed: Bed) -> None:
    """Fills the daemon's memory with other blocks, so that what was there is on the disk alone."""
    bed.daemon.flush()
    for _ in range(3):
        bed.engine.generate([bed.source.fresh(LENGTH)], 1)
    time.sleep(0.2)
    bed.daemon.flush()
    bed.reset()


def disk_fault(bed: Bed, what: str, text: str) -> None:
    known = bed.known(2)
    if text.startswith("read"):
        push_out(bed)
    else:
        bed.reset()
    bed.daemon.admin("fault", {"set": text})
    if text.startswith("read"):
        first = bed.ask(*known[0], what, DEADLINE)
        second = bed.ask(*known[1], what + ", next request", 0.1)
    else:
        first = bed.ask(bed.source.fresh(LENGTH), None, what, 0.05)
        second = bed.ask(bed.source.fresh(LENGTH), None, what + ", next request", 0.05)
    bed.daemon.admin("fault", {"set": ""})
    back = bed.wait_for_hits(what)
    say(
        f"{what}: {first['seconds']:.2f}, then {second['seconds']:.2f} s (computing: {statistics.median(bed.cold):.2f}); "
        f"hits again after {back:.1f} s"
    )
    bed.judge()


DISK_FAULTS = (
    ("reads fail", "read:fail=io"),
    ("reads of 2 s", "read:delay=2s"),
    ("reads that never return", "read:hang"),
    ("disk full", "write:full"),
    ("writes of 2 s", "write:delay=2s"),
    ("writes that never return", "write:hang"),
)


def check_healthy(bed: Bed) -> None:
    """Hits are there and right before any trouble, or the rest says nothing. A busy machine may miss the 20 ms of a match: that is tried again."""
    known = bed.known(3)
    wanted = (LENGTH - 1) // harness.BLOCK * harness.BLOCK
    for prompt, tokens in known:
        for left in (2, 1, 0):
            bed.reset()
            before = bed.engine.kvcask()["match_timeouts"]
            answer = bed.engine.generate([prompt], TOKENS)
            assert answer["results"][0]["tokens"] == tokens
            if answer["results"][0]["cached"] == wanted:
                break
            late = bed.engine.kvcask()["match_timeouts"] > before
            assert late and left, f"{answer}\n{bed.engine.kvcask()}\n{bed.daemon.admin('stat')}"
            time.sleep(1.5)
    bed.reset()


def main() -> None:
    with harness.workplace("faults") as folder:
        hook = str(folder / "hook")
        daemon = Daemon(folder, memory__capacity="96MiB", memory__slab="16MiB", memory__lease_share="80", memory__client_share="60", disk__capacity="1GiB").start()
        config = kv_config(daemon, module="hooked", connector="HookedConnector", load_deadline=DEADLINE)
        try:
            with Engine(config, environment={"KVC_E2E_HOOK": hook}) as engine:
                engine.generate([Prompts(30).fresh(LENGTH)], TOKENS)  # the first is slower than all others
                bed = Bed(folder, engine, daemon, hook)
                check_healthy(bed)
                for name, number in (("stopped", signal.SIGSTOP), ("killed", signal.SIGKILL)):
                    for point in POINTS:
                        twice(daemon_fault, bed, name, number, point)
                for what, text in DISK_FAULTS:
                    twice(disk_fault, bed, what, text)
                counters = engine.kvcask()
                say(f"connector: { {name: value for name, value in counters.items() if value and name.startswith(('match', 'load', 'store'))} }")
        finally:
            daemon.kill()


if __name__ == "__main__":
    harness.run(main)
