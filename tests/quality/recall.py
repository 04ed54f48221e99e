# SPDX-License-Identifier: Apache-2.0
"""Twenty facts stated in the prefix, asked for behind it. The prefix is always the same: facts between pieces of a given text."""

COLOURS = ["amber", "black", "blue", "bronze", "brown", "copper", "cream", "golden", "green", "grey", "ivory", "orange", "pink", "purple",
           "red", "silver", "tan", "violet", "white", "yellow"]
THINGS = ["lamp", "door", "boat", "clock", "box", "bell", "chair", "key", "cart", "drum", "flag", "gate", "horse", "kite", "ladder", "mirror",
          "piano", "stove", "table", "wheel"]


def facts() -> list:
	"""[(question, answer)]: the numbers follow from a small generator, the same on every machine."""
	state, found = 20251, []
	for colour, thing in zip(COLOURS, THINGS):
		state = (state * 1103515245 + 12345) & 0x7fffffff
		found.append((f"{colour}_{thing} =", f" {1000 + (state >> 8) % 9000}"))
	return found


def prefix_of(tokens_of, filler: str, count: int) -> list:
	"""Tokens of the facts with lines of the filler between them, cut to `count`; no fact is cut off."""
	lines = [line for line in filler.splitlines() if line.strip()]
	for lines_each in range(12, -1, -1):
		pieces, at = [], 0
		for question, answer in facts():
			pieces += lines[at:at + lines_each] + [question + answer]
			at += lines_each
		stated = tokens_of("\n".join(pieces) + "\n")
		if len(stated) <= count:
			# What is missing comes in front: the facts are then the nearer part, and the sinks are no facts.
			head = tokens_of("\n".join(lines[at:]) + "\n")
			missing = count - len(stated)
			return (head * (missing // max(1, len(head)) + 1))[:missing] + stated
	raise ValueError(f"the facts do not fit into {count} tokens")


def ask(model, kv) -> list:
	"""For each fact: whether greedy decoding would say the number that was stated."""
	asked = [(model.tokens_of(question), model.tokens_of(answer)) for question, answer in facts()]
	found = model.ask(kv, [question + answer[:-1] for question, answer in asked])
	right = []
	for (question, answer), logits in zip(asked, found):
		said = logits[len(question) - 1:].argmax(-1).tolist()
		right.append(said == answer)
	return right
