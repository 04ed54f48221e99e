# SPDX-License-Identifier: Apache-2.0
"""A causal language model of transformers whose KV cache can be taken out and put back.

KV is uint16 holding bf16, [layers, tokens, heads, dims], K as the engine holds it (after RoPE). All computing is in float32, on the CPU.
"""

import dataclasses
import hashlib
import os

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache  # noqa: E402
from transformers.cache_utils import DynamicLayer  # noqa: E402

transformers.utils.logging.disable_progress_bar()

# Models that rotate neighbouring dimensions (GPT-J's way); all others rotate dimension i with i + half.
INTERLEAVED = {"gptj", "codegen", "cohere", "cohere2", "glm", "glm4", "ernie4_5", "ernie4_5_moe", "deepseek_v2", "deepseek_v3"}


@dataclasses.dataclass
class Rope:
	"""How K was rotated: dimensions 0 to 2 * len(inv_freq) - 1 of each head, times `scale`."""
	inv_freq: list
	interleaved: bool
	scale: float


def bf16_of(tensor: torch.Tensor) -> np.ndarray:
	"""To bf16, nearest even, as uint16."""
	return tensor.detach().to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)


def floats_of(bf16: np.ndarray) -> torch.Tensor:
	return torch.from_numpy(np.ascontiguousarray(bf16).view(np.int16)).view(torch.bfloat16).to(torch.float32)


class RoomLayer(DynamicLayer):
	"""A cache layer with room for what is to come, so that a step does not copy all that was there."""

	def __init__(self, keys: torch.Tensor, values: torch.Tensor, room: int):
		super().__init__()
		rows, heads, self._used, _ = keys.shape
		self._k = torch.empty((rows, heads, self._used + room, keys.shape[3]), dtype=keys.dtype)
		self._v = torch.empty((rows, heads, self._used + room, values.shape[3]), dtype=values.dtype)
		self._k[:, :, :self._used] = keys
		self._v[:, :, :self._used] = values
		self.lazy_initialization(keys, values)
		self._show()

	def _show(self):
		self.keys, self.values = self._k[:, :, :self._used], self._v[:, :, :self._used]

	def update(self, key_states, value_states, *args, **kwargs):
		count = key_states.shape[-2]
		self._k[:, :, self._used:self._used + count] = key_states
		self._v[:, :, self._used:self._used + count] = value_states
		self._used += count
		self._show()
		return self.keys, self.values


class Model:
	def __init__(self, folder: str, threads: int = 2):
		torch.set_num_threads(threads)
		self.folder = folder
		self.tokenizer = AutoTokenizer.from_pretrained(folder)
		self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
		self.config = self.model.config.get_text_config()
		self._inputs = None

	def name(self) -> str:
		heads = f"{self.config.num_attention_heads} query heads"
		return f"{self.config.model_type}, {self.config.num_hidden_layers} layers, {heads}"

	def digest(self) -> str:
		"""Of the configuration and the weights' names, sizes and first values: two models are not taken for one another."""
		digest = hashlib.sha256(self.config.to_json_string().encode())
		for name, tensor in self.model.state_dict().items():
			digest.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.flatten()[:64].to(torch.float32).numpy().tobytes())
		return digest.hexdigest()[:16]

	def tokens_of(self, text: str) -> list:
		return self.tokenizer.encode(text, add_special_tokens=False)

	def rope(self) -> Rope:
		"""None for models without rotary positions."""
		for module in self.model.modules():
			if isinstance(getattr(module, "inv_freq", None), torch.Tensor):
				scale = float(getattr(module, "attention_scaling", 1.0) or 1.0)
				return Rope(module.inv_freq.double().tolist(), self.config.model_type in INTERLEAVED, scale)
		return None

	@torch.inference_mode()
	def prefill(self, tokens: list):
		"""(K, V) of the tokens at positions 0 on."""
		cache = DynamicCache()
		self.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
		shapes = {(layer.keys.shape, layer.values.shape) for layer in cache.layers}
		if len(shapes) != 1 or cache.layers[0].keys.shape[2] != len(tokens):
			raise ValueError(f"the layers of this model do not hold one kind of KV each: {sorted(map(str, shapes))}")
		# [1, heads, tokens, dims] each to [layers, tokens, heads, dims]
		return (np.stack([bf16_of(layer.keys[0].transpose(0, 1)) for layer in cache.layers]),
		        np.stack([bf16_of(layer.values[0].transpose(0, 1)) for layer in cache.layers]))

	def cache_of(self, pairs: list, room: int) -> DynamicCache:
		"""A cache with a row for each (K, V), and room for that many more tokens."""
		cache = DynamicCache()
		for layer in range(pairs[0][0].shape[0]):
			k, v = (torch.stack([floats_of(pair[i][layer]).transpose(0, 1) for pair in pairs]) for i in (0, 1))
			cache.layers.append(RoomLayer(k, v, room))
		return cache

	@torch.inference_mode()
	def continue_with(self, kv: tuple, tokens: list) -> torch.Tensor:
		"""Logits behind each of the tokens, which follow the KV: [tokens, vocabulary]."""
		return self.model(torch.tensor([tokens]), past_key_values=self.cache_of([kv], len(tokens)), use_cache=True).logits[0]

	@torch.inference_mode()
	def generate(self, pairs: list, first: int, count: int, progress=None) -> np.ndarray:
		"""Greedy: `count` tokens behind `first` for each (K, V), all in one batch: [pairs, count]."""
		cache = self.cache_of(pairs, count + 1)
		step = torch.full((len(pairs), 1), first, dtype=torch.long)
		found = np.empty((len(pairs), count), dtype=np.int64)
		for i in range(count):
			step = self.model(step, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
			found[:, i] = step[:, 0].numpy()
			if progress and (i + 1) % 16 == 0:
				progress(i + 1, count)
		return found

	@torch.inference_mode()
	def ask(self, kv: tuple, questions: list) -> list:
		"""questions: token lists that each follow the KV by itself. Their logits, [tokens, vocabulary] each: one pass, in which
		no question sees another."""
		prefix, total = kv[0].shape[1], sum(map(len, questions))
		mask = torch.full((total, prefix + total), torch.finfo(torch.float32).min)
		mask[:, :prefix] = 0
		at, positions = 0, []
		for question in questions:
			n = len(question)
			mask[at:at + n, prefix + at:prefix + at + n].masked_fill_(torch.ones(n, n).tril().bool(), 0)
			positions += range(prefix, prefix + n)
			at += n
		logits = self.model(torch.tensor([sum(questions, [])]), past_key_values=self.cache_of([kv], total), use_cache=True,
		                    attention_mask=mask[None, None], position_ids=torch.tensor([positions])).logits[0]
		return list(torch.split(logits, [len(question) for question in questions]))
