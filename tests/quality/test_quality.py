# SPDX-License-Identifier: Apache-2.0
"""The short form of the harness, for CI: one text, the codecs that have bars, and other models and texts in small (other_models.py). KVC_LONG=1:
all texts, all codecs, recall and generations, and more models.

Figures follow from the texts, the model and the library; only the last digits are the machine's.
"""

import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import other_models  # noqa: E402
import quality  # noqa: E402
import report  # noqa: E402

# spec: (most KL, least ratio), over the five texts: the goals.
BARS = {
	"split": (1e-6, 1.45),
	"int8": (0.0003, 2.2),
	"kv4": (0.012, 3.7),
	"ecsq:step=0.25": (0.002, 3.9),
	"ecsq:step=0.5": (0.011, 5.2),
	"ecsq+pca:step=0.25": (0.002, 5.2),
	"ecsq+pca:step=0.5": (0.006, 7.7),
	"ecsq+pca:step=0.75": (0.012, 10.3),
}
# The same of the prose alone, where what a profile with weights has to spare is asked for, too.
SHORT_BARS = {
	"split": (1e-6, 1.48),
	"int8": (0.0003, 2.2),
	"kv4": (0.012, 3.65),
	"ecsq:step=0.5": (0.004, 5.2),
	"ecsq+pca:step=0.5": (0.003, 7.7),
}
LEAST_AGREEMENT = 0.9


def breaches(summary: dict, most: float, least: float) -> list:
	found = []
	if summary["kl"] > most:
		found.append(f"KL {summary['kl']:.6f} above {most}")
	if summary["compression_ratio"] < least:
		found.append(f"ratio {summary['compression_ratio']:.3f} below {least}")
	if summary["top1"] < LEAST_AGREEMENT:
		found.append(f"top-1 agreement {summary['top1']:.3f} below {LEAST_AGREEMENT}")
	if summary["codec"] == "split" and (summary["rel_l2_k"] or summary["rel_l2_v"]):
		found.append("what is lossless lost something")
	if summary["profile"] and not summary["profile"].startswith("Profile of"):
		found.append(summary["profile"])
	if any(row.get("raw_units") for row in summary["rows"]):
		found.append("some parts of ordinary KV were not coded at all")
	return found


def main() -> int:
	long, began = os.environ.get("KVC_LONG") == "1", time.monotonic()
	bars = BARS if long else SHORT_BARS
	argv = ["--long"] if long else ["--texts", quality.TEXTS[0], "--no-recall"] + sum((["--codec", spec] for spec in bars), [])
	summaries = {summary["codec"]: summary for summary in quality.run(quality.parse(argv), quality.Say())}
	print(report.table(list(summaries.values())))
	missed = [f"{spec}: not measured" for spec in bars if spec not in summaries]
	for spec, (most, least) in bars.items():
		if spec in summaries:
			missed += [f"{spec}: {text}" for text in breaches(summaries[spec], most, least)]
	missed += other_models.failures(long)
	for text in missed:
		print(f"FAILED {text}")
	print(f"{len(summaries)} codecs in {time.monotonic() - began:.0f} s, {len(missed)} wrong")
	return 1 if missed else 0


if __name__ == "__main__":
	sys.exit(main())
