# SPDX-License-Identifier: Apache-2.0
"""The debug switch verify_loads: is what lies in the engine's pages after a load what was gathered at its store?

At a store every page's digest is appended to a file named by space and hash; a block that was evicted and stored again may have
other bytes (a recomputation in another batch), so a file holds one line a version, and a load must equal one of them.
It reads every page twice and more: for tests, not for service.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

DIGEST_BYTES = 8


class Verifier:
    def __init__(self, folder: str, tensors: Sequence[Any]):
        self._folder = folder
        self._tensors = tensors
        os.makedirs(folder, exist_ok=True)

    def describe(self, key: str, desc: dict[str, str], form_fields: dict[str, int]) -> None:
        """Writes what another program needs to read the same blocks."""
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        with open(os.path.join(self._folder, f"space-{name}.json"), "w", encoding="utf-8") as file:
            json.dump({"desc": desc, "form": form_fields}, file)

    def _path(self, space: str, a_hash: bytes) -> str:
        name = hashlib.sha256(space.encode() + b"\0" + a_hash).hexdigest()
        return os.path.join(self._folder, name)

    def _digests(self, pages: Sequence[int]) -> list[str]:
        import torch

        out = []
        for tensor in self._tensors:
            for page in pages:
                view = tensor[page].contiguous().view(torch.uint8).numpy()
                out.append(hashlib.sha256(view).hexdigest()[: 2 * DIGEST_BYTES])
        return out

    def note(self, space: str, a_hash: bytes, pages: Sequence[int]) -> None:
        """Before a gather of these pages."""
        with open(self._path(space, a_hash), "a", encoding="ascii") as file:
            file.write(" ".join(self._digests(pages)) + "\n")

    def compare(self, space: str, a_hash: bytes, pages: Sequence[int]) -> tuple[int, int] | None:
        """After a load: (pages compared, pages that differ); None: never noted. Pages 0 were loaded for nobody."""
        try:
            with open(self._path(space, a_hash), encoding="ascii") as file:
                versions = [line.split() for line in file]
        except FileNotFoundError:
            return None
        found = self._digests(pages)
        counted = [i for i in range(len(found)) if pages[i % len(pages)] != 0]
        fewest = len(counted)
        for version in versions:
            if len(version) == len(found):
                fewest = min(fewest, sum(found[i] != version[i] for i in counted))
        return len(counted), fewest
