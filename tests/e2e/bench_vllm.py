# SPDX-License-Identifier: Apache-2.0
"""What kvcask costs a vLLM that finds nothing in it, and what a hit costs beside vLLM's own prefix cache.

    with-engine bench_vllm.py [--dtype float32|bfloat16] [--tokens 1800] [--cold 20] [--hits 15] [--rounds 2] [--full] [--fault NAME] [--json] [--check]

One engine gets each fresh prompt twice, with kvcask and without, each first every other time. Without: the connector is taken out of the running vLLM
(switched.py), which then takes no step that a vLLM without one would not take. Two engines, one with kvcask and one without, differ by up to 15 percent for
as long as they run, by where their memory happens to lie, which is far more than what is measured here. Per pair:
    cold   time of generate(max_tokens=1) with kvcask to without, nothing stored anywhere; CPU time of kvcaskd and of kvcask's threads in the engine, until
           all is stored and written, to that of the engine in generate() without
    hit    the same prompt again: from kvcask after a reset of vLLM's own cache, to vLLM's own cache
The engine is started anew for each round (--rounds) and gets huge pages from malloc.
The median of the ratios, its 95 % bootstrap interval and its spread (interquartile range to median) are printed; --json: one object a line as
`kvcask bench` prints them. --check: exit status 1 when a bar is missed (cold: upper end of the interval under 1.05, added CPU under 2 %; hit: 1.25).
A prompt's time differs by 15 percent from one to the next on a machine that is shared: 20 pairs give an interval of about 0.1, 100 one of 0.04.

--full: before the first pair the daemon's memory (512 MiB then, 2 GiB else) is filled, so that every store evicts. Making and mapping memory is paid once;
without this it is in the CPU time of every prompt.

--fault: cold pairs while something is wrong: stopped, write-full, write-slow, read-slow, read-hang. With the last two each cold prompt
is one that lies on the disk, so that the engine with kvcask promises a load that does not come. The first may pay a deadline: it is printed by itself, and
the ratio is of those that follow it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import time

import harness
from harness import Daemon, Engine, Prompts, kv_config

FAULTS = {
    "stopped": None,
    "write-full": "write:full",
    "write-slow": "write:delay=2s",
    "read-slow": "read:delay=2s",
    "read-hang": "read:hang",
}


COLD_BAR = "interval_high < 1.05"
HIT_BAR = "ratio < 1.25"
CPU_BAR, CPU_MOST = "ratio < 0.02", 0.02


def quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def interval(ratios: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    dice = random.Random(1)
    medians = [statistics.median(dice.choices(ratios, k=len(ratios))) for _ in range(4000)]
    return quantile(medians, 0.025), quantile(medians, 0.975)


def process_cpu(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        rest = file.read().rsplit(")", 1)[1].split()
    return (int(rest[11]) + int(rest[12])) / os.sysconf("SC_CLK_TCK")


def threads_cpu(pid: int, prefix: str = "") -> dict[str, float]:
    """Of a process's threads whose names begin so: kvcask's library calls its own "kvc-...". By name; those of a pool ("coded/0", "coded/1") together."""
    found: dict[str, float] = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8", errors="replace") as file:
                name, rest = file.read().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        if name.startswith(prefix):
            ticks = int(rest.split()[11]) + int(rest.split()[12])
            name = name.split("/")[0]
            found[name] = found.get(name, 0.0) + ticks / os.sysconf("SC_CLK_TCK")
    return found


def engine_threads(pids: list[int]) -> dict[str, float]:
    found: dict[str, float] = {}
    for pid in pids:
        for name, seconds in threads_cpu(pid, "kvc").items():
            found[name] = found.get(name, 0.0) + seconds
    return found


class Pair:
    """One engine, with kvcask and without, and the daemon."""

    differ = 0
    flushes = True

    def __init__(self, daemon: Daemon, engine: Engine, length: int, seed: int):
        self.daemon, self.engine, self.length = daemon, engine, length
        self.source = Prompts(seed)

    def both(self, prompt: list[int], ours_first: bool, hit: bool = False) -> tuple[dict, dict]:
        """The answers with kvcask and without. hit: vLLM's own cache holds the prompt, and keeps it for the one without."""
        if ours_first:
            ours = self.ours(prompt)
            other = self.other(prompt, hit)
        else:
            other = self.other(prompt, hit)
            ours = self.ours(prompt)
        if ours["results"][0]["tokens"] != other["results"][0]["tokens"]:
            self.differ += 1
        return ours, other

    def ours(self, prompt: list[int]) -> dict:
        self.engine.ask("connector", on=True)
        assert self.engine.reset()
        before, threads = self.cpu(), self.threads()
        answer = self.engine.generate([prompt], 1)
        self.settle()
        if self.flushes:
            self.daemon.flush()
        answer["threads"] = {name: seconds - threads.get(name, 0.0) for name, seconds in self.threads().items()}
        answer["cpu"] = self.cpu() - before
        return answer

    def other(self, prompt: list[int], hit: bool) -> dict:
        self.engine.ask("connector", on=False)
        if not hit:
            assert self.engine.reset()
        before = self.cpu()
        answer = self.engine.generate([prompt], 1)
        answer["prefill_cpu"] = self.cpu() - before
        self.settle()
        answer["cpu"] = self.cpu() - before
        return answer

    def settle(self) -> None:
        """Until vLLM's spinning has ended, which it does for a second after each step, and until what follows a request (stores, writes to the disk) is
        in its own CPU time and not in the other's clock."""
        time.sleep(1.2)

    def cpu(self) -> float:
        return sum(self.engine.ask("cpu").values()) + process_cpu(self.daemon.process.pid)

    def threads(self) -> dict[str, float]:
        """Of the daemon's threads, and of kvcask's in the engine, by name."""
        pids = [int(name.rsplit("-", 1)[1]) for name in self.engine.ask("cpu")]
        named = {f"kvcaskd {name}": seconds for name, seconds in threads_cpu(self.daemon.process.pid).items()}
        return {**named, **{f"engine {name}": seconds for name, seconds in engine_threads(pids).items()}}


