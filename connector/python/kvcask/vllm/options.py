# SPDX-License-Identifier: Apache-2.0
"""The options of the connector: what may stand in kv_connector_extra_config. One table; parser, error messages and docs use it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    key: str
    kind: type | tuple[str, ...]  # bool, int, float, str, dict, or the words that are allowed
    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    auto: bool = False  # "auto" is allowed beside the kind


TABLE = (
    Option("socket", str, "auto", "path of the daemon's socket; auto: $XDG_RUNTIME_DIR/kvcask/kvcask.sock"),
    Option("autostart", bool, False, "start a kvcaskd when none answers at the socket; it survives the engine"),
    Option("data_dir", str, "auto", "autostart: folder of the disk tier; auto: $XDG_DATA_HOME/kvcask; empty: memory only"),
    Option("daemon", str, "auto", "autostart: path of kvcaskd; auto: the one in this package, then $PATH"),
    Option("daemon_options", dict, {}, 'autostart: more options of kvcaskd, {"memory.capacity": "8GiB"}'),
    Option("store", bool, True, "store what the engine computes (kv_role kv_consumer: never)"),
    Option("load", bool, True, "load what is stored (kv_role kv_producer: never)"),
    Option("store_decode", bool, False, "store blocks of generated tokens too, not only of prompts"),
    Option("block_tokens", int, "auto", "tokens in a stored block, a multiple of the engine's block; auto: see docs", 1, 65536, True),
    Option("min_load_tokens", int, 1, "a hit of fewer tokens is not worth a load", 1, 1 << 24),
    Option("load_deadline", float, "auto", "seconds a load may take; auto: load_share of the time to recompute", 0.001, 3600, True),
    Option("load_share", float, 0.5, "share of the time to recompute that a load may take", 0.01, 100),
    Option("load_failure", ("recompute", "fail"), "recompute", "what vLLM does with a request whose load failed (sets kv_load_failure_policy)"),
    Option("match_wait_ms", float, 2.0, "longest time the scheduler waits for one answer", 0, 1000),
    Option("match_limit_ms", float, "auto", "no answer by then: nothing is stored, and a pause; auto: 2 % of the time to recompute, 20 ms at least", 0.1, 60000, True),
    Option("store_deadline_ms", float, 1000.0, "a store not done by then is given up", 1, 600000),
    Option("store_queue_mib", float, 512.0, "bytes being stored at a time; beyond it blocks are dropped and counted", 1, 1 << 20),
    Option("codec", str, "", "loss allowed to blocks that leave memory: a codec (int8, kv4:group=64), or max_kl=0.002; empty: none"),
    Option("model_identity", str, "", "identity of the weights, by hand; empty: computed from the model's folder"),
    Option("after_reset", ("private", "shared"), "private", "whose blocks are used after reset_cache: see docs/vllm.md"),
    Option("verify_loads", bool, False, "debug: compare every loaded page with what was gathered at its store"),
    Option("verify_dir", str, "", "debug: folder where verify_loads keeps digests; engines that share blocks share it"),
)


# How codecs are written; which there are is the daemon's to say.
CODEC_FORM = re.compile(r"[a-z][a-z0-9_+]*(:[a-z0-9_]+=[a-z0-9_.+-]+(,[a-z0-9_]+=[a-z0-9_.+-]+)*)?|max_kl=[0-9.]+(e-?[0-9]+)?")


class OptionError(ValueError):
    pass


class Options:
    """Values by attribute: options.match_wait_ms."""

    def __init__(self, given: dict[str, Any] | None):
        known = {option.key: option for option in TABLE}
        given = dict(given or {})
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1, 0.0)
                raise OptionError(f"kv_connector_extra_config: no option {key!r}; the nearest is {near[0]!r}")
        for option in TABLE:
            value = given.get(option.key, option.default)
            setattr(self, option.key, value if value == "auto" and option.auto else _checked(option, value))
        if self.verify_loads and not self.verify_dir:
            raise OptionError("kv_connector_extra_config: verify_loads wants a verify_dir")
        if self.codec and not CODEC_FORM.fullmatch(self.codec):
            raise OptionError(f"kv_connector_extra_config: codec: {self.codec!r} is no codec (int8, kv4:group=64) and no max_kl=0.002")
        if self.codec and self.verify_loads:
            raise OptionError("kv_connector_extra_config: verify_loads compares every byte: not together with a codec that may lose some")


def _checked(option: Option, value: Any) -> Any:
    where = f"kv_connector_extra_config: {option.key}: "
    if isinstance(option.kind, tuple):
        if value not in option.kind:
            raise OptionError(f"{where}{value!r} is none of {', '.join(option.kind)}")
        return value
    if option.kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, option.kind) or (option.kind is int and isinstance(value, bool)):
        raise OptionError(f"{where}{value!r} is not a {option.kind.__name__}{' or auto' if option.auto else ''}")
    if option.low is not None and not option.low <= value <= option.high:
        raise OptionError(f"{where}{value!r} is not from {option.low} to {option.high}")
    return value
