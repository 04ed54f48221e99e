# SPDX-License-Identifier: Apache-2.0
"""A space that allows loss, with the real engine: blocks go to the disk as int8 and come back after a restart of the daemon. That they are found,
that their records say lossy, that they are near to what was stored, and that an engine without loss never gets one of them, is held; what the
loaded engine generates is reported beside what it computed, not assumed."""

from __future__ import annotations

import json
from array import array
from pathlib import Path

import harness
from harness import BLOCK, Daemon, Engine, Prompts, kv_config, say
from test_reuse import committed, generate, reset, wait_for_hits, wait_stored

LENGTHS = (480, 333, 97)
TOKENS = 24
CODEC = "int8"
# int8 with a scale a row: half a step of the largest of 64 elements.
NEAR = 0.03


def compute(engine: Engine, daemon: Daemon, prompts: list, what: str) -> list:
    """Nothing of it is found, and all is stored."""
    before = committed(daemon)
    results = engine.generate(prompts, TOKENS)["results"]
    assert not any(r["cached"] for r in results), f"{what}: blocks of another space were found: {[r['cached'] for r in results]}"
    wait_stored(engine, daemon, prompts, before, what)
    return [r["tokens"] for r in results]


def shown(daemon: Daemon, space: int, name: bytes) -> dict:
    return daemon.admin("show", {"key": name.hex(), "space": space})


def space_of(daemon: Daemon, codec: str) -> dict:
    found = [space for space in daemon.admin("spaces")["spaces"] if space.get("codec", "") == codec]
    assert len(found) == 1, f"{len(found)} spaces with the codec {codec!r}"
    return found[0]


def check_records(daemon: Daemon, names: list[bytes]) -> None:
    """What lies on the disk: coded with loss in the one space, without in the other."""
    lossy, exact = space_of(daemon, CODEC)["space"], space_of(daemon, "")["space"]
    raw = stored = 0
    for name in names:
        one, other = shown(daemon, lossy, name), shown(daemon, exact, name)
        assert one["header"]["lossy"], f"{name.hex()}: {one['record']}"
        assert {section["codec"] for section in one["sections"]} == {CODEC}, one["sections"][0]
        assert not other["header"]["lossy"], f"{name.hex()}: {other['record']}"
        assert not {section["codec"] for section in other["sections"]} - {"raw", "split"}, other["sections"][0]
        raw += sum(section["raw_bytes"] for section in one["sections"])
        stored += sum(section["stored_bytes"] for section in one["sections"])
    say(f"{len(names)} blocks lie on the disk as {CODEC}, {raw / stored:.2f} to 1")


def read_pages(daemon: Daemon, desc: dict, form: dict, names: list[bytes]):
    import numpy as np

    from kvcask import _lib, client as kv

    a_form = kv.form(**form)
    page_bytes = kv.form_sizes(a_form).page_bytes
    pages = np.zeros((form["layer_count"], len(names), page_bytes // 4), dtype=np.float32)
    with kv.Client("unix:" + daemon.socket, name="compare") as client:
        space = client.space(desc, a_form)
        space.set_memory(
            [_lib.LayerMemory(layer.ctypes.data, page_bytes, len(names), (1, 1), (0, 0), page_bytes) for layer in pages]
        )
        for index, name in enumerate(names):
            lease = str(index).encode()
            assert space.match(name, lease, 10.0).matched_blocks == 1, f"{name.hex()} is not found"
            op = space.load_begin(lease, 0, 1, array("I", [index]), 10.0)
            assert op.wait(10.0) == kv.OK, f"{name.hex()}: {kv.status_name(op.status())}"
            op.destroy()
            client.release(lease)
        space.close()
    return pages


def check_near(daemon: Daemon, verify: Path, names: list[bytes]) -> None:
    """Page for page: what came back with loss beside what came back without. Both engines computed the same."""
    import numpy as np

    texts = [json.loads(path.read_text()) for path in verify.glob("space-*.json")]
    assert len(texts) == 1, f"{len(texts)} spaces"
    desc, form = texts[0]["desc"], texts[0]["form"]
    exact = read_pages(daemon, desc, form, names)
    lossy = read_pages(daemon, {**desc, "codec": CODEC}, form, names)
    assert np.isfinite(lossy).all()
    off = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(lossy, exact)]
    assert max(off) < NEAR, f"a layer is off by {max(off)}"
    assert min(off) > 1e-5, "nothing was lost: these are not the blocks that were coded"
    say(f"a layer that was coded is off by {min(off):.4f} to {max(off):.4f} of its norm")


def report(engine: Engine, prompts: list, wanted: list, what: str) -> None:
    expected = [(len(prompt) - 1) // BLOCK * BLOCK for prompt in prompts]
    found, _, _ = generate(engine, prompts, TOKENS, expected, what)
    assert [r["cached"] for r in found] == expected, f"{what}: {[r['cached'] for r in found]} tokens cached, not {expected}"
    for prompt, result, tokens in zip(prompts, found, wanted):
        assert result["finish"] == "length", f"{what}: {result}"
        agree = next((i for i, (a, b) in enumerate(zip(result["tokens"], tokens)) if a != b), TOKENS)
        same = "all tokens equal" if agree == TOKENS else f"the first {agree} of {TOKENS} tokens equal"
        say(f"{what}: {result['cached']} of {len(prompt)} prompt tokens loaded, {same}")


def main() -> None:
    source = Prompts(41)
    prompts = [source.fresh(n) for n in LENGTHS]
    from kvcask import client as kv

    names = [name for prompt in prompts for name in kv.Chain(BLOCK).append(prompt)[: (len(prompt) - 1) // BLOCK]]
    with harness.workplace("lossy") as folder:
        daemon = Daemon(folder, memory__capacity="512MiB", disk__capacity="1GiB").start()
        verify = folder / "verify"
        exact = kv_config(daemon, verify_loads=True, verify_dir=str(verify))
        try:
            with Engine(kv_config(daemon, codec=CODEC), wait=False) as lossy, Engine(exact, wait=False, core=0) as engine:
                wanted = compute(lossy, daemon, prompts, "with loss")
                assert compute(engine, daemon, prompts, "without loss") == wanted, "the engines compute other tokens"
                daemon.stop()
                daemon.start()
                daemon.wait_index()
                check_records(daemon, names)
                for one in (lossy, engine):
                    wait_for_hits(one, prompts[2], "daemon restarted")
                    reset(one)
                report(lossy, prompts, wanted, CODEC)
                report(engine, prompts, wanted, "lossless")
                answers = engine.kvcask()
                assert answers["verified_pages"] > 0 and not answers["verify_mismatches"], answers
                check_near(daemon, verify, names)
        finally:
            daemon.kill()


if __name__ == "__main__":
    harness.run(main)
