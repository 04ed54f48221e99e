# SPDX-License-Identifier: Apache-2.0
"""The client library with Python objects around it. One method a C function; include/kvcask/kvcask.h says what each promises.

Hashes are bytes: 32 a block, one after another. Times are seconds. A status that is not OK raises KvcaskError, except where a
method's text says that it returns the status.

Threads: as in C; an Op belongs to one thread at a time. After os.fork() a child must not use its parent's objects.
"""

from __future__ import annotations

import ctypes
import json
import os
import weakref
from array import array
from typing import Any, NamedTuple

from kvcask import _lib

OK = 0
PENDING = 202
IN_FLIGHT = 203  # in the statuses of a store: another is storing it
TIMED_OUT = 303
CIRCUIT_OPEN = 304
CANCELED = 306
EXISTS = 403  # in the statuses of a store: was stored before

CLASS_OK, CLASS_MISS, CLASS_RETRY, CLASS_DEGRADE, CLASS_CALLER, CLASS_FATAL = range(6)


class KvcaskError(Exception):
    """A status that is not OK. `status` is its number, `name` its name ("GONE")."""

    def __init__(self, status: int, what: str):
        lib = _lib.load()
        self.status = status
        self.name = lib.kvc_status_name(status).decode()
        self.status_class = lib.kvc_status_class(status)
        detail = (lib.kvc_last_error() or b"").decode(errors="replace")
        text = lib.kvc_status_text(status).decode()
        super().__init__(f"{what}: {self.name} ({detail or text})")


def check(status: int, what: str) -> None:
    if status != OK:
        raise KvcaskError(status, what)


def status_name(status: int) -> str:
    return _lib.load().kvc_status_name(status).decode()


def status_class(status: int) -> int:
    return _lib.load().kvc_status_class(status)


def miss_name(miss: int) -> str:
    """Why a match ended: Match.miss."""
    return _lib.load().kvc_miss_name(miss).decode()


def miss_number(name: str) -> int:
    """The Match.miss of that name; ValueError when there is none."""
    for miss in range(64):
        if miss_name(miss) == name:
            return miss
    raise ValueError(f"no cause of a miss is called {name!r}")


def version() -> str:
    return _lib.load().kvc_version().decode()


def _ns(seconds: float) -> int:
    return max(0, int(seconds * 1e9))


def _text(lib: ctypes.CDLL, pointer: ctypes.c_void_p) -> str:
    try:
        return ctypes.string_at(pointer.value).decode(errors="replace")
    finally:
        lib.kvc_free(pointer)


def model_identity(folder: str, cache_file: str | None = None) -> str:
    lib = _lib.load()
    out = ctypes.c_void_p()
    cache = os.fsencode(cache_file) if cache_file else None
    check(lib.kvc_model_identity(os.fsencode(folder), cache, ctypes.byref(out)), f"identity of {folder}")
    return _text(lib, out)


def content_identity(path: str) -> str:
    lib = _lib.load()
    out = ctypes.c_void_p()
    check(lib.kvc_content_identity(os.fsencode(path), ctypes.byref(out)), f"identity of {path}")
    return _text(lib, out)


def form(**fields: int) -> _lib.Form:
    """A struct kvc_form; what is not named is 0."""
    return _lib.Form(struct_bytes=ctypes.sizeof(_lib.Form), **fields)


def form_sizes(a_form: _lib.Form) -> _lib.FormSizes:
    lib = _lib.load()
    sizes = _lib.FormSizes()
    field = ctypes.c_char_p()
    status = lib.kvc_form_sizes(ctypes.byref(a_form), ctypes.byref(sizes), ctypes.byref(field))
    check(status, f"form, field {field.value.decode() if field.value else '?'}")
    return sizes


class Match(NamedTuple):
    matched_blocks: int
    in_memory_blocks: int
    on_disk_blocks: int
    miss: int
    load_bytes: int


