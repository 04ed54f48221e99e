# SPDX-License-Identifier: Apache-2.0
"""What the engine's KV values depend on (the space) and how its bytes lie (the form), read from vLLM's own objects.

Both halves of the connector need both. The form is known to the worker alone (it sees the tensors), the hash chain's root to
the scheduler alone: the worker's half travels by vLLM's handshake, the spaces travel back with the step's metadata.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
from dataclasses import dataclass
from typing import Any

from kvcask import _lib, client

# A kvcask block is at least this big, if it can be with at most this many tokens.
BLOCK_BYTES_GOAL = 1 << 20
BLOCK_BYTES_ENOUGH = 1 << 19
BLOCK_TOKENS_MAX = 256

TORCH_DTYPES = {
    "torch.float32": "float32",
    "torch.bfloat16": "bfloat16",
    "torch.float16": "float16",
    "torch.float8_e4m3fn": "float8_e4m3",
    "torch.float8_e5m2": "float8_e5m2",
    "torch.int8": "int8",
    "torch.uint8": "opaque8",
}


class Unsupported(Exception):
    """This engine's cache cannot be stored; the text says why, for people."""


@dataclass
class Layout:
    """One engine's form, and how many of the form's pages an engine block is. All plain values: it is pickled."""

    fields: dict[str, int]
    block_size: int  # tokens in an engine block, as the scheduler counts
    pages_per_engine_block: int  # more than 1 when the kernel cuts engine blocks up
    engine_blocks_per_block: int
    block_bytes: int
    kv_dtype: str
    interior: str = ""  # who decides what lies where inside a page

    def form(self) -> _lib.Form:
        return client.form(**self.fields)

    @property
    def block_tokens(self) -> int:
        return self.fields["block_tokens"]


