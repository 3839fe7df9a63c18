"""Virtual time: a queue of events, one seed, no clock. The same seed gives the same run, everywhere."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

MS = 1000
"""Virtual time is counted in whole microseconds."""


class Events:
    """What is to happen, in order of time; ties go to what was scheduled first."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0

    def after(self, delay: int, action: Callable[[], None]) -> None:
        """Have `action` run `delay` microseconds from now."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + max(0, delay), self._count, action))

    def step(self) -> bool:
        """Run the next event; False when there is none."""
        if not self._queue:
            return False
        self.now, _, action = heapq.heappop(self._queue)
        action()
        return True
