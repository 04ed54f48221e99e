# SPDX-License-Identifier: Apache-2.0
"""What is computed once is found again: in memory, by a second engine, on the disk after a restart; and what must not be found is not.
Every answer is compared with vLLM alone. Engines start beside the one that is asked: a start takes longer than all the questions."""

from __future__ import annotations

import shutil
import time

import harness
from harness import BLOCK, Daemon, Engine, Prompts, kv_config, say

LENGTHS = (640, 333, 97)
TOKENS = 12


ASKED = ("match_hits", "match_misses", "match_timeouts", "match_failures")


def generate(engine: Engine, prompts: list, tokens: int, cached: list[int], what: str, **ask) -> tuple[list, dict, dict]:
    """Results, and the connector's counters before and after. A match may come late on a machine that does other things, and then the connector
    asks nothing for a while: where that is what happened, once more."""
    for left in (4, 3, 2, 1, 0):
        before = engine.kvcask()
        found = engine.generate(prompts, tokens, **ask)["results"]
        after = engine.kvcask()
        late = harness.late(before, after)
        unasked = sum(after.get(name, 0) - before.get(name, 0) for name in ASKED) < len(prompts)
        # vLLM says what was promised, also where it computed the rest of it again.
        full = [r["cached"] for r in found] == cached and loaded_blocks(before, after) == sum(cached) // BLOCK
        if not left or not any(cached) or full or not (late or unasked):
            break
        say(f"{what}: again, a match or a load came late")
        time.sleep(2.5)
        reset(engine)
    return found, before, after


def loaded_blocks(before: dict, after: dict) -> int:
    return int(after.get("loaded_blocks", 0) - before.get("loaded_blocks", 0))


def check(engine: Engine, prompts: list, wanted: list, cached: list[int] | None, what: str, **ask) -> None:
    found, before, after = generate(engine, prompts, TOKENS, cached or [], what, **ask)
    assert [r["tokens"] for r in found] == wanted, f"{what}: other tokens than vLLM alone"
    assert all(r["finish"] == "length" for r in found), f"{what}: {found}"
    hits = [r["cached"] for r in found]
    if cached is not None:
        assert hits == cached, f"{what}: {hits} tokens cached, not {cached}; {after}"
    loaded = loaded_blocks(before, after)
    assert loaded == sum(cached or []) // BLOCK, f"{what}: {loaded} blocks loaded for {cached} tokens"
    say(f"{what}: ok, {loaded} blocks loaded")


def check_and_store(engine: Engine, daemon: Daemon, prompts: list, wanted: list, what: str, **ask) -> None:
    """Nothing of it is found; and then, all of it is stored."""
    before = committed(daemon)
    check(engine, prompts, wanted, [0] * len(prompts), what, **ask)
    wait_stored(engine, daemon, prompts, before, what, **ask)


