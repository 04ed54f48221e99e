# SPDX-License-Identifier: Apache-2.0
"""The worker's half of the connector: hands page numbers to the C library, whose mover thread copies, and reports what is over.

An engine page is gathered only while the engine cannot write to it: from the end of the step that filled it until its request's
blocks are freed; the scheduler's half delays that, and handle_preemptions ends gathers of blocks that were taken away.

One thread (the worker's) calls everything here.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from typing import Any

from kvcask import client as kv
from kvcask.vllm.circuit import Circuit
from kvcask.vllm.messages import Handshake, LoadDone, LoadJob, StepMeta, StoreJob, WorkerMeta
from kvcask.vllm.space import Layout, Unsupported, check_codec, check_engine, natural_order, page_interior, read_layout
from kvcask.vllm.verify import Verifier

log = logging.getLogger("vllm.kvcask.worker")

# How long handle_preemptions lets gathers run to their end before it cancels them.
PREEMPT_SECONDS = 0.02
# A load that the library has not ended this long after its deadline is ended here.
OVERDUE_SECONDS = 1.0
# How long an idle step waits for a load or gather rather than being called again at once.
IDLE_SECONDS = 0.005
IDLE_STORE_SECONDS = 0.001


class Store:
    __slots__ = ("job", "op", "began", "blocks", "released")

    def __init__(self, job: StoreJob, op: kv.Op, blocks: int):
        self.job = job
        self.op = op
        self.began = time.monotonic()
        self.blocks = blocks
        self.released = False  # its pages are free


class Load:
    __slots__ = ("job", "op", "began")

    def __init__(self, job: LoadJob, op: kv.Op):
        self.job = job
        self.op = op
        self.began = time.monotonic()


@contextmanager
def free_affinity():
    """vLLM binds this thread to the cores it computes on; a thread made here would sit on the same ones, and take its time
    from the forward pass. Made inside this, it may run on all cores of the parent process."""
    try:
        mine = os.sched_getaffinity(0)
        wide = os.sched_getaffinity(os.getppid())
        os.sched_setaffinity(0, (wide - mine) or wide)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


class WorkerHalf:
    def __init__(self, vllm_config: Any, kv_cache_config: Any, options: Any, client: kv.Client, stats: Any):
        self._config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._options = options
        self._client = client
        self._stats = stats
        self._layout: Layout | None = None
        self._memory: list = []
        self._off = "register_kv_caches was not called"
        self._verifier: Verifier | None = None
        self._descs: dict[str, dict[str, str]] = {}
        self._spaces: dict[str, kv.Space] = {}
        self._stores: list[Store] = []
        self._storing_blocks = 0
        self._loads: list[Load] = []
        self._delayed: set[str] = set()
        self._received: set[str] = set()
        self._bad_blocks: set[int] = set()
        self._meta = WorkerMeta()
        self._store_circuit = Circuit()

    # ---- beginning and end ----------------------------------------------------------------------------------------

    def register(self, kv_caches: dict[str, Any]) -> None:
        try:
            check_engine(self._config, self._kv_cache_config)
            group = self._kv_cache_config.kv_cache_groups[0]
            names = natural_order(group.layer_names)
            tensors = [kv_caches[name] for name in names]
            self._layout, self._memory = read_layout(group.kv_cache_spec, tensors, self._options)
            self._layout.interior = page_interior(self._config, names)
            check_codec(self._options.codec, self._layout.interior)
            self._off = ""
        except Unsupported as error:
            self._off = str(error)
            log.warning("kvcask stays off: %s", error)
            return
        if self._options.verify_loads:
            self._verifier = Verifier(self._options.verify_dir, tensors)
        log.info(
            "kvcask: blocks of %d tokens, %.2f MiB (%d engine blocks), pages as %s packs them",
            self._layout.block_tokens,
            self._layout.block_bytes / (1 << 20),
            self._layout.engine_blocks_per_block,
            self._layout.interior,
        )

    def handshake(self) -> Handshake:
        return Handshake(self._layout, self._off)

    def close(self) -> None:
        for store in self._stores:
            store.op.destroy()
        for load in self._loads:
            load.op.destroy()
        self._stores.clear()
        self._loads.clear()
        for space in self._spaces.values():
            space.close()
        self._spaces.clear()

    def _space(self, key: str) -> kv.Space:
        space = self._spaces.get(key)
        if space is None:
            space = self._client.space(self._descs[key], self._layout.form())
            space.set_memory(self._memory)
            self._spaces[key] = space
            if self._verifier is not None:
                self._verifier.describe(key, self._descs[key], self._layout.fields)
        return space

    # ---- load -----------------------------------------------------------------------------------------------------

    def start_loads(self, meta: StepMeta) -> None:
        if meta.spaces:
            self._descs.update(meta.spaces)
        for job in meta.loads:
            if not job.lease:
                self._load_ended(job, [kv.CANCELED] * job.count, 0.0)
                continue
            try:
                op = self._space(job.space).load_begin(job.lease, job.first, job.count, job.pages, job.deadline)
            except kv.KvcaskError as error:
                log.warning("kvcask: load for %s: %s", job.request_id, error)
                self._load_ended(job, [error.status] * job.count, 0.0)
                continue
            self._loads.append(Load(job, op))
        if meta.cancel_loads:
            for load in self._loads:
                if load.job.request_id in meta.cancel_loads:
                    load.op.cancel()

    def _poll_loads(self, idle: bool) -> None:
        if idle and self._loads[0].op.status() == kv.PENDING:
            self._loads[0].op.wait(IDLE_SECONDS)
        now = time.monotonic()
        under_way = []
        for load in self._loads:
            job, op = load.job, load.op
            if op.status() == kv.PENDING:
                if now - load.began < job.deadline + OVERDUE_SECONDS:
                    under_way.append(load)
                    continue
                op.cancel()
            statuses = op.block_statuses(job.count)
            self._stats.add("loaded_bytes", op.figures().bytes)
            op.destroy()
            self._client.release(job.lease)
            self._load_ended(job, statuses, now - load.began)
        self._loads = under_way

    def _load_ended(self, job: LoadJob, statuses: list[int], seconds: float) -> None:
        each = len(job.pages) // job.count
        pages_per_block = self._layout.pages_per_engine_block
        bad = [index for index, status in enumerate(statuses) if status != kv.OK]
        first_status = statuses[bad[0]] if bad else kv.OK
        if first_status == kv.PENDING:  # was cancelled here
            first_status = kv.TIMED_OUT
        for index in bad:
            pages = job.pages[index * each : (index + 1) * each]
            self._bad_blocks.update(page // pages_per_block for page in pages)
        self._bad_blocks.discard(0)
        if self._verifier is not None and job.chain:
            self._verify(job, set(bad), each)
        good = bad[0] if bad else job.count
        self._stats.add("loaded_blocks", job.count - len(bad))
        self._stats.add("load_seconds", seconds)
        if bad:
            self._stats.add("load_failed_blocks", len(bad))
            self._stats.add("loads_timed_out", 1 if first_status == kv.TIMED_OUT else 0)
            log.info("kvcask: %d of %d blocks for %s failed: %s", len(bad), job.count, job.request_id, kv.status_name(first_status))
        self._received.add(job.request_id)
        self._meta.loaded.append(LoadDone(job.request_id, good, job.count, first_status, seconds))

    def _verify(self, job: LoadJob, bad: set[int], each: int) -> None:
        for index in range(job.count):
            if index in bad:
                continue
            pages = job.pages[index * each : (index + 1) * each]
            found = self._verifier.compare(self._desc_text(job.space), job.chain[index * 32 : index * 32 + 32], pages)
            if found is None:
                self._stats.add("verify_unknown")
                continue
            compared, different = found
            self._stats.add("verified_pages", compared)
            if different:
                self._stats.add("verify_mismatches", different)
                log.error("kvcask: %d pages of a loaded block of %s differ from what was gathered", different, job.request_id)

    def _desc_text(self, key: str) -> str:
        return repr(sorted(self._descs[key].items()))

    # ---- store ------------------------------------------------------------------------------------------------------

    def start_stores(self, meta: StepMeta) -> None:
        if meta.spaces:
            self._descs.update(meta.spaces)
        for job in meta.stores:
            self._start_store(job)

    def _start_store(self, job: StoreJob) -> None:
        layout = self._layout
        blocks = len(job.chain) // 32 - 1
        if (self._storing_blocks + blocks) * layout.block_bytes > self._options.store_queue_mib * (1 << 20):
            # More than the queue holds is a burst; what fits of the job's beginning is of use, its end alone is not.
            room = int(self._options.store_queue_mib * (1 << 20) / layout.block_bytes) - self._storing_blocks
            self._stats.add("store_dropped_blocks", blocks - max(room, 0))
            blocks = room
        if blocks <= 0 or self._store_circuit.is_open():
            self._stats.add("store_dropped_blocks", max(blocks, 0))
            self._meta.stored.append((job.request_id, job.serial))
            return
        each = layout.engine_blocks_per_block * layout.pages_per_engine_block
        chain, pages = job.chain[: (blocks + 1) * 32], job.pages[: blocks * each]
        if self._verifier is not None:
            for index in range(blocks):
                at = (index + 1) * 32
                self._verifier.note(self._desc_text(job.space), chain[at : at + 32], pages[index * each : (index + 1) * each])
        try:
            op = self._space(job.space).store_begin(kv.store_blocks(chain, job.first, layout.block_tokens), pages)
        except kv.KvcaskError as error:
            self._stats.add("store_failed_blocks", blocks)
            self._meta.stored.append((job.request_id, job.serial))
            self._store_circuit.fail()
            log.debug("kvcask: store for %s: %s", job.request_id, error)
            return
        self._stores.append(Store(job, op, blocks))
        self._storing_blocks += blocks

    def _poll_stores(self, idle: bool) -> None:
        if idle and not self._loads and self._delayed and not self._stores[0].op.pages_free():
            self._stores[0].op.wait(IDLE_STORE_SECONDS)
        now = time.monotonic()
        limit = self._options.store_deadline_ms / 1e3
        under_way = []
        for store in self._stores:
            if not store.released and store.op.pages_free():
                self._release(store)
            if store.op.status() != kv.PENDING:
                self._store_ended(store, now)
            elif now - store.began > limit:
                self._stats.add("stores_timed_out")
                self._store_circuit.fail()
                store.op.cancel()
                self._store_ended(store, now)
            else:
                under_way.append(store)
        self._stores = under_way

    def _release(self, store: Store) -> None:
        store.released = True
        self._meta.stored.append((store.job.request_id, store.job.serial))

    def _store_ended(self, store: Store, now: float) -> None:
        if not store.released:
            self._release(store)
        statuses = store.op.block_statuses(store.blocks)
        # What another request is storing this moment is as good as stored.
        stored, existing = statuses.count(kv.OK), statuses.count(kv.EXISTS) + statuses.count(kv.IN_FLIGHT)
        self._stats.add("stored_blocks", stored)
        self._stats.add("existing_blocks", existing)
        self._stats.add("stored_bytes", store.op.figures().bytes)
        self._stats.add("store_seconds", now - store.began)
        if stored + existing < store.blocks:
            self._stats.add("store_failed_blocks", store.blocks - stored - existing)
            causes = sorted({kv.status_name(status) for status in statuses if status not in (kv.OK, kv.EXISTS, kv.IN_FLIGHT)})
            log.debug("kvcask: %d of %d blocks of %s not stored: %s", store.blocks - stored - existing, store.blocks,
                      store.job.request_id, ", ".join(causes))
        else:
            self._store_circuit.succeed()
        store.op.destroy()
        self._storing_blocks -= store.blocks

    def end_preempted(self, meta: StepMeta) -> None:
        """The blocks of these requests may belong to others in this very step."""
        if not self._stores:
            return
        until = time.monotonic() + PREEMPT_SECONDS
        preempted = set(meta.preempted)
        under_way = []
        for store in self._stores:
            if store.job.request_id not in preempted or store.op.pages_free():
                under_way.append(store)
                continue
            while not store.op.pages_free() and time.monotonic() < until:
                store.op.wait(0.001)
            if store.op.pages_free():
                under_way.append(store)
                continue
            store.op.cancel()
            self._stats.add("stores_preempted")
            self._store_ended(store, time.monotonic())
        self._stores = under_way

    # ---- reports ----------------------------------------------------------------------------------------------------

    def results(self, meta: StepMeta) -> tuple[set[str], set[str]]:
        """Requests whose delayed blocks may be freed, and whose loads are over."""
        if self._loads:
            self._poll_loads(meta.idle)
        if self._stores:
            self._poll_stores(meta.idle)
        self._delayed.update(meta.delayed)
        sent: set[str] = set()
        if self._delayed:
            busy = {store.job.request_id for store in self._stores if not store.released}
            sent = self._delayed - busy
            self._delayed -= sent
        received, self._received = self._received, set()
        return sent, received

    def load_errors(self) -> set[int]:
        bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_meta(self) -> WorkerMeta | None:
        if not self._meta.stored and not self._meta.loaded:
            return None
        meta, self._meta = self._meta, WorkerMeta()
        return meta

