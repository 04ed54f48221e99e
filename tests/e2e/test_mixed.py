# SPDX-License-Identifier: Apache-2.0
"""Mixed requests, eight at a time, in an engine so small that requests are preempted beside a store so small that blocks keep moving and being
evicted: greedy float32 tokens equal vLLM alone without exception, every loaded page is what was gathered, and every block in the
store is compared with one recomputed by another implementation of the model (transformers).

60 requests; KVC_LONG=1: 200. vLLM alone computes beside the first round, and transformers beside the others.
"""

from __future__ import annotations

import json
import os
import random
import threading
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


def begin(engine: Engine, requests: list) -> None:
    """All at once: the engine runs eight at a time."""
    params = [{"max_tokens": tokens} for _, tokens in requests]
    engine.begin("generate", prompts=[prompt for prompt, _ in requests], params=params, logprobs=2)


def first_round(alone: Engine, engine: Engine) -> tuple[list, list, list]:
    """Both engines compute the same requests. Those for which vLLM alone is never in doubt between two tokens count, COUNT of them: the requests,
    what vLLM alone says; and all that is stored now, as sequences of tokens."""
    offered = candidates(COUNT + COUNT // 8)
    for one in (alone, engine):
        begin(one, offered)
    answers, ours = [one.end()["results"] for one in (alone, engine)]
    sure = [i for i, answer in enumerate(answers) if answer["gap"] > GAP]
    assert len(sure) >= COUNT, f"only {len(sure)} of {len(offered)} candidates have no gap under {GAP}"
    other = [i for i in sure if ours[i]["tokens"] != answers[i]["tokens"]]
    assert not other, f"round 1: requests {other} have other tokens than vLLM alone"
    say(f"round 1: {len(sure)} requests equal, the sure ones of {len(offered)}; {figures(engine.kvcask())}")
    sequences = [prompt + answer["tokens"][:-1] for (prompt, _), answer in zip(offered, ours)]
    return [offered[i] for i in sure[:COUNT]], [answers[i]["tokens"] for i in sure[:COUNT]], sequences


def check_round(engine: Engine, requests: list, wanted: list, what: str) -> None:
    order = list(range(len(requests)))
    random.Random(what).shuffle(order)
    before = engine.kvcask()
    begin(engine, [requests[i] for i in order])
    answers = engine.end()["results"]
    other = [i for i, answer in zip(order, answers) if answer["tokens"] != wanted[i]]
    assert not other, f"{what}: requests {other} have other tokens than vLLM alone"
    after = engine.kvcask()
    say(f"{what}: {len(order)} requests equal; {figures(after, before)}")


def figures(after: dict, before: dict | None = None) -> dict:
    return {name: int(after[name] - (before or {}).get(name, 0)) for name in sorted(after) if name.endswith("_blocks")}


class Recomputed(threading.Thread):
    """Keys and values of every block of these sequences, as transformers computes them, by the block's name."""

    def __init__(self, sequences: list):
        super().__init__(daemon=True)
        self._sequences = sequences
        self._error: BaseException | None = None
        self.blocks: dict[bytes, list] = {}
        self.start()

    def run(self) -> None:
        try:
            os.sched_setaffinity(threading.get_native_id(), {0})  # the engine computes on the other
            self._compute()
        except BaseException as error:
            self._error = error

    def _compute(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from kvcask import client as kv

        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(str(harness.MODEL), dtype=torch.float32).eval().model
        for sequence in sorted(self._sequences, key=len, reverse=True):
            names = kv.Chain(BLOCK).append(sequence)
            if all(name in self.blocks for name in names):
                continue
            with torch.inference_mode():
                cache = model(torch.tensor([sequence[: len(names) * BLOCK]]), use_cache=True).past_key_values
            layers = [layer_of(cache, index) for index in range(model.config.num_hidden_layers)]
            for block, name in enumerate(names):
                if name not in self.blocks:
                    span = slice(block * BLOCK, (block + 1) * BLOCK)
                    self.blocks[name] = [(k[0, :, span].numpy().copy(), v[0, :, span].numpy().copy()) for k, v in layers]

    def result(self) -> dict[bytes, list]:
        self.join()
        if self._error is not None:
            raise self._error
        return self.blocks


def compare_with_recomputed(daemon: Daemon, folder: Path, blocks: dict[bytes, list]) -> None:
    """Every block in the store, against keys and values that transformers computes for the same tokens."""
    import numpy as np

    from kvcask import _lib, client as kv

    texts = [json.loads(path.read_text()) for path in folder.glob("space-*.json")]
    assert len(texts) == 1, f"{len(texts)} spaces"
    form = texts[0]["form"]
    layers, heads, dim = form["layer_count"], form["kv_heads"], form["head_dim_k"]
    assert "CPU_ATTN/vec/" in texts[0]["desc"]["extra"], "this test knows vLLM's packing of float32 pages of 32 tokens alone"
    # A head's keys as [dims][tokens], then its values as [tokens][dims].
    page = np.zeros((layers, 1, heads, 2, BLOCK * dim), dtype=np.float32)
    # Those in memory first, and each is dropped when it has been compared: so nothing is ever evicted, and none is missed.
    daemon.flush()
    listed = stored_hashes(daemon, "memory") + stored_hashes(daemon, "disk_only")
    strange = set(listed) - set(blocks)
    assert not strange, f"{len(strange)} stored blocks belong to no request"
    worst = 0.0
    with kv.Client("unix:" + daemon.socket, name="compare") as client:
        space = client.space(texts[0]["desc"], kv.form(**form))
        stride = page[0, 0].nbytes
        space.set_memory([_lib.LayerMemory(layer.ctypes.data, stride, 1, (1, 1), (0, 0), stride) for layer in page])
        for number, name in enumerate(listed):
            # Each block alone: a chain with holes is compared too.
            lease = str(number).encode()
            assert space.match(name, lease, 10.0).matched_blocks == 1, f"block {name.hex()} is listed and not found"
            op = space.load_begin(lease, 0, 1, array("I", [0]), 10.0)
            assert op.wait(10.0) == kv.OK, f"block {name.hex()}: {kv.status_name(op.status())}"
            client.release(lease)
            op.destroy()
            space.drop(name, 10.0)
            worst = max(worst, difference(blocks[name], page[:, 0], dim))
        space.close()
    left = stored_hashes(daemon, "any")
    assert not left, f"{len(left)} stored blocks were not compared"
    assert worst < 5e-3, f"a stored block differs by {worst} from a recomputed one"
    say(f"{len(listed)} stored blocks, all there are, equal recomputed ones (largest difference {worst:.1e})")


def difference(layers: list, page, dim: int) -> float:
    """Relative to the largest element of the page."""
    import numpy as np

    worst = 0.0
    heads = page.shape[1]
    for mine, (keys, values) in zip(page, layers, strict=True):
        mine_keys = mine[:, 0].reshape(heads, dim, BLOCK).transpose(0, 2, 1)
        mine_values = mine[:, 1].reshape(heads, BLOCK, dim)
        for one, theirs in ((mine_keys, keys), (mine_values, values)):
            worst = max(worst, float(np.abs(one - theirs).max() / max(1.0, np.abs(theirs).max())))
    return worst


def layer_of(cache, index: int):
    layers = getattr(cache, "layers", None)
    return (layers[index].keys, layers[index].values) if layers is not None else cache[index]


def stored_hashes(daemon: Daemon, where: str) -> list[bytes]:
    found, cursor = [], None
    while True:
        answer = daemon.admin("ls", {"limit": 1000, "where": where, **({"cursor": cursor} if cursor else {})})
        found.extend(bytes.fromhex(block["key"]) for block in answer["blocks"])
        cursor = answer.get("cursor")
        if not cursor:
            return found


def main() -> None:
    with harness.workplace("mixed") as folder:
        daemon = Daemon(folder, memory__capacity="96MiB", memory__slab="16MiB", disk__capacity="384MiB", disk__segment="16MiB").start()
        verify = folder / "verify"
        extra = {"verify_loads": True, "verify_dir": str(verify), "store_decode": True, "load_deadline": 20.0}
        try:
            with Engine(kv_config(daemon, **extra), wait=False, max_model_len=1024, num_gpu_blocks_override=POOL_BLOCKS) as engine:
                with Engine(None, lean=True, max_model_len=1024) as alone:
                    requests, wanted, sequences = first_round(alone, engine)
                recomputed = Recomputed(sequences)
                for number in (2, 3):
                    check_round(engine, requests, wanted, f"round {number}")
                found = engine.kvcask()
                metrics = engine.ask("metrics")
                assert metrics.get("vllm:num_preemptions", 0) > 0, "nothing was preempted: the pool is too big"
                assert found.get("loaded_blocks", 0) > 0 and found.get("verified_pages", 0) > 0, found
                assert not found.get("verify_mismatches"), found
                assert not found.get("verify_unknown"), found
                say(f"{int(metrics['vllm:num_preemptions'])} preemptions, {int(found['verified_pages'])} pages verified")
            check_moved(daemon)
            compare_with_recomputed(daemon, verify, recomputed.result())
        finally:
            daemon.kill()


def check_moved(daemon: Daemon) -> None:
    """Blocks left memory, and came back from the disk, or the equal tokens say little."""
    stats = daemon.admin("stat")["stats"]
    moved = {name: stats[name] for name in ("evict_disk_blocks", "evict_lost_blocks", "disk_read_blocks", "disk_write_blocks", "damaged_blocks")}
    say(f"daemon: {json.dumps(moved)}")
    assert moved["evict_disk_blocks"] > 0 and moved["disk_read_blocks"] > 0, f"the memory is too big: {moved}"
    assert not moved["damaged_blocks"], f"blocks were found damaged: {moved}"


if __name__ == "__main__":
    harness.run(main)
