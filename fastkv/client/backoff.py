"""Pauses between tries: growing, so that a struggling cluster is left alone; random, so that clients differ."""

from __future__ import annotations

import random


class Backoff:
    """Each pause is twice the one before, up to a cap, less a random part of up to a half."""

    __slots__ = ("_cap_s", "_first_s", "_next_s", "_rng")

    def __init__(self, rng: random.Random, *, first_s: float = 0.01, cap_s: float = 0.5) -> None:
        self._rng = rng
        self._first_s = first_s
        self._cap_s = cap_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The next pause in seconds."""
        pause_s = self._next_s
        self._next_s = min(self._cap_s, 2 * pause_s)
        return pause_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again with the shortest pause: something worked."""
        self._next_s = self._first_s
