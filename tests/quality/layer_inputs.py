# SPDX-License-Identifier: Apache-2.0
"""Layer inputs X instead of K and V (XQuant): what goes into each layer's attention is coded, and K and V are made of it again by the weights.

The codec xquant, or `x/SPEC`: X through any other codec, as rows without heads (KVC_KV_LATENT). The bytes count against those of K and V. X is
what the attention gets, behind the norm; with xquant's variant 1, which takes differences between layers, it is the layer's own input before it.
"""

import numpy as np

import codec_lib
import measure


PREFIX = "x/"


def wanted(spec: str) -> bool:
	return spec.startswith(PREFIX) or spec.split(":")[0] == "xquant"


def bare(spec: str) -> str:
	return spec.removeprefix(PREFIX)


def modules(model, residual: bool) -> list:
	"""The attention module of each layer in their order, or the layers themselves."""
	found = [name for name, _ in model.model.named_modules() if name.endswith((".self_attn", ".attention", ".attn"))]
	if len(found) != model.config.num_hidden_layers:
		raise codec_lib.CodecError(f"layer inputs: {len(found)} attention modules found in {model.config.num_hidden_layers} layers")
	return [model.model.get_submodule(name.rpartition(".")[0] if residual else name) for name in found]


def prefill_with(model, residual: bool, tokens: list, visit) -> tuple:
	"""KV of a pass in which visit(layer, X [tokens, dims]) sees each layer's input, and may give another."""
	def hook_of(layer):
		def hook(module, args, kwargs):
			key = "hidden_states"
			given = kwargs[key] if key in kwargs else args[0]
			other = visit(layer, given[0])
			if other is None:
				return None
			if key in kwargs:
				return args, {**kwargs, key: other[None]}
			return (other[None], *args[1:]), kwargs
		return hook
	handles = [module.register_forward_pre_hook(hook_of(layer), with_kwargs=True) for layer, module in enumerate(modules(model, residual))]
	try:
		return model.prefill(tokens)
	finally:
		for handle in handles:
			handle.remove()


def code(bench, coder, spec: str, tokens: list, kv: tuple) -> measure.Decoded:
	from model import bf16_of, floats_of

	residual = "variant=1" in spec and "xquant" in spec

	def capture():
		inputs = {}
		prefill_with(bench.model, residual, tokens, lambda layer, x: inputs.__setitem__(layer, bf16_of(x)))
		return (np.stack([inputs[layer] for layer in sorted(inputs)])[:, :, None, :],)

	digest = measure.digest_of(tokens)
	x = bench.store.arrays(f"{'residual' if residual else 'x'}-{digest}", capture)[0]
	back = coder.library.round_trip(bare(spec), x, is_k=True, block_tokens=coder.block, page_tokens=coder.page,
	                                arrangement=codec_lib.LATENT)
	made = bench.store.arrays(f"kv-of-x-{digest}-{measure.array_digest(back.values)}", lambda: prefill_with(
		bench.model, residual, tokens, lambda layer, _: floats_of(back.values[layer, :, 0])))
	return measure.Decoded(made, sum(part.nbytes for part in kv), back.stored_bytes,
	                       tuple(measure.rel_l2(a, b) for a, b in zip(made, kv)), back.raw_units)