class Op:
    """Something under way. Destroyed by destroy() or the garbage collector; it keeps its space and client alive. Client.close() ends it."""

    __slots__ = ("_handle", "_space", "_lib", "__weakref__")

    def __init__(self, space: Space, handle: ctypes.c_void_p):
        self._space = space
        self._lib = space._lib
        self._handle = handle
        space._client._open.add(self)

    def status(self) -> int:
        """Returns the status; PENDING while under way."""
        return self._lib.kvc_op_status(self._handle)

    def wait(self, seconds: float) -> int:
        """Returns the status; PENDING when it was not done in time."""
        return self._lib.kvc_op_wait(self._handle, _ns(seconds))

    def match_result(self) -> Match:
        out = _lib.MatchResult()
        check(self._lib.kvc_op_match_result(self._handle, ctypes.byref(out)), "match")
        return Match(out.matched_blocks, out.in_memory_blocks, out.on_disk_blocks, out.miss, out.load_bytes)

    def block_statuses(self, count: int) -> list[int]:
        out = (ctypes.c_int32 * count)()
        check(self._lib.kvc_op_block_statuses(self._handle, out, count), "block statuses")
        return list(out)

    def wait_sections(self, sections: int, seconds: float) -> int:
        """Of a load: OK when these leading layers of every block are in the pages, PENDING when they were not in time, else why they will not come."""
        return self._lib.kvc_load_wait_sections(self._handle, sections, _ns(seconds))

    def block_sections(self, count: int) -> list[int]:
        """Of a load: how many leading layers of each block are in the pages, and right."""
        out = (ctypes.c_uint32 * count)()
        check(self._lib.kvc_load_block_sections(self._handle, out, count), "block sections")
        return list(out)

    def pages_free(self) -> bool:
        return self._lib.kvc_op_pages_free(self._handle)

    def cancel(self) -> None:
        self._lib.kvc_op_cancel(self._handle)

    def figures(self) -> _lib.OpFigures:
        out = _lib.OpFigures()
        self._lib.kvc_op_get_figures(self._handle, ctypes.byref(out))
        return out

    def destroy(self) -> None:
        if self._handle:
            handle, self._handle = self._handle, None
            self._lib.kvc_op_destroy(handle)

    def __del__(self) -> None:
        self.destroy()


def _request(request_id: bytes | None) -> Any:
    if request_id is None:
        return None
    return ctypes.byref(_lib.Request(request_id, len(request_id)))


def _pages(engine_blocks: array) -> tuple[int, int]:
    """Address and length; an array('I') is handed over as it is."""
    return engine_blocks.buffer_info()