def check_engine(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raises Unsupported for what would be stored wrongly, or not be found again."""
    parallel = vllm_config.parallel_config
    for name in (
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "decode_context_parallel_size",
        "prefill_context_parallel_size",
    ):
        if getattr(parallel, name, 1) > 1:
            raise Unsupported(f"{name} is {getattr(parallel, name)}: only one shard is stored end to end yet")
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        kinds = sorted({type(group.kv_cache_spec).__name__ for group in groups})
        raise Unsupported(f"{len(groups)} groups of layers ({', '.join(kinds)}): only full attention is stored yet")
    spec = groups[0].kv_cache_spec
    if hasattr(spec, "kv_cache_specs"):
        raise Unsupported("layers of different sizes in one group are not stored yet")
    if type(spec).__name__ not in ("FullAttentionSpec", "MLAAttentionSpec"):
        raise Unsupported(f"{type(spec).__name__} layers: only full attention is stored yet")
    for name in ("sliding_window", "attention_chunk_size"):
        if getattr(spec, name, None) is not None:
            raise Unsupported(f"{name} is set: only full attention is stored yet")
    hash_tokens = getattr(kv_cache_config, "hash_block_size", None)
    if hash_tokens not in (None, spec.block_size):
        raise Unsupported(f"hashes of {hash_tokens} tokens for blocks of {spec.block_size}")
    speculative = vllm_config.speculative_config
    if speculative is not None and getattr(speculative, "method", None) not in ("ngram", "suffix", "ngram_gpu"):
        raise Unsupported("a draft model has KV of its own, which is not stored yet")
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        raise Unsupported("calculate_kv_scales: the cache's scales differ from run to run")


def page_interior(vllm_config: Any, layer_names: list[str]) -> str:
    """What says how the bytes of a page are to be read, beyond its shape. vLLM's CPU backend packs keys for the instruction set it chose
    (a block of one machine is garbage on another), in an order that is nobody's public format: so its version counts too."""
    import vllm

    context = vllm_config.compilation_config.static_forward_context
    found = set()
    for name in layer_names:
        layer = context[name]
        backend = getattr(layer, "attn_backend", None)
        if backend is None:
            backend = layer.get_attn_backend()
        text = backend.get_name()
        if text == "CPU_ATTN" or hasattr(layer, "isa"):
            isa = getattr(layer, "isa", None)
            if isa is None:
                raise Unsupported(f"the attention backend {text} does not say how it packs keys")
            text = f"{text}/{isa}/vllm-{vllm.__version__}"
        found.add(text)
    if len(found) != 1:
        raise Unsupported(f"layers of several attention backends ({', '.join(sorted(found))}) in one group")
    return found.pop()


# Codecs that do not care which of a page's values belong to which token and channel.
ORDER_FREE = ("raw", "split", "zstd", "lz4", "int8", "fp8")


def check_codec(codec: str, interior: str) -> None:
    """A codec works on rows of tokens. On pages that are packed otherwise it would lose more than it says, and than the user allowed."""
    if codec and interior.startswith("CPU_ATTN") and codec.split(":")[0] not in ORDER_FREE:
        raise Unsupported(f"codec {codec}: vLLM's CPU backend packs keys by instruction set; only {', '.join(ORDER_FREE)} keep what they promise there")


def natural_order(names: list[str]) -> list[str]:
    """Layer names by the numbers in them, so that the order does not depend on who lists them."""
    return sorted(names, key=lambda name: ([int(part) for part in re.findall(r"\d+", name)], name))


def read_layout(spec: Any, tensors: list[Any], options: Any) -> tuple[Layout, list[_lib.LayerMemory]]:
    """The form, and where each layer lies. tensors: in layer order."""
    first = tensors[0]
    if first.device.type != "cpu":
        raise Unsupported(
            f"the KV cache is on {first.device.type}: kvcask copies from host memory only as yet, so it stays off. "
            "Everything else of the connector is the same on a GPU; the engine runs as without it"
        )
    dtype = TORCH_DTYPES.get(str(first.dtype))
    if dtype is None:
        raise Unsupported(f"a cache of {first.dtype}")
    if len({(t.shape, t.stride(), t.dtype, t.device) for t in tensors}) != 1:
        raise Unsupported("the layers' tensors differ in shape")
    view = _page_view(spec, first)
    fields = dict(
        layer_count=len(tensors),
        engine_block_tokens=view.tokens,
        kv_heads=view.heads,
        head_dim_k=view.dim_k,
        head_dim_v=view.dim_v,
        dtype=_lib.DTYPES[dtype],
        arrangement=view.arrangement,
        order=view.order,
        group=0,
        group_rule=_lib.GROUP_FULL,
        shard_index=0,
        shard_count=1,
    )
    if spec.block_size % view.tokens:
        raise Unsupported(f"pages of {view.tokens} tokens in blocks of {spec.block_size}")
    page_bytes = view.page_bytes
    pages = spec.block_size // view.tokens
    per_block = _engine_blocks_per_block(pages * page_bytes * len(tensors), spec.block_size, options.block_tokens)
    fields["block_tokens"] = per_block * spec.block_size
    layout = Layout(
        fields=fields,
        block_size=spec.block_size,
        pages_per_engine_block=pages,
        engine_blocks_per_block=per_block,
        block_bytes=per_block * pages * page_bytes * len(tensors),
        kv_dtype=dtype,
    )
    sizes = client.form_sizes(layout.form())
    if sizes.page_bytes != page_bytes:
        raise Unsupported(f"pages of {page_bytes} bytes where the form gives {sizes.page_bytes}")
    memory = [_layer_memory(tensor, view) for tensor in tensors]
    return layout, memory


def _engine_blocks_per_block(engine_block_bytes: int, block_size: int, wanted: int | str) -> int:
    if wanted != "auto":
        if wanted % block_size:
            raise Unsupported(f"block_tokens {wanted} is not a multiple of the engine's block of {block_size} tokens")
        return wanted // block_size
    if engine_block_bytes >= BLOCK_BYTES_ENOUGH:
        return 1
    # Each doubling loses up to that many more tokens at the end of a hit, and saves a record's overhead and one message entry.
    by_bytes = math.ceil(BLOCK_BYTES_GOAL / engine_block_bytes)
    return max(1, min(by_bytes, BLOCK_TOKENS_MAX // block_size))


@dataclass
class _View:
    tokens: int
    heads: int
    dim_k: int
    dim_v: int
    arrangement: int
    order: int
    block_axis: int
    runs: tuple[int, int]  # counts, outer first
    strides: tuple[int, int]  # bytes
    run_bytes: int

    @property
    def page_bytes(self) -> int:
        return self.runs[0] * self.runs[1] * self.run_bytes


def _page_view(spec: Any, tensor: Any) -> _View:
    """How a page of this layer lies in memory: at most two loops around one contiguous run."""
    shape, item = list(tensor.shape), tensor.element_size()
    stride = [s * item for s in tensor.stride()]
    dim_k = spec.head_size
    dim_v = getattr(spec, "head_size_v", None) or dim_k
    latent = type(spec).__name__ == "MLAAttentionSpec"
    if len(shape) == 4 and not latent and shape[3] == dim_k + dim_v:
        # [blocks, heads, tokens, K|V of one head], in any physical order (vLLM 0.29 and newer).
        heads, tokens = shape[1], shape[2]
        order = _lib.ORDER_HN if stride[1] >= stride[2] or heads == 1 else _lib.ORDER_NH
        axes = (1, 2, 3) if order == _lib.ORDER_HN else (2, 1, 3)
        runs, strides, run_bytes = _runs([shape[a] for a in axes], [stride[a] for a in axes], item)
        return _View(tokens, heads, dim_k, dim_v, _lib.KV_FUSED, order, 0, runs, strides, run_bytes)
    if latent and shape[-1] == dim_k and math.prod(shape[1:-2]) == 1:
        axes = (len(shape) - 2, len(shape) - 1)
        runs, strides, run_bytes = _runs([shape[a] for a in axes], [stride[a] for a in axes], item)
        return _View(shape[-2], 1, dim_k, 0, _lib.KV_LATENT, 0, 0, runs, strides, run_bytes)
    raise Unsupported(f"a cache tensor of shape {tuple(shape)} with heads of {dim_k} and {dim_v}")


def _runs(counts: list[int], strides: list[int], item: int) -> tuple[tuple[int, int], tuple[int, int], int]:
    """Folds nested loops (outer first) whose inner one is contiguous into at most two loops around one run."""
    loops = [(count, stride) for count, stride in zip(counts, strides) if count > 1]
    run = item
    while loops and loops[-1][1] == run:
        run *= loops.pop()[0]
    if len(loops) > 2:
        raise Unsupported("the cache's pages are scattered in more than two dimensions")
    while len(loops) < 2:
        loops.insert(0, (1, 0))
    return (loops[0][0], loops[1][0]), (loops[0][1], loops[1][1]), run


def _layer_memory(tensor: Any, view: _View) -> _lib.LayerMemory:
    return _lib.LayerMemory(
        base=tensor.data_ptr(),
        block_stride_bytes=tensor.stride(view.block_axis) * tensor.element_size(),
        block_count=tensor.shape[view.block_axis],
        run_count=view.runs,
        run_stride_bytes=view.strides,
        run_bytes=view.run_bytes,
    )


# ---- the space ---------------------------------------------------------------------------------------------------------


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)


def _limited(text: str) -> str:
    """A space's field holds 4,096 bytes; what is longer is named by its digest."""
    return text if len(text) <= 2048 else "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def model_folder(model_config: Any) -> str | None:
    """The folder that the weights come from, without asking any network."""
    name = model_config.model
    if os.path.isdir(name):
        return name
    try:
        from huggingface_hub import snapshot_download

        return snapshot_download(name, revision=model_config.revision, local_files_only=True)
    except Exception:  # whatever the hub's library finds wrong: there is no local folder
        return None


def model_identity(vllm_config: Any, options: Any, cache_dir: str | None) -> str:
    if options.model_identity:
        return "given:" + options.model_identity
    load_format = str(getattr(vllm_config.load_config, "load_format", "auto"))
    if load_format.rsplit(".", 1)[-1].lower() == "dummy":
        raise Unsupported("load_format dummy: random weights have no identity (set model_identity)")
    folder = model_folder(vllm_config.model_config)
    if folder is None:
        raise Unsupported(f"no local folder of {vllm_config.model_config.model!r} to identify it by (set model_identity)")
    cache = None
    if cache_dir:
        os.makedirs(cache_dir, exist_ok=True)
        cache = os.path.join(cache_dir, "model-identities")
    return client.model_identity(folder, cache)


def base_space(vllm_config: Any, layout: Layout, identity: str, hash_root: bytes, codec: str = "") -> dict[str, str]:
    """The space of the model without adapters, as the fields of struct kvc_space_desc. codec: the loss that it allows."""
    import vllm

    model = vllm_config.model_config
    algorithm = str(vllm_config.cache_config.prefix_caching_hash_algo)
    config = getattr(model, "hf_text_config", None) or model.hf_config
    rope = {
        name: getattr(config, name)
        for name in ("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", "max_position_embeddings")
        if getattr(config, name, None) is not None
    }
    extra: dict[str, Any] = {
        "dtype": str(model.dtype),
        "quantization": model.quantization,
        "hf_overrides": getattr(model, "hf_overrides", None) or None,
        "load_format": str(getattr(vllm_config.load_config, "load_format", "auto")),
        "page": layout.interior,
    }
    if not algorithm.endswith("_cbor"):
        # These hash pickled Python objects: the same only within one Python and one vLLM.
        extra["python"] = ".".join(platform.python_version_tuple()[:2])
        extra["vllm"] = vllm.__version__
    return {
        "model": identity,
        "model_name": str(getattr(model, "served_model_name", None) or model.model),
        "kv_dtype": layout.kv_dtype,
        "kv_quant": "" if vllm_config.cache_config.cache_dtype == "auto" else str(vllm_config.cache_config.cache_dtype),
        "rope": _limited(_canonical(rope)),
        "hash_algorithm": algorithm,
        "hash_root": hash_root.hex(),
        "extra": _limited(_canonical(extra)),
        "codec": codec,
    }


def adapter_space(base: dict[str, str], adapter: str, generation: str) -> dict[str, str]:
    """The base space with an adapter (by content) and, after a reset, the weights' generation."""
    desc = dict(base)
    if adapter:
        desc["adapter"] = adapter
    if generation:
        desc["extra"] = _limited(_canonical([base["extra"], generation]))
    return desc
