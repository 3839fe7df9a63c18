"""One connection: requests in, and answers out in the order of the requests.

The order is kept by one queue. Its first `_dispatched` requests have been handed to their handlers; the ones behind
wait until there is room. An answer is written once every answer before it is out, and answers that become ready in one
turn of the loop leave in one write.

Backpressure works in both directions: while the client does not read, nothing more is taken from the queue, no stream
produces another page, and the socket is not read either.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, cast

from fastkv.server.http.reader import RequestReader
from fastkv.server.http.request import Request
from fastkv.server.http.responses import CONTINUE

if TYPE_CHECKING:
    from fastkv.server.http.server import HttpServer

MAX_DISPATCHED = 32
"""Pipelined requests of one connection that the node works on at once."""
MAX_QUEUED = 64
"""Requests of one connection that may wait before it is no longer read."""
OUTPUT_HIGH_BYTES = 256 * 1024
"""With more unsent bytes than this a connection takes no further request and no more of a stream."""
OUTPUT_LOW_BYTES = 64 * 1024


class State(Enum):
    """What a connection is doing, as far as a time limit cares; the limits are in `server`."""

    IDLE = "waiting for a request"
    RECEIVING = "receiving a request"
    WORKING = "waiting for the node"
    STALLED = "waiting for the client to read"
    LINGERING = "has said why it closes, waiting for the client to hang up"


class HttpProtocol(asyncio.Protocol):
    """The server's side of one HTTP connection."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.since = server.now
        """When the present state began, on the server's coarse clock."""
        self._transport: asyncio.Transport | None = None
        self._reader = RequestReader(self, body_limit_bytes=server.limits.http_body_bytes, budget=server.body_budget)
        self._queue: deque[Request] = deque()
        self._dispatched = 0
        self._output: list[bytes] = []
        self._output_bytes = 0
        self._corked = False
        self._turn_due = False
        self._close_due = False
        self._lingering = False
        self._write_paused = False
        self._read_paused = False

    # -- asyncio's side ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=OUTPUT_HIGH_BYTES, low=OUTPUT_LOW_BYTES)
        if not self.server.admit(self):
            self._reader.stop()
            self._transport.write(self.server.full_answer())
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._reader.stop()
        self._queue.clear()
        self.server.forget(self)

    def data_received(self, data: bytes) -> None:
        if self._reader.deaf:
            return
        self._corked = True
        try:
            self._reader.feed(data)
        finally:
            self._corked = False
        self._turn()

    def eof_received(self) -> bool:
        """The client sends no more. What it has asked in full is still answered."""
        self._reader.stop()
        self._close_due = True
        return bool(self._queue)

    def pause_writing(self) -> None:
        self._write_paused = True
        self.since = self.server.now

    def resume_writing(self) -> None:
        self._write_paused = False
        self.since = self.server.now
        self._turn()

    # -- the server's side -------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What the connection is doing."""
        if self._lingering:
            return State.LINGERING
        if self._write_paused:
            return State.STALLED
        if self._queue:
            return State.WORKING
        return State.RECEIVING if self._reader.receiving else State.IDLE

    @property
    def pending(self) -> int:
        """Requests that have arrived and are not answered yet."""
        return len(self._queue)

    def expire(self) -> None:
        """The present state has lasted for longer than it may."""
        if self._transport is None or self._transport.is_closing():
            self.abort()
        elif self.state is State.RECEIVING:
            self._reader.refuse(408, "REQUEST_TIMEOUT", "the request did not arrive in time")
            self._turn()
        elif self.state is State.IDLE:
            self.shutdown()
        else:
            self.abort()

    def shutdown(self) -> None:
        """Answer what has been asked in full, then close."""
        self._reader.stop()
        self._close_due = True
        if self._queue:
            self._queue[-1].keep_alive = False
        self._turn()

    def abort(self) -> None:
        """Close at once, and drop what is not sent and what is not answered."""
        self._reader.stop()
        self._queue.clear()
        self._dispatched = 0
        self._output.clear()
        if self._transport is not None:
            self._transport.abort()

    # -- the reader's side -------------------------------------------------------------------------------------------

    def begun(self) -> None:
        """A request begins to arrive."""
        self.since = self.server.now

    def asked(self, request: Request) -> None:
        """A request is complete, or has failed before it was."""
        self._queue.append(request)

    # -- the requests' side ------------------------------------------------------------------------------------------

    def answered(self, request: Request) -> None:
        """A request has output, or is finished."""
        queue = self._queue
        if not queue or queue[0] is not request:
            return  # its turn comes, or the connection is gone
        self._collect()
        if self._corked or self._turn_due:
            return
        if self._dispatched:
            # More answers are probably on their way in this turn of the loop: let them leave together.
            self._turn_due = True
            asyncio.get_running_loop().call_soon(self._late_turn)
        else:
            self._turn()

    # -- the turn ----------------------------------------------------------------------------------------------------

    def _late_turn(self) -> None:
        self._turn_due = False
        self._turn()

    def _turn(self) -> None:
        """Hand out requests, write what is ready, and see what has to happen next."""
        transport = self._transport
        if transport is None or self._corked:
            return
        self._hand_out(transport)
        if not self._queue and self._reader.continue_due:
            self._reader.continue_due = False
            self._output.append(CONTINUE)
        self._write(transport)
        if self._queue:
            self._continue_stream(self._queue[0])
        elif self._close_due and not self._lingering:
            self._hang_up(transport)
        self._balance(transport)

    def _hand_out(self, transport: asyncio.Transport) -> None:
        queue = self._queue
        self._corked = True
        while self._dispatched < len(queue) and self._dispatched < MAX_DISPATCHED and not self._write_paused:
            request = queue[self._dispatched]
            self._dispatched += 1
            request.started = time.perf_counter()
            self.server.handle(request)
            if self._output_bytes > OUTPUT_HIGH_BYTES:
                self._write(transport)  # answers that come at once must not pile up here, unseen by the transport
        self._corked = False

    def _write(self, transport: asyncio.Transport) -> None:
        output = self._output
        if output:
            self._output = []
            self._output_bytes = 0
            transport.write(output[0] if len(output) == 1 else b"".join(output))

    def _collect(self) -> None:
        """Move the output of the foremost requests into one list, as far as they are finished."""
        queue = self._queue
        while queue:
            request = queue[0]
            if request.output:
                self._output.append(request.output)
                self._output_bytes += len(request.output)
                request.output = b""
            if not request.finished:
                return
            queue.popleft()
            self._dispatched -= 1
            if not request.keep_alive:
                # Nothing may follow it, not even what has been asked behind it.
                self._close_due = True
                self._reader.stop()
                queue.clear()
                self._dispatched = 0
        self.since = self.server.now

    def _continue_stream(self, request: Request) -> None:
        produce = request.produce
        if produce is not None and not self._write_paused:
            request.produce = None
            # Not at once: a stream whose pages are at hand would otherwise keep everybody else waiting.
            asyncio.get_running_loop().call_soon(self._produce, request, produce)

    def _produce(self, request: Request, produce: Callable[[], None]) -> None:
        if self._transport is None:
            return
        try:
            produce()
        except Exception:
            request.broken()

    def _balance(self, transport: asyncio.Transport) -> None:
        """Read from the socket, or let the client wait."""
        pause = (self._write_paused or len(self._queue) > MAX_QUEUED) and not self._reader.deaf
        if pause is not self._read_paused and not transport.is_closing():
            self._read_paused = pause
            if pause:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Close.

        Where the client may still be sending, only our half is closed and its bytes are thrown away for a while:
        closing a socket with unread bytes makes the kernel reset the connection, and the client would lose the answer
        that says what was wrong.
        """
        if self._reader.refused and transport.can_write_eof():
            self._lingering = True
            self.since = self.server.now
            transport.write_eof()
        else:
            transport.close()
