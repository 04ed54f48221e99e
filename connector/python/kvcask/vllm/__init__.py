# SPDX-License-Identifier: Apache-2.0
"""The connector that vLLM (0.29 and newer) loads:

    --kv-transfer-config '{"kv_connector": "KvcaskConnector", "kv_connector_module_path": "kvcask.vllm",
                           "kv_role": "kv_both", "kv_connector_extra_config": {"autostart": true}}'

vLLM makes one in the scheduler's process and one in each worker's. This class passes vLLM's calls on to that half; what an older vLLM
does not call is simply not called. docs/vllm.md is the manual.
"""

from __future__ import annotations

import logging
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from kvcask import autostart
from kvcask import client as kv
from kvcask.vllm.messages import Handshake, StepMeta, WorkerMeta
from kvcask.vllm.options import Options
from kvcask.vllm.scheduler import SchedulerHalf
from kvcask.vllm.stats import KvcaskPromMetrics, KvcaskStats
from kvcask.vllm.worker import WorkerHalf, free_affinity

try:
    from vllm.v1.metrics.cache_hit_source import CacheHitSource
except ImportError:  # before 0.32
    CacheHitSource = None

log = logging.getLogger("vllm.kvcask")


class KvcaskConnector(KVConnectorBase_V1, SupportsHMA):
    # SupportsHMA although only full attention is stored: without it vLLM would silently give up its hybrid memory manager for
    # models with other layers, for which this connector stays off.

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any):
        super().__init__(vllm_config, role, kv_cache_config)
        options = Options(vllm_config.kv_transfer_config.kv_connector_extra_config)
        _choose_recompute(vllm_config.kv_transfer_config, options)
        self._stats = KvcaskStats()
        self._client: kv.Client | None = None
        self._scheduler: SchedulerHalf | None = None
        self._worker: WorkerHalf | None = None
        is_scheduler = role == KVConnectorRole.SCHEDULER
        self._client = _open(vllm_config, options, is_scheduler)
        if is_scheduler:
            self._scheduler = SchedulerHalf(
                vllm_config, kv_cache_config, options, self._client, self._stats, autostart.cache_dir()
            )
        else:
            self._worker = WorkerHalf(vllm_config, kv_cache_config, options, self._client, self._stats)

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a block not stored is a miss later, nothing worse

    def shutdown(self) -> None:
        for half in (self._scheduler, self._worker):
            if half is not None:
                half.close()
        self._scheduler = self._worker = None
        if self._client is not None:
            self._client.close()
            self._client = None

    # ---- worker -------------------------------------------------------------------------------------------------

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._worker.register(kv_caches)

    def get_handshake_metadata(self) -> Handshake | None:
        return self._worker.handshake()

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        if kv_connector_metadata.preempted:
            self._worker.end_preempted(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        meta = self._connector_metadata
        if meta is not None and (meta.loads or meta.cancel_loads or meta.spaces):
            self._worker.start_loads(meta)

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        return

    def wait_for_save(self) -> None:
        meta = self._connector_metadata
        if meta is not None and meta.stores:
            self._worker.start_stores(meta)

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        meta = self._connector_metadata
        sent, received = self._worker.results(meta if meta is not None else StepMeta())
        return sent or None, received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._worker.load_errors()

    def build_connector_worker_meta(self) -> WorkerMeta | None:
        return self._worker.take_meta()

    # ---- scheduler ------------------------------------------------------------------------------------------------

    def set_xfer_handshake_metadata(self, metadata: dict[int, Any]) -> None:
        self._scheduler.set_handshake(metadata.get(0) if len(metadata) == 1 else None)

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], Any]) -> None:
        self._scheduler.set_handshake(metadata.get((0, 0)) if len(metadata) == 1 else None)

    def bind_gpu_block_pool(self, gpu_block_pool: Any) -> None:
        self._scheduler.bind_pool(gpu_block_pool)

    def on_new_request(self, request: Any) -> None:
        self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._scheduler.matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._scheduler.allocated(request, blocks, num_external_tokens)

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[Any, int]:
        memory, disk = self._scheduler.hit_sources(request, num_external_tokens)
        by_source = {CacheHitSource.HOST: memory, CacheHitSource.DISK: disk}
        return {source: tokens for source, tokens in by_source.items() if tokens}

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return self._scheduler.build_meta(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        self._scheduler.update(connector_output)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._scheduler.finished(request), None

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self._scheduler.finished(request), None

    def has_pending_block_frees(self) -> bool:
        return self._scheduler.has_delayed()

    def reset_cache(self) -> bool | None:
        return self._scheduler.reset()

    # ---- figures --------------------------------------------------------------------------------------------------

    def get_kv_connector_stats(self) -> KvcaskStats | None:
        return self._stats.take()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KvcaskStats:
        return KvcaskStats(data=data if data is not None else {})

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: dict, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]
    ) -> KvcaskPromMetrics:
        return KvcaskPromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _choose_recompute(config: Any, options: Options) -> None:
    """A load that fails is to be recomputed; vLLM's default is to fail the request. The scheduler reads this right after it made us."""
    config.kv_load_failure_policy = options.load_failure


def _session(vllm_config: Any) -> str:
    """All processes of one engine, and of one data-parallel rank, say the same."""
    parallel = vllm_config.parallel_config
    return f"{vllm_config.kv_transfer_config.engine_id}/{getattr(parallel, 'data_parallel_rank', 0)}"


def _open(vllm_config: Any, options: Options, is_scheduler: bool) -> kv.Client:
    path = autostart.default_socket() if options.socket == "auto" else options.socket
    if options.autostart:
        try:
            path = autostart.ensure(path, options.data_dir, options.daemon, options.daemon_options)
        except (autostart.AutostartError, OSError) as error:
            log.error("kvcask: %s; the engine goes on without", error)
    with free_affinity():
        client = kv.Client(
            "unix:" + path,
            name="vllm-scheduler" if is_scheduler else "vllm-worker",
            session=_session(vllm_config),
            mover=not is_scheduler,
            owner=is_scheduler,
            lazy=True,
            # The scheduler is never held up long, not even by the first request to a daemon that has stopped.
            connect_timeout=0.1 if is_scheduler else 1.0,
        )
    status = client.health()
    if status != kv.OK:
        log.warning("kvcask: no daemon answers at %s (%s); it is tried again in the background", path, kv.status_name(status))
    return client
