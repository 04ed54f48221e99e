# SPDX-License-Identifier: Apache-2.0
"""The texts that are measured and those that profiles are made of."""

import os

RUN_TOKENS = 16


def found(paths: list) -> list:
	"""Files as they are named, folders as the files in them."""
	files = []
	for path in paths:
		if os.path.isdir(path):
			inside = sorted(os.path.join(path, name) for name in os.listdir(path) if not name.startswith("."))
			files += [name for name in inside if os.path.isfile(name)]
		else:
			files.append(path)
	if not files:
		raise ValueError(f"no texts in {', '.join(paths)}")
	return files


def read_text(path: str) -> str:
	try:
		with open(path, encoding="utf-8") as file:
			return file.read()
	except UnicodeDecodeError as error:
		raise ValueError(f"{path}: no text in UTF-8 (byte {error.start})") from error


def shared_runs(tokens: list, others: list) -> int:
	"""How many runs of RUN_TOKENS tokens are in one of `others`, too."""
	known = {tuple(other[at:at + RUN_TOKENS]) for other in others for at in range(len(other) - RUN_TOKENS + 1)}
	return sum(tuple(tokens[at:at + RUN_TOKENS]) in known for at in range(len(tokens) - RUN_TOKENS + 1))
