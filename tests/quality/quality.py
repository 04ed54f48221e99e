# SPDX-License-Identifier: Apache-2.0
"""What codecs do to a model: KL, top-1 agreement, perplexity, recall and generations, with KV that the C library coded and decoded.

    tests/quality/run [--codec SPEC]... [-o table.md]       needs tools/setup --engine and a build

A text's prefix goes through the model, its KV is rounded to bf16, coded and decoded in blocks by the library, put back, and the text's next
tokens are fed (teacher forcing). The reference is the same with the bf16 KV. See tests/quality/README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import codec_lib  # noqa: E402
import layer_inputs  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import text_files  # noqa: E402

TEXTS = [os.path.join(HERE, "texts", name + ".txt") for name in ("prose", "code", "dialogue", "manual", "mixed")]
FILLER = TEXTS[0]

# The table of docs/codecs.md; steps that make the ratios of our goals. What this build has not is left out, and said.
SPECS = ["split", "int8", "fp8:variant=0", "fp8:variant=1", "fp8:variant=2", "kv4", "kv4:bits=3", "kv4:bits=2,group=32",
         "ecsq:step=0.2548", "ecsq:step=0.5110", "ecsq:step=1",
         "ecsq+pca:step=0.2294", "ecsq+pca:step=0.4542", "ecsq+pca:step=0.6907", "ecsq+pca:step=1",
         "pq", "pq:variant=1", "cachegen", "cachegen:variant=1", "cachegen:variant=1,step=0.5",
         "xquant:bits_k=8", "xquant", "xquant:bits_k=3,variant=1", "hevc", "hevc:variant=1", "hevc:qp=16"]


class Say:
	"""Progress on stderr: lines that stay, and one that passes where a person looks on."""

	def __init__(self):
		self._began, self._shown, self._last = time.monotonic(), False, 0.0

	def __call__(self, text: str, passing: bool = False) -> None:
		tty = sys.stderr.isatty()
		now = time.monotonic()
		if passing and not tty and now - self._last < 30:
			return
		self._last = now
		head = "\r\x1b[K" if tty and self._shown else ""
		self._shown = passing and tty
		print(f"{head}[quality {now - self._began:5.0f}s] {text}", end="" if passing and tty else "\n", file=sys.stderr, flush=True)


class Coder:
	"""Specs of this build, the profile that some need, and KV through them."""

	def __init__(self, build: str, block: int, page: int):
		self.library = codec_lib.Library(build)
		self.block, self.page, self.profile = block, page, None

	def usable(self, specs: list, say) -> list:
		found = []
		for spec in specs:
			try:
				self.library.check(layer_inputs.bare(spec))
				found.append(spec)
			except codec_lib.CodecError as error:
				say(f"left out: {error}")
		return found

	def needs_profile(self, specs: list) -> bool:
		return any(self.library.check(layer_inputs.bare(spec))[1] for spec in specs)

	def code(self, spec: str, kv: tuple) -> measure.Decoded:
		dims = [part.shape[3] for part in kv]
		k, v = (self.library.round_trip(spec, part, is_k=i == 0, other_dims=dims[1 - i], block_tokens=self.block,
		                                page_tokens=self.page, profile=self.profile) for i, part in enumerate(kv))
		return measure.Decoded((k.values, v.values), k.raw_bytes + v.raw_bytes, k.stored_bytes + v.stored_bytes,
		                       (measure.rel_l2(k.values, kv[0]), measure.rel_l2(v.values, kv[1])), k.raw_units + v.raw_units)


def default_profile(bench, args, specs: list, say) -> tuple:
	"""The profile of this model, made by `kvcask calibrate` of the contained calibration texts or those that were named; made again when that
	is a newer program. Its path, and the tokens of those texts."""
	import calibrate
	texts = text_files.found(args.calibration) if args.calibration else calibrate.TEXTS
	tokens = [bench.model.tokens_of(text_files.read_text(path)) for path in texts]
	name = "profile" + ("-codebooks" if any(spec.split(":")[0] == "pq" for spec in specs) else "")
	name += "-" + measure.digest_of(sum(tokens, [])) if args.calibration else ""
	path = os.path.join(bench.store.folder, name + ".kvprofile")
	kvcask = os.path.join(args.build, "bin", "kvcask")
	say(f"profile: {bench.model.describe_rope()}")
	if args.recalibrate or not os.path.exists(path) or os.path.getmtime(path) < os.path.getmtime(kvcask):
		say(f"a profile of this model: kvcask calibrate, from {sum(map(len, tokens))} tokens of other texts")
		calibrate.make(bench.model, bench.kv_of, kvcask, path + ".partial", texts, say, codebooks="codebooks" in name)
		os.replace(path + ".partial", path)
	return path, tokens


def profile_note(measured: list, known: list) -> str:
	"""Whether what is measured was known to the profile, for the report."""
	total = sum(map(len, known))
	for text in measured:
		if runs := text_files.shared_runs(text.tokens, known):
			return (f"NOT A FAIR MEASURE: {runs} runs of {text_files.RUN_TOKENS} tokens of {text.name} are in the texts that "
			        "the profile is made of, too")
	return (f"Profile of {total} tokens of {len(known)} other texts: no {text_files.RUN_TOKENS} tokens in a row of what is measured "
	        "are in them")


def decode_all(bench, coder, specs: list, state, say) -> dict:
	"""What this model's KV, or the profile, has no place for is said, and left out."""
	decoded = {}
	for spec in specs:
		try:
			if layer_inputs.wanted(spec):
				decoded[spec] = layer_inputs.code(bench, coder, spec, state.tokens[:bench.prefix], state.kv)
			else:
				decoded[spec] = coder.code(spec, state.kv)
		except codec_lib.CodecError as error:
			say(f"{state.name}: left out: {error}")
	return decoded


