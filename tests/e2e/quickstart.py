# SPDX-License-Identifier: Apache-2.0
"""The engine's part of tools/quickstart: a real vLLM beside a daemon, and what that saves, as a table.

    quickstart.py --folder DIR --config kvcaskd.yaml --socket PATH [--json] [--look COMMAND...]

kvcaskd is started with that config and stopped again (its folder keeps what was stored); COMMAND is run when all is done, while it still runs.
    (e) vLLM alone, cold           (f) vLLM alone, its own prefix cache
    (a) with kvcask, cold          (b) the same prompts again, vLLM's own cache emptied
    (c) a second engine process    (d) after a restart of daemon and engine, from disk
Exit status 1 when tokens differ, or when what must be loaded was not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import harness
from harness import BLOCK, Daemon, Engine, Prompts, kv_config

LENGTHS = (1800, 1500, 1100)
TOKENS = 16


def say(text: str) -> None:
    print(f"  {text}", flush=True)


class Given(Daemon):
    """A daemon with a config that somebody else wrote."""

    def __init__(self, folder: Path, config: Path, socket: str):
        super().__init__(folder)
        self.config, self.socket = config, socket

    def start(self) -> Given:
        self.launch(self.config)
        return self


def measure(engine: Engine, prompts: list[list[int]], name: str) -> dict:
    """One prompt after the other, as a single user would see it."""
    first, tokens, cached = [], [], 0
    before = engine.kvcask()
    for prompt in prompts:
        answer = engine.generate([prompt], TOKENS)
        result = answer["results"][0]
        first.append(result["first"] or answer["seconds"])
        tokens.append(result["tokens"])
        cached += result["cached"] or 0
    after = engine.kvcask()
    moved = {key: after.get(key, 0) - before.get(key, 0) for key in ("loaded_blocks", "loaded_bytes", "load_seconds")}
    row = {
        "name": name,
        "first_token_s": statistics.median(first),
        "first_token_each_s": first,
        "prompt_tokens": sum(len(prompt) for prompt in prompts),
        "loaded_tokens": int(moved["loaded_blocks"]) * BLOCK,
        "own_cache_tokens": cached - int(moved["loaded_blocks"]) * BLOCK,
        "loaded_bytes": int(moved["loaded_bytes"]),
        "tokens": tokens,
    }
    say(f"{name}: first token after {row['first_token_s'] * 1e3:.0f} ms, {row['loaded_tokens']} tokens loaded")
    row["late"] = harness.late(before, after)
    return row


def measure_hits(engine: Engine, prompts: list[list[int]], name: str) -> dict:
    """All of it must be loaded. On a machine that does much else a match or a load may miss its deadline, by which vLLM computes instead: then once
    more, and said."""
    for left in (2, 1, 0):
        row = measure(engine, prompts, name)
        if row["loaded_tokens"] == whole_blocks() or not row["late"] or not left:
            break
        say(f"{name}: some came after its deadline, and vLLM computed it; once more")
        time.sleep(2.5)  # the connector leaves kvcask alone for a while
        reset(engine)
    return row


def whole_blocks() -> int:
    """Tokens that can be loaded: the last one of a prompt is computed always."""
    return sum((length - 1) // BLOCK * BLOCK for length in LENGTHS)


def reset(engine: Engine) -> None:
    if not engine.reset():
        raise RuntimeError("vLLM did not reset its prefix cache")


def warm(engine: Engine, seed: int) -> None:
    """An engine's first request is slower than all others."""
    engine.generate([Prompts(seed).fresh(300)], 2, params=[{"extra_args": {"kv_transfer_params": {"no_store": True}}}])


def alone(prompts: list) -> list[dict]:
    say("vLLM alone starts (15 to 60 seconds)")
    with Engine(None) as engine:
        warm(engine, 1)
        return [measure(engine, prompts, "(e) vLLM alone, cold"), measure(engine, prompts, "(f) vLLM's own prefix cache")]


def with_kvcask(daemon: Given, prompts: list) -> list[dict]:
    rows = []
    daemon.start()
    say("vLLM with kvcask starts")
    with Engine(kv_config(daemon)) as engine:
        warm(engine, 2)
        rows.append(measure(engine, prompts, "(a) with kvcask, cold"))
        reset(engine)
        rows.append(measure_hits(engine, prompts, "(b) the same again"))
    say("a second engine starts, which never saw the prompts")
    with Engine(kv_config(daemon)) as engine:
        warm(engine, 3)
        rows.append(measure_hits(engine, prompts, "(c) a second engine"))
    say("kvcaskd and the engine start again")
    daemon.stop()
    daemon.start()
    with Engine(kv_config(daemon)) as engine:
        warm(engine, 4)
        rows.append(measure_hits(engine, prompts, "(d) after a restart, from disk"))
    return rows


def print_table(rows: list[dict], identical: bool) -> None:
    head = ["", "time to first token", "of vLLM alone", "prompt tokens", "loaded from kvcask", "own cache", "tokens identical"]
    base = next(row for row in rows if row["name"].startswith("(e)"))
    lines = [head]
    for row in rows:
        lines.append(
            [
                row["name"],
                f"{row['first_token_s'] * 1e3:,.0f} ms",
                f"{row['first_token_s'] / base['first_token_s'] * 100:.0f} %",
                f"{row['prompt_tokens']:,}",
                f"{row['loaded_tokens']:,}",
                f"{row['own_cache_tokens']:,}",
                "yes" if row["tokens"] == base["tokens"] else "NO",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    print(f"\nSmolLM2-135M-Instruct in vLLM on the CPU, float32, {len(LENGTHS)} prompts, {TOKENS} tokens each; medians\n")
    for line in lines:
        print("  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(zip(line, widths))))
    print(f"\nGenerated tokens are {'identical in all' if identical else 'NOT IDENTICAL'}.\n", flush=True)


def wrong(rows: list[dict]) -> list[str]:
    found = []
    for row in rows:
        wanted = whole_blocks() if row["name"][:3] in ("(b)", "(c)", "(d)") else 0
        if row["loaded_tokens"] != wanted:
            found.append(f"{row['name']}: {row['loaded_tokens']} tokens loaded, not {wanted}")
    return found


def main(arguments: argparse.Namespace) -> int:
    source = Prompts(51)
    prompts = [source.fresh(length) for length in LENGTHS]
    daemon = Given(arguments.folder, arguments.config, arguments.socket)
    try:
        rows = alone(prompts)
        rows = sorted(with_kvcask(daemon, prompts) + rows, key=lambda row: row["name"])
        identical = all(row["tokens"] == rows[0]["tokens"] for row in rows)
        if arguments.json:
            print(json.dumps({"rows": rows, "identical": identical}), flush=True)
        else:
            print_table(rows, identical)
        failures = wrong(rows) + ([] if identical else ["tokens differ"])
        if arguments.look and subprocess.run(arguments.look, stdin=subprocess.DEVNULL).returncode != 0:
            failures.append("the look inside failed")
        daemon.stop()
    finally:
        daemon.kill()
    for failure in failures:
        print(f"quickstart: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--look", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    harness.need_engine()
    os.environ.setdefault("KVC_E2E_DIR", str(given.folder))
    with harness.machine():
        sys.exit(main(given))
