# SPDX-License-Identifier: Apache-2.0
"""Small models of many kinds with random weights, saved as a user's model would be: what the harness must get right of any model, in seconds."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
import transformers  # noqa: E402

LLAMA3 = {"rope_parameters": dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                  original_max_position_embeddings=256)}
MLA = dict(num_key_value_heads=4, head_dim=16, kv_lora_rank=32, q_lora_rank=None, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
           first_k_dense_replace=2, n_routed_experts=2, num_experts_per_tok=1, n_group=1, topk_group=1, n_shared_experts=1, moe_intermediate_size=32)


def partial(share: float) -> dict:
	return {"rope_parameters": dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=share)}


# name: (kind, what differs from the base, dtype of the weights)
MODELS = {
	"llama, heads of 128, llama3 scaling": ("Llama", dict(head_dim=128, num_key_value_heads=2, **LLAMA3), torch.bfloat16),
	"llama, all heads": ("Llama", dict(), torch.float16),
	"qwen2, biases": ("Qwen2", dict(num_key_value_heads=2), torch.float32),
	"qwen3": ("Qwen3", dict(num_key_value_heads=2, head_dim=64), torch.bfloat16),
	"mistral, sliding window": ("Mistral", dict(num_key_value_heads=1, sliding_window=40), torch.bfloat16),
	"gemma, heads of 256": ("Gemma", dict(num_key_value_heads=1, head_dim=256), torch.bfloat16),
	"gemma 2": ("Gemma2", dict(num_key_value_heads=2, head_dim=64, sliding_window=40), torch.bfloat16),
	"gemma 3, two tables": ("Gemma3Text", dict(num_hidden_layers=4, num_key_value_heads=1, head_dim=64, sliding_window=40,
	                                           layer_types=["sliding_attention"] * 3 + ["full_attention"]), torch.bfloat16),
	"smollm3, layers without": ("SmolLM3", dict(num_hidden_layers=4, num_key_value_heads=2), torch.bfloat16),
	"gpt-neox, a quarter": ("GPTNeoX", partial(0.25), torch.float16),
	"phi, half": ("Phi", partial(0.5), torch.float32),
	"gpt-j, pairs": ("GPTJ", dict(rotary_dim=16, n_embd=128, n_head=4, n_layer=2, n_positions=2048), torch.float32),
	"codegen, pairs": ("CodeGen", dict(rotary_dim=16, n_embd=128, n_head=4, n_layer=2, n_positions=2048), torch.float32),
	"cohere, pairs": ("Cohere", dict(num_key_value_heads=2), torch.bfloat16),
	"helium, pairs": ("Helium", dict(num_key_value_heads=2, head_dim=32), torch.bfloat16),
	"glm, half in pairs": ("Glm", dict(num_key_value_heads=2, **partial(0.5)), torch.bfloat16),
	"gpt-2, learned positions": ("GPT2", dict(n_embd=128, n_head=4, n_layer=2, n_positions=2048), torch.float32),
	"opt, learned positions": ("OPT", dict(ffn_dim=64, word_embed_proj_dim=128), torch.float32),
	"bloom, alibi": ("Bloom", dict(n_head=4, n_layer=2), torch.float32),
	"falcon, one head": ("Falcon", dict(multi_query=True, new_decoder_architecture=False), torch.bfloat16),
	"deepseek 2": ("DeepseekV2", MLA, torch.bfloat16),
	"deepseek 3": ("DeepseekV3", MLA, torch.bfloat16),
	"mamba": ("Mamba", dict(state_size=8), torch.float32),
	"jamba": ("Jamba", dict(num_hidden_layers=8, num_key_value_heads=2, mamba_d_state=8, num_experts=2, use_mamba_kernels=False), torch.float32),
	"t5": ("T5", dict(d_model=64, d_kv=16, num_layers=2, num_heads=4, d_ff=64), torch.float32),
}


def tokenizer():
	"""A token for each byte."""
	from tokenizers import Tokenizer, decoders, models, pre_tokenizers
	letters = sorted(pre_tokenizers.ByteLevel.alphabet())
	made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
	made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
	made.decoder = decoders.ByteLevel()
	return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


def save(name: str, folder: str) -> None:
	"""Weights several times as large as models begin with, so that attention looks somewhere."""
	kind, more, dtype = MODELS[name]
	torch.manual_seed(11)
	base = dict(vocab_size=256, hidden_size=128, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4,
	            max_position_embeddings=2048, initializer_range=0.15, pad_token_id=0, bos_token_id=1, eos_token_id=2)
	if kind not in ("Falcon", "Bloom"):
		base["head_dim"] = 32
	config = getattr(transformers, kind + "Config")(**{**base, **more})
	causal = kind + {"GPT2": "LMHeadModel", "Gemma3Text": "", "T5": "ForConditionalGeneration"}.get(kind, "ForCausalLM")
	causal = "Gemma3ForCausalLM" if kind == "Gemma3Text" else causal
	model = getattr(transformers, causal)(config).to(dtype)
	model.save_pretrained(folder)
	tokenizer().save_pretrained(folder)
