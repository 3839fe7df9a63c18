"""Virtual time: a queue of events, one seed, no clock. The same seed gives the same run, everywhere."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import Any

MS = 1000
"""Virtual time is counted in whole microseconds."""


class Events:
    """What is to happen, in order of time; ties go to what was scheduled first."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.count = 0
        """How many events have happened."""
        self._stopped = False
        self._scheduled = 0
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action` run `delay` microseconds from now."""
        self._scheduled += 1
        heapq.heappush(self._queue, (self.now + delay, self._scheduled, action, arguments))

    def between(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`. Several times cheaper than `randint`, and as good here."""
        return low + int(self.rng.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.rng.random() < probability

    def run(self, until: int) -> bool:
        """Let things happen until somebody calls `stop`, or until time `until`. Whether it was stopped."""
        queue, pop = self._queue, heapq.heappop
        self._stopped = False
        while queue and not self._stopped:
            if queue[0][0] > until:
                self.now = until
                break
            self.now, _, action, arguments = pop(queue)
            self.count += 1
            action(*arguments)
        return self._stopped

    def stop(self) -> None:
        """Have `run` return after this event."""
        self._stopped = True
