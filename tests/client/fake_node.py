"""A scripted node: real sockets and real frames, a dictionary for a state machine, and whatever answers a test wants.

A test puts a handler into `node.on[opcode]`; it is called with every such request and may answer, stay silent, cut the
connection or send garbage. Without a handler the node behaves.
"""

from __future__ import annotations

import asyncio
import json
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Self, cast

from fastkv._core.codes import Consistency, FrameFlag, Kind, Opcode, Status
from fastkv._core.entry import DecodedCommand, decode_command
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.wire.client import (
    PROTOCOL_VERSION,
    HelloReply,
    Record,
    decode_hello,
    decode_scan_request,
    encode_hello_reply,
    encode_record,
    encode_scan_page,
)

FRAME_LIMIT_BYTES = 64 * 1024
VALUE_LIMIT_BYTES = 16 * 1024


@dataclass
class State:
    """What the nodes of a fake cluster share."""

    records: dict[bytes, Record] = field(default_factory=dict)
    revision: int = 0
    sessions: dict[int, dict[int, tuple[int, bytes]]] = field(default_factory=dict)
    """The results of each open session's writes, by their sequence."""
    leader: FakeNode | None = None
    nodes: list[FakeNode] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when anything arrives at any of them, and when a connection is made or lost."""

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until something is true that changes when something arrives."""
        while not true():
            self.changed.clear()
            await self.changed.wait()


class Request:
    """A frame that a client sent, and the ways to answer it."""

    def __init__(self, link: Link, opcode: int, request_id: int, body: bytes) -> None:
        self.link = link
        self.opcode = opcode
        self.id = request_id
        self.body = body

    def reply(self, status: int = Status.OK, body: bytes = b"", flags: int = 0) -> None:
        self.link.write(encode_frame(self.opcode, flags | FrameFlag.RESPONSE, status, self.id, body))

    def serve(self, flags: int = 0) -> None:
        """Answer as a node does."""
        status, body = self.link.node.serve(self)
        self.reply(status, body, flags)

    @property
    def key(self) -> bytes:
        """Of a GET, PUT or DELETE."""
        if self.opcode == Opcode.GET:
            return self.body[4:]
        return self.command.key

    @property
    def command(self) -> DecodedCommand:
        """What a PUT or DELETE says."""
        kind = Kind.ENTRY_PUT if self.opcode == Opcode.PUT else Kind.ENTRY_DELETE
        return decode_command(kind, self.body)


Handler = Callable[[Request], None]


class Link(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, node: FakeNode) -> None:
        self.node = node
        self.reader = FrameReader(FRAME_LIMIT_BYTES)
        self.greeted = False
        self.reads = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.node.links.append(self)
        self.node.state.changed.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.node.links.remove(self)
        self.node.state.changed.set()

    def data_received(self, data: bytes) -> None:
        self.reads += self.greeted
        for opcode, _, _, request_id, body in self.reader.feed(data):
            request = Request(self, opcode, request_id, body)
            if opcode not in (Opcode.HELLO, Opcode.SESSION):
                self.node.requests.append(request)
            self.node.state.changed.set()
            self.node.on.get(opcode, Request.serve)(request)
            self.greeted = True

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def cut(self) -> None:
        self.transport.abort()


