"""Tells a node that takes its time from one that is gone.

A host that vanished, or a process that was stopped, closes nothing: only silence tells. So while answers are due, a
silent node is sent a PING, which it answers at once however busy it is; more silence means that it is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Watchdog:
    """Watches one connection while `is_waiting()`; sleeps otherwise.

    After `ping_after_s` of silence it calls `ping()`, after `silence_limit_s` it calls `gone(seconds)` and is done.
    """

    def __init__(
        self,
        *,
        ping_after_s: float,
        silence_limit_s: float,
        is_waiting: Callable[[], bool],
        ping: Callable[[], None],
        gone: Callable[[float], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._ping_after_s = ping_after_s
        self._silence_limit_s = silence_limit_s
        self._is_waiting = is_waiting
        self._ping = ping
        self._gone = gone
        self._heard_at = 0.0
        self._pinged = False
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """An answer is due from now on."""
        if self._timer is None:
            self.heard()
            self._look_at(self._heard_at + self._ping_after_s)

    def heard(self) -> None:
        """The node said something."""
        self._heard_at = self._loop.time()
        self._pinged = False

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, when: float) -> None:
        self._due_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._is_waiting():
            return
        now = self._loop.time()
        if now - self._due_at > self._ping_after_s:
            # It was this process that stood still, and what came meanwhile is yet to be read: begin with a new PING.
            self._heard_at = now - self._ping_after_s
            self._pinged = False
        silent_s = now - self._heard_at
        if silent_s >= self._silence_limit_s:
            self._gone(silent_s)
            return
        next_s = self._ping_after_s
        if silent_s >= self._ping_after_s:
            if not self._pinged:
                self._pinged = True
                self._ping()
            next_s = self._silence_limit_s
        self._look_at(self._heard_at + next_s)
