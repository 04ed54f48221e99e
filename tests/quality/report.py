# SPDX-License-Identifier: Apache-2.0
"""One codec's rows to one line, and lines to a table."""

import math


def mean(values) -> float:
	values = list(values)
	return sum(values) / len(values)


def summary(spec: str, rows: list, profile_note: str = None) -> dict:
	"""Over the texts: sums of bytes, means of KL and agreement, the geometric mean of perplexity over the reference's."""
	texts = [row for row in rows if row["text"] != "recall"]
	tasks = [row for row in rows if row["text"] == "recall"]
	generated = [row for row in texts if "equal" in row]
	raw, stored = sum(row["raw_bytes"] for row in texts), sum(row["stored_bytes"] for row in texts)
	found = {"codec": spec, "texts": len(texts), "compression_ratio": raw / stored, "bits_per_value": 16 * stored / raw,
	         "rel_l2_k": mean(row["rel_l2_k"] for row in texts), "rel_l2_v": mean(row["rel_l2_v"] for row in texts),
	         "kl": mean(row["kl"] for row in texts), "kl_worst_text": max(row["kl"] for row in texts),
	         "top1": mean(row["top1"] for row in texts),
	         "ppl_change": mean(row["ppl"] - row["ppl_reference"] for row in texts),
	         "ppl_change_relative": math.exp(mean(math.log(row["ppl"] / row["ppl_reference"]) for row in texts)) - 1}
	if generated:
		found.update(generated_texts=len(generated), generated_equal=mean(row["equal"] for row in generated),
		             generated_first_other=sorted(row["first_other"] for row in generated))
	if tasks:
		found.update({"recall_" + key: tasks[0][key] for key in ("facts", "right", "right_raw", "as_raw")})
	found["profile"] = profile_note
	found["rows"] = rows
	return found


def table(summaries: list) -> str:
	head = ["codec", "bits a value", "ratio", "rel L2 K / V", "KL (worst text)", "top-1", "perplexity"]
	recall = any("recall_facts" in one for one in summaries)
	generated = any("generated_equal" in one for one in summaries)
	if recall:
		first = next(one for one in summaries if "recall_facts" in one)
		head.append(f"facts of {first['recall_facts']} (raw: {first['recall_right_raw']})")
	if generated:
		head.append("generated alike, first other token")
	lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
	for one in summaries:
		cells = [f"`{one['codec']}`", f"{one['bits_per_value']:.2f}", f"{one['compression_ratio']:.2f}",
		         f"{one['rel_l2_k']:.3f} / {one['rel_l2_v']:.3f}", f"{one['kl']:.5f} ({one['kl_worst_text']:.5f})",
		         f"{100 * one['top1']:.1f} %", f"{one['ppl_change']:+.3f} ({100 * one['ppl_change_relative']:+.2f} %)"]
		if recall:
			cells.append(f"{one['recall_right']}" if "recall_facts" in one else "")
		if generated:
			cells.append(f"{100 * one['generated_equal']:.0f} %, {one['generated_first_other'][len(one['generated_first_other']) // 2]}"
			             if "generated_equal" in one else "")
		lines.append("| " + " | ".join(cells) + " |")
	notes = sorted({one["profile"] for one in summaries if one.get("profile")})
	return "\n".join(lines) + "\n" + "".join(f"\n{note}.\n" for note in notes)
