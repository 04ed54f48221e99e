# SPDX-License-Identifier: Apache-2.0
"""The harness with other models and other texts: tiny ones of other shapes go all the way, what it cannot measure is refused in a line."""

import os
import tempfile

import quality
import tiny_models

# A longer head and scaling; pairs in half of a row; rows of K and V of other lengths.
SHORT = ("llama, heads of 128, llama3 scaling", "gpt-j, pairs", "deepseek 2")
REFUSED = {"mamba": "K and V", "jamba": "K and V", "t5": "no causal language model"}
# spec: (most error of K, least ratio): of random weights, so far from tight.
CODECS = {"split": (0.0, 1.3), "int8": (0.02, 1.7), "ecsq:step=0.5": (0.3, 3.0), "ecsq+pca:step=0.5": (0.3, 3.0)}
SIZES = ["--prefix", "256", "--continue", "32", "--block", "128", "--threads", "1", "--no-recall"]


class Lines:
	"""Instead of quality.Say: what was said."""

	def __init__(self):
		self.text = ""

	def __call__(self, text: str, passing: bool = False) -> None:
		self.text += text + "\n"


def run(folder: str, *more) -> list:
	argv = ["--model", folder, "--keep", os.path.join(folder, "keep"), *SIZES, *more]
	return quality.run(quality.parse(argv), Lines())


def measured(name: str, folder: str) -> list:
	"""What is wrong with the figures of one model, with a text and with one that says one thing again and again."""
	texts = os.path.join(folder, "texts")
	os.mkdir(texts)
	with open(os.path.join(texts, "repeated.txt"), "w") as file:
		file.write("a" * 400)
	with open(os.path.join(texts, "unlike.txt"), "w", encoding="utf-8") as file:
		file.write("".join(chr(0x4e00 + at * 7919 % 20000) for at in range(400)))
	calibration = os.path.join(os.path.dirname(quality.TEXTS[0]), "calibration", "mixed.txt")
	specs = sum((["--codec", spec] for spec in CODECS), [])
	wrong, found = [], {one["codec"]: one for one in run(folder, *specs, "--texts", texts, "--calibration", calibration)}
	for spec, (most, least) in CODECS.items():
		if spec not in found or found[spec]["texts"] != 2:
			wrong.append(f"{name}, {spec}: not measured")
			continue
		one = found[spec]
		error = one["rows"][1]["rel_l2_k"]
		if not (error <= most and one["compression_ratio"] >= least and 0 <= one["kl"] < 1 and one["profile"].startswith("Profile of")):
			wrong.append(f"{name}, {spec}: error of K {error:.3f}, ratio {one['compression_ratio']:.2f}, KL {one['kl']:.4f}, {one['profile']}")
	return wrong


def refusal(wanted: str, *args) -> list:
	try:
		run(*args)
	except ValueError as error:
		text = str(error)
		return [] if wanted in text and "\n" not in text and len(text) < 400 else [f"refused, but with: {text}"]
	return [f"{args}: not refused"]


def refused_texts(folder: str) -> list:
	"""Before anything is measured."""
	wrong = []
	for name, content, wanted in (("empty", b"", "0 tokens"), ("short", b"too short", "9 tokens"), ("binary", b"\xff\xfe\0\1" * 200, "UTF-8")):
		path = os.path.join(folder, name)
		with open(path, "wb") as file:
			file.write(content)
		wrong += refusal(wanted, folder, "--codec", "int8", "--texts", path)
	own = os.path.join(folder, "own")  # of what the profile was made of
	with open(own, "w") as file:
		file.write("All of this is in the profile. " * 40)
	fair = run(folder, "--codec", "ecsq", "--texts", own, "--calibration", own)[0]["profile"]
	return wrong + ([] if fair.startswith("NOT A FAIR MEASURE") else [f"a text that made the profile is taken for another: {fair}"])


def failures(long: bool) -> list:
	wrong = []
	for name in tiny_models.MODELS if long else (*SHORT, *REFUSED):
		with tempfile.TemporaryDirectory(prefix="kvcask-model-") as folder:
			tiny_models.save(name, folder)
			if name in REFUSED:
				wrong += refusal(REFUSED[name], folder, "--codec", "int8", "--texts", quality.TEXTS[0])
			else:
				wrong += measured(name, folder)
			if name == SHORT[0]:
				wrong += refused_texts(folder)
	return wrong
