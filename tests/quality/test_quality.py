# SPDX-License-Identifier: Apache-2.0
"""The short form of the harness, for CI: one text, the codecs that have bars. KVC_LONG=1: all texts, all codecs, recall and generations.

The bars are those of docs/codecs.md, means over five texts. One text of the five lies up to half above the mean of all: the short form allows that.
"""

import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import quality  # noqa: E402
import report  # noqa: E402

# spec: (most KL, least ratio), over the five texts
BARS = {
	"split": (0.0, 1.45),
	"int8": (0.0003, 2.15),
	"kv4": (0.012, 3.65),
	"ecsq:step=0.25": (0.002, 3.9),
	"ecsq:step=0.5": (0.011, 5.1),
	"ecsq+pca:step=0.25": (0.002, 5.0),
	"ecsq+pca:step=0.5": (0.006, 7.2),
	"ecsq+pca:step=0.75": (0.012, 9.4),
}
SHORT = ["split", "int8", "kv4", "ecsq:step=0.5", "ecsq+pca:step=0.5"]
SHORT_MARGIN = 1.5  # of KL: one text
LEAST_AGREEMENT = 0.93


def breaches(summary: dict, margin: float) -> list:
	most, least = BARS[summary["codec"]]
	found = []
	if summary["kl"] > most * margin:
		found.append(f"KL {summary['kl']:.6f} above {most * margin:.6f}")
	if summary["compression_ratio"] < least:
		found.append(f"ratio {summary['compression_ratio']:.3f} below {least}")
	if summary["top1"] < LEAST_AGREEMENT:
		found.append(f"top-1 agreement {summary['top1']:.3f} below {LEAST_AGREEMENT}")
	if any(row.get("raw_units") for row in summary["rows"]):
		found.append("some parts of ordinary KV were not coded at all")
	return found


def main() -> int:
	long, began = os.environ.get("KVC_LONG") == "1", time.monotonic()
	argv = ["--long"] if long else ["--texts", quality.TEXTS[0], "--no-recall"] + sum((["--codec", spec] for spec in SHORT), [])
	summaries = quality.run(quality.parse(argv), quality.Say())
	print(report.table(summaries))
	bad = 0
	for summary in summaries:
		for text in breaches(summary, 1.0 if long else SHORT_MARGIN) if summary["codec"] in BARS else []:
			print(f"FAILED {summary['codec']}: {text}")
			bad += 1
	measured = {summary["codec"] for summary in summaries}
	for spec in [spec for spec in (BARS if long else SHORT) if spec not in measured]:
		print(f"FAILED {spec}: not measured")
		bad += 1
	print(f"{len(summaries)} codecs in {time.monotonic() - began:.0f} s, {bad} bars missed")
	return 1 if bad else 0


if __name__ == "__main__":
	sys.exit(main())
