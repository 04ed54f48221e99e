# SPDX-License-Identifier: Apache-2.0
"""The C library by ctypes: include/kvcask/kvcask.h, declaration by declaration, and nothing else.

Which file is loaded: $KVCASK_LIBRARY; the one inside this package (put there by `pip install`); the system's libkvcask.so.0.
Every call releases the GIL.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int32, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p

HASH_BYTES = 32
BLOCKS_MAX = 65536

OPEN_MOVER = 1 << 0
OPEN_SESSION_OWNER = 1 << 1
OPEN_LAZY = 1 << 2

MATCH_LEASE = 1 << 0

DTYPES = {
    "float32": 1,
    "bfloat16": 2,
    "float16": 3,
    "float8_e4m3": 4,
    "float8_e5m2": 5,
    "int8": 6,
    "opaque8": 7,
}
KV_FUSED, KV_SPLIT, KV_LATENT = 1, 2, 3
ORDER_HN, ORDER_NH = 1, 2
GROUP_FULL, GROUP_WINDOW, GROUP_STATE = 1, 2, 3


class Form(Structure):
    _fields_ = [
        (name, c_uint32)
        for name in (
            "struct_bytes",
            "layer_count",
            "block_tokens",
            "engine_block_tokens",
            "kv_heads",
            "head_dim_k",
            "head_dim_v",
            "dtype",
            "arrangement",
            "order",
            "group",
            "group_rule",
            "window_tokens",
            "shard_index",
            "shard_count",
            "page_extra_bytes",
        )
    ]


class FormSizes(Structure):
    _fields_ = [
        ("page_bytes", c_uint64),
        ("section_bytes", c_uint64),
        ("block_bytes", c_uint64),
        ("record_bytes", c_uint64),
        ("sections_offset_bytes", c_uint64),
        ("section_stride_bytes", c_uint64),
        ("pages_per_section", c_uint32),
    ]


class LayerMemory(Structure):
    _fields_ = [
        ("base", c_void_p),
        ("block_stride_bytes", c_uint64),
        ("block_count", c_uint64),
        ("run_count", c_uint32 * 2),
        ("run_stride_bytes", c_uint64 * 2),
        ("run_bytes", c_uint64),
    ]


class OpenOptions(Structure):
    _fields_ = [
        ("struct_bytes", c_uint32),
        ("flags", c_uint32),
        ("name", c_char_p),
        ("session", c_char_p),
        ("connect_timeout_ns", c_uint64),
    ]


SPACE_TEXTS = (
    "model",
    "model_name",
    "kv_dtype",
    "kv_quant",
    "rope",
    "adapter",
    "hash_algorithm",
    "hash_root",
    "extra",
    "codec",
)


class SpaceDesc(Structure):
    _fields_ = [("struct_bytes", c_uint32)] + [(name, c_char_p) for name in SPACE_TEXTS]


class Request(Structure):
    _fields_ = [("id", c_char_p), ("id_bytes", c_size_t)]


class MatchResult(Structure):
    _fields_ = [
        ("matched_blocks", c_uint32),
        ("in_memory_blocks", c_uint32),
        ("on_disk_blocks", c_uint32),
        ("miss", c_uint32),
        ("load_bytes", c_uint64),
    ]


class StoreBlock(Structure):
    _fields_ = [
        ("hash", c_uint8 * HASH_BYTES),
        ("parent_hash", c_uint8 * HASH_BYTES),
        ("position_tokens", c_uint64),
    ]


class OpFigures(Structure):
    _fields_ = [
        ("bytes", c_uint64),
        ("blocks", c_uint64),
        ("elapsed_ns", c_uint64),
        ("copy_ns", c_uint64),
    ]


_HASHES = c_char_p  # const uint8_t (*)[32]: bytes, one hash after another
_STATUS = c_int32

# name: (result, arguments...)
_FUNCTIONS = {
    "kvc_version": (c_char_p,),
    "kvc_status_name": (c_char_p, c_int32),
    "kvc_status_text": (c_char_p, c_int32),
    "kvc_status_class": (c_int, c_int32),
    "kvc_form_sizes": (_STATUS, POINTER(Form), POINTER(FormSizes), POINTER(c_char_p)),
    "kvc_form_id": (c_uint64, POINTER(Form)),
    "kvc_open": (_STATUS, c_char_p, POINTER(OpenOptions), POINTER(c_void_p)),
    "kvc_close": (None, c_void_p),
    "kvc_last_error": (c_char_p,),
    "kvc_fd": (c_int, c_void_p),
    "kvc_poll": (_STATUS, c_void_p),
    "kvc_health": (_STATUS, c_void_p),
    "kvc_space_open": (_STATUS, c_void_p, POINTER(SpaceDesc), POINTER(Form), POINTER(c_void_p)),
    "kvc_space_close": (None, c_void_p),
    "kvc_space_set_memory": (_STATUS, c_void_p, POINTER(LayerMemory), c_uint32),
    "kvc_space_raise_epoch": (_STATUS, c_void_p, c_uint64),
    "kvc_space_sizes": (None, c_void_p, POINTER(FormSizes)),
    "kvc_model_identity": (_STATUS, c_char_p, c_char_p, POINTER(c_void_p)),
    "kvc_content_identity": (_STATUS, c_char_p, POINTER(c_void_p)),
    "kvc_chain_create": (_STATUS, c_uint32, c_char_p, POINTER(c_void_p)),
    "kvc_chain_append": (_STATUS, c_void_p, POINTER(c_uint32), c_size_t, c_void_p, c_size_t, POINTER(c_size_t)),
    "kvc_chain_destroy": (None, c_void_p),
    "kvc_miss_name": (c_char_p, c_uint32),
    "kvc_match_begin": (_STATUS, c_void_p, _HASHES, c_uint32, POINTER(Request), c_uint32, POINTER(c_void_p)),
    "kvc_op_match_result": (_STATUS, c_void_p, POINTER(MatchResult)),
    "kvc_match": (
        _STATUS,
        c_void_p,
        _HASHES,
        c_uint32,
        POINTER(Request),
        c_uint32,
        c_uint64,
        POINTER(MatchResult),
    ),
    "kvc_exists": (_STATUS, c_void_p, _HASHES, c_uint32, c_void_p, c_uint64),
    "kvc_load_begin": (
        _STATUS,
        c_void_p,
        POINTER(Request),
        c_uint32,
        c_uint32,
        c_void_p,
        c_uint64,
        POINTER(c_void_p),
    ),
    "kvc_load_sections_begin": (
        _STATUS,
        c_void_p,
        POINTER(Request),
        c_uint32,
        c_uint32,
        c_void_p,
        c_uint64,
        POINTER(c_void_p),
    ),
    "kvc_load_wait_sections": (_STATUS, c_void_p, c_uint32, c_uint64),
    "kvc_load_block_sections": (_STATUS, c_void_p, c_void_p, c_uint32),
    "kvc_release": (_STATUS, c_void_p, POINTER(Request)),
    "kvc_store_begin": (_STATUS, c_void_p, c_void_p, c_uint32, c_void_p, POINTER(c_void_p)),
    "kvc_op_status": (_STATUS, c_void_p),
    "kvc_op_wait": (_STATUS, c_void_p, c_uint64),
    "kvc_op_block_statuses": (_STATUS, c_void_p, c_void_p, c_uint32),
    "kvc_op_pages_free": (c_bool, c_void_p),
    "kvc_op_cancel": (None, c_void_p),
    "kvc_op_destroy": (None, c_void_p),
    "kvc_op_get_figures": (None, c_void_p, POINTER(OpFigures)),
    "kvc_flush": (_STATUS, c_void_p, c_uint64),
    "kvc_set_scores": (_STATUS, c_void_p, c_char_p, c_uint32, c_char_p, c_uint64),
    "kvc_drop": (_STATUS, c_void_p, c_char_p, c_uint64),
    "kvc_admin": (_STATUS, c_void_p, c_char_p, c_char_p, c_uint64, POINTER(c_void_p)),
    "kvc_client_stats": (_STATUS, c_void_p, POINTER(c_void_p)),
    "kvc_free": (None, c_void_p),
}


def library_path() -> str:
    """The file that load() opens."""
    given = os.environ.get("KVCASK_LIBRARY")
    if given:
        return given
    packaged = os.path.join(os.path.dirname(__file__), "lib", "libkvcask.so")
    return packaged if os.path.exists(packaged) else "libkvcask.so.0"


_loaded: ctypes.CDLL | None = None


def load() -> ctypes.CDLL:
    """The library with its prototypes set; OSError when it cannot be opened."""
    global _loaded
    if _loaded is None:
        lib = ctypes.CDLL(library_path())
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(lib, name)
            function.restype = result
            function.argtypes = arguments
        _loaded = lib
    return _loaded
