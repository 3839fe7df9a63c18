"""Time for a node: says how many ticks have passed, whenever some have.

A loop counts in whole milliseconds. A timer for what is left of one would be due at once, and again, until the clock
has moved: the loop would spin for half of its idle time. So a timer here waits for a millisecond at least, and a tick
that comes late shortens the wait for the next one.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

TIMER_S = 0.001
"""How fine the timers of uvloop and of epoll are."""


class Ticker:
    """Calls `on_ticks(count)` with how many ticks of `tick_s` seconds have passed since the call before."""

    def __init__(self, tick_s: float, on_ticks: Callable[[int], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._tick_s = tick_s
        self._on_ticks = on_ticks
        self._counted = 0.0
        """The loop's time up to which ticks have been counted."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now on."""
        self._counted = self._loop.time()
        self._wait()

    def stop(self) -> None:
        """Count no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        left = self._counted + self._tick_s - self._loop.time()
        whole = math.ceil(left / TIMER_S - 1e-6)        # 5.0000001 ms are 5
        self._timer = self._loop.call_later(max(whole, 1) * TIMER_S, self._ring)

    def _ring(self) -> None:
        passed = int((self._loop.time() - self._counted) / self._tick_s + 1e-6)
        self._counted += passed * self._tick_s
        self._wait()
        if passed:
            self._on_ticks(passed)
