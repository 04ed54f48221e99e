# SPDX-License-Identifier: Apache-2.0
"""What a codec does to a model's answers: a text's prefix with KV that was coded and decoded, beside the same with KV as it was.

What was computed is kept in a folder, by the digest of the decoded KV: a codec that has not changed costs no second pass.
"""

import dataclasses
import hashlib
import json
import os

import numpy as np
import torch

import recall
from codec_lib import to_floats
from text_files import read_text


def array_digest(*arrays) -> str:
	digest = hashlib.sha256()
	for array in arrays:
		digest.update(np.ascontiguousarray(array).data)
	return digest.hexdigest()[:24]


@dataclasses.dataclass
class Text:
	name: str
	tokens: list
	kv: tuple = None          # of the prefix, bf16
	reference: torch.Tensor = None  # logits behind each token of the continuation


@dataclasses.dataclass
class Decoded:
	"""A prefix's KV as a codec gave it back."""
	kv: tuple
	raw_bytes: int
	stored_bytes: int
	rel_l2: tuple
	raw_units: int

	def digest(self) -> str:
		return array_digest(*self.kv)


def rel_l2(found: np.ndarray, wanted: np.ndarray) -> float:
	wanted = to_floats(wanted).astype(np.float64)
	return float(np.linalg.norm(to_floats(found) - wanted) / np.linalg.norm(wanted))


def compare(reference: torch.Tensor, found: torch.Tensor, targets: list) -> dict:
	"""Both [tokens, vocabulary]; targets: the token that the text has behind each, as far as there is one."""
	kl, same, nll_reference, nll = [], 0, [], []
	for at in range(0, len(reference), 64):
		p = torch.log_softmax(reference[at:at + 64].double(), -1)
		q = torch.log_softmax(found[at:at + 64].double(), -1)
		kl += (p.exp() * (p - q)).sum(-1).tolist()
		same += int((p.argmax(-1) == q.argmax(-1)).sum())
		for i, target in enumerate(targets[at:at + 64]):
			nll_reference.append(-float(p[i, target]))
			nll.append(-float(q[i, target]))
	return {"kl": float(np.mean(kl)), "kl_p95": float(np.quantile(kl, 0.95)), "top1": same / len(reference),
	        "ppl_reference": float(np.exp(np.mean(nll_reference))), "ppl": float(np.exp(np.mean(nll)))}


class Store:
	"""A folder with KV, reference logits and metrics of one model."""

	def __init__(self, folder: str):
		self.folder = folder
		os.makedirs(folder, exist_ok=True)
		self._metrics_path = os.path.join(folder, "metrics.json")
		try:
			with open(self._metrics_path) as file:
				self.metrics = json.load(file)
		except (OSError, ValueError):
			self.metrics = {}

	def note(self, key: str, value) -> None:
		self.metrics[key] = value
		with open(self._metrics_path + ".partial", "w") as file:
			json.dump(self.metrics, file)
		os.replace(self._metrics_path + ".partial", self._metrics_path)

	def arrays(self, key: str, make) -> tuple:
		"""What make() gives, a tuple of arrays; from the folder when it is there."""
		path = os.path.join(self.folder, key + ".npz")
		try:
			with np.load(path) as found:
				return tuple(found[f"a{i}"] for i in range(len(found.files)))
		except (OSError, ValueError, KeyError):
			made = make()
		with open(path + ".partial", "wb") as file:
			np.savez(file, **{f"a{i}": array for i, array in enumerate(made)})
		os.replace(path + ".partial", path)
		return made


def digest_of(tokens: list) -> str:
	return hashlib.sha256(np.array(tokens, np.int64).tobytes()).hexdigest()[:16]


class Bench:
	"""One model, one folder, one way of cutting texts."""

	def __init__(self, model, store: Store, prefix: int, follow: int, say):
		self.model, self.store, self.prefix, self.follow, self.say = model, store, prefix, follow, say

	def kv_of(self, tokens: list) -> tuple:
		return self.store.arrays(f"kv-{digest_of(tokens)}", lambda: self.model.prefill(tokens))

	def text(self, path: str) -> Text:
		"""What of a file is measured; ValueError when there is too little of it."""
		name = os.path.splitext(os.path.basename(path))[0]
		tokens, wanted = self.model.tokens_of(read_text(path)), self.prefix + self.follow
		if len(tokens) < wanted:
			raise ValueError(f"{path}: {len(tokens)} tokens of this model, {wanted} are needed (--prefix and --continue say how many)")
		return Text(name, tokens[:wanted + 1])

	def load(self, text: Text) -> None:
		"""The prefix's KV, and the logits behind it as they are without a codec."""
		text.kv = self.kv_of(text.tokens[:self.prefix])
		text.reference = torch.from_numpy(self.store.arrays(f"logits-{digest_of(text.tokens)}-{self.prefix}",
			lambda: (self.model.continue_with(text.kv, self.continuation(text)).numpy(),))[0])

	def continuation(self, text: Text) -> list:
		return text.tokens[self.prefix:self.prefix + self.follow]

	def quality(self, text: Text, decoded: Decoded) -> dict:
		key = f"quality {digest_of(text.tokens)} {self.prefix} {decoded.digest()}"
		if key not in self.store.metrics:
			found = self.model.continue_with(decoded.kv, self.continuation(text))
			self.store.note(key, compare(text.reference, found, text.tokens[self.prefix + 1:]))
		return self.store.metrics[key]

	def generations(self, text: Text, decoded: list, count: int) -> list:
		"""For each Decoded: the share of tokens as without a codec, and where the first other one is."""
		first = text.tokens[self.prefix]
		key_of = lambda kv: f"generated {digest_of(text.tokens)} {self.prefix} {count} {kv}"
		wanted = {"raw": text.kv, **{one.digest(): one.kv for one in decoded}}
		missing = [digest for digest in wanted if key_of(digest) not in self.store.metrics]
		rows = 16
		for at in range(0, len(missing), rows):
			batch = missing[at:at + rows]
			where = f"generate: {text.name}, {at + len(batch)}/{len(missing)} caches"
			made = self.model.generate([wanted[digest] for digest in batch], first, count,
			                           lambda done, total: self.say(f"{where}, token {done}/{total}", passing=True))
			for digest, tokens in zip(batch, made):
				self.store.note(key_of(digest), tokens.tolist())
		raw = np.array(self.store.metrics[key_of("raw")])
		answers = []
		for one in decoded:
			same = np.array(self.store.metrics[key_of(one.digest())]) == raw
			answers.append({"equal": float(same.mean()), "first_other": int(np.argmin(same)) if not same.all() else count})
		return answers

	def recall_text(self, filler_path: str) -> Text:
		tokens = recall.prefix_of(self.model.tokens_of, read_text(filler_path), self.prefix)
		return Text("recall", tokens, self.kv_of(tokens))

	def recall(self, text: Text, kv: tuple, digest: str) -> list:
		key = f"recall {digest_of(text.tokens)} {digest}"
		if key not in self.store.metrics:
			self.store.note(key, recall.ask(self.model, kv))
		return self.store.metrics[key]