class Space:
    """A space and a form, bound. What a store or load reads from the arguments is copied before the call returns. Client.close() ends it."""

    def __init__(self, client: Client, desc: dict[str, str], a_form: _lib.Form):
        self._lib = client._lib
        self._client = client
        self._handle: ctypes.c_void_p | None = None
        unknown = set(desc) - set(_lib.SPACE_TEXTS)
        if unknown:
            raise TypeError(f"a space has no {sorted(unknown)}")
        texts = {name: value.encode() for name, value in desc.items() if value}
        c_desc = _lib.SpaceDesc(struct_bytes=ctypes.sizeof(_lib.SpaceDesc), **texts)
        handle = ctypes.c_void_p()
        check(
            self._lib.kvc_space_open(
                client._handle, ctypes.byref(c_desc), ctypes.byref(a_form), ctypes.byref(handle)
            ),
            "opening the space",
        )
        self._handle = handle
        client._open.add(self)
        self.pages_per_block = a_form.block_tokens // a_form.engine_block_tokens
        self.scores_per_block = a_form.block_tokens * a_form.kv_heads

    def close(self) -> None:
        if self._handle:
            handle, self._handle = self._handle, None
            self._lib.kvc_space_close(handle)

    def sizes(self) -> _lib.FormSizes:
        out = _lib.FormSizes()
        self._lib.kvc_space_sizes(self._handle, ctypes.byref(out))
        return out

    def set_memory(self, layers: list[_lib.LayerMemory]) -> None:
        table = (_lib.LayerMemory * len(layers))(*layers)
        check(self._lib.kvc_space_set_memory(self._handle, table, len(layers)), "engine memory")

    def raise_epoch(self, seconds: float) -> None:
        check(self._lib.kvc_space_raise_epoch(self._handle, _ns(seconds)), "raising the epoch")

    def match_begin(self, hashes: bytes, request_id: bytes | None = None) -> Op:
        """With a request id: held under it, and what is on the disk starts to be brought into memory."""
        op = ctypes.c_void_p()
        flags = 0 if request_id is None else _lib.MATCH_LEASE
        status = self._lib.kvc_match_begin(
            self._handle, hashes, len(hashes) // _lib.HASH_BYTES, _request(request_id), flags, ctypes.byref(op)
        )
        check(status, "match")
        return Op(self, op)

    def match(self, hashes: bytes, request_id: bytes | None = None, seconds: float = 1.0) -> Match:
        out = _lib.MatchResult()
        flags = 0 if request_id is None else _lib.MATCH_LEASE
        status = self._lib.kvc_match(
            self._handle,
            hashes,
            len(hashes) // _lib.HASH_BYTES,
            _request(request_id),
            flags,
            _ns(seconds),
            ctypes.byref(out),
        )
        check(status, "match")
        return Match(out.matched_blocks, out.in_memory_blocks, out.on_disk_blocks, out.miss, out.load_bytes)

    def exists(self, hashes: bytes, seconds: float = 1.0) -> list[bool]:
        count = len(hashes) // _lib.HASH_BYTES
        out = (ctypes.c_uint8 * max(count, 1))()
        check(self._lib.kvc_exists(self._handle, hashes, count, out, _ns(seconds)), "exists")
        return [bool(x) for x in out[:count]]

    def load_begin(
        self,
        request_id: bytes,
        first: int,
        count: int,
        engine_blocks: array,
        deadline: float,
        by_section: bool = False,
    ) -> Op:
        """by_section: layer by layer, also of blocks that are still being unpacked; see Op.wait_sections."""
        address, length = _pages(engine_blocks)
        if length != count * self.pages_per_block:
            raise ValueError(f"{length} pages for {count} blocks of {self.pages_per_block}")
        op = ctypes.c_void_p()
        begin = self._lib.kvc_load_sections_begin if by_section else self._lib.kvc_load_begin
        status = begin(
            self._handle, _request(request_id), first, count, address, _ns(deadline), ctypes.byref(op)
        )
        check(status, "load")
        return Op(self, op)

    def store_begin(self, blocks: bytes, engine_blocks: array) -> Op:
        """blocks: packed struct kvc_store_block (see store_blocks)."""
        count, rest = divmod(len(blocks), ctypes.sizeof(_lib.StoreBlock))
        address, length = _pages(engine_blocks)
        if rest or length != count * self.pages_per_block:
            raise ValueError(f"{length} pages for {len(blocks)} bytes of blocks")
        op = ctypes.c_void_p()
        check(self._lib.kvc_store_begin(self._handle, blocks, count, address, ctypes.byref(op)), "store")
        return Op(self, op)

    def set_scores(self, hashes: bytes, scores: bytes, seconds: float = 1.0) -> None:
        """How much each token is worth to its heads: [blocks][block_tokens][kv_heads] bytes. Before the store."""
        count = len(hashes) // _lib.HASH_BYTES
        if len(scores) != count * self.scores_per_block:
            raise ValueError(f"{len(scores)} scores for {count} blocks of {self.scores_per_block}")
        check(self._lib.kvc_set_scores(self._handle, hashes, count, scores, _ns(seconds)), "scores")

    def drop(self, a_hash: bytes, seconds: float = 1.0) -> None:
        check(self._lib.kvc_drop(self._handle, a_hash, _ns(seconds)), "drop")

    def __del__(self) -> None:
        self.close()