def wait_stored(engine: Engine, daemon: Daemon, prompts: list, before: int, what: str, **ask) -> None:
    """Until all blocks of these prompts are. A store is given up after a second, which a busy machine may need: then they are asked again."""
    blocks = sum(len(prompt) // BLOCK for prompt in prompts)
    for left in (2, 1, 0):
        until = time.monotonic() + 10
        while committed(daemon) - before < blocks and time.monotonic() < until:
            time.sleep(0.02)
        if committed(daemon) - before >= blocks:
            return
        assert left, f"{what}: {committed(daemon) - before} of {blocks} blocks were stored; {engine.kvcask()}"
        say(f"{what}: once more, {committed(daemon) - before} of {blocks} blocks were stored")
        reset(engine)
        engine.generate(prompts, 1, **ask)


def committed(daemon: Daemon) -> int:
    return daemon.admin("stat")["stats"]["commit_blocks"]


def reset(engine: Engine, connector: bool = False) -> None:
    assert engine.reset(connector), "vLLM did not reset its prefix cache"


def wait_for_hits(engine: Engine, prompt: list, what: str) -> None:
    """After an outage the client comes back by itself, within its longest pause."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        reset(engine)
        if engine.generate([prompt], 1)["results"][0]["cached"]:
            return
        time.sleep(0.5)
    raise AssertionError(f"{what}: no hits again after 120 s")


def first_engine(engine: Engine, daemon: Daemon, prompts: list, wanted: list, full: list[int]) -> None:
    nothing = [0] * len(prompts)
    check_and_store(engine, daemon, prompts, wanted, "cold")
    reset(engine)
    before = engine.ask("metrics")
    check(engine, prompts, wanted, full, "again, from memory")
    check_reported(before, engine.ask("metrics"), sum(full))
    reset(engine)
    check(engine, prompts, wanted, nothing, "no_load", params=[no("load")] * len(prompts))
    reset(engine)
    check_and_store(engine, daemon, prompts, wanted, "salted", salts=["s"] * len(prompts))
    reset(engine)
    check(engine, prompts, wanted, full, "salted again", salts=["s"] * len(prompts))
    secret = prompts[0][::-1]
    before = engine.kvcask()
    engine.generate([secret], 1, params=[no("store")])
    reset(engine)
    assert engine.generate([secret], 1)["results"][0]["cached"] == 0, "no_store was stored"
    after = engine.kvcask()
    # The second of the two may be stored; the first may not.
    assert after["stored_blocks"] - before["stored_blocks"] <= len(secret) // BLOCK
    say("no_store: ok")
    logprobs = engine.generate([prompts[0]], 1, params=[{"prompt_logprobs": 1}])["results"][0]
    assert logprobs["cached"] in (0, None), "prompt log-probabilities of loaded tokens"


def check_reported(before: dict, after: dict, hits: int) -> None:
    """In vLLM's own figures a load is a hit of the external cache, from the host's memory here. At least: a late one was asked again."""
    for name in ("vllm:external_prefix_cache_hits", "vllm:prompt_tokens_cached_by_source{host}"):
        risen = after.get(name, 0) - before.get(name, 0)
        assert risen >= hits, f"{name} rose by {risen}, not {hits}: { {key: value for key, value in after.items() if 'cache' in key} }"
    assert after["vllm:external_prefix_cache_queries"] - before.get("vllm:external_prefix_cache_queries", 0) >= hits


def no(what: str) -> dict:
    return {"extra_args": {"kv_transfer_params": {f"no_{what}": True}}}


def main() -> None:
    source = Prompts(11)
    prompts = [source.fresh(n) for n in LENGTHS]
    full = [(n - 1) // BLOCK * BLOCK for n in LENGTHS]
    nothing = [0] * len(LENGTHS)
    with harness.workplace("reuse") as folder:
        daemon = Daemon(folder).start()
        config = kv_config(daemon, verify_loads=True, verify_dir=str(folder / "verify"))
        try:
            with Engine(config, wait=False) as first:
                with Engine(None, lean=True) as alone:
                    wanted = [r["tokens"] for r in alone.generate(prompts, TOKENS)["results"]]
                with Engine(config, wait=False, core=0) as second:
                    first_engine(first, daemon, prompts, wanted, full)
                    check_verified(first)
                    first.close()
                    check(second, prompts, wanted, full, "second engine")
                    restart(second, daemon, prompts, wanted, full)
                    with Engine(config, wait=False) as third:
                        # Stored by an engine whose weights had changed: its own from then on.
                        wait_for_daemon(second)
                        reset(second)
                        check_and_store(second, daemon, prompts, wanted, "after reset_cache, a kill and a rebuild")
                        reset(second)
                        check(second, prompts, wanted, full, "stored after reset_cache")
                        second.kill()
                        check(third, prompts, wanted, nothing, "third engine, after the reset of the second")
        finally:
            daemon.kill()


def restart(engine: Engine, daemon: Daemon, prompts: list, wanted: list, full: list[int]) -> None:
    """The daemon ends and comes back: all is on the disk. Then the weights change, the daemon is killed right behind it, and what lies on the disk is
    looked through record by record, as the index is gone."""
    daemon.stop()
    daemon.start()
    wait_for_hits(engine, prompts[2], "daemon restarted")
    reset(engine)
    check(engine, prompts, wanted, full, "daemon restarted, from disk")
    check_verified(engine)
    reset(engine, connector=True)
    daemon.kill()
    shutil.rmtree(daemon.data_dir / "index")
    daemon.start()
    daemon.wait_index()


def wait_for_daemon(engine: Engine) -> None:
    """Until a fresh prompt is stored: the connection is up again."""
    source = Prompts(12)
    until = time.monotonic() + 120
    before = engine.kvcask().get("stored_blocks", 0)
    while time.monotonic() < until:
        engine.generate([source.fresh(70)], 1)
        time.sleep(0.3)
        engine.generate([source.fresh(10)], 1)
        if engine.kvcask().get("stored_blocks", 0) > before:
            return
    raise AssertionError("nothing is stored 120 s after the daemon came back")


def check_verified(engine: Engine) -> None:
    found = engine.kvcask()
    assert found.get("verified_pages", 0) > 0, found
    assert not found.get("verify_mismatches") and not found.get("verify_unknown"), found
    say(f"{int(found['verified_pages'])} loaded pages are what was gathered")


if __name__ == "__main__":
    harness.run(main)
