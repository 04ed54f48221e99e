# SPDX-License-Identifier: Apache-2.0
"""The connector's Python on vLLM's real Request objects, hash functions and tensors, without an engine: what is asked for
under which hashes and in which space, when blocks are offered, and how long anybody waits."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness

harness.need_engine()
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core import kv_cache_utils
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec
from vllm.v1.request import Request

from kvcask import _lib
from kvcask import client as kv
from kvcask import vllm as connector
from kvcask.vllm.messages import Handshake, LoadDone, StepMeta, WorkerMeta
from kvcask.vllm.options import TABLE as OPTIONS
from kvcask.vllm.options import OptionError, Options
from kvcask.vllm.scheduler import SchedulerHalf
from kvcask.vllm.space import Layout, Unsupported, base_space, check_codec, check_engine, read_layout
from kvcask.vllm.stats import TABLE as STATS
from kvcask.vllm.stats import KvcaskStats

BLOCK = 16
HASH = get_hash_fn_by_name("sha256_cbor")
init_none_hash(HASH)
HASHER = get_request_block_hasher(BLOCK, HASH)


def request(name: str, tokens: list[int], **extra) -> Request:
    params = SamplingParams(max_tokens=8)
    transfer = extra.pop("kv_transfer_params", None)
    if transfer:
        params.extra_args = {"kv_transfer_params": transfer}
    if extra.pop("prompt_logprobs", False):
        params.prompt_logprobs = 1
        params.skip_reading_prefix_cache = True
    return Request(
        request_id=name,
        prompt_token_ids=tokens,
        sampling_params=params,
        pooling_params=None,
        block_hasher=HASHER,
        **extra,
    )


def image(identifier: str, offset: int) -> MultiModalFeatureSpec:
    return MultiModalFeatureSpec(data=None, modality="image", identifier=identifier, mm_position=PlaceholderRange(offset=offset, length=8))


class Clock:
    """Time that passes only where somebody sleeps."""

    def __enter__(self):
        self.now = 1000.0
        self._patch = mock.patch.multiple(time, monotonic=lambda: self.now, sleep=self._sleep)
        self._patch.start()
        return self

    def __exit__(self, *rest):
        self._patch.stop()

    def _sleep(self, seconds):
        self.now += seconds + 1e-7  # never nothing, as a sum of small floats may be


class FakeOp:
    def __init__(self, space, hashes, matched):
        self.space, self.hashes, self.matched = space, hashes, matched
        self.answer_at = time.monotonic() + space.client.delay
        self.canceled = False

    def status(self):
        if self.canceled:
            return kv.CANCELED
        return kv.OK if time.monotonic() >= self.answer_at else kv.PENDING

    def wait(self, seconds):
        time.sleep(max(0.0, min(seconds, self.answer_at - time.monotonic())))
        return self.status()

    def match_result(self):
        return kv.Match(self.matched, self.matched, 0, self.space.client.miss, 0)

    def figures(self):
        return SimpleNamespace(elapsed_ns=1000)

    def cancel(self):
        self.canceled = True

    def destroy(self):
        pass


class FakeSpace:
    def __init__(self, client, desc):
        self.client, self.desc, self.epoch = client, desc, 0

    def match_begin(self, hashes, request_id=None):
        matched = 0
        while matched < len(hashes) // 32 and hashes[matched * 32 : matched * 32 + 32] in self.client.stored:
            matched += 1
        self.client.asked.append((self.desc, hashes, request_id))
        return FakeOp(self, hashes, matched)

    def raise_epoch(self, seconds):
        if self.client.away:
            raise kv.KvcaskError(302, "raising the epoch")
        self.client.raised.append(self.desc)

    def close(self):
        pass


class FakeClient:
    def __init__(self):
        self.stored, self.asked, self.raised, self.released = set(), [], [], []
        self.delay = 0.0
        self.away = False
        self.miss = 0

    def space(self, desc, form):
        return FakeSpace(self, desc)

    def release(self, lease):
        self.released.append(lease)
        return kv.OK


def engine_config(**changes) -> SimpleNamespace:
    config = SimpleNamespace(
        kv_transfer_config=SimpleNamespace(is_kv_producer=True, is_kv_consumer=True),
        cache_config=SimpleNamespace(prefix_caching_hash_algo="sha256_cbor", cache_dtype="auto"),
        model_config=SimpleNamespace(
            model="m", hf_config=SimpleNamespace(rope_theta=1e4), dtype="float32", quantization=None, served_model_name="m"
        ),
        load_config=SimpleNamespace(load_format="auto"),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=None,
    )
    for key, value in changes.items():
        setattr(config, key, value)
    return config


def layout(each: int = 1, pages: int = 1) -> Layout:
    fields = dict(
        layer_count=2, block_tokens=BLOCK * each, engine_block_tokens=BLOCK // pages, kv_heads=1, head_dim_k=8, head_dim_v=8,
        dtype=1, arrangement=_lib.KV_FUSED, order=_lib.ORDER_HN, group_rule=_lib.GROUP_FULL, shard_count=1,
    )  # fmt: skip
    return Layout(fields, BLOCK, pages, each, 4096, "float32")


def half(each: int = 1, pages: int = 1, **options) -> SchedulerHalf:
    made = SchedulerHalf(
        engine_config(), None, Options({"model_identity": "test", **options}), FakeClient(), KvcaskStats(), None
    )
    made.set_handshake(Handshake(layout(each, pages)))
    return made


class Blocks:
    def __init__(self, *ids):
        self.ids = list(ids)

    def get_block_ids(self, request_id=None):
        return (self.ids,)


def step(scheduled: dict | None = None, table: list | None = None, preempted: set | None = None):
    """A SchedulerOutput, as far as the connector reads it."""
    return SimpleNamespace(
        num_scheduled_tokens=scheduled or {},
        total_num_scheduled_tokens=sum((scheduled or {}).values()),
        preempted_req_ids=preempted,
        kv_connector_block_state=Blocks(*(table or [])),
    )


def said(stored=(), loaded=(), sent=()):
    return SimpleNamespace(kv_connector_worker_meta=WorkerMeta(list(stored), list(loaded)), finished_sending=set(sent))


def tokens(count: int, seed: int = 0) -> list[int]:
    return [(seed * 7919 + i * 31) % 40000 + 1 for i in range(count)]


def keys(hashes: bytes) -> list[bytes]:
    return [hashes[i : i + 32] for i in range(0, len(hashes), 32)]


class Hashes(unittest.TestCase):
    """Different values are never asked for under equal names."""

    def asked(self, *requests):
        scheduler = half()
        for one in requests:
            scheduler.on_new_request(one)
        return [(desc.get("adapter", ""), keys(hashes)) for desc, hashes, _ in scheduler._client.asked]

    def test_hashes__prompt__are_vllms_own_without_the_last_token(self):
        one = request("a", tokens(48))
        (_, asked), = self.asked(one)
        self.assertEqual(asked, [bytes(h) for h in one.block_hashes[:2]])

    def test_hashes__cache_salt__keeps_requests_apart(self):
        plain, salted, other = self.asked(
            request("a", tokens(64)), request("b", tokens(64), cache_salt="x"), request("c", tokens(64), cache_salt="y")
        )
        self.assertEqual(3, len({plain[1][0], salted[1][0], other[1][0]}))
        self.assertEqual(9, len(set(plain[1]) | set(salted[1]) | set(other[1])))

    def test_hashes__image__keeps_requests_apart_from_its_position_on(self):
        def with_image(name, identifier):
            return request(name, tokens(64), mm_features=[image(identifier, 20)])

        first, second, plain = self.asked(with_image("a", "one"), with_image("b", "two"), request("c", tokens(64)))
        self.assertEqual(first[1][0], second[1][0])  # before the image
        self.assertEqual(first[1][0], plain[1][0])
        self.assertEqual(3, len({first[1][1], second[1][1], plain[1][1]}))
        self.assertEqual(3, len({first[1][2], second[1][2], plain[1][2]}))

    def test_hashes__equal_salts__share(self):
        one, two = self.asked(request("a", tokens(64), cache_salt="x"), request("b", tokens(64), cache_salt="x"))
        self.assertEqual(one, two)

    def test_hashes__equal_images__share(self):
        one, two = self.asked(request("a", tokens(64), mm_features=[image("i", 20)]), request("b", tokens(64), mm_features=[image("i", 20)]))
        self.assertEqual(one, two)

    def test_hashes__images_in_other_order__are_kept_apart(self):
        one, two = self.asked(
            request("a", tokens(64), mm_features=[image("i", 0), image("k", 16)]),
            request("b", tokens(64), mm_features=[image("k", 0), image("i", 16)]),
        )
        self.assertEqual(6, len(set(one[1]) | set(two[1])))

    def test_hashes__embeddings__keep_requests_apart(self):
        def embedded(name, value):
            return request(name, None, prompt_embeds=torch.full((64, 8), value))

        one, two, same = self.asked(embedded("a", 1.0), embedded("b", 2.0), embedded("c", 1.0))
        self.assertEqual(6, len(set(one[1]) | set(two[1])))
        self.assertEqual(one, same)

    def test_match__image_stored_by_another__is_found_up_to_it(self):
        scheduler = half()
        first = request("a", tokens(100), mm_features=[image("one", 40)])
        scheduler.on_new_request(first)
        job, = scheduler.build_meta(step({"a": 100}, list(range(1, 8)))).stores
        scheduler._client.stored.update(keys(job.chain)[1:])
        for name, identifier, found in (("b", "one", 96), ("c", "two", 32)):
            one = request(name, tokens(100), mm_features=[image(identifier, 40)])
            scheduler.on_new_request(one)
            self.assertEqual(found, scheduler.matched_tokens(one, 0)[0])

    def test_match__salted__finds_its_own_alone(self):
        scheduler = half()
        scheduler.on_new_request(request("a", tokens(100), cache_salt="x"))
        job, = scheduler.build_meta(step({"a": 100}, list(range(1, 8)))).stores
        scheduler._client.stored.update(keys(job.chain)[1:])
        for name, salt, found in (("b", "x", 96), ("c", "y", 0), ("d", None, 0)):
            one = request(name, tokens(100), cache_salt=salt)
            scheduler.on_new_request(one)
            self.assertEqual(found, scheduler.matched_tokens(one, 0)[0])

    def test_store__adapter__goes_to_its_space(self):
        scheduler = half()
        with tempfile.TemporaryDirectory() as folder:
            Path(f"{folder}/adapter_model.bin").write_bytes(b"weights")
            scheduler.on_new_request(request("a", tokens(40), lora_request=LoRARequest("l", 1, folder)))
            scheduler.on_new_request(request("b", tokens(40)))
        meta = scheduler.build_meta(step({"a": 40, "b": 40}, [1, 2, 3]))
        adapters = {job.request_id: meta.spaces[job.space].get("adapter", "") for job in meta.stores}
        self.assertNotEqual("", adapters["a"])
        self.assertEqual("", adapters["b"])

    def test_space__adapter_loaded_again_in_place__is_another(self):
        scheduler = half()
        with tempfile.TemporaryDirectory() as folder:
            for name, content in (("a", b"weights 1"), ("b", b"weights 2")):
                Path(f"{folder}/adapter_model.bin").write_bytes(content)
                scheduler.on_new_request(request(name, tokens(40), lora_request=LoRARequest("l", 1, folder, load_inplace=True)))
        one, two = [desc["adapter"] for desc, _, _ in scheduler._client.asked]
        self.assertNotEqual(one, two)

    def test_space__codec__is_in_it(self):
        descs = []
        for codec in ("", "int8", "kv4:group=64", "max_kl=0.002"):
            scheduler = half(codec=codec)
            scheduler.on_new_request(request("a", tokens(64)))
            descs.append(scheduler._client.asked[0][0])
            self.assertEqual(codec, descs[-1]["codec"])
            self.assertEqual({**descs[0], "codec": codec}, descs[-1])

    def test_space__what_values_depend_on__is_in_it(self):
        def desc(**changes):
            config = engine_config()
            for path, value in changes.items():
                part, name = path.split("__")
                setattr(getattr(config, part), name, value)
            return base_space(config, layout(), "identity", b"root")

        plain = desc()
        for changes in (
            {"cache_config__cache_dtype": "fp8_e4m3"},
            {"cache_config__prefix_caching_hash_algo": "sha256"},
            {"model_config__dtype": "bfloat16"},
            {"model_config__quantization": "awq"},
            {"model_config__hf_overrides": {"rope_theta": 1}},
            {"model_config__hf_config": SimpleNamespace(rope_theta=5e5)},
            {"model_config__hf_config": SimpleNamespace(rope_theta=1e4, rope_parameters={"factor": 8.0})},
            {"load_config__load_format": "gguf"},
        ):
            changed = desc(**changes)
            self.assertNotEqual(plain, changed, changes)
            self.assertTrue(any(plain[name] != changed[name] for name in plain if name != "model_name"), changes)
        self.assertNotEqual(plain, base_space(engine_config(), layout(), "another", b"root"))
        self.assertNotEqual(plain, base_space(engine_config(), layout(), "identity", b"toor"))

    def test_space__adapter__is_named_by_content(self):
        with tempfile.TemporaryDirectory() as folder:
            for name, content in (("one", b"weights 1"), ("two", b"weights 2"), ("three", b"weights 1")):
                os.mkdir(f"{folder}/{name}")
                Path(f"{folder}/{name}/adapter_model.bin").write_bytes(content * 1000)
            plain, one, two, three = self.asked(
                request("a", tokens(64)),
                request("b", tokens(64), lora_request=LoRARequest("l", 1, f"{folder}/one")),
                request("c", tokens(64), lora_request=LoRARequest("l", 2, f"{folder}/two")),
                request("d", tokens(64), lora_request=LoRARequest("l", 3, f"{folder}/three")),
            )
        self.assertEqual("", plain[0])
        self.assertEqual(3, len({plain[0], one[0], two[0]}))
        self.assertEqual(one[0], three[0])

    def test_space__adapter_trained_on_in_its_folder__is_another(self):
        # vLLM's hashes hold its name and path, which have not changed: the space alone keeps the engines apart.
        with tempfile.TemporaryDirectory() as folder:
            found = []
            for content in (b"weights 1", b"weights 2"):
                Path(f"{folder}/adapter_model.bin").write_bytes(content * 1000)
                found += self.asked(request("a", tokens(64), lora_request=LoRARequest("l", 1, folder)))
        self.assertEqual(found[0][1], found[1][1])
        self.assertNotEqual(found[0][0], found[1][0])

    def test_space__adapter_without_files__is_left_alone(self):
        self.assertEqual([], self.asked(request("a", tokens(64), lora_request=LoRARequest("l", 1, "/nowhere/at/all"))))

    def test_space__root_and_algorithm__are_in_it(self):
        scheduler = half()
        scheduler.on_new_request(request("a", tokens(64)))
        desc = scheduler._client.asked[0][0]
        self.assertEqual(bytes(kv_cache_utils.NONE_HASH).hex(), desc["hash_root"])
        self.assertEqual("sha256_cbor", desc["hash_algorithm"])
        self.assertNotIn("python", desc["extra"])

    def test_space__pickled_hashes__name_python_and_vllm(self):
        scheduler = half()
        scheduler._config.cache_config.prefix_caching_hash_algo = "sha256"
        scheduler.on_new_request(request("a", tokens(64)))
        extra = scheduler._client.asked[0][0]["extra"]
        self.assertIn('"python"', extra)
        self.assertIn('"vllm"', extra)

    def test_hashes__big_block__has_the_hash_of_its_last_engine_block(self):
        scheduler = half(each=4)
        one = request("a", tokens(200))
        scheduler.on_new_request(one)
        asked = keys(scheduler._client.asked[0][1])
        self.assertEqual(asked, [bytes(one.block_hashes[i]) for i in (3, 7, 11)])

    def test_chain__library__equals_vllms(self):
        given = tokens(96)
        chain = kv.Chain(BLOCK)
        self.assertEqual([bytes(h) for h in request("a", given).block_hashes], chain.append(given[:33]) + chain.append(given[33:]))


class Asking(unittest.TestCase):
    def test_match__stored_prefix__is_promised_as_asynchronous_load(self):
        scheduler = half()
        one = request("a", tokens(100))
        scheduler._client.stored.update(bytes(h) for h in one.block_hashes[:4])
        scheduler.on_new_request(one)
        self.assertEqual((64, True), scheduler.matched_tokens(one, 0))
        self.assertEqual((32, True), scheduler.matched_tokens(one, 32))  # again: no side effects
        self.assertEqual(1, len(scheduler._client.asked))

    def test_match__no_load__asks_nothing(self):
        scheduler = half()
        one = request("a", tokens(100), kv_transfer_params={"no_load": True})
        scheduler.on_new_request(one)
        self.assertEqual((0, False), scheduler.matched_tokens(one, 0))
        self.assertEqual([], scheduler._client.asked)

    def test_match__prompt_logprobs__asks_nothing(self):
        scheduler = half()
        one = request("a", tokens(100), prompt_logprobs=True)
        scheduler.on_new_request(one)
        self.assertEqual((0, False), scheduler.matched_tokens(one, 0))
        self.assertEqual([], scheduler._client.asked)

    def test_match__no_answer__asks_again_until_the_limit_then_pauses(self):
        # Of 100 tokens: as long as the first question may take; 2 % of what a slow engine needs for them; 20 ms at least; what the option says.
        for rate, options, limit in ((0.0, {}, 0.1), (40.0, {}, 0.05), (5000.0, {}, 0.02), (40.0, {"match_limit_ms": 7}, 0.007)):
            with self.subTest(rate=rate, options=options), Clock() as clock:
                scheduler = half(**options)
                scheduler._client.delay = 1e9
                scheduler._rate = rate
                one, two = request("a", tokens(100)), request("b", tokens(100))
                scheduler.on_new_request(one)
                longest, answer, began = 0.0, None, clock.now
                while answer is None:
                    turn = clock.now
                    answer, later = scheduler.matched_tokens(one, 0)
                    longest = max(longest, clock.now - turn)
                self.assertEqual((0, False), (answer, later))
                self.assertAlmostEqual(longest, 0.002, 6)
                self.assertAlmostEqual(clock.now - began, limit, 6)
                self.assertEqual(1, len(scheduler._client.asked))
                scheduler.on_new_request(two)  # the circuit is open: nothing is asked, nothing waited for
                turn = clock.now
                self.assertEqual((0, False), scheduler.matched_tokens(two, 0))
                self.assertEqual(clock.now, turn)
                self.assertEqual(1, len(scheduler._client.asked))
                self.assertEqual([b"a/1"], scheduler._client.released)

    def test_match__local_hit_covers_it__lets_the_lease_go(self):
        scheduler = half()
        one = request("a", tokens(100))
        scheduler._client.stored.update(bytes(h) for h in one.block_hashes[:4])
        scheduler.on_new_request(one)
        self.assertEqual((0, False), scheduler.matched_tokens(one, 64))
        self.assertEqual([b"a/1"], scheduler._client.released)

    def test_match__local_hit_gone_again__is_asked_anew(self):
        # The lease was given back: promising those blocks without one would be a load that fails.
        scheduler = half()
        one = request("a", tokens(100))
        scheduler._client.stored.update(bytes(h) for h in one.block_hashes[:4])
        scheduler.on_new_request(one)
        self.assertEqual((0, False), scheduler.matched_tokens(one, 64))
        self.assertEqual((64, True), scheduler.matched_tokens(one, 0))
        scheduler.allocated(one, Blocks(*range(1, 8)), 64)
        job, = scheduler.build_meta(step()).loads
        self.assertEqual(b"a/2", job.lease)

    def test_match__cut_short_on_arrival__is_asked_anew_once(self):
        scheduler = half()
        one = request("a", tokens(100))
        scheduler._client.miss = kv.miss_number("over_cap")
        scheduler.on_new_request(one)
        for _ in range(3):
            self.assertEqual((0, False), scheduler.matched_tokens(one, 0))
        self.assertEqual(2, len(scheduler._client.asked))

    def test_load__local_part_of_a_big_block__goes_to_the_null_block(self):
        scheduler = half(each=4, pages=2)
        one = request("a", tokens(200))
        scheduler._client.stored.update(bytes(h) for h in one.block_hashes)
        scheduler.on_new_request(one)
        self.assertEqual((192 - 80, True), scheduler.matched_tokens(one, 80))
        scheduler.allocated(one, Blocks(*range(50, 62)), 112)
        meta = scheduler.build_meta(step())
        job, = meta.loads
        self.assertEqual((1, 2), (job.first, job.count))
        wanted = [0] + list(range(55, 62))
        self.assertEqual([x for b in wanted for x in (2 * b, 2 * b + 1)], list(job.pages))

    def test_load__over__gives_the_lease_back_and_offers_the_rest(self):
        scheduler = half()
        one = request("a", tokens(100))
        scheduler._client.stored.update(bytes(h) for h in one.block_hashes[:4])
        scheduler.on_new_request(one)
        scheduler.matched_tokens(one, 0)
        scheduler.allocated(one, Blocks(*range(1, 8)), 64)
        scheduler.build_meta(step())
        scheduler.update(said(loaded=[LoadDone("a", 2, 4, 301, 0.1)]))  # two good, then damage
        self.assertEqual([b"a/1"], scheduler._client.released)
        self.assertEqual((0, False), scheduler.matched_tokens(one, 0))  # not asked for again
        one.num_computed_tokens = 32
        scheduler.allocated(one, Blocks(*range(1, 8)), 0)
        meta = scheduler.build_meta(step({"a": 68}, list(range(1, 8))))
        job, = meta.stores
        self.assertEqual((2, [3, 4, 5, 6]), (job.first, list(job.pages)))


class Storing(unittest.TestCase):
    def test_store__chunks__offers_each_full_block_once(self):
        scheduler = half()
        one = request("a", tokens(70))
        scheduler.on_new_request(one)
        meta = scheduler.build_meta(step({"a": 40}, [1, 2, 3]))
        job, = meta.stores
        self.assertEqual((0, [1, 2]), (job.first, list(job.pages)))
        self.assertEqual(bytes(32), job.chain[:32])
        self.assertEqual([bytes(h) for h in one.block_hashes[:2]], keys(job.chain)[1:])
        one.num_computed_tokens = 40
        job, = scheduler.build_meta(step({"a": 30}, [1, 2, 3, 4, 5])).stores
        self.assertEqual((2, [3, 4]), (job.first, list(job.pages)))
        self.assertEqual(bytes(one.block_hashes[1]), job.chain[:32])

    def test_store__decode__only_when_configured(self):
        for decode in (False, True):
            scheduler = half(store_decode=decode)
            one = request("a", tokens(30))
            scheduler.on_new_request(one)
            self.assertEqual(1, len(scheduler.build_meta(step({"a": 30}, [1, 2])).stores))
            one.num_computed_tokens = 30
            one.append_output_token_ids([5, 6, 7])
            self.assertEqual(int(decode), len(scheduler.build_meta(step({"a": 3}, [1, 2, 3])).stores))

    def test_store__rejected_drafts__do_not_fill_a_block(self):
        scheduler = half(store_decode=True)
        one = request("a", tokens(30))
        scheduler.on_new_request(one)
        scheduler.build_meta(step({"a": 30}, [1, 2]))
        one.num_computed_tokens = 30
        one.append_output_token_ids([5])
        # One token and three drafts: positions 30 to 33 are computed, but only 31 tokens are accepted.
        self.assertEqual([], scheduler.build_meta(step({"a": 4}, [1, 2, 3])).stores)

    def test_store__no_store__offers_nothing(self):
        scheduler = half()
        scheduler.on_new_request(request("a", tokens(70), kv_transfer_params={"no_store": True}))
        self.assertEqual([], scheduler.build_meta(step({"a": 70}, [1, 2, 3, 4, 5])).stores)

    def test_store__vllm_0_29_lists_changed_tables_alone__uses_the_last(self):
        scheduler = half(store_decode=True)
        one = request("a", tokens(30))
        scheduler.on_new_request(one)
        first = step({"a": 30})
        first.kv_connector_block_state = SimpleNamespace(block_ids={"a": ([7, 8],), "other": ([9],)})
        job, = scheduler.build_meta(first).stores
        self.assertEqual([7], list(job.pages))
        one.num_computed_tokens = 30
        one.append_output_token_ids(tokens(3, 5))
        later = step({"a": 2})
        later.kv_connector_block_state = SimpleNamespace(block_ids={})
        job, = scheduler.build_meta(later).stores
        self.assertEqual((1, [8]), (job.first, list(job.pages)))

    def test_finish__store_under_way__keeps_the_blocks(self):
        scheduler = half()
        one = request("a", tokens(70))
        scheduler.on_new_request(one)
        job, = scheduler.build_meta(step({"a": 70}, [1, 2, 3, 4, 5])).stores
        self.assertTrue(scheduler.finished(one))
        self.assertTrue(scheduler.has_delayed())
        self.assertEqual(["a"], scheduler.build_meta(step()).delayed)
        scheduler.update(said(stored=[("a", job.serial)], sent=["a"]))
        self.assertFalse(scheduler.has_delayed())

    def test_finish__store_done__frees_at_once(self):
        scheduler = half()
        one = request("a", tokens(70))
        scheduler.on_new_request(one)
        job, = scheduler.build_meta(step({"a": 70}, [1, 2, 3, 4, 5])).stores
        scheduler.update(said(stored=[("a", job.serial)]))
        self.assertFalse(scheduler.finished(one))

    def test_finish__report_of_a_preempted_store__does_not_count_for_a_later_one(self):
        # With overlapping steps the report of a job cancelled by preemption arrives after the next job was made.
        scheduler = half()
        one = request("a", tokens(70))
        scheduler.on_new_request(one)
        first, = scheduler.build_meta(step({"a": 70}, [1, 2, 3, 4, 5])).stores
        self.assertEqual(["a"], scheduler.build_meta(step(preempted={"a"})).preempted)
        one.num_computed_tokens = 0
        scheduler.matched_tokens(one, 0)
        scheduler.build_meta(step({"a": 70}, [6, 7, 8, 9, 10]))
        scheduler.update(said(stored=[("a", first.serial)]))
        self.assertTrue(scheduler.finished(one))

    def test_finish__load_under_way__cancels_it_and_leaves_the_blocks_to_vllm(self):
        scheduler = half()
        one = request("a", tokens(100))
        scheduler._client.stored.update(bytes(h) for h in one.block_hashes[:4])
        scheduler.on_new_request(one)
        scheduler.matched_tokens(one, 0)
        scheduler.allocated(one, Blocks(*range(1, 8)), 64)
        scheduler.build_meta(step())
        self.assertFalse(scheduler.finished(one))
        self.assertEqual(["a"], scheduler.build_meta(step()).cancel_loads)
        self.assertEqual([], scheduler._client.released)
        scheduler.update(said(loaded=[LoadDone("a", 0, 4, 306, 0.1)]))
        self.assertEqual([b"a/1"], scheduler._client.released)


class Library(unittest.TestCase):
    def test_client__closed_before_its_spaces__ends_them(self):
        # Their memory may belong to the spaces of the next client when they are collected.
        client = kv.Client("unix:/nowhere/at/all", lazy=True)
        space = client.space({"model": "m", "kv_dtype": "float32", "hash_algorithm": "sha256_cbor"}, layout().form())
        client.close()
        self.assertIsNone(space._handle)
        with self.assertRaises(kv.KvcaskError):
            space.match(bytes(32))
        space.close()


class Opening(unittest.TestCase):
    def open(self, folder, **options):
        config = engine_config()
        config.kv_transfer_config.engine_id = "test"
        with mock.patch.dict(os.environ, XDG_RUNTIME_DIR=folder):
            return connector._open(config, Options({"autostart": True, "data_dir": "", **options}), False)

    def test_open__autostart__starts_a_daemon_for_who_has_none(self):
        with tempfile.TemporaryDirectory() as folder:
            client = self.open(folder, daemon_options={"memory.capacity": "64MiB"})
            until = time.monotonic() + 60
            while client.health() != kv.OK and time.monotonic() < until:
                time.sleep(0.05)
            stat = client.admin("stat")
            self.assertEqual((stat["sizes"]["memory_bytes"], stat["data_dir"]), (64 << 20, ""))
            client.close()
            os.kill(stat["pid"], signal.SIGTERM)
            self.assertEqual(os.waitpid(stat["pid"], 0)[1], 0)

    def test_open__autostart_fails__the_engine_goes_on_without(self):
        with tempfile.TemporaryDirectory() as folder, self.assertLogs("vllm.kvcask", "ERROR") as said:
            client = self.open(folder, daemon_options={"memory.capacty": "64MiB"})
            self.assertNotEqual(client.health(), kv.OK)
            client.close()
        self.assertIn("memory.capacity", said.output[0])


class Reset(unittest.TestCase):
    def test_reset__spaces__have_their_epoch_raised_and_change(self):
        scheduler = half()
        running = request("a", tokens(70))
        scheduler.on_new_request(running)
        job = scheduler.build_meta(step({"a": 32}, [1, 2])).stores[0]
        first = job.space
        # Its store may reserve after the raise, and would get the new epoch: first it must be over.
        self.assertFalse(scheduler.reset())
        self.assertEqual([], scheduler._client.raised)
        scheduler.update(said(stored=[("a", job.serial)]))
        self.assertTrue(scheduler.reset())
        self.assertIn(scheduler._client.asked[0][0], scheduler._client.raised)
        running.num_computed_tokens = 32
        # What began with the old weights is not stored any more, old name or new.
        self.assertEqual([], scheduler.build_meta(step({"a": 38}, [1, 2, 3, 4, 5])).stores)
        later = request("b", tokens(70))
        scheduler.on_new_request(later)
        meta = scheduler.build_meta(step({"b": 70}, [6, 7, 8, 9, 10]))
        self.assertNotEqual(first, meta.stores[0].space)
        self.assertNotEqual(scheduler._client.asked[0][0]["extra"], scheduler._client.asked[-1][0]["extra"])

    def test_reset__daemon_away__fails_until_all_epochs_are_raised(self):
        scheduler = half()
        scheduler.on_new_request(request("a", tokens(70)))
        before = scheduler._client.asked[0][0]
        scheduler._client.away = True
        self.assertFalse(scheduler.reset())
        self.assertFalse(scheduler.reset())
        scheduler.on_new_request(request("b", tokens(70)))
        self.assertNotEqual(before, scheduler._client.asked[-1][0])  # safe all the same
        scheduler._client.away = False
        self.assertTrue(scheduler.reset())
        self.assertIn(before, scheduler._client.raised)

    def test_reset__shared__keeps_the_space(self):
        scheduler = half(after_reset="shared")
        scheduler.on_new_request(request("a", tokens(70)))
        scheduler.reset()
        scheduler.on_new_request(request("b", tokens(70)))
        self.assertEqual(scheduler._client.asked[0][0], scheduler._client.asked[-1][0])


class Layouts(unittest.TestCase):
    SPEC = dict(block_size=BLOCK, num_kv_heads=3, head_size=8, dtype=torch.float32)

    def read(self, tensor, spec=None, **options):
        return read_layout(spec or FullAttentionSpec(**self.SPEC), [tensor, tensor.clone()], Options(options))

    def test_layout__heads_outside__is_one_run(self):
        found, memory = self.read(torch.zeros(10, 3, BLOCK, 16))
        self.assertEqual(_lib.ORDER_HN, found.fields["order"])
        self.assertEqual((1, 1, 3 * BLOCK * 64), (*memory[0].run_count, memory[0].run_bytes))
        self.assertEqual(3 * BLOCK * 64, memory[0].block_stride_bytes)

    def test_layout__tokens_outside__is_one_run_in_the_other_order(self):
        found, memory = self.read(torch.zeros(10, BLOCK, 3, 16).transpose(1, 2))
        self.assertEqual(_lib.ORDER_NH, found.fields["order"])
        self.assertEqual((1, 1, 3 * BLOCK * 64), (*memory[0].run_count, memory[0].run_bytes))

    def test_layout__heads_outermost__has_a_run_a_head(self):
        _, memory = self.read(torch.zeros(3, 10, BLOCK, 16).transpose(0, 1))
        self.assertEqual([1, 3], list(memory[0].run_count))
        self.assertEqual(10 * BLOCK * 64, memory[0].run_stride_bytes[1])
        self.assertEqual(BLOCK * 64, memory[0].run_bytes)

    def test_layout__latent__is_a_row_a_token(self):
        spec = MLAAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=24, dtype=torch.bfloat16)
        found, memory = self.read(torch.zeros(10, 1, BLOCK, 24, dtype=torch.bfloat16), spec)
        self.assertEqual((_lib.KV_LATENT, 0), (found.fields["arrangement"], found.fields["head_dim_v"]))
        self.assertEqual(BLOCK * 48, memory[0].run_bytes)

    def test_layout__kernel_cuts_blocks_up__counts_its_pages(self):
        found, _ = self.read(torch.zeros(40, 3, BLOCK // 4, 16))
        self.assertEqual((4, BLOCK // 4), (found.pages_per_engine_block, found.fields["engine_block_tokens"]))

    def test_layout__small_blocks__are_put_together_up_to_256_tokens(self):
        found, _ = self.read(torch.zeros(10, 3, BLOCK, 16))
        self.assertEqual(16, found.engine_blocks_per_block)
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=64, head_size=128, dtype=torch.float32)
        found, _ = self.read(torch.zeros(4, 64, BLOCK, 256), spec)
        self.assertEqual(1, found.engine_blocks_per_block)  # 2 MiB in two layers
        with self.assertRaises(Unsupported):
            self.read(torch.zeros(10, 3, BLOCK, 16), block_tokens=BLOCK + 1)

    def test_layout__not_in_host_memory__says_so(self):
        with self.assertRaisesRegex(Unsupported, "host memory"):
            self.read(torch.zeros(10, 3, BLOCK, 16, device="meta"))

    def test_engine__windows_or_several_groups__stay_off(self):
        full = SimpleNamespace(kv_cache_spec=FullAttentionSpec(**self.SPEC))
        window = SimpleNamespace(kv_cache_spec=SlidingWindowSpec(sliding_window=64, **self.SPEC))
        for groups in ([full, window], [window]):
            with self.assertRaises(Unsupported):
                check_engine(engine_config(), SimpleNamespace(kv_cache_groups=groups, hash_block_size=BLOCK))
        check_engine(engine_config(), SimpleNamespace(kv_cache_groups=[full], hash_block_size=BLOCK))
        for changes in (
            {"parallel_config": SimpleNamespace(tensor_parallel_size=2)},
            {"speculative_config": SimpleNamespace(method="eagle")},
        ):
            with self.assertRaises(Unsupported):
                check_engine(engine_config(**changes), SimpleNamespace(kv_cache_groups=[full], hash_block_size=BLOCK))


class Settings(unittest.TestCase):
    def test_codec_on_packed_pages(self):
        """What a codec promises holds for rows of tokens; vLLM's CPU backend packs keys otherwise."""
        packed = "CPU_ATTN/amx/vllm-0.32.0"
        for codec in ("", "int8", "int8:entropy=0", "fp8:variant=1", "zstd"):
            check_codec(codec, packed)
        for codec in ("kv4", "kv4:group=32", "ecsq:step=0.5", "ecsq+pca", "max_kl=0.002"):
            with self.assertRaises(Unsupported):
                check_codec(codec, packed)
            check_codec(codec, "FLASH_ATTN")

    def test_options__unknown_key__names_the_nearest(self):
        with self.assertRaisesRegex(OptionError, "'match_wait_ms'"):
            Options({"match_wait": 2})

    def test_options__bad_value__says_what_is_right(self):
        for given, wanted in (
            ({"store": 1}, "bool"),
            ({"load_share": 0}, "from"),
            ({"after_reset": "x"}, "private"),
            ({"codec": "int8:"}, "no codec"),
            ({"codec": "Int 8"}, "no codec"),
            ({"codec": "max_kl=little"}, "no codec"),
            ({"codec": "int8", "verify_loads": True, "verify_dir": "/x"}, "every byte"),
        ):
            with self.assertRaisesRegex(OptionError, wanted):
                Options(given)

    def test_docs__options_and_counters__are_described(self):
        text = (harness.TOP / "docs" / "vllm.md").read_text(encoding="utf-8")
        for option in OPTIONS:
            self.assertIn(f"| `{option.key}` |", text)
            self.assertIn(option.text, text)
        for name in STATS:
            self.assertIn(f"| `{name}` |", text)

    def test_meta__pickle__keeps_everything(self):
        import pickle

        meta = StepMeta(spaces={"a": {"model": "m"}}, preempted=["x"], idle=True)
        self.assertEqual(meta, pickle.loads(pickle.dumps(meta)))


if __name__ == "__main__":
    unittest.main()
