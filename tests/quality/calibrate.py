# SPDX-License-Identifier: Apache-2.0
"""Makes a model's profile with `kvcask calibrate`, of the KV of texts that are not those that are measured.

    calibrate.py -o FILE [--model DIR] [--texts FILE...]    (by tests/e2e/with-engine)
"""

import argparse
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TEXTS = [os.path.join(HERE, "texts", "calibration", name + ".txt") for name in ("prose", "code", "dialogue", "manual", "mixed")]
PIECE = 1024      # tokens of one run
PCA_LAYERS = 5


def dump(model, prefill, texts: list, folder: str, say) -> list:
	"""K.npy and V.npy of each piece of the texts: their paths, K and V in turns."""
	paths = []
	for path in texts:
		with open(path, encoding="utf-8") as file:
			tokens = model.tokens_of(file.read())
		for at in range(0, len(tokens) - PIECE // 2, PIECE):
			say(f"calibration: {os.path.basename(path)}, token {at} of {len(tokens)}", passing=True)
			for name, values in zip("kv", prefill(tokens[at:at + PIECE])):
				paths.append(os.path.join(folder, f"{len(paths) // 2}-{name}.npy"))
				np.save(paths[-1], values)
	return paths


def rope_options(model, head_dim: int, folder: str) -> list:
	rope = model.rope()
	if rope is None:
		return ["--rope-style", "none"]
	path = os.path.join(folder, "inv-freq")
	with open(path, "w") as file:
		file.write("\n".join(f"{value:.9g}" for value in rope.inv_freq) + "\n")
	options = ["--inv-freq", path, "--rope-style", "gptj" if rope.interleaved else "neox", "--rope-factor", f"{rope.scale:.9g}"]
	return options + (["--rotary-dims", str(2 * len(rope.inv_freq))] if 2 * len(rope.inv_freq) != head_dim else [])


def pca_layers_of(layers: int) -> int:
	"""Five, or as many as share the layers out evenly."""
	return next((group for group in (PCA_LAYERS, 4, 6, 3, 2) if layers % group == 0), PCA_LAYERS)


def make(model, prefill, kvcask: str, out: str, texts: list, say) -> None:
	"""prefill: tokens to their KV; kvcask: the program."""
	with tempfile.TemporaryDirectory(prefix="kvcask-calibrate-") as folder:
		paths = dump(model, prefill, texts or TEXTS, folder, say)
		layers, _, _, dims = np.load(paths[0], mmap_mode="r").shape
		command = [kvcask, "calibrate", *paths, "-o", out, "--name", os.path.basename(os.path.abspath(model.folder)),
		           "--pca", str(pca_layers_of(layers)), *rope_options(model, dims, folder)]
		say(f"kvcask calibrate: {len(paths) // 2} runs of up to {PIECE} tokens")
		subprocess.run(command, check=True, stdout=sys.stderr)


def main() -> int:
	parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
	parser.add_argument("-o", required=True, metavar="FILE", dest="out")
	parser.add_argument("--model", default=os.environ.get("KVC_ENGINE_MODEL"), metavar="DIR")
	parser.add_argument("--texts", nargs="+", metavar="FILE", help="default: texts/calibration")
	parser.add_argument("--build", default=os.environ.get("KVC_BUILD", "build"), metavar="DIR")
	args = parser.parse_args()
	import model
	from quality import Say
	loaded = model.Model(args.model)
	make(loaded, loaded.prefill, os.path.join(args.build, "bin", "kvcask"), args.out, args.texts, Say())
	return 0


if __name__ == "__main__":
	sys.path.insert(0, HERE)
	sys.exit(main())