class FakeNode:
    """A node on a free port of 127.0.0.1; an asynchronous context manager."""

    def __init__(self, node_id: str = "node-1", state: State | None = None) -> None:
        self.id = node_id
        self.state = state or State()
        self.state.nodes.append(self)
        self.on: dict[int, Handler] = {}
        self.links: list[Link] = []
        self.requests: list[Request] = []  # all but HELLO and SESSION, in order
        self.snapshots: dict[int, list[tuple[bytes, Record]]] = {}
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen: on a free port the first time, on the same one after `stop`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and cut every connection, as a killed process does."""
        self._server.close()
        for link in list(self.links):
            link.cut()
        await self.until_alone()
        await self._server.wait_closed()

    def asked(self, opcode: int) -> list[Request]:
        """The requests with that opcode so far."""
        return [request for request in self.requests if request.opcode == opcode]

    async def until_asked(self, opcode: int, count: int = 1) -> list[Request]:
        """Wait until there were so many requests with that opcode."""
        await self.state.until(lambda: len(self.asked(opcode)) >= count)
        return self.asked(opcode)

    async def until_alone(self) -> None:
        """Wait until no client is connected."""
        await self.state.until(lambda: not self.links)

    # -- behaving ----------------------------------------------------------------------------------------------------

    def serve(self, request: Request) -> tuple[int, bytes]:
        serve = {
            Opcode.HELLO: self._hello,
            Opcode.PING: lambda request: (Status.OK, request.body),
            Opcode.STATUS: self._status,
            Opcode.GET: self._get,
            Opcode.SESSION: self._open_session,
            Opcode.PUT: self._once,
            Opcode.DELETE: self._once,
            Opcode.SCAN: self._scan,
        }
        return serve[Opcode(request.opcode)](request)

    def _hello(self, request: Request) -> tuple[int, bytes]:
        decode_hello(request.body)
        leader = self.state.leader
        reply = HelloReply(
            PROTOCOL_VERSION,
            FRAME_LIMIT_BYTES,
            VALUE_LIMIT_BYTES,
            self.id,
            "fake",
            leader.id if leader else "",
            leader.address if leader else "",
        )
        return Status.OK, encode_hello_reply(reply)

    def _status(self, request: Request) -> tuple[int, bytes]:
        leader = self.state.leader
        nodes = {node.id: {"id": node.id, "address": node.address} for node in self.state.nodes}
        described = {"id": leader.id, "address": leader.address} if leader else None
        return Status.OK, json.dumps({"nodes": nodes, "leader": described}).encode()

    def _get(self, request: Request) -> tuple[int, bytes]:
        record = self.state.records.get(request.key)
        return (Status.KEY_NOT_FOUND, b"") if record is None else (Status.OK, encode_record(record))

    def _open_session(self, request: Request) -> tuple[int, bytes]:
        session_id = 1000 + len(self.state.sessions)
        self.state.sessions[session_id] = {}
        return Status.OK, session_id.to_bytes(8, "little")

    def _once(self, request: Request) -> tuple[int, bytes]:
        """Carry out a write, unless it is one of a session that has been carried out already."""
        carry_out = self._put if request.opcode == Opcode.PUT else self._delete
        if request.command.session is None:
            return carry_out(request)
        session_id, sequence = request.command.session
        results = self.state.sessions.get(session_id)
        if results is None:
            return Status.SESSION_EXPIRED, b""
        if sequence not in results:
            results[sequence] = carry_out(request)
        return results[sequence]

    def _write(self, request: Request) -> tuple[int, bytes] | None:
        """The answer to a condition that is not met."""
        record = self.state.records.get(request.key)
        found = record.mod_revision if record else 0
        if request.command.compare not in (None, found):
            return Status.PRECONDITION_FAILED, found.to_bytes(8, "little")
        return None

    def _put(self, request: Request) -> tuple[int, bytes]:
        refusal = self._write(request)
        if refusal is not None:
            return refusal
        self.state.revision += 1
        before = self.state.records.get(request.key)
        self.state.records[request.key] = Record(
            self.state.revision,
            before.create_revision if before else self.state.revision,
            before.version + 1 if before else 1,
            0,
            request.command.value,
        )
        return Status.OK, self.state.revision.to_bytes(8, "little")

    def _delete(self, request: Request) -> tuple[int, bytes]:
        refusal = self._write(request)
        if refusal is not None:
            return refusal
        if self.state.records.pop(request.key, None) is None:
            return Status.KEY_NOT_FOUND, self.state.revision.to_bytes(8, "little")
        self.state.revision += 1
        return Status.OK, self.state.revision.to_bytes(8, "little")

    def _scan(self, request: Request) -> tuple[int, bytes]:
        scan = decode_scan_request(request.body)
        assert scan.consistency == Consistency.LINEARIZABLE
        snapshot_id = int.from_bytes(scan.cursor[:8], "little") if scan.cursor else len(self.snapshots) + 1
        if scan.cursor:
            if snapshot_id not in self.snapshots:
                return Status.CURSOR_EXPIRED, b"gone"
        else:
            self.snapshots[snapshot_id] = sorted(self.state.records.items())
        rows = [
            row for row in self.snapshots[snapshot_id] if scan.start <= row[0] and (not scan.end or row[0] < scan.end)
        ]
        if scan.reverse:
            rows.reverse()
        last = scan.cursor[8:]
        if scan.cursor:
            keys = [key for key, _ in rows]
            rows = rows[keys.index(last) + 1 if scan.reverse else bisect_left(keys, last) + 1 :]
        page = rows[: scan.limit]
        cursor = snapshot_id.to_bytes(8, "little") + page[-1][0] if len(page) < len(rows) else b""
        items = b"".join(self._row(key, record, scan.keys_only) for key, record in page)
        return Status.OK, encode_scan_page(self.state.revision, len(page), cursor, items)

    @staticmethod
    def _row(key: bytes, record: Record, keys_only: bool) -> bytes:
        value = b"" if keys_only else record.value
        sizes = len(key).to_bytes(2, "little") + b"\0\0" + len(value).to_bytes(4, "little")
        return sizes + encode_record(record)[:32] + key + value


@contextmanager
def threaded(node: FakeNode) -> Iterator[FakeNode]:
    """The node, running on a loop and a thread of its own: for callers that block."""
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        async with node:
            stop = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    loop, stop = started.result()
    try:
        yield node
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
