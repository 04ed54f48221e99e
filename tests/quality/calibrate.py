# SPDX-License-Identifier: Apache-2.0
"""Makes a model's profile with `kvcask calibrate`, of the KV of texts that are not those that are measured, and of weights: how much an error of each
element of K and V would matter, by the gradient of the loss.

    calibrate.py -o FILE [--model DIR] [--texts FILE...] [--no-weights]    (by tests/e2e/with-engine)
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import text_files  # noqa: E402

TEXTS = [os.path.join(HERE, "texts", "calibration", name + ".txt") for name in ("prose", "code", "dialogue", "manual", "mixed")]
PIECE = 1024      # tokens of one run
PCA_LAYERS = 5
SINKS = 4
QUIET = (0.5, 0.35)  # of the usual length of a row of K, of V


def dump(model, prefill, texts: list, folder: str, say) -> list:
	"""K.npy and V.npy of each piece of the texts: their paths, K and V in turns."""
	paths = []
	for path in texts:
		tokens = model.tokens_of(text_files.read_text(path))
		for at in range(0, len(tokens) - PIECE // 2, PIECE):
			say(f"calibration: {os.path.basename(path)}, token {at} of {len(tokens)}", passing=True)
			for name, values in zip("kv", prefill(tokens[at:at + PIECE])):
				paths.append(os.path.join(folder, f"{len(paths) // 2}-{name}.npy"))
				np.save(paths[-1], values)
	return paths


def gradients(model, kv: tuple, tokens: list) -> tuple:
	"""By K (before rotation) and V [layers, heads, tokens, dims] of the prefix, of the likelihood of tokens that are drawn from what the model
	itself expects behind each of `tokens`: their mean square is the diagonal of Fisher's information."""
	import torch
	from model import floats_of
	from model_rope import turn_back
	from transformers import DynamicCache
	planes = [[floats_of(layer).transpose(0, 1)[None].clone().requires_grad_() for layer in part] for part in kv]
	cache = DynamicCache()
	for layer, (k, v) in enumerate(zip(*planes)):
		cache.update(k, v, layer)
	with torch.enable_grad():
		logits = model.model(torch.tensor([tokens]), past_key_values=cache, use_cache=True).logits[0]
		expected = torch.log_softmax(logits, -1)
		drawn = torch.multinomial(expected.detach().exp(), 1, generator=torch.Generator().manual_seed(len(tokens)))
		found = torch.autograd.grad(-expected.gather(1, drawn).sum(), planes[0] + planes[1])
	count = len(planes[0])
	return (turn_back(model.rope(), torch.cat(found[:count]), torch.arange(kv[0].shape[1])), torch.cat(found[count:]))


def piece_weights(model, kv: tuple, tokens: list) -> list:
	"""Mean squares over the tokens of one run, [layers, heads, dims] for K and V, without those that the codec keeps anyway (codec/ecsq_kept.c)."""
	from model import floats_of
	at = kv[0].shape[1]
	means, total = [], 0.0
	for part, gradient, quiet in zip(kv, gradients(model, kv, tokens[at:]), QUIET):
		values = floats_of(part).square().sum((2, 3))[:, SINKS:]
		loud = values >= quiet**2 * values.mean(1, keepdim=True)
		mean = (gradient[:, :, SINKS:].square() * loud[:, None, :, None]).mean(2)
		total += float((mean.mean((1, 2)) * values.mean(1)).sum())
		means.append(mean)
	# Runs in which all errors matter much are not to decide alone.
	return [(mean / total**0.5).numpy() for mean in means]


def weigh(model, prefill, texts: list, say) -> list:
	"""Weights of K and V."""
	found = []
	for path in texts:
		tokens = model.tokens_of(text_files.read_text(path))
		for at in range(0, len(tokens) - PIECE // 2, PIECE):
			say(f"weights: {os.path.basename(path)}, token {at} of {len(tokens)}", passing=True)
			piece = tokens[at:at + PIECE]
			prefix = len(piece) * 3 // 4
			found.append(piece_weights(model, tuple(part[:, :prefix] for part in prefill(piece)), piece))
	return [np.mean([pair[plane] for pair in found], axis=0) for plane in (0, 1)]


def weights_options(model, prefill, texts: list, folder: str, say) -> list:
	import torch
	from model import bf16_of
	options = []
	for name, values in zip("kv", weigh(model, prefill, texts, say)):
		path = os.path.join(folder, f"weights-{name}.npy")
		np.save(path, bf16_of(torch.from_numpy(values[:, None])))
		options += [f"--weights-{name}", path]
	return options


def rope_options(model, head_dim: int, folder: str) -> list:
	rope = model.rope()
	if rope is None:
		return ["--rope-style", "none"]
	path = os.path.join(folder, "inv-freq")
	with open(path, "w") as file:
		file.write("\n".join(f"{value:.9g}" for value in rope.inv_freq) + "\n")
	options = ["--inv-freq", path, "--rope-style", "gptj" if rope.interleaved else "neox", "--rope-factor", f"{rope.scale:.9g}"]
	if 2 * len(rope.inv_freq) != head_dim:
		options += ["--rotary-dims", str(2 * len(rope.inv_freq)), "--rotary-first", str(rope.first)]
	return options


def pca_layers_of(layers: int) -> int:
	"""Five, or as many as share the layers out evenly."""
	return next((group for group in (PCA_LAYERS, 4, 6, 3, 2) if layers % group == 0), PCA_LAYERS)


def make(model, prefill, kvcask: str, out: str, texts: list, say, weights: bool = True, codebooks: bool = False) -> None:
	"""prefill: tokens to their KV; kvcask: the program."""
	with tempfile.TemporaryDirectory(prefix="kvcask-calibrate-") as folder:
		paths = dump(model, prefill, texts or TEXTS, folder, say)
		if not paths:
			raise ValueError(f"calibration: no text of {PIECE // 2} tokens or more")
		layers, _, _, dims = np.load(paths[0], mmap_mode="r").shape
		command = [kvcask, "calibrate", *paths, "-o", out, "--name", os.path.basename(os.path.abspath(model.folder)),
		           "--pca", str(pca_layers_of(layers)), *rope_options(model, dims, folder)]
		if weights:
			command += weights_options(model, prefill, texts or TEXTS, folder, say)
		if codebooks:
			command.append("--codebooks")
		say(f"kvcask calibrate: {len(paths) // 2} runs of up to {PIECE} tokens")
		subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> int:
	parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
	parser.add_argument("-o", required=True, metavar="FILE", dest="out")
	parser.add_argument("--model", default=os.environ.get("KVC_ENGINE_MODEL"), metavar="DIR")
	parser.add_argument("--texts", nargs="+", metavar="PATH", help="files, or folders of them; default: texts/calibration")
	parser.add_argument("--no-weights", action="store_true", help="by KV alone, as from a running store")
	parser.add_argument("--codebooks", action="store_true", help="for pq, too")
	parser.add_argument("--build", default=os.environ.get("KVC_BUILD", "build"), metavar="DIR")
	args = parser.parse_args()
	import model
	from quality import Say
	say = Say()
	try:
		loaded = model.Model(args.model)
		loaded.check()
		say(loaded.describe_rope())
		texts = text_files.found(args.texts) if args.texts else TEXTS
		make(loaded, loaded.prefill, os.path.join(args.build, "bin", "kvcask"), args.out, texts, say, not args.no_weights, args.codebooks)
	except (ValueError, OSError, subprocess.CalledProcessError) as error:
		say(f"failed: {error}")
		return 1
	return 0


if __name__ == "__main__":
	sys.exit(main())
