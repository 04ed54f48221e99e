# SPDX-License-Identifier: Apache-2.0
"""The scheduler's half of the connector: asks what is stored, decides what is loaded and stored, never waits long.

    request arrives      a match goes out with a lease, so that loads from the disk start at once
    scheduler asks       the answer, waited for 2 ms at most; else "ask again", 2 % of the prefill in all, then nothing and a pause
    blocks allocated     the load goes to the worker with the step's metadata
    each step            full blocks of accepted tokens that became complete go to the worker to be stored
    load is over         the lease is given back; what failed is recomputed, and stored then
    request ends         its blocks are kept while the worker gathers them

One thread (the engine core's) calls everything here.
"""

from __future__ import annotations

import logging
import time
import uuid
from array import array
from collections.abc import Callable
from typing import Any

from kvcask import client as kv
from kvcask._lib import BLOCKS_MAX
from kvcask.vllm.circuit import Circuit
from kvcask.vllm.messages import Handshake, LoadDone, LoadJob, StepMeta, StoreJob, WorkerMeta
from kvcask.vllm.space import Layout, Unsupported, adapter_space, base_space, model_identity

log = logging.getLogger("vllm.kvcask.scheduler")

ROOT = bytes(32)
# A guess of the prefill's speed until a step was measured, and the least a load is given.
FIRST_TOKENS_A_SECOND = 5000.0
DEADLINE_LEAST = 0.1
# An answer is waited for this long at least, and for this share of the time to recompute; the first one, of a prompt whose time nobody knows, for so long.
MATCH_LEAST = 0.02
MATCH_SHARE = 0.02
MATCH_FIRST = 0.1
# Steps with fewer tokens say nothing about the speed of a prefill.
RATE_TOKENS_LEAST = 128


class Tracked:
    """What is known of one request."""

    __slots__ = (
        "request", "space", "may_load", "attempt", "op", "lease", "asked", "match", "first_token",
        "loading", "job", "offered", "store_limit", "stores_open", "table",
    )  # fmt: skip

    def __init__(self, request: Any, space: str | None, may_load: bool, store_limit: int):
        self.request = request
        self.space = space
        self.may_load = may_load
        self.attempt = 0
        self.op: kv.Op | None = None  # a match under way
        self.lease: bytes | None = None  # held, or asked for by op
        self.asked = 0.0  # when
        self.match: kv.Match | None = None
        self.first_token = 0  # where the last answer to the scheduler began
        self.loading = False
        self.job: LoadJob | None = None
        self.offered = 0  # leading kvcask blocks that are stored or on their way
        self.store_limit = store_limit  # kvcask blocks that are stored at most
        self.stores_open: set[int] = set()  # serials of store jobs whose pages the worker still reads
        self.table: list[int] = []  # vLLM 0.29: its blocks when they last changed


