# SPDX-License-Identifier: Apache-2.0
"""codec/rope.c against the rotation of transformers' own models, without weights to load: small models of each kind with random weights run
over a few tokens; K of the cache, turned back by us, must be what their projection gave, and that turned forward what the cache has.

Also what model_rope.py finds of each by itself: the harness calibrates by it.

  tests/e2e/with-engine tests/quality/rope_check.py [-v]
"""
import ctypes
import os
import sys

import numpy as np
import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from model_rope import find_rope  # noqa: E402

NEOX, GPTJ = 1, 2
FORWARD, BACK, MOVE = 1, 2, 3
TOKENS, START, HEADS, DIMS = 40, 3000, 4, 32
# transformers multiplies position and frequency in float: an angle is off by up to half a unit in the last place of its whole turns.
BOUND = START * 2.0**-23 + 1e-5

library = ctypes.CDLL(os.path.join(os.environ.get("KVC_BUILD", "build"), "lib", "libkvc_codec_shared.so"))
library.kvcq_rope.argtypes = [ctypes.c_uint32] * 3 + [ctypes.c_float, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64,
                                                      ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p]


def turn(rows, inv_freq, style, factor, direction, start, to=0, first=0):
	"""rows [heads, tokens, dims], turned into a new array."""
	rows = np.array(rows, dtype=np.float32, order="C")
	frequencies = np.ascontiguousarray(inv_freq, dtype=np.float32)
	for head in rows:
		status = library.kvcq_rope(style, first, 2 * len(frequencies), factor, frequencies.ctypes.data, direction, start, to,
		                           head.shape[0], head.shape[1], head.ctypes.data)
		assert status == 0, f"kvcq_rope: status {status}"
	return rows


def small(config_class, **more):
	"""A configuration of one kind, two layers of HEADS heads of DIMS."""
	base = dict(vocab_size=64, hidden_size=HEADS * DIMS, intermediate_size=64, num_hidden_layers=2, num_attention_heads=HEADS,
	            num_key_value_heads=HEADS, head_dim=DIMS, max_position_embeddings=8192, pad_token_id=0, bos_token_id=1, eos_token_id=2)
	base.update(more)
	return config_class(**base)


def projected(name, split=None):
	"""Where K comes from before it is rotated: a module's output, cut by `split`."""
	return name, split


def fused_neox(out):
	return out.view(TOKENS, HEADS, 3, DIMS)[:, :, 1, :].reshape(TOKENS, HEADS * DIMS)


def fused_phi3(out):
	return out[..., HEADS * DIMS:2 * HEADS * DIMS]


def scaled(kind, **more):
	return {"rope_parameters": dict(rope_type=kind, rope_theta=10000.0, **more)}


