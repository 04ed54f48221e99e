# SPDX-License-Identifier: Apache-2.0
"""Mixed requests, eight at a time, in an engine so small that requests are preempted beside a store so small that blocks keep moving and being
evicted: greedy float32 tokens equal vLLM alone without exception, every loaded page is what was gathered, and every block in the
store is compared with one recomputed by another implementation of the model (transformers).

60 requests; KVC_LONG=1: 200.
"""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path

import harness
from harness import BLOCK, Daemon, Engine, Prompts, kv_config, say

COUNT = 200 if harness.LONG else 60
GAP = 1e-3
POOL_BLOCKS = 44


def candidates(count: int) -> list[tuple[list[int], int]]:
    """(prompt, tokens to generate): trees of shared prefixes with tails of many lengths."""
    source, dice = Prompts(21), random.Random(22)
    roots = [source.fresh(dice.randrange(40, 330)) for _ in range(8)]
    limbs = [root + source.fresh(dice.randrange(20, 150)) for root in roots for _ in range(2)]
    made = []
    for index in range(count):
        kind = dice.random()
        if kind < 0.15:
            prompt = source.fresh(dice.randrange(5, 400))
        elif kind < 0.5:
            root = dice.choice(roots)
            prompt = root[: dice.randrange(10, len(root) + 1)] + source.fresh(dice.randrange(1, 120))
        else:
            prompt = dice.choice(limbs) + source.fresh(dice.randrange(1, 80))
        made.append((prompt, dice.choice((4, 8, 16, 48))))
    return made


def generate(engine: Engine, requests: list) -> list[dict]:
    """All at once: the engine runs eight at a time."""
    params = [{"max_tokens": tokens} for _, tokens in requests]
    return engine.generate([prompt for prompt, _ in requests], 1, params=params, logprobs=2)["results"]


def choose() -> tuple[list, list]:
    """The first COUNT requests for which vLLM alone is never in doubt between two tokens, and what it says."""
    offered = candidates(COUNT * 2)
    with Engine(None, max_model_len=1024) as alone:
        answers = generate(alone, offered)
    sure = [(request, answer["tokens"]) for request, answer in zip(offered, answers) if answer["gap"] > GAP]
    assert len(sure) >= COUNT, f"only {len(sure)} of {len(offered)} candidates have no gap under {GAP}"
    say(f"{len(sure)} of {len(offered)} candidates are sure; {COUNT} are used")
    return [request for request, _ in sure[:COUNT]], [tokens for _, tokens in sure[:COUNT]]


def check_round(engine: Engine, requests: list, wanted: list, what: str) -> None:
    order = list(range(len(requests)))
    random.Random(what).shuffle(order)
    before = engine.kvcask()
    answers = generate(engine, [requests[i] for i in order])
    other = [i for i, answer in zip(order, answers) if answer["tokens"] != wanted[i]]
    assert not other, f"{what}: requests {other} have other tokens than vLLM alone"
    after = engine.kvcask()
    moved = {name: int(after[name] - before.get(name, 0)) for name in sorted(after) if name.endswith("_blocks")}
    say(f"{what}: {len(order)} requests equal; {moved}")


