# SPDX-License-Identifier: Apache-2.0
"""What the two halves of the connector tell each other: plain values, pickled by vLLM once a step, so they are kept small."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import NamedTuple

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from kvcask.vllm.space import Layout


class StoreJob(NamedTuple):
    serial: int
    request_id: str
    space: str
    first: int  # kvcask block of the request
    chain: bytes  # the hash before `first`, then one a block
    pages: array  # the form's pages, in token order


class LoadJob(NamedTuple):
    request_id: str
    lease: bytes
    space: str
    first: int  # kvcask block of the lease
    count: int
    pages: array  # where they go; page 0 is vLLM's null block: nobody reads it
    deadline: float  # seconds
    chain: bytes  # one hash a block; only with verify_loads


class LoadDone(NamedTuple):
    request_id: str
    good_blocks: int  # leading ones that are OK
    count: int
    status: int  # 0, or of the first block that is not OK
    seconds: float


@dataclass
class StepMeta(KVConnectorMetadata):
    """Scheduler to worker, every step."""

    spaces: dict[str, dict[str, str]] = field(default_factory=dict)  # those that are new
    stores: list[StoreJob] = field(default_factory=list)
    loads: list[LoadJob] = field(default_factory=list)
    cancel_loads: list[str] = field(default_factory=list)
    preempted: list[str] = field(default_factory=list)
    delayed: list[str] = field(default_factory=list)  # finished; their blocks are kept until their stores are done
    idle: bool = False  # this step computes nothing

    def __reduce__(self):
        return StepMeta, (
            self.spaces,
            self.stores,
            self.loads,
            self.cancel_loads,
            self.preempted,
            self.delayed,
            self.idle,
        )


@dataclass
class WorkerMeta(KVConnectorWorkerMetadata):
    """Worker to scheduler, when there is something to say."""

    stored: list[tuple[str, int]] = field(default_factory=list)  # request and serial of jobs whose pages are free
    loaded: list[LoadDone] = field(default_factory=list)

    def aggregate(self, other: WorkerMeta) -> WorkerMeta:
        return WorkerMeta(self.stored + other.stored, self.loaded + other.loaded)


@dataclass
class Handshake(KVConnectorHandshakeMetadata):
    """Worker to scheduler, once: the form, or why there is none."""

    layout: Layout | None
    off: str = ""
