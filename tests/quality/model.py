# SPDX-License-Identifier: Apache-2.0
"""A causal language model of transformers whose KV cache can be taken out and put back.

KV is uint16 holding bf16, [layers, tokens, heads, dims], K as the engine holds it (after RoPE). All computing is in float32, on the CPU.
"""

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

from model_rope import Rope, find_rope  # noqa: E402

transformers.utils.logging.disable_progress_bar()

ROPE_END = 1024  # tables that depend on a text's length: as they are at this one

class Unsuited(ValueError):
	"""A model, or a text, that this harness cannot measure; says why."""


def one_line(error) -> str:
	"""An error of transformers, some of which fill a screen."""
	return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
		try:
			self.tokenizer = AutoTokenizer.from_pretrained(folder)
			self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
		except Exception as error:  # whatever a folder that is no model makes transformers raise
			raise Unsuited(f"{folder}: no causal language model that transformers {transformers.__version__} opens: {one_line(error)}") from error
		self.config = self.model.config.get_text_config()
		self._rope = None  # and notes on it

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
		"""How this model rotates K; None when it does not, or not as a profile can say."""
		if self._rope is None:
			token = (self.tokens_of(" the") or [1])[-1]
			end = min(ROPE_END, getattr(self.config, "max_position_embeddings", None) or ROPE_END)
			self._rope = find_rope(self.model, self.config, token, end)
		return self._rope[0]

	def describe_rope(self) -> str:
		rope = self.rope()
		return "; ".join(["K is not rotated" if rope is None else f"K is rotated: {rope}", *self._rope[1]])

	@torch.inference_mode()
	def check(self) -> None:
		"""Raises Unsuited unless the cache holds the same kind of K and V in every layer, and the model goes on from a cache that was put
		back as it does from its own."""
		tokens = (self.tokens_of("One two three, and then the other way round; what comes next is anyone's guess. ") * 8)[:96]
		cut = len(tokens) * 2 // 3
		try:
			whole = self.model(torch.tensor([tokens])).logits[0, cut:]
			cache = DynamicCache()
			self.model(torch.tensor([tokens[:cut]]), past_key_values=cache, use_cache=True)
			self.check_layers(cache, cut)
			back = DynamicCache()
			back.layers = [RoomLayer(layer.keys, layer.values, len(tokens) - cut) for layer in cache.layers]
			found = self.model(torch.tensor([tokens[cut:]]), past_key_values=back, use_cache=True).logits[0]
		except Unsuited:
			raise
		except (TypeError, ValueError, IndexError, AttributeError, RuntimeError, KeyError) as error:
			raise Unsuited(f"a {self.config.model_type} does not take an ordinary cache of K and V: {one_line(error)}") from error
		off = float((found - whole).abs().max() / (whole - whole.mean(-1, keepdim=True)).abs().max())
		if not off < 1e-2:
			raise Unsuited(f"a {self.config.model_type} goes on otherwise from its K and V put back than without: it keeps more than these")

	@staticmethod
	def check_layers(cache: DynamicCache, count: int) -> None:
		shapes = {(tuple(layer.keys.shape), tuple(layer.values.shape)) if getattr(layer, "keys", None) is not None else ((), ())
		          for layer in cache.layers}
		if len(shapes) != 1 or any(len(shape) != 4 or shape[2] != count for pair in shapes for shape in pair):
			raise Unsuited("the layers of this model do not hold one kind of K and V each: " + (", ".join(sorted(map(str, shapes))) or "none"))

	@torch.inference_mode()
	def prefill(self, tokens: list):
		"""(K, V) of the tokens at positions 0 on."""
		cache = DynamicCache()
		self.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
		self.check_layers(cache, len(tokens))
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
