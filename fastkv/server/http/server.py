"""Listens for HTTP, bounds what its connections may cost, and closes without cutting an answer short."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from typing import TYPE_CHECKING

from fastkv.config import Limits
from fastkv.server.http.context import Context
from fastkv.server.http.protocol import HttpProtocol, State
from fastkv.server.http.reader import Budget
from fastkv.server.http.request import Request
from fastkv.server.http.responses import JSON, RETRY_AFTER, HttpError, head
from fastkv.server.http.routes import handle
from fastkv.server.metrics import RequestMetrics
from fastkv.server.service import Service

if TYPE_CHECKING:
    from fastkv.server.tracing import Tracing

log = logging.getLogger(__name__)

TICK_S = 1.0
BODIES_LIMIT_BYTES = 256 * 1024 * 1024
"""Bytes of unfinished request bodies over all connections."""
CLOSE_GRACE_S = 5.0
"""How long `close` waits for answers that are still due."""
TIME_LIMITS_S = {
    State.IDLE: 75.0,
    State.RECEIVING: 30.0,
    State.STALLED: 30.0,
    State.LINGERING: 2.0,
}
"""How long a connection may stay in a state. There is none for WORKING: the node answers each request in time."""


class HttpServer:
    """The HTTP face of one node. `requests` counts what it has answered; `len(connections)` is the gauge."""

    def __init__(
        self,
        service: Service,
        limits: Limits,
        *,
        requests: RequestMetrics | None = None,
        tracing: Tracing | None = None,
        time_limits_s: dict[State, float] | None = None,
    ) -> None:
        self.limits = limits
        self.requests = requests or RequestMetrics()
        self.tracing = tracing
        self.connections: set[HttpProtocol] = set()
        self.body_budget = Budget(BODIES_LIMIT_BYTES)
        self.now = 0.0
        """The loop's time at the last tick, seconds: exact enough for time limits, and free to read."""
        self.date_line = _date_line()
        """The Date header of every answer of this second."""
        self._context = Context(service, limits)
        self._time_limits_s = {**TIME_LIMITS_S, **(time_limits_s or {})}
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes any that is free. OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self._server = await loop.create_server(lambda: HttpProtocol(self), host, port, backlog=1024)
        self._timer = loop.call_later(TICK_S, self._tick)

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """Stop listening, let requests that were asked in full be answered, and close every connection."""
        if self._server is None:
            return
        self._server.close()
        for connection in list(self.connections):
            connection.shutdown()
        try:
            await asyncio.wait_for(self._all_gone(), grace_s)
        except TimeoutError:
            log.warning("closing %d HTTP connections that are not done", len(self.connections))
            for connection in list(self.connections):
                connection.abort()
            await self._all_gone()
        if self._timer is not None:
            self._timer.cancel()
        await self._server.wait_closed()
        self._server = None

    async def _all_gone(self) -> None:
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    # -- the connections' side ---------------------------------------------------------------------------------------

    def admit(self, connection: HttpProtocol) -> bool:
        """Whether there is room for one more connection."""
        if len(self.connections) >= self.limits.connections:
            return False
        self.connections.add(connection)
        return True

    def forget(self, connection: HttpProtocol) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def full_answer(self) -> bytes:
        """What a connection is told that there is no room for."""
        error = HttpError(429, "OVERLOADED", "limits.connections HTTP connections are open; try again, or another node")
        body = error.body()
        return head(429, JSON, len(body), date=self.date_line, headers=RETRY_AFTER, keep_alive=False) + body

    def handle(self, request: Request) -> None:
        """Have a request answered."""
        if self.tracing is not None:
            self.tracing.begin(request)
        handle(self._context, request)

    # -- time --------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.date_line = _date_line()
        for connection in self._overdue():
            connection.expire()
        self._timer = loop.call_later(TICK_S, self._tick)

    def _overdue(self) -> list[HttpProtocol]:
        limits, shortest = self._time_limits_s, self.now - min(self._time_limits_s.values())
        return [
            connection
            for connection in self.connections
            if connection.since < shortest and connection.since + limits.get(connection.state, float("inf")) < self.now
        ]


def _date_line() -> bytes:
    return b"Date: %b\r\n" % formatdate(usegmt=True).encode()
