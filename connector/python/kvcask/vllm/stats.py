# SPDX-License-Identifier: Apache-2.0
"""What the connector counts, and how vLLM logs it and shows it in /metrics. One table for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prometheus_client import Counter

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

TABLE = {
    "match_hits": "Questions what is stored that found something",
    "match_misses": "Questions what is stored that found nothing",
    "match_timeouts": "Questions not answered in time (match_limit_ms)",
    "match_failures": "Questions that failed, the daemon being away",
    "match_seconds": "Time from question to answer",
    "loads_withheld": "Hits left alone because loads from the disk failed a moment ago",
    "loaded_blocks": "Blocks loaded into the engine",
    "loaded_bytes": "Bytes loaded into the engine",
    "load_seconds": "Time of loads, from their start",
    "load_failed_blocks": "Blocks that were promised and could not be loaded; recomputed",
    "loads_timed_out": "Loads that missed their deadline",
    "stored_blocks": "Blocks stored",
    "existing_blocks": "Blocks offered that were stored already",
    "stored_bytes": "Bytes gathered out of the engine",
    "store_seconds": "Time of stores, from their start",
    "store_failed_blocks": "Blocks that could not be stored",
    "store_dropped_blocks": "Blocks not stored because too much was being stored (store_queue_mib)",
    "stores_timed_out": "Stores given up after store_deadline_ms",
    "stores_preempted": "Stores cancelled because their request was preempted",
    "verified_pages": "verify_loads: pages compared after a load",
    "verify_mismatches": "verify_loads: pages that differ from what was gathered",
    "verify_unknown": "verify_loads: loaded blocks of which no digest is known",
}


@dataclass
class KvcaskStats(KVConnectorStats):
    """Sums over an interval: {name of TABLE: number}."""

    def add(self, name: str, amount: float = 1) -> None:
        if amount:
            self.data[name] = self.data.get(name, 0) + amount

    observe = add

    def take(self) -> KvcaskStats | None:
        """What came together since the last take."""
        if not self.data:
            return None
        taken, self.data = KvcaskStats(data=self.data), {}
        return taken

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> KVConnectorStats:
        for name, amount in other.data.items():
            self.add(name, amount)
        return self

    def reduce(self) -> dict[str, int | float]:
        data = self.data
        shown: dict[str, int | float] = {
            "hits": data.get("match_hits", 0),
            "misses": data.get("match_misses", 0),
            "loaded MiB": round(data.get("loaded_bytes", 0) / (1 << 20), 1),
            "stored MiB": round(data.get("stored_bytes", 0) / (1 << 20), 1),
        }
        seldom = ("failed", "timed_out", "timeouts", "failures", "dropped", "preempted", "withheld", "verif")
        for name, amount in sorted(data.items()):
            if amount and any(word in name for word in seldom):
                shown[name.replace("_", " ")] = amount
        return shown

    def is_empty(self) -> bool:
        return not self.data


class KvcaskPromMetrics(KVConnectorPromMetrics):
    """vllm:kvcask_<name>_total in the engine's /metrics, one a row of TABLE."""

    def __init__(self, vllm_config: Any, metric_types: dict, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        counter_class = metric_types[Counter]
        self._counters: dict[str, dict[int, Any]] = {}
        for name, text in TABLE.items():
            counter = counter_class(name=f"vllm:kvcask_{name}", documentation=f"kvcask: {text}.", labelnames=labelnames)
            self._counters[name] = {index: counter.labels(*values) for index, values in per_engine_labelvalues.items()}

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, amount in transfer_stats_data.items():
            counters = self._counters.get(name)
            if counters is not None and amount > 0:
                counters[engine_idx].inc(amount)