FACTORS = [1.0 + 0.05 * i for i in range(DIMS // 2)]
LONG = [1.0 + 0.5 * i for i in range(DIMS // 2)]
# name, model class, configuration, style, the module that gives K before rotation
CASES = [
	("llama default", "Llama", dict(), NEOX, projected("k_proj")),
	("llama theta 500000", "Llama", dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)), NEOX, projected("k_proj")),
	("llama linear", "Llama", scaled("linear", factor=4.0), NEOX, projected("k_proj")),
	("llama dynamic, short", "Llama", scaled("dynamic", factor=4.0), NEOX, projected("k_proj")),
	("llama dynamic, beyond its length", "Llama", dict(max_position_embeddings=1024, **scaled("dynamic", factor=4.0)), NEOX,
	 projected("k_proj")),
	("llama yarn", "Llama", scaled("yarn", factor=4.0, original_max_position_embeddings=2048), NEOX, projected("k_proj")),
	("llama yarn with mscale", "Llama", scaled("yarn", factor=8.0, original_max_position_embeddings=1024, mscale=1.0,
	                                           mscale_all_dim=0.5, beta_fast=16.0, beta_slow=2.0), NEOX, projected("k_proj")),
	("llama llama3", "Llama", scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
	                                 original_max_position_embeddings=1024), NEOX, projected("k_proj")),
	("llama longrope, short", "Llama", scaled("longrope", factor=4.0, short_factor=FACTORS, long_factor=LONG,
	                                          original_max_position_embeddings=4096), NEOX, projected("k_proj")),
	("phi3 longrope, long", "Phi3", dict(original_max_position_embeddings=2048, **scaled("longrope", short_factor=FACTORS, long_factor=LONG,
	                                                   original_max_position_embeddings=2048)), NEOX, projected("qkv_proj", fused_phi3)),
	("gpt-neox, a quarter of the row", "GPTNeoX", scaled("default", partial_rotary_factor=0.25), NEOX,
	 projected("query_key_value", fused_neox)),
	("phi, half of the row", "Phi", scaled("default", partial_rotary_factor=0.5), NEOX, projected("k_proj")),
	("stablelm, a quarter of the row", "StableLm", scaled("default", partial_rotary_factor=0.25), NEOX, projected("k_proj")),
	("glm, half of the row, in pairs", "Glm", scaled("default", partial_rotary_factor=0.5), GPTJ, projected("k_proj")),
	("cohere, in pairs", "Cohere", dict(), GPTJ, projected("k_proj")),
	("gpt-j, half of the row, in pairs", "GPTJ", dict(rotary_dim=DIMS // 2, n_embd=HEADS * DIMS, n_head=HEADS, n_layer=2, n_positions=8192),
	 GPTJ, projected("k_proj")),
]


def frequencies_of(model, config, kind):
	"""The table in effect in the forward pass that was just made, and the factor."""
	if kind == "GPTJ":
		return 10000.0 ** (-np.arange(0, config.rotary_dim, 2) / config.rotary_dim), 1.0
	rotary = next(m for n, m in model.named_modules() if n.endswith("rotary_emb"))
	return rotary.inv_freq.detach().numpy(), float(getattr(rotary, "attention_scaling", 1.0))


def run(kind, more, source):
	"""K before rotation and from the cache, [heads, tokens, dims], of layer 1, and the rotation in effect."""
	torch.manual_seed(7)
	config = small(getattr(transformers, kind + "Config"), **more)
	model = getattr(transformers, kind + ("ForCausalLM"))(config).eval().float()
	name, split = source
	seen = []
	module = [m for n, m in model.named_modules() if n.endswith(name)][1]
	module.register_forward_hook(lambda m, args, out: seen.append(out.detach()[0]))
	with torch.no_grad():
		ids = torch.randint(3, 60, (1, TOKENS))
		out = model(ids, position_ids=torch.arange(START, START + TOKENS)[None], use_cache=True)
	before = split(seen[0]) if split else seen[0]
	before = before.reshape(TOKENS, HEADS, DIMS).permute(1, 0, 2).numpy()
	after = out.past_key_values.layers[1].keys[0].numpy()
	inv_freq, factor = frequencies_of(model, config, kind)
	return before, after, inv_freq, factor, find_rope(model, config, 7, START + TOKENS)


def check(name, kind, more, style, source, verbose):
	before, after, inv_freq, factor, (found, notes) = run(kind, more, source)
	size = np.abs(before).max()
	assert before.shape == after.shape == (HEADS, TOKENS, DIMS)
	moved_by = np.abs(after - before).max() / size
	assert moved_by > 0.1, f"{name}: the model rotates nothing"
	errors = {
		"forward": np.abs(turn(before, inv_freq, style, factor, FORWARD, START) - after).max() / size,
		"back": np.abs(turn(after, inv_freq, style, factor, BACK, START) - before).max() / size,
		# Moved down to position 17 and so compared with what we make of it there: the model's own angles cancel out.
		"moved": np.abs(turn(after, inv_freq, style, factor, MOVE, START, 17) - turn(before, inv_freq, style, factor, FORWARD, 17)).max() / size,
	}
	other = np.abs(turn(before, inv_freq, 3 - style, factor, FORWARD, START) - after).max() / size
	assert other > 100 * BOUND, f"{name}: the other style would do as well: the check proves nothing"
	seen = found is not None and not notes and len(found.inv_freq) == len(inv_freq) and found.first == 0 and \
		found.interleaved == (style == GPTJ) and abs(found.scale - factor) < 1e-6 and np.allclose(found.inv_freq, inv_freq, rtol=1e-5, atol=0)
	wrong = {what: error for what, error in errors.items() if not error < BOUND * max(1.0, factor)}
	if verbose or wrong:
		print(f"{name:36} rotated {2 * len(inv_freq):3} of {DIMS}, factor {factor:.3f}, worst error " +
		      ", ".join(f"{what} {error:.1e}" for what, error in errors.items()) + (" WRONG" if wrong else ""))
	if not seen:
		print(f"{name}: taken for {found} {notes}")
	return seen and not wrong


KINDS = ["sliding_attention", "full_attention"]
# name, model class, configuration, whether a rotation is to be found, and a word of the note on it
STRANGE = [
	("two tables", "Gemma3", dict(num_key_value_heads=1, sliding_window=16, layer_types=KINDS), True, "layers"),
	("a layer without", "SmolLM3", dict(no_rope_layers=[1, 0]), True, "layers 1 rotate"),
	("learned positions", "GPT2", dict(n_embd=HEADS * DIMS, n_head=HEADS, n_layer=2, n_positions=8192), False, "no table"),
	("no positions in K", "Bloom", dict(n_head=HEADS, n_layer=2), False, None),
	("latents", "DeepseekV2", dict(kv_lora_rank=32, q_lora_rank=None, qk_nope_head_dim=32, qk_rope_head_dim=16, head_dim=16, v_head_dim=32,
	                               first_k_dense_replace=2), False, "V depends"),
]


def check_strange(name, kind, more, rotated, word):
	"""What cannot be said by one rotation for all layers is noted, not taken for one."""
	torch.manual_seed(7)
	config = small(getattr(transformers, kind + {"Gemma3": "TextConfig"}.get(kind, "Config")), **more)
	model = getattr(transformers, kind + {"GPT2": "LMHeadModel"}.get(kind, "ForCausalLM"))(config).eval().float()
	found, notes = find_rope(model, config, 7, 1024)
	right = (found is not None) == rotated and (any(word in note for note in notes) if word else not notes)
	if not right:
		print(f"{name}: taken for {found} {notes}")
	return right


def main():
	verbose = "-v" in sys.argv[1:]
	torch.set_num_threads(1)
	failed = [case[0] for case in CASES if not check(*case, verbose)]
	print(f"rope_check: {len(CASES) - len(failed)} of {len(CASES)} variants as in transformers {transformers.__version__}, "
	      f"within {BOUND:.1e} of the largest element")
	strange = [case[0] for case in STRANGE if not check_strange(*case)]
	print(f"rope_check: {len(STRANGE) - len(strange)} of {len(STRANGE)} kinds that no single rotation describes are seen to be so")
	return 1 if failed or strange else 0


if __name__ == "__main__":
	sys.exit(main())
