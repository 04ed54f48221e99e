# SPDX-License-Identifier: Apache-2.0
"""The connector with points at which a test can send a signal to the daemon, exactly there.

$KVC_E2E_HOOK names a file; when it holds {"point": P, "pid": N, "signal": S} and point P is reached, the signal is sent once.
"""

from __future__ import annotations

import json
import os
from typing import Any

from kvcask.vllm import KvcaskConnector

HOOK = os.environ.get("KVC_E2E_HOOK", "")


def fire(point: str) -> None:
    if not HOOK or not os.path.exists(HOOK):
        return
    with open(HOOK, encoding="utf-8") as file:
        order = json.load(file)
    if order["point"] == point:
        os.unlink(HOOK)
        os.kill(order["pid"], order["signal"])


class HookedConnector(KvcaskConnector):
    def on_new_request(self, request: Any) -> None:
        fire("before match")
        super().on_new_request(request)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        if num_external_tokens:
            fire("between match and load")

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        super().start_load_kv(forward_context, **kwargs)
        if self._connector_metadata.loads:
            fire("during the load")

    def wait_for_save(self) -> None:
        super().wait_for_save()
        if self._connector_metadata.stores:
            fire("during the store")
