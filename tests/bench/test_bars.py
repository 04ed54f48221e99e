# SPDX-License-Identifier: Apache-2.0
"""The bars of docs/performance.md, held by `kvcask bench NAME --quick --json` on this machine.

  test_bars.py NAME

What counts bytes is held exactly, and every object must have all fields of the format. What is timed is reported: another machine, or this one when it
is busy, says nothing about the code. KVC_BENCH_STRICT=1 holds that too; a run in which a bar is missed is repeated twice then, and the best of
a figure counts.
"""
import json
import os
import subprocess
import sys

BUILD = os.environ["KVC_BUILD"]
STRICT = os.environ.get("KVC_BENCH_STRICT") == "1"
TRIES = 3 if STRICT else 1
EXACT_UNITS = {"percent", "bytes", "bytes/key", "MiB"}
FIELDS = {"bench": str, "case": str, "ours": (int, float), "reference": (int, float), "reference_name": str, "unit": str,
          "ratio": (int, float), "spread": (int, float), "p50_us": (int, float), "p99_us": (int, float), "n": int}
# How many measurements a bench has at least: one that measures nothing does not pass.
LEAST = {"allocator": 10, "arena": 2, "index": 4, "keys": 2, "copy": 8, "brain": 6, "local": 8, "match": 5, "disk": 8, "restart": 2, "idle": 2}


def fail(text):
    print("FAILED:", text)
    sys.exit(1)


def run(name):
    command = [os.path.join(BUILD, "bin", "kvcask-bench"), name, "--quick", "--json", "--folder", os.path.join(BUILD, "tests")]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        if "fio is not installed" in done.stderr:
            print("skipped: fio is not installed")
            sys.exit(77)
        fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    for result in results:
        for field, kind in FIELDS.items():
            if not isinstance(result.get(field), kind):
                fail(f"{result}: no {field}")
    if len(results) < LEAST[name]:
        fail(f"{name}: {len(results)} measurements; {LEAST[name]} are expected")
    missed = any(result.get("met") is False for result in results)
    if (done.returncode == 1) != missed:
        fail(f"exit status {done.returncode}, but missed bars: {missed}")
    return results


def shortfall(result):
    """By what factor the bar is missed: 1 or less is met."""
    if "bar" not in result:
        return 0.0
    field, sign, bar = result["bar"].split()
    value, bar = float(result[field]), float(bar)
    factor = bar / max(value, 1e-9) if sign == ">=" else value / bar
    if result["unit"] == "CPU s/GB" and result["reference"] > 0:
        # Where fio itself takes more than the bar, fio's own CPU in the same run is what can be asked for.
        factor = min(factor, value / result["reference"])
    if factor > 1 and result["unit"] in EXACT_UNITS and result["bench"] != "idle":
        return float("inf")
    return factor


def main():
    name = sys.argv[1]
    best = {}
    for attempt in range(TRIES):
        for result in run(name):
            key = f"{result['bench']}.{result['case']} {result.get('bar', '')} ({result['reference_name']})"
            factor = shortfall(result)
            if key not in best or factor < best[key]:
                best[key] = factor
        if all(factor <= 1 for factor in best.values()):
            break
        print(f"try {attempt + 1}:", {key: round(factor, 2) for key, factor in best.items() if factor > 1})
    for key, factor in sorted(best.items()):
        print(f"{'met' if factor <= 1 else 'MISSED':7} {factor:6.2f}  {key}")
    if any(factor > 1 for factor in best.values()) and STRICT:
        fail("a bar is missed")
    if any(factor == float("inf") for factor in best.values()):
        fail("a bar that counts bytes is missed")


main()