def store_blocks(chain: bytes, first: int, block_tokens: int) -> bytes:
    """Packs consecutive blocks for Space.store_begin. chain: the hash before the first block (zeros at the root), then each block's."""
    step = _lib.HASH_BYTES
    parts = []
    for index in range(len(chain) // step - 1):
        at = index * step
        parts.append(chain[at + step : at + 2 * step])
        parts.append(chain[at : at + step])
        parts.append(((first + index) * block_tokens).to_bytes(8, "little"))
    return b"".join(parts)


class Client:
    """A connection to a store: Client("unix:/run/kvcask.sock")."""

    def __init__(
        self,
        target: str,
        *,
        name: str | None = None,
        session: str | None = None,
        mover: bool = False,
        owner: bool = False,
        lazy: bool = False,
        connect_timeout: float = 0,
    ):
        self._handle: ctypes.c_void_p | None = None
        self._open: weakref.WeakSet = weakref.WeakSet()  # spaces and ops
        self._lib = _lib.load()
        options = _lib.OpenOptions(
            struct_bytes=ctypes.sizeof(_lib.OpenOptions),
            flags=(_lib.OPEN_MOVER * mover) | (_lib.OPEN_SESSION_OWNER * owner) | (_lib.OPEN_LAZY * lazy),
            name=name.encode() if name else None,
            session=session.encode() if session else None,
            connect_timeout_ns=_ns(connect_timeout),
        )
        handle = ctypes.c_void_p()
        check(
            self._lib.kvc_open(os.fsencode(target), ctypes.byref(options), ctypes.byref(handle)), f"opening {target}"
        )
        self._handle = handle

    def close(self) -> None:
        if self._handle:
            # kvc_close frees what these stand for; the memory may be another's when they are collected.
            for one in list(self._open):
                one._handle = None
            handle, self._handle = self._handle, None
            self._lib.kvc_close(handle)

    def fd(self) -> int:
        return self._lib.kvc_fd(self._handle)

    def poll(self) -> int:
        """Returns the status."""
        return self._lib.kvc_poll(self._handle)

    def health(self) -> int:
        """Returns the status: OK, CIRCUIT_OPEN or GONE."""
        return self._lib.kvc_health(self._handle)

    def space(self, desc: dict[str, str], a_form: _lib.Form) -> Space:
        return Space(self, desc, a_form)

    def release(self, request_id: bytes) -> int:
        """Returns the status."""
        return self._lib.kvc_release(self._handle, _request(request_id))

    def flush(self, seconds: float = 60.0) -> None:
        check(self._lib.kvc_flush(self._handle, _ns(seconds)), "flush")

    def admin(self, question: str, arguments: Any = None, seconds: float = 10.0) -> Any:
        out = ctypes.c_void_p()
        encoded = None if arguments is None else json.dumps(arguments).encode()
        check(
            self._lib.kvc_admin(self._handle, question.encode(), encoded, _ns(seconds), ctypes.byref(out)), question
        )
        return json.loads(_text(self._lib, out))

    def stats(self) -> Any:
        out = ctypes.c_void_p()
        check(self._lib.kvc_client_stats(self._handle, ctypes.byref(out)), "statistics")
        return json.loads(_text(self._lib, out))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Chain:
    """vLLM's sha256_cbor chain, for tools and routers that have tokens and no engine."""

    def __init__(self, engine_block_tokens: int, root: bytes | None = None):
        self._handle: ctypes.c_void_p | None = None
        self._lib = _lib.load()
        self._tokens = engine_block_tokens
        handle = ctypes.c_void_p()
        check(self._lib.kvc_chain_create(engine_block_tokens, root, ctypes.byref(handle)), "chain")
        self._handle = handle

    def append(self, tokens: list[int]) -> list[bytes]:
        """The hashes of the engine blocks that these tokens completed."""
        room = len(tokens) // self._tokens + 1
        given = (ctypes.c_uint32 * max(len(tokens), 1))(*tokens)
        out = ctypes.create_string_buffer(room * _lib.HASH_BYTES)
        count = ctypes.c_size_t()
        status = self._lib.kvc_chain_append(self._handle, given, len(tokens), out, room, ctypes.byref(count))
        check(status, "chain")
        raw = out.raw
        return [raw[i * 32 : i * 32 + 32] for i in range(count.value)]

    def close(self) -> None:
        if self._handle:
            handle, self._handle = self._handle, None
            self._lib.kvc_chain_destroy(handle)

    def __del__(self) -> None:
        self.close()
