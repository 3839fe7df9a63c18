"""Tells a node that is busy from one that only lives.

A node that is cut off from its leader, or stopped for a while, may hold every request for seconds, and answer a PING at
once or not. One that answers something goes on; one that answers no request for `limit_s`, while some wait for so long,
is given up by those who can just as well ask another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Patience:
    """Watches one connection while requests wait; sleeps otherwise.

    `oldest()` says since when the oldest of them waits, by the loop's clock, or None where none does. `give_up()` is
    called once for each time that the limit is reached.
    """

    def __init__(
        self, *, limit_s: float, oldest: Callable[[], float | None], give_up: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit_s = limit_s
        self._oldest = oldest
        self._give_up = give_up
        self._since = 0.0
        self._due_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """A request waits from now on."""
        if self._timer is None:
            self._look_at(self._loop.time() + self._limit_s)

    def answered(self) -> None:
        """The node has answered a request."""
        self._since = self._loop.time()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, when: float) -> None:
        self._due_at = when
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        oldest = self._oldest()
        if oldest is None:
            return
        now = self._loop.time()
        if now - self._due_at > self._limit_s:
            self._since = now       # it was this process that stood still, and what came meanwhile is yet to be read
        waited_since = max(oldest, self._since)
        if now - waited_since >= self._limit_s:
            self._since = now
            self._give_up()
            return
        self._look_at(waited_since + self._limit_s)
