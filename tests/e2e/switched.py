# SPDX-License-Identifier: Apache-2.0
"""The connector, and a way to take it out of a running vLLM and to put it back, so that one engine can be measured with kvcask and without.

vLLM asks in every step whether it has a connector: the scheduler by its own field, the worker by a global. Without them every step runs as in a vLLM that was
never given one. Driver.connector in engine_main.py asks for it; this module is loaded in vLLM's processes as the connector's and gives EngineCore the method.
"""

from __future__ import annotations

from typing import Any

from kvcask.vllm import KvcaskConnector
from vllm.v1.engine.core import EngineCore

kept: dict[str, Any] = {}


def switch(core: EngineCore, on: bool) -> bool:
    """In the scheduler's process. False while the connector still has something to do."""
    scheduler, executor = core.scheduler, core.model_executor
    if scheduler.has_requests():
        return False
    if "connector" not in kept:
        kept.update(connector=scheduler.connector, aggregator=executor.kv_output_aggregator)
    scheduler.connector = kept["connector"] if on else None
    executor.kv_output_aggregator = kept["aggregator"] if on else None
    executor.collective_rpc(switch_worker, args=(on,))
    return True


def switch_worker(worker: Any, on: bool) -> None:
    """In the worker's process."""
    from vllm.distributed.kv_transfer import kv_transfer_state as state

    if "agent" not in kept:
        kept["agent"] = state._KV_CONNECTOR_AGENT
    state._KV_CONNECTOR_AGENT = kept["agent"] if on else None


EngineCore.kvcask_switch = switch


class SwitchedConnector(KvcaskConnector):
    pass