def note(what: str, number: int, a: dict, b: dict, found: dict) -> None:
    found["ours"].append(a["seconds"])
    found["other"].append(b["seconds"])
    if os.environ.get("KVC_BENCH_PAIRS") == "1":
        print(f"{what} {number}: ours {a['seconds']:.3f}, other {b['seconds']:.3f}", file=sys.stderr, flush=True)


def cold_pair(pair: Pair, prompt: list[int], number: int, found: dict) -> None:
    a, b = pair.both(prompt, number % 2 == 0)
    assert not b["results"][0]["cached"], "vLLM's own cache was not empty"
    for name, seconds in a["threads"].items():
        found["threads"][name] = found["threads"].get(name, 0.0) + seconds
    found["cpu"] = [total + more for total, more in zip(found["cpu"], (a["cpu"], b["cpu"], b["prefill_cpu"]))]
    note("cold", number, a, b, found)


def fill(pair: Pair) -> None:
    """Until blocks are evicted."""
    while not any(pair.daemon.admin("stat")["stats"][name] for name in ("evict_disk_blocks", "evict_lost_blocks")):
        pair.ours(pair.source.fresh(pair.length))


def hit_pair(pair: Pair, prompt: list[int], number: int, found: dict) -> None:
    """The prompt has just been computed."""
    before = pair.engine.kvcask().get("loaded_blocks", 0)
    a, b = pair.both(prompt, number % 2 == 0, hit=True)
    loaded = pair.engine.kvcask()["loaded_blocks"] - before
    assert loaded == (pair.length - 1) // harness.BLOCK, f"{loaded} blocks were loaded"
    assert b["results"][0]["cached"] == loaded * harness.BLOCK, "vLLM's own cache did not hit"
    note("hit", number, a, b, found)


def nothing_found() -> dict:
    return {"ours": [], "other": [], "cpu": [0.0, 0.0, 0.0], "threads": {}}


def report(case: str, found: dict, reference: str, as_json: bool, bar: str = "") -> bool:
    """bar: of ratio or interval, "NAME < NUMBER"; "": none. Whether it is met."""
    ratios = [a / b for a, b in zip(found["ours"], found["other"])]
    low, high = interval(ratios)
    result = {
        "bench": "vllm",
        "case": case,
        "ours": round(statistics.median(found["ours"]) * 1e3, 2),
        "reference": round(statistics.median(found["other"]) * 1e3, 2),
        "reference_name": reference,
        "unit": "ms",
        "ratio": round(statistics.median(ratios), 4),
        "spread": round((quantile(ratios, 0.75) - quantile(ratios, 0.25)) / statistics.median(ratios), 4),
        "p50_us": round(statistics.median(found["ours"]) * 1e6),
        "p99_us": round(quantile(found["ours"], 0.99) * 1e6),
        "n": len(ratios),
        "counts": {"interval_low": round(low, 3), "interval_high": round(high, 3)},
    }
    if bar:
        name, limit = bar.split(" < ")
        result.update(bar=bar, met={"ratio": result["ratio"], "interval_high": high}[name] < float(limit))
    if as_json:
        print(json.dumps(result), flush=True)
    else:
        print(
            f"{case:28} {result['ours']:9.1f} ms   {reference} {result['reference']:9.1f} ms   ratio {result['ratio']:.3f} "
            f"[{low:.3f}, {high:.3f}]   spread {result['spread']:.3f}   n {len(ratios)}",
            flush=True,
        )
    return result.get("met", True)