def measure_texts(bench, coder, specs: list, texts: list, args, say) -> dict:
	"""{spec: [a row for each text]}"""
	rows = {spec: [] for spec in specs}
	for number, text in enumerate(texts):
		say(f"text {number + 1}/{len(texts)}: {text.name}", passing=True)
		bench.load(text)
		decoded = decode_all(bench, coder, specs, text, say)
		for at, (spec, one) in enumerate(decoded.items()):
			row = {"text": text.name, "raw_bytes": one.raw_bytes, "stored_bytes": one.stored_bytes,
			       "rel_l2_k": one.rel_l2[0], "rel_l2_v": one.rel_l2[1], "raw_units": one.raw_units,
			       **bench.quality(text, one)}
			rows[spec].append(row)
			say(f"{text.name} {at + 1}/{len(specs)} {spec}: ratio {one.raw_bytes / one.stored_bytes:.3f}, "
			    f"KL {row['kl']:.5f}, top-1 {100 * row['top1']:.1f} %" +
			    (f" ({one.raw_units} units did not shrink, or have no place in the profile: raw)" if one.raw_units else ""))
		if number < args.generate_texts:
			for spec, made in zip(decoded, bench.generations(text, list(decoded.values()), args.generate)):
				rows[spec][-1].update(made)
		text.kv = text.reference = None
	return rows


def measure_recall(bench, coder, specs: list, rows: dict, say) -> None:
	try:
		state = bench.recall_text(FILLER)
	except ValueError as error:
		say(f"recall: left out: {error}")
		return
	truth = bench.recall(state, state.kv, "raw")
	for at, (spec, one) in enumerate(decode_all(bench, coder, specs, state, say).items()):
		answers = bench.recall(state, one.kv, one.digest())
		rows[spec].append({"text": "recall", "facts": len(truth), "right": sum(answers), "right_raw": sum(truth),
		                   "as_raw": sum(a == b for a, b in zip(answers, truth))})
		say(f"recall {at + 1}/{len(specs)} {spec}: {sum(answers)} of {len(truth)} (raw {sum(truth)})")


