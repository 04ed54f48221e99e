# SPDX-License-Identifier: Apache-2.0
"""How a model of transformers rotates its keys, found by what it does, not by its name."""

import dataclasses

import torch
from transformers import DynamicCache

TOKENS = 32
BOUND = 2e-3  # of the largest element: many times what float angles at such positions are off by


@dataclasses.dataclass
class Rope:
	"""How K was rotated: dimensions first to first + 2 * len(inv_freq) - 1 of each head, times `scale`."""
	inv_freq: list
	interleaved: bool
	scale: float
	first: int = 0

	def __str__(self) -> str:
		return (f"dimensions {self.first} to {self.first + 2 * len(self.inv_freq) - 1}, " +
		        ("pairs" if self.interleaved else "halves") + f", factor {self.scale:.4g}")


def turn_back(rope: Rope, values, positions):
	"""Rotated keys, or gradients by them, [..., tokens, dims], to those before their rotation (times the scale twice)."""
	if rope is None:
		return values
	half, at = len(rope.inv_freq), rope.first
	angle = positions[:, None].double() * torch.tensor(rope.inv_freq, dtype=torch.float64)
	cos, sin = (rope.scale * angle.cos()).float(), (rope.scale * angle.sin()).float()
	first, second = ((slice(at, at + 2 * half, 2), slice(at + 1, at + 2 * half, 2)) if rope.interleaved
	                 else (slice(at, at + half), slice(at + half, at + 2 * half)))
	a, b = values[..., first], values[..., second]
	turned = values.clone()
	turned[..., first], turned[..., second] = a * cos + b * sin, b * cos - a * sin
	return turned


def candidates(model, config, dims: int) -> list:
	"""None, and each table of frequencies that the model has, in each style and at each end of a row."""
	tables = []
	for module in model.modules():
		for name, values in list(vars(module).items()) + list(module.named_buffers(recurse=False)):
			if name.endswith("inv_freq") and "original" not in name and isinstance(values, torch.Tensor) and 2 * values.numel() <= dims:
				scale = getattr(module, name.removesuffix("inv_freq") + "attention_scaling", 1.0)
				tables.append((tuple(values.double().flatten().tolist()), float(scale or 1.0)))
	rotary = getattr(config, "rotary_dim", None)  # GPT-J and its like hold cosines, not frequencies
	if rotary and rotary <= dims:
		tables.append((tuple(10000.0 ** (-i / rotary) for i in range(0, rotary, 2)), 1.0))
	return [None] + [Rope(list(table), interleaved, scale, first) for table, scale in dict.fromkeys(tables)
	                 for interleaved in (False, True) for first in sorted({0, dims - 2 * len(table)})]


def spread_of(rope: Rope, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
	"""For each layer, how far its rows, turned back, differ between positions."""
	turned = turn_back(rope, rows, positions)
	spread = (turned - turned.mean(2, keepdim=True)).abs().amax((1, 2, 3))
	return spread / (rows.abs().amax((1, 2, 3)).clamp_min(1e-30) * (rope.scale**2 if rope else 1))


@torch.inference_mode()
def find_rope(model, config, token: int, end: int) -> tuple:
	"""(Rope or None, notes). At every position of one token repeated each layer computes the same K, as attention over equal values is that
	value: so keys turned back rightly are the same everywhere."""
	count = min(TOKENS, end)
	positions, cache = torch.arange(end - count, end), DynamicCache()
	try:
		model(torch.tensor([[token] * count]), position_ids=positions[None], past_key_values=cache, use_cache=True)
	except TypeError:  # no position_ids
		positions, cache = torch.arange(count), DynamicCache()
		model(torch.tensor([[token] * count]), past_key_values=cache, use_cache=True)
	keys, values = (torch.cat([getattr(layer, name) for layer in cache.layers]) for name in ("keys", "values"))
	spreads = [(rope, spread_of(rope, keys, positions)) for rope in candidates(model, config, keys.shape[3])]
	best, spread = min(spreads, key=lambda found: (-int((found[1] < BOUND).sum()), float(found[1].sum())))
	strange = [layer for layer, value in enumerate(spread.tolist()) if value >= BOUND]
	if len(strange) == len(keys):
		return None, ["K depends on its position in a way that no table of this model explains (learned positions?): coded as it is"]
	notes = []
	if strange:
		notes.append(f"layers {', '.join(map(str, strange))} rotate K otherwise than the rest: theirs is harder to code")
	if bool((spread_of(None, values, positions) >= BOUND).any()):
		notes.append("V depends on its position (the rotated keys beside a latent?): coded as it is")
	return best, notes