def report_cpu(case: str, found: dict, as_json: bool) -> bool:
    """What kvcask's own processes and threads took, to what the engine takes for the prefill without; and the totals, vLLM's spinning in both."""
    ours, other, prefill = found["cpu"]
    own = sum(found["threads"].values())
    added = own / prefill
    largest = sorted(((name, seconds) for name, seconds in found["threads"].items() if seconds >= 0.005), key=lambda item: -item[1])
    if as_json:
        line = {
            "bench": "vllm", "case": f"{case} cpu", "ours": round(own, 2), "reference": round(prefill, 2),
            "reference_name": "vLLM alone", "unit": "CPU s", "ratio": round(added, 4), "spread": 0.0,
            "p50_us": 0, "p99_us": 0, "n": len(found["ours"]), "bar": CPU_BAR, "met": added < CPU_MOST,
            "counts": {"totals": round(ours / other, 4), **{name: round(seconds, 2) for name, seconds in largest}},
        }  # fmt: skip
        print(json.dumps(line), flush=True)
    else:
        print(f"{case + ' CPU':28} kvcask's own {own:6.2f} s   vLLM alone {prefill:9.2f} s   added {added * 100:.1f} %   totals {ours / other:.3f}", flush=True)
        print(f"{'':28} of it: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in largest), flush=True)
    return added < CPU_MOST


def bench_faults(pair: Pair, name: str, count: int, case: str, as_json: bool) -> list[bool]:
    prompts = None
    if name.startswith("read"):
        # On the disk and not in memory: stored, then pushed out by others, the oldest first.
        prompts = [pair.source.fresh(pair.length) for _ in range(count + 1)]
        for prompt in prompts:
            pair.ours(prompt)
        stored = pair.engine.kvcask()["stored_blocks"]
        while pair.daemon.admin("stat")["stats"]["evict_disk_blocks"] < stored:
            pair.ours(pair.source.fresh(pair.length))
    pair.flushes = False
    if FAULTS[name] is None:
        pair.daemon.signal(signal.SIGSTOP)
    else:
        pair.daemon.admin("fault", {"set": FAULTS[name]})
    first, found = nothing_found(), nothing_found()
    try:
        cold_pair(pair, prompts.pop(0) if prompts else pair.source.fresh(pair.length), 0, first)
        assert not prompts or pair.engine.kvcask()["match_hits"] > 0, "no load was promised"
        for number in range(count):
            cold_pair(pair, prompts.pop(0) if prompts else pair.source.fresh(pair.length), number, found)
    finally:
        pair.daemon.signal(signal.SIGCONT)
        if FAULTS[name] is not None:
            pair.daemon.admin("fault", {"set": ""})
    report(f"{case} {name} first", first, "vLLM alone", as_json)
    return [report(f"{case} {name}", found, "vLLM alone", as_json, COLD_BAR)]


HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


@contextlib.contextmanager
def engine_beside(daemon: Daemon, arguments: argparse.Namespace, seed: int):
    config = kv_config(daemon, module="switched", connector="SwitchedConnector")
    with Engine(config, arguments.dtype, environment=HUGE_PAGES) as engine:
        pair = Pair(daemon, engine, arguments.tokens, seed)
        for number in range(2):
            pair.both(pair.source.fresh(pair.length), number == 0)
        yield pair
        if arguments.dtype == "float32":
            assert pair.differ == 0, f"{pair.differ} first tokens differ"


def main(arguments: argparse.Namespace) -> bool:
    good = []
    case = f"{arguments.dtype} {arguments.tokens}"
    cold, hit = nothing_found(), nothing_found()
    rounds = 1 if arguments.fault else arguments.rounds
    with harness.workplace("bench") as folder:
        memory = "256MiB" if (arguments.fault or "").startswith("read") else "512MiB" if arguments.full else "2GiB"
        daemon = Daemon(folder, memory__capacity=memory, disk__capacity="8GiB").start()
        try:
            for turn in range(rounds):
                with engine_beside(daemon, arguments, arguments.seed + turn) as pair:
                    if arguments.full and turn == 0:
                        fill(pair)
                    if arguments.fault:
                        good += bench_faults(pair, arguments.fault, arguments.cold, f"cold {case}", arguments.json)
                        break
                    for number in range(turn, max(arguments.cold, arguments.hits), rounds):
                        prompt = pair.source.fresh(pair.length)
                        cold_pair(pair, prompt, number // rounds, cold)
                        if number < arguments.hits:
                            hit_pair(pair, prompt, number // rounds, hit)
        finally:
            daemon.kill()
    if cold["ours"]:
        good.append(report(f"cold {case}", cold, "vLLM alone", arguments.json, COLD_BAR))
        good.append(report_cpu(f"cold {case}", cold, arguments.json))
    if hit["ours"]:
        good.append(report(f"hit {case}", hit, "vLLM's prefix cache", arguments.json, HIT_BAR))
    return all(good)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="kvcask beside a real vLLM: cold and hit")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, default=1800)
    parser.add_argument("--cold", type=int, default=20)
    parser.add_argument("--hits", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2, help="how often the engine is started anew")
    parser.add_argument("--seed", type=int, default=41)
    parser.add_argument("--full", action="store_true", help="measure with the daemon's memory full")
    parser.add_argument("--fault", choices=sorted(FAULTS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    harness.need_engine()
    with harness.machine():
        passed = main(given)
    if given.check and not passed:
        print("FAILED: a bar was missed")
        sys.exit(1)
