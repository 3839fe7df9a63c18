"""One framed connection to one node: requests go out pipelined, answers come back in any order.

Requests of one turn of the event loop leave in one write, and every complete frame of a read is handled at once: that
is what makes ten thousand awaited puts cost far less than ten thousand round trips.

A request is *sent* from the moment its bytes were handed to the transport. The distinction decides what a caller may
be told when things end badly: a write that was never sent was certainly not done; one that was sent may have been.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import NamedTuple, cast

from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import FrameReader, FrameTooLarge, encode_frame
from fastkv.client.addresses import Address
from fastkv.client.faults import ClientClosed, ConnectionLostError, DeadlinePassedError
from fastkv.client.patience import Patience
from fastkv.client.settings import Settings
from fastkv.client.watchdog import Watchdog
from fastkv.errors import FastKVError, ProtocolError, TooLarge, error_for
from fastkv.wire.client import CLIENT_ROLE, HelloReply, decode_hello_reply, encode_hello_body

HELLO_LIMIT_BYTES = 64 * 1024
"""The largest frame taken from a server before its HELLO has said what it may send."""
HTTP_BEGINS = f"a frame of {int.from_bytes(b'HTTP', 'little')} bytes"
"""What an answer of an HTTP server looks like to who expects a frame."""


class Reply(NamedTuple):
    """A response frame."""

    status: int
    flags: int
    body: bytes


class _Pending:
    """A request whose answer is due."""

    __slots__ = ("began", "frame", "future", "opcode", "repeatable", "sent")

    def __init__(self, opcode: int, frame: bytes, loop: asyncio.AbstractEventLoop, *, repeatable: bool) -> None:
        self.opcode = opcode
        self.frame = frame
        self.future: asyncio.Future[Reply | Exception] = loop.create_future()
        self.repeatable = repeatable
        self.began = loop.time()
        self.sent = False

    def settle(self, outcome: Reply | Exception) -> None:
        # A failure travels as a result: a future's unretrieved exception would be logged after a cancellation.
        if not self.future.done():
            self.future.set_result(outcome)

    def expire(self) -> None:
        self.settle(DeadlinePassedError(sent=self.sent))


class Connection(asyncio.BufferedProtocol):
    """A connection after its HELLO. Made by `open`; lives on one event loop."""

    hello: HelloReply

    def __init__(
        self,
        address: Address,
        settings: Settings,
        on_lost: Callable[[Connection], None],
        on_silent: Callable[[Connection], bool] = lambda _: False,
    ) -> None:
        self.address = address
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the socket is closed."""
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._on_lost = on_lost
        self._on_silent = on_silent
        self._reader = FrameReader(HELLO_LIMIT_BYTES)
        self._transport: asyncio.Transport | None = None
        self._last_id = 0
        self._pending: dict[int, _Pending] = {}
        self._unsent: dict[int, _Pending] = {}
        self._frame_limit_bytes = HELLO_LIMIT_BYTES
        self._flush_due = False
        self._writing_paused = False
        self._retired = False
        self._reason: Exception | None = None  # why no request can be made any more
        self._watchdog = Watchdog(
            ping_after_s=settings.ping_after_s,
            silence_limit_s=settings.silence_limit_s,
            is_waiting=lambda: bool(self._pending),
            ping=self._ping,
            gone=self._gone,
        )
        self._patience = Patience(limit_s=settings.answer_limit_s, oldest=self._oldest, give_up=self._give_up)

    @classmethod
    async def open(
        cls,
        address: Address,
        settings: Settings,
        on_lost: Callable[[Connection], None],
        on_silent: Callable[[Connection], bool] = lambda _: False,
    ) -> Connection:
        """Connect and exchange HELLOs within the settings' connect timeout.

        `on_silent` is told where no request is answered for the settings' answer limit; where it returns True, those
        that may be sent again end here.

        OSError or TimeoutError where nothing answers, the server's own error where it refuses us (Unsupported,
        WrongCluster, Unauthenticated, Overloaded), ProtocolError where it does not speak the protocol.
        """
        connection: Connection | None = None
        try:
            async with asyncio.timeout(settings.connect_timeout_s):
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(
                    lambda: cls(address, settings, on_lost, on_silent), address.host, address.port
                )
                await connection._greet()
        except BaseException:
            if connection is not None:
                connection.lose(ConnectionError("the connection was given up during HELLO"))
            raise
        return connection

    async def _greet(self) -> None:
        hello = encode_hello_body(CLIENT_ROLE, "", self._settings.cluster, self._settings.credentials)
        try:
            reply = await self.request(Opcode.HELLO, hello, self._loop.time() + self._settings.connect_timeout_s)
        except ConnectionLostError as lost:
            raise lost.reason from None
        except DeadlinePassedError:
            raise TimeoutError(f"{self.address} did not answer the HELLO") from None
        if reply.status != Status.OK:
            raise error_for(reply.status, reply.body.decode(errors="replace"))
        try:
            self.hello = decode_hello_reply(reply.body)
        except ValueError as error:
            raise ProtocolError(f"{self.address} answered HELLO with something else: {error}") from None
        self._frame_limit_bytes = self.hello.max_frame_bytes
        # A page of a scan ends after the value that fills it, so an answer is bounded by a page and a value.
        self._reader.limit_bytes = 2 * self.hello.max_frame_bytes

    # -- requests ----------------------------------------------------------------------------------------------------

    @property
    def usable(self) -> bool:
        """Whether new requests may be made."""
        return self._reason is None and not self._retired

    @property
    def in_flight(self) -> int:
        """Requests whose answer is due."""
        return len(self._pending)

    async def request(self, opcode: int, body: bytes, deadline: float, *, repeatable: bool = False) -> Reply:
        """Send a request and wait for its answer until `deadline`, a time of the loop's clock.

        One that is `repeatable` waits only as long as there is hope: where the node has gone silent and somebody else
        may be asked, it ends with ConnectionLostError.

        ConnectionLostError and DeadlinePassedError say whether the request was sent. A cancelled request is forgotten:
        where it was not sent yet it never will be, and an answer that still comes is ignored.
        """
        if self._reason is not None:
            raise ConnectionLostError(self._reason, sent=False)
        if len(body) > self._frame_limit_bytes:
            raise TooLarge(f"the request has {len(body)} bytes; {self.address} takes {self._frame_limit_bytes}")
        self._last_id += 1
        request_id = self._last_id
        frame = encode_frame(opcode, 0, 0, request_id, body)
        pending = _Pending(opcode, frame, self._loop, repeatable=repeatable)
        self._pending[request_id] = self._unsent[request_id] = pending
        self._schedule_flush()
        self._watchdog.wake()
        if opcode != Opcode.HELLO:
            self._patience.wake()
        timer = self._loop.call_at(deadline, pending.expire)
        try:
            outcome = await pending.future
        finally:
            timer.cancel()
            self._pending.pop(request_id, None)
            self._unsent.pop(request_id, None)
            self._close_if_retired()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _schedule_flush(self) -> None:
        if not self._flush_due and not self._writing_paused:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Everything asked during this turn, in one write."""
        self._flush_due = False
        if self._transport is None or self._writing_paused:
            return
        frames = []
        for pending in self._unsent.values():
            if not pending.future.done():
                pending.sent = True
                frames.append(pending.frame)
        self._unsent.clear()
        if frames:
            self._transport.write(b"".join(frames))

    # -- ends --------------------------------------------------------------------------------------------------------

    def retire(self) -> None:
        """Take no new requests; close once the last answer is there."""
        self._retired = True
        self._close_if_retired()

    def detach(self) -> socket.socket:
        """Hand the socket over, blocking, where no request is under way: the connection ends.

        ConnectionLostError where it has ended already.
        """
        assert not self._pending, "answers are due on this connection"
        if self._transport is None or self._reason is not None:
            raise ConnectionLostError(self._reason or ClientClosed(), sent=False)
        # A duplicate: the loop closes its own.
        taken = socket.socket(fileno=os.dup(self._transport.get_extra_info("socket").fileno()))
        self.lose(ClientClosed("its socket was handed over"))
        taken.setblocking(True)
        return taken

    def _close_if_retired(self) -> None:
        if self._retired and not self._pending and self._reason is None:
            self.lose(ClientClosed("this connection is retired"))

    def lose(self, reason: Exception) -> None:
        """Close at once: what is pending ends with ConnectionLostError. Only the first reason counts."""
        if self._reason is not None:
            return
        self._reason = reason
        self._watchdog.stop()
        self._patience.stop()
        if self._transport is not None:
            self._transport.abort()
        for pending in self._pending.values():
            pending.settle(ConnectionLostError(reason, sent=pending.sent))
        self._on_lost(self)

    def _ping(self) -> None:
        if self._transport is not None:
            self._transport.write(encode_frame(Opcode.PING, 0, 0, 0, b""))

    def _gone(self, silent_s: float) -> None:
        self.lose(ConnectionError(f"{self.address} said nothing for {silent_s:.1f} s, not even to a PING"))

    def _oldest(self) -> float | None:
        """Since when the request that waits longest does so."""
        return next((pending.began for pending in self._pending.values()), None)

    def _give_up(self) -> None:
        if not self._on_silent(self):
            self._patience.wake()
            return
        silent = ConnectionError(f"{self.address} answered no request for {self._settings.answer_limit_s} s")
        for pending in self._pending.values():
            if pending.repeatable:
                pending.settle(ConnectionLostError(silent, sent=pending.sent))

    # -- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._transport.set_write_buffer_limits(high=1 << 20, low=1 << 18)

    def connection_lost(self, error: Exception | None) -> None:
        self.lose(error or ConnectionError(f"{self.address} closed the connection"))
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._schedule_flush()

    def get_buffer(self, hint: int) -> memoryview:
        return self._reader.get_buffer(hint)  # the reader's own memory: nothing is copied on the way in

    def buffer_updated(self, nbytes: int) -> None:
        self._watchdog.heard()
        try:
            self._reader.received(nbytes)
            for opcode, flags, status, request_id, body in self._reader.frames():
                self._answered(opcode, flags, status, request_id, body)
        except FrameTooLarge as error:
            self.lose(ProtocolError(self._foreign(error)))
        except FastKVError as error:
            self.lose(error)

    def _foreign(self, error: FrameTooLarge) -> str:
        """What bytes that make no frame say of who sent them."""
        if HTTP_BEGINS in str(error):
            return f"{self.address} speaks HTTP: name a node's raw-TCP port (by default 9001), not its HTTP port (8081)"
        return f"{self.address}: {error}"

    def _answered(self, opcode: int, flags: int, status: int, request_id: int, body: bytes) -> None:
        if not flags & FrameFlag.RESPONSE:
            raise ProtocolError(f"{self.address} sent a request (opcode {opcode:#x}) to a client")
        if opcode == Opcode.ERROR:
            raise error_for(status, body.decode(errors="replace"))
        if opcode == Opcode.PING:
            return
        if opcode == Opcode.GOODBYE:
            for open_request in self._pending.values():
                open_request.sent = False       # it says so: what is not answered was not done
            self.lose(ConnectionError(f"{self.address} stops"))
            return
        pending = self._pending.get(request_id)
        if pending is None:
            if not 0 < request_id <= self._last_id:
                raise ProtocolError(f"{self.address} answered request {request_id}, which was never made")
            return  # cancelled or too late: ids are not used twice, so it can be nobody else's
        if pending.opcode != opcode:
            raise ProtocolError(f"{self.address} answered opcode {pending.opcode:#x} with {opcode:#x}")
        self._patience.answered()
        pending.settle(Reply(status, flags, body))