def parse(argv: list):
	parser = argparse.ArgumentParser(prog="tests/quality/run", description=__doc__.splitlines()[0],
	                                 epilog="Progress is on stderr, the table (or JSON) on stdout.")
	parser.add_argument("--codec", action="append", metavar="SPEC", help="NAME or NAME:key=value,...; x/SPEC: layer inputs; many (default: all)")
	parser.add_argument("--texts", nargs="+", default=TEXTS, metavar="PATH", help="files, or folders of them; default: the five of texts/")
	parser.add_argument("--model", default=os.environ.get("KVC_ENGINE_MODEL"), metavar="DIR", help="any causal LM of transformers")
	parser.add_argument("--profile", metavar="FILE", help="of kvcask calibrate (default: made of texts/calibration)")
	parser.add_argument("--calibration", nargs="+", metavar="PATH", help="texts to make the profile of (default: texts/calibration)")
	parser.add_argument("--recalibrate", action="store_true", help="make the profile again")
	parser.add_argument("--prefix", type=int, default=1024, metavar="TOKENS")
	parser.add_argument("--continue", type=int, default=256, metavar="TOKENS", dest="follow")
	parser.add_argument("--block", type=int, default=256, metavar="TOKENS", help="tokens of a block (default 256)")
	parser.add_argument("--page", type=int, default=16, metavar="TOKENS", help="tokens of an engine's page (default 16)")
	parser.add_argument("--generate", type=int, default=256, metavar="TOKENS", help="length of the greedy generations")
	parser.add_argument("--long", action="store_true", help="also the recall task, and generations for every text: hours on two cores")
	parser.add_argument("--no-recall", action="store_true")
	parser.add_argument("--generate-texts", type=int, metavar="N", help="generations for the first N texts (default 0, --long: all)")
	parser.add_argument("--build", default=os.environ.get("KVC_BUILD", "build"), metavar="DIR")
	parser.add_argument("--keep", metavar="DIR", help="where KV and results are kept (default: BUILD/quality)")
	parser.add_argument("--threads", type=int, default=2)
	parser.add_argument("--json", action="store_true", help="one object a codec instead of the table")
	parser.add_argument("-o", metavar="FILE", dest="out", help="the table goes there")
	args = parser.parse_args(argv)
	if not args.model or not os.path.isdir(args.model):
		parser.error(f"no model in '{args.model}': tools/setup --engine, or --model DIR")
	if min(args.prefix, args.follow, args.block, args.page, args.generate) < 1 or args.prefix % args.block or args.block % args.page:
		parser.error("--prefix must be whole blocks and --block whole pages: what is left over would not be coded")
	if args.generate_texts is None:
		args.generate_texts = sys.maxsize if args.long else 0
	return args


def open_bench(args, say):
	say("importing torch and transformers", passing=True)
	import model
	loaded = model.Model(args.model, args.threads)
	loaded.check()
	digest = loaded.digest()
	store = measure.Store(os.path.join(args.keep or os.path.join(args.build, "quality"), digest))
	say(f"model: {loaded.name()}; results are kept in {store.folder}")
	return measure.Bench(loaded, store, args.prefix, args.follow, say)


def run(args, say) -> list:
	coder = Coder(args.build, args.block, args.page)
	specs = coder.usable(args.codec or SPECS, say)
	if args.codec and len(specs) != len(args.codec):
		raise codec_lib.CodecError("not every codec that was asked for is in this build")
	bench = open_bench(args, say)
	texts = [bench.text(path) for path in text_files.found(args.texts)]
	note = None
	if coder.needs_profile(specs):
		path, known = (args.profile, None) if args.profile else default_profile(bench, args, specs, say)
		coder.profile = coder.library.profile(path)
		note = profile_note(texts, known) if known else f"Profile {path}: of what texts is not known here; fair only when of others"
		say(note)
	rows = measure_texts(bench, coder, specs, texts, args, say)
	if not args.no_recall:
		measure_recall(bench, coder, specs, rows, say)
	return [report.summary(spec, of_spec, note) for spec, of_spec in rows.items() if any("kl" in row for row in of_spec)]


def main(argv: list) -> int:
	args, say = parse(argv), Say()
	try:
		summaries = run(args, say)
	except (codec_lib.CodecError, ValueError, OSError, subprocess.CalledProcessError) as error:
		say(f"failed: {error}")
		return 1
	table = report.table(summaries)
	if args.out:
		with open(args.out, "w", encoding="utf-8") as file:
			file.write(table)
	print("\n".join(json.dumps(summary) for summary in summaries) if args.json else table)
	return 0


if __name__ == "__main__":
	sys.exit(main(sys.argv[1:]))