def compare_with_recomputed(daemon: Daemon, folder: Path, requests: list, wanted: list) -> None:
    """Every block in the store, against keys and values that transformers computes for the same tokens."""
    import numpy as np
    import torch

    from kvcask import _lib, client as kv

    texts = [json.loads(path.read_text()) for path in folder.glob("space-*.json")]
    assert len(texts) == 1, f"{len(texts)} spaces"
    form = texts[0]["form"]
    layers, heads, dim = form["layer_count"], form["kv_heads"], form["head_dim_k"]
    sequences = [prompt + tokens[:-1] for (prompt, _), tokens in zip(requests, wanted)]
    most = max(len(sequence) for sequence in sequences) // BLOCK
    assert "CPU_ATTN/vec/" in texts[0]["desc"]["extra"], "this test knows vLLM's packing of float32 pages of 32 tokens alone"
    # A head's keys as [dims][tokens], then its values as [tokens][dims].
    pages = np.zeros((layers, most, heads, 2, BLOCK * dim), dtype=np.float32)
    seen: set[bytes] = set()
    worst = 0.0
    model = reference_model()
    with kv.Client("unix:" + daemon.socket, name="compare") as client:
        space = client.space(texts[0]["desc"], kv.form(**form))
        stride = pages[0, 0].nbytes
        space.set_memory(
            [
                _lib.LayerMemory(layer.ctypes.data, stride, most, (1, 1), (0, 0), stride)
                for layer in pages
            ]
        )
        for index, sequence in enumerate(sequences):
            hashes = kv.Chain(BLOCK).append(sequence)
            present = [i for i, there in enumerate(space.exists(b"".join(hashes))) if there and hashes[i] not in seen]
            if not present:
                continue
            with torch.inference_mode():
                # The last block's attention is not needed, only its K and V: one forward gives all.
                cache = model(torch.tensor([sequence]), use_cache=True).past_key_values
            for block in present:
                # Each block alone: a chain with holes is compared too.
                lease = f"{index}/{block}".encode()
                if space.match(hashes[block], lease).matched_blocks == 0:
                    continue  # evicted by the loads of this very loop
                op = space.load_begin(lease, 0, 1, array("I", [block]), 10.0)
                assert op.wait(10.0) == kv.OK, f"block {block} of request {index}: {kv.status_name(op.status())}"
                client.release(lease)
                seen.add(hashes[block])
                worst = max(worst, difference(cache, pages, block, dim))
                op.destroy()
        listed = stored_hashes(daemon)
        space.close()
    known = {h for sequence in sequences for h in kv.Chain(BLOCK).append(sequence)}
    assert listed <= known, f"{len(listed - known)} stored blocks belong to no request"
    assert len(seen) >= 0.9 * len(listed), f"{len(seen)} blocks compared of {len(listed)}"
    assert worst < 5e-3, f"a stored block differs by {worst} from a recomputed one"
    say(f"{len(seen)} stored blocks equal recomputed ones (largest difference {worst:.1e})")


def difference(cache, pages, block: int, dim: int) -> float:
    """Relative to the largest element of the page."""
    import numpy as np

    worst = 0.0
    for index in range(pages.shape[0]):
        keys, values = layer_of(cache, index)
        span = slice(block * BLOCK, (block + 1) * BLOCK)
        page = pages[index, block]
        heads = page.shape[0]
        mine_keys = page[:, 0].reshape(heads, dim, BLOCK).transpose(0, 2, 1)
        mine_values = page[:, 1].reshape(heads, BLOCK, dim)
        for mine, theirs in ((mine_keys, keys[0, :, span]), (mine_values, values[0, :, span])):
            theirs = theirs.numpy()
            worst = max(worst, float(np.abs(mine - theirs).max() / max(1.0, np.abs(theirs).max())))
    return worst


def layer_of(cache, index: int):
    layers = getattr(cache, "layers", None)
    return (layers[index].keys, layers[index].values) if layers is not None else cache[index]


def reference_model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(harness.MODEL), dtype=torch.float32).eval()


def stored_hashes(daemon: Daemon) -> set[bytes]:
    found, cursor = set(), None
    while True:
        answer = daemon.admin("ls", {"limit": 1000, **({"cursor": cursor} if cursor else {})})
        found.update(bytes.fromhex(block["key"]) for block in answer["blocks"])
        cursor = answer.get("cursor")
        if not cursor:
            return found


def main() -> None:
    requests, wanted = choose()
    with harness.workplace("mixed") as folder:
        daemon = Daemon(folder, memory__capacity="96MiB", memory__slab="16MiB", disk__capacity="384MiB", disk__segment="16MiB").start()
        verify = folder / "verify"
        extra = {"verify_loads": True, "verify_dir": str(verify), "store_decode": True, "load_deadline": 20.0}
        try:
            with Engine(kv_config(daemon, **extra), max_model_len=1024, num_gpu_blocks_override=POOL_BLOCKS) as engine:
                for number in range(3):
                    check_round(engine, requests, wanted, f"round {number + 1}")
                found = engine.kvcask()
                metrics = engine.ask("metrics")
                assert metrics.get("vllm:num_preemptions", 0) > 0, "nothing was preempted: the pool is too big"
                assert found.get("loaded_blocks", 0) > 0 and found.get("verified_pages", 0) > 0, found
                assert not found.get("verify_mismatches"), found
                assert not found.get("verify_unknown"), found
                say(f"{int(metrics['vllm:num_preemptions'])} preemptions, {int(found['verified_pages'])} pages verified")
            stat = daemon.admin("stat")
            say(f"daemon: {json.dumps(interesting(stat))}")
            compare_with_recomputed(daemon, verify, requests, wanted)
        finally:
            daemon.kill()


def interesting(stat: dict) -> dict:
    flat: dict = {}

    def walk(value, path):
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else key)
        elif isinstance(value, (int, float)) and value and any(word in path for word in ("evict", "damag", "drop", "promot", "demot")):
            flat[path] = value

    walk(stat, "")
    return flat


if __name__ == "__main__":
    harness.run(main)
