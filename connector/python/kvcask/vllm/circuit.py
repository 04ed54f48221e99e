# SPDX-License-Identifier: Apache-2.0
"""A pause behind a deadline that passed: 1 s at first, doubling to 30 s, back to 1 s after a success."""

from __future__ import annotations

import time

FIRST_SECONDS = 1.0
MOST_SECONDS = 30.0


class Circuit:
    __slots__ = ("_until", "_pause", "opened")

    def __init__(self) -> None:
        self._until = 0.0
        self._pause = FIRST_SECONDS
        self.opened = 0  # how often

    def is_open(self) -> bool:
        return self._until != 0.0 and time.monotonic() < self._until

    def is_due(self) -> bool:
        """Was opened, and its pause is over: the next try is a probe."""
        return self._until != 0.0 and time.monotonic() >= self._until

    def fail(self) -> None:
        self._until = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, MOST_SECONDS)
        self.opened += 1

    def succeed(self) -> None:
        self._until = 0.0
        self._pause = FIRST_SECONDS