class SchedulerHalf:
    def __init__(self, vllm_config: Any, kv_cache_config: Any, options: Any, client: kv.Client, stats: Any, cache_dir: str | None):
        self._config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._options = options
        self._client = client
        self._stats = stats
        self._cache_dir = cache_dir
        self._layout: Layout | None = None
        self._off = "the worker has not said how its cache lies"
        self._identity = ""
        self._base: dict[str, str] | None = None
        self._generation = ""
        self._descs: dict[str, dict[str, str]] = {}
        self._spaces: dict[str, kv.Space] = {}
        self._adapters: dict[tuple, str] = {}
        self._tracked: dict[str, Tracked] = {}
        self._storing: dict[str, Tracked] = {}
        self._orphans: dict[str, Tracked] = {}  # ended while their load ran
        self._delayed: set[str] = set()  # finished, and kept for their gathers
        self._meta = StepMeta()
        self._match_circuit = Circuit()
        self._disk_circuit = Circuit()
        self._probe: kv.Op | None = None
        self._pool: Any = None
        self._serial = 0
        self._rate = 0.0
        self._step_began = 0.0
        self._step_tokens = 0
        self._said: set[str] = set()
        self._miss_over_cap = kv.miss_number("over_cap")
        self._unraised: dict[str, dict[str, str]] = {}  # spaces whose epoch is still to be raised
        self._complain_at = 0.0
        role = vllm_config.kv_transfer_config
        self._may_store = options.store and role.is_kv_producer
        self._may_load = options.load and role.is_kv_consumer

    # ---- beginning and end ------------------------------------------------------------------------------------

    def bind_pool(self, pool: Any) -> None:
        self._pool = pool

    def set_handshake(self, handshake: Handshake | None) -> None:
        if handshake is None or handshake.layout is None:
            self._off = handshake.off if handshake else "no worker has a cache"
            return
        try:
            # At start, since it reads from every weight file.
            self._identity = model_identity(self._config, self._options, self._cache_dir)
        except (Unsupported, kv.KvcaskError) as error:
            self._off = str(error)
            log.warning("kvcask stays off: %s", error)
            return
        self._layout = handshake.layout
        self._off = ""

    def close(self) -> None:
        for tracked in list(self._tracked.values()) + list(self._orphans.values()):
            self._let_go(tracked)
        self._tracked.clear()
        self._storing.clear()
        self._orphans.clear()
        if self._probe is not None:
            self._probe.destroy()
            self._probe = None
        for space in self._spaces.values():
            space.close()
        self._spaces.clear()

    def _say_once(self, key: str, text: str, *arguments: Any) -> None:
        if key not in self._said:
            self._said.add(key)
            log.warning("kvcask: " + text, *arguments)

    # ---- spaces -------------------------------------------------------------------------------------------------

    def _base_desc(self) -> dict[str, str] | None:
        """Made when the first request comes: the root of the hash chains is set up after the handshake."""
        if self._base is None and not self._off:
            from vllm.v1.core import kv_cache_utils

            root = getattr(kv_cache_utils, "NONE_HASH", b"")
            algorithm = str(self._config.cache_config.prefix_caching_hash_algo)
            if algorithm.startswith("xxhash"):
                self._say_once(
                    "xxhash",
                    "prefix_caching_hash_algo %s is not collision-resistant, and its root differs from process to process "
                    "unless PYTHONHASHSEED is set; use sha256_cbor to share blocks",
                    algorithm,
                )
            self._base = base_space(self._config, self._layout, self._identity, bytes(root), self._options.codec)
        return self._base

    def _space_key(self, request: Any) -> str | None:
        """The space of a request; None: its blocks are not stored."""
        if self._base_desc() is None:
            return None
        adapter = ""
        lora = getattr(request, "lora_request", None)
        if lora is not None:
            try:
                adapter = self._adapter(lora)
            except kv.KvcaskError as error:
                self._say_once(f"lora {lora.lora_name}", "adapter %s is left alone: %s", lora.lora_name, error)
                return None
        key = f"{adapter}|{self._generation}"
        if key not in self._descs:
            self._descs[key] = adapter_space(self._base, adapter, self._generation)
            self._meta.spaces[key] = self._descs[key]
        return key

    def _adapter(self, lora: Any) -> str:
        """By content, as it was when the engine was first asked for it: that is what it has loaded."""
        key = (lora.lora_int_id, lora.lora_name, lora.lora_path)
        found = self._adapters.get(key)
        if found is None or getattr(lora, "load_inplace", False):
            found = self._adapters[key] = kv.content_identity(lora.lora_path)
        return found

    def _space(self, key: str) -> kv.Space:
        space = self._spaces.get(key)
        if space is None:
            space = self._spaces[key] = self._client.space(self._descs[key], self._layout.form())
        return space

    # ---- match ----------------------------------------------------------------------------------------------------

    def on_new_request(self, request: Any) -> Tracked | None:
        tracked = self._track(request)
        if tracked is not None and tracked.may_load and not self._is_local(tracked):
            self._ask(tracked)
        return tracked

    def _track(self, request: Any) -> Tracked | None:
        found = self._tracked.get(request.request_id)
        if found is not None or self._off:
            return found
        space = self._space_key(request)
        if space is None:
            return None
        params = getattr(request, "kv_transfer_params", None) or {}
        may_load = self._may_load and not params.get("no_load") and not _reads_all(request)
        limit = 0
        if self._may_store and not params.get("no_store"):
            limit = (1 << 60) if self._options.store_decode else request.num_prompt_tokens // self._layout.block_tokens
        tracked = Tracked(request, space, may_load, limit)
        self._tracked[request.request_id] = tracked
        if limit:
            self._storing[request.request_id] = tracked
        return tracked

    def _hash_at(self, request: Any, block: int) -> bytes:
        """The name of a kvcask block: the hash of its last engine block. Shorter hashes are padded."""
        a_hash = bytes(request.block_hashes[(block + 1) * self._layout.engine_blocks_per_block - 1])
        return a_hash if len(a_hash) == 32 else a_hash.ljust(32, b"\0")

    def _matchable_blocks(self, request: Any) -> int:
        # The last token is always computed, so that there is something to sample from.
        layout = self._layout
        tokens = (request.num_tokens - 1) // layout.block_tokens
        hashed = len(request.block_hashes) // layout.engine_blocks_per_block
        return min(tokens, hashed, BLOCKS_MAX)

    def _is_local(self, tracked: Tracked) -> bool:
        """Whether vLLM's own prefix cache has the whole prompt: then nothing need be brought from a disk."""
        blocks = self._matchable_blocks(tracked.request)
        if not blocks or self._pool is None:
            return False
        last = tracked.request.block_hashes[blocks * self._layout.engine_blocks_per_block - 1]
        try:
            return self._pool.get_cached_block(last, [0]) is not None
        except (AttributeError, TypeError, KeyError):  # another vLLM's pool
            return False

    def _ask(self, tracked: Tracked) -> None:
        """Sends a match, unless a pause forbids it. Outcome: tracked.op, or tracked.match with nothing in it."""
        request = tracked.request
        blocks = self._matchable_blocks(request)
        tracked.match = None
        if not blocks or blocks * self._layout.block_tokens < self._options.min_load_tokens or not self._is_answering():
            tracked.match = NOTHING
            return
        tracked.attempt += 1
        tracked.lease = f"{request.request_id}/{tracked.attempt}".encode()
        tracked.asked = time.monotonic()
        try:
            hashes = b"".join([self._hash_at(request, block) for block in range(blocks)])
            tracked.op = self._space(tracked.space).match_begin(hashes, tracked.lease)
        except kv.KvcaskError as error:
            self._match_failed(tracked, error)

    def _match_failed(self, tracked: Tracked, error: kv.KvcaskError) -> None:
        tracked.match = NOTHING
        tracked.lease = None
        self._stats.add("match_failures")
        # The library itself leaves a daemon alone that is away or silent, and answers at once then.
        if error.status_class >= kv.CLASS_CALLER:
            self._say_once(f"match {error.name}", "a match was refused: %s", error)
            self._match_circuit.fail()

    def _is_answering(self) -> bool:
        """False while a daemon that answers too late is left alone. After the pause one message probes it in the background."""
        circuit = self._match_circuit
        if circuit.is_open():
            return False
        if not circuit.is_due():
            return True
        if self._probe is None:
            try:
                self._probe = self._space(next(iter(self._descs))).match_begin(ROOT)
            except kv.KvcaskError:
                circuit.fail()
            return False
        status = self._probe.status()
        if status == kv.PENDING:
            return False
        self._probe.destroy()
        self._probe = None
        if kv.status_class(status) <= kv.CLASS_RETRY:
            circuit.succeed()
            return True
        circuit.fail()
        return False

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        tracked = self._track(request)
        if tracked is None or not tracked.may_load:
            return 0, False
        if tracked.op is None and (tracked.match is None or self._is_worth_asking_again(tracked, computed)):
            self._ask(tracked)
        if tracked.op is not None and not self._take_answer(tracked, request.num_tokens - computed):
            return None, False
        tracked.first_token = computed
        matched = tracked.match.matched_blocks
        if self._tokens_beyond(tracked, computed) < self._options.min_load_tokens:
            if matched:
                tracked.offered = max(tracked.offered, matched)
            self._let_go(tracked)
            return 0, False
        if tracked.match.on_disk_blocks and self._disk_circuit.is_open():
            # The lease is kept no longer, but what it has started to bring into memory may serve the next request.
            self._stats.add("loads_withheld")
            self._let_go(tracked)
            tracked.match = NOTHING
            return 0, False
        return self._tokens_beyond(tracked, computed), True

    def _tokens_beyond(self, tracked: Tracked, computed: int) -> int:
        return tracked.match.matched_blocks * self._layout.block_tokens - computed

    def _is_worth_asking_again(self, tracked: Tracked, computed: int) -> bool:
        """A lease was let go because vLLM had the blocks itself, and it has them no more; or it was cut short when the request arrived
        because others held too much."""
        if tracked.lease is None and self._tokens_beyond(tracked, computed) >= self._options.min_load_tokens:
            return True
        if tracked.match.miss == self._miss_over_cap and tracked.attempt == 1:
            self._let_go(tracked)
            return True
        return False

    def _match_limit(self, tokens: int) -> float:
        if self._options.match_limit_ms != "auto":
            return self._options.match_limit_ms / 1e3
        return max(MATCH_LEAST, MATCH_SHARE * tokens / self._rate) if self._rate else MATCH_FIRST

    def _take_answer(self, tracked: Tracked, tokens: int) -> bool:
        """tokens: computed if nothing is found. False: not yet, ask again."""
        limit = tracked.asked + self._match_limit(tokens)
        patience = max(0.0, min(self._options.match_wait_ms / 1e3, limit - time.monotonic()))
        op = tracked.op
        status = op.wait(patience) if patience > 0 else op.status()
        if status == kv.PENDING:
            if time.monotonic() < limit:
                return False
            status = kv.TIMED_OUT
        tracked.op = None
        if kv.status_class(status) == kv.CLASS_OK:
            tracked.match = op.match_result()
            self._stats.observe("match_seconds", op.figures().elapsed_ns / 1e9)
            self._stats.add("match_hits" if tracked.match.matched_blocks else "match_misses")
            if not tracked.match.matched_blocks:
                tracked.lease = None
            self._match_circuit.succeed()
        else:
            tracked.match = NOTHING
            self._stats.add("match_timeouts" if status == kv.TIMED_OUT else "match_failures")
            if status == kv.TIMED_OUT or kv.status_class(status) >= kv.CLASS_CALLER:
                self._match_circuit.fail()
        op.destroy()
        if tracked.match is NOTHING and tracked.lease is not None:
            # The daemon may yet have granted it.
            self._client.release(tracked.lease)
            tracked.lease = None
        return True

    def _let_go(self, tracked: Tracked) -> None:
        """Gives the lease back. The answer so far stays."""
        if tracked.op is not None:
            tracked.op.cancel()
            tracked.op.destroy()
            tracked.op = None
        if tracked.lease is not None:
            self._client.release(tracked.lease)
            tracked.lease = None

    # ---- load -----------------------------------------------------------------------------------------------------

    def allocated(self, request: Any, blocks: Any, external: int) -> None:
        tracked = self._tracked.get(request.request_id)
        if tracked is None:
            return
        if external <= 0:
            if not tracked.loading:
                self._let_go(tracked)
            return
        layout = self._layout
        first = tracked.first_token // layout.block_tokens
        last = (tracked.first_token + external) // layout.block_tokens
        table = blocks.get_block_ids()[0]
        start = tracked.first_token // layout.block_size
        wanted = [
            table[index] if index >= start else 0  # computed here already, shared perhaps: into the null block
            for index in range(first * layout.engine_blocks_per_block, last * layout.engine_blocks_per_block)
        ]
        chain = b""
        if self._options.verify_loads:
            chain = b"".join([self._hash_at(request, block) for block in range(first, last)])
        job = LoadJob(
            request.request_id, tracked.lease or b"", tracked.space, first, last - first, self._pages(wanted), self._deadline(external), chain
        )
        tracked.loading = True
        tracked.job = job
        self._meta.loads.append(job)

    def _pages(self, engine_blocks: list[int]) -> array:
        each = self._layout.pages_per_engine_block
        if each == 1:
            return array("I", engine_blocks)
        return array("I", [block * each + page for block in engine_blocks for page in range(each)])

    def _deadline(self, tokens: int) -> float:
        if self._options.load_deadline != "auto":
            return self._options.load_deadline
        return max(DEADLINE_LEAST, self._options.load_share * tokens / (self._rate or FIRST_TOKENS_A_SECOND))

    def hit_sources(self, request: Any, external: int) -> tuple[int, int]:
        """Tokens from memory and from the disk."""
        tracked = self._tracked.get(request.request_id)
        match = tracked.match if tracked else None
        if match is None or not match.matched_blocks:
            return external, 0
        disk = min(external, match.on_disk_blocks * self._layout.block_tokens)
        return external - disk, disk

    def _load_over(self, done: LoadDone) -> None:
        tracked = self._tracked.get(done.request_id) or self._orphans.pop(done.request_id, None)
        if tracked is None or not tracked.loading:
            return
        first = tracked.job.first
        tracked.loading = False
        tracked.job = None
        self._let_go(tracked)
        tracked.match = NOTHING
        # What failed is recomputed, and stored again then: the daemon may have dropped it as damaged.
        tracked.offered = first + done.good_blocks
        if tracked.offered < tracked.store_limit and done.request_id in self._tracked:
            self._storing[done.request_id] = tracked
        if done.status == 0:
            self._disk_circuit.succeed()
        elif done.status != kv.CANCELED and kv.status_class(done.status) == kv.CLASS_DEGRADE:
            self._disk_circuit.fail()

    # ---- store ------------------------------------------------------------------------------------------------------

    def build_meta(self, output: Any) -> StepMeta:
        meta, self._meta = self._meta, StepMeta()
        meta.idle = output.total_num_scheduled_tokens == 0
        for request_id in output.preempted_req_ids or ():
            self._preempted(request_id, meta)
        if self._storing:
            self._offer_blocks(output, meta)
        self._step_tokens = output.total_num_scheduled_tokens
        self._step_began = time.monotonic()
        return meta

    def _preempted(self, request_id: str, meta: StepMeta) -> None:
        tracked = self._tracked.get(request_id)
        if tracked is None:
            return
        # The worker waits for its gathers, or cancels them, before this step writes to the blocks.
        meta.preempted.append(request_id)
        tracked.stores_open.clear()
        tracked.offered = 0
        tracked.match = None
        if tracked.store_limit:
            self._storing[request_id] = tracked

    def _offer_blocks(self, output: Any, meta: StepMeta) -> None:
        layout = self._layout
        table_of = self._tables(output.kv_connector_block_state)
        full = []
        for request_id, tokens in output.num_scheduled_tokens.items():
            tracked = self._storing.get(request_id)
            if tracked is None:
                continue
            request = tracked.request
            # block_hashes covers full blocks of accepted tokens alone; rejected draft tokens never count.
            computed = (request.num_computed_tokens + tokens) // layout.block_tokens
            hashed = len(request.block_hashes) // layout.engine_blocks_per_block
            end = min(computed, hashed, tracked.store_limit)
            if end > tracked.offered:
                self._offer(tracked, end, table_of(request_id), meta)
            if tracked.offered >= tracked.store_limit:
                full.append(request_id)
        for request_id in full:
            del self._storing[request_id]

    def _tables(self, state: Any) -> Callable[[str], list[int]]:
        """The engine blocks of a request that is scheduled in this step."""
        if hasattr(state, "get_block_ids"):
            return lambda request_id: state.get_block_ids(request_id)[0]
        # vLLM 0.29 lists those requests alone whose table has changed.
        for request_id, groups in state.block_ids.items():
            if request_id in self._storing:
                self._storing[request_id].table = groups[0]
        return lambda request_id: self._storing[request_id].table

    def _offer(self, tracked: Tracked, end: int, table: list[int], meta: StepMeta) -> None:
        request, layout = tracked.request, self._layout
        each = layout.engine_blocks_per_block
        while tracked.offered < end:
            first = tracked.offered
            last = min(end, first + BLOCKS_MAX)
            before = self._hash_at(request, first - 1) if first else ROOT
            chain = before + b"".join([self._hash_at(request, block) for block in range(first, last)])
            pages = self._pages(table[first * each : last * each])
            self._serial += 1
            meta.stores.append(StoreJob(self._serial, request.request_id, tracked.space, first, chain, pages))
            tracked.stores_open.add(self._serial)
            tracked.offered = last

    def update(self, output: Any) -> None:
        tokens, self._step_tokens = self._step_tokens, 0
        if tokens >= RATE_TOKENS_LEAST:
            rate = tokens / max(time.monotonic() - self._step_began, 1e-4)
            self._rate = rate if not self._rate else 0.7 * self._rate + 0.3 * rate
        self._delayed.difference_update(output.finished_sending or ())
        said: WorkerMeta | None = getattr(output, "kv_connector_worker_meta", None)
        if said is None:
            return
        for request_id, serial in said.stored:
            tracked = self._tracked.get(request_id)
            if tracked is not None:
                tracked.stores_open.discard(serial)
        for done in said.loaded:
            self._load_over(done)

    def finished(self, request: Any) -> bool:
        """True: keep the blocks until the worker says that their stores are over."""
        request_id = request.request_id
        tracked = self._tracked.pop(request_id, None)
        self._storing.pop(request_id, None)
        if tracked is None:
            return False
        if tracked.loading:
            # vLLM keeps the blocks by itself until the load is reported over.
            self._meta.cancel_loads.append(request_id)
            self._orphans[request_id] = tracked
            return False
        self._let_go(tracked)
        if tracked.stores_open:
            self._meta.delayed.append(request_id)
            self._delayed.add(request_id)
            return True
        return False

    def has_delayed(self) -> bool:
        """Blocks are about to come free: better than preempting a request. Bounded by store_deadline_ms."""
        return bool(self._delayed)

    # ---- reset --------------------------------------------------------------------------------------------------------

    def reset(self) -> bool:
        """The weights have changed: nothing stored so far is used again, by anybody. False: not yet durable; to be called again."""
        if self._off or self._base_desc() is None:
            return True
        if not self._descs:
            self._first_key()
        # This engine is safe at once; the epochs make it durable and hold for the others. What fails is tried again by the next call.
        self._unraised.update(self._descs)
        self._change_generation()
        if self._delayed or any(tracked.stores_open for tracked in self._tracked.values()):
            # A store that is about to reserve would get the new epoch for what the old weights computed. It takes milliseconds.
            return False
        for key, desc in list(self._unraised.items()):
            try:
                space = self._client.space(desc, self._layout.form())
                try:
                    space.raise_epoch(10.0)
                finally:
                    space.close()
            except kv.KvcaskError as error:
                if time.monotonic() >= self._complain_at:
                    log.error("kvcask: reset_cache: %s; until it succeeds, other engines may use what was stored before", error)
                    self._complain_at = time.monotonic() + 10.0
                return False
            del self._unraised[key]
        return True

    def _first_key(self) -> None:
        key = f"|{self._generation}"
        self._descs[key] = adapter_space(self._base, "", self._generation)
        self._meta.spaces[key] = self._descs[key]

    def _change_generation(self) -> None:
        """What this engine computes from now on has other weights than the model's folder says. It goes to a space of its own."""
        for tracked in self._tracked.values():
            if tracked.loading:
                self._meta.cancel_loads.append(tracked.request.request_id)
            else:
                self._let_go(tracked)
                tracked.match = NOTHING
            # Computed with the old weights, at least in part.
            tracked.store_limit = 0
            tracked.may_load = False
        self._storing.clear()
        if self._probe is not None:
            self._probe.destroy()
            self._probe = None
        if self._options.after_reset == "private":
            self._generation = uuid.uuid4().hex
            self._adapters.clear()
            self._descs.clear()
            for space in self._spaces.values():
                space.close()
            self._spaces.clear()
            self._first_key()


NOTHING = kv.Match(0, 0, 0, 0, 0)


def _reads_all(request: Any) -> bool:
    """Some requests (prompt log-probabilities) must compute every token."""
    return bool(getattr(request, "skip_reading_prefix_cache", False))
