"""A server of compiled connections on a real socket, and a client that says exactly what a test wants said."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvloop

from fastkv._core.apply import Table
from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Opcode, Status
from fastkv._core.connection import Connection, Role
from fastkv._core.frames import FrameReader, encode_frame
from fastkv._core.ingress import Ingress
from fastkv._core.replies import Outbox

HELLO_LIMIT = 4096
FRAME_LIMIT = 300_000
OUTPUT_LIMIT = 1 << 20
PATIENCE_S = 60


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on the loop that the server uses."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario()

    uvloop.run(bounded())


class Answer(NamedTuple):
    """A frame, as the reader cuts it."""

    opcode: int
    flags: int
    code: int
    request_id: int
    body: bytes


class Observed(Connection):
    """A connection that shows its transport."""

    transport_seen: asyncio.Transport

    def connection_made(self, transport: Any) -> None:
        self.transport_seen = transport
        super().connection_made(transport)


class Server:
    """The owner of connections, and a node that does at the end of a turn what was asked in it."""

    def __init__(self) -> None:
        self.table = Table({}.get)
        self.outbox = Outbox()
        self.ingress = Ingress(self.table, self._woken, value_limit_bytes=200_000, open_limit_bytes=1 << 24)
        self.connections: list[Observed] = []
        self.lost: list[Connection] = []
        self.breaches: list[tuple[int, str]] = []
        self.requests: list[tuple[int, int, bytes]] = []
        self.peer_frames: list[tuple[str, int, int, int, bytes]] = []
        self.turns: list[tuple[int, int]] = []
        """How many writes and reads each turn took."""
        self.applied_index = 0
        self.paused = False
        self.address: tuple[str, int] = ("", 0)
        self._changed = asyncio.Event()

    # -- the owner -------------------------------------------------------------------------------------------------

    def connection_made(self, connection: Connection) -> None:
        assert isinstance(connection, Observed)
        self.connections.append(connection)
        self._changed.set()

    def connection_lost(self, connection: Connection) -> None:
        self.lost.append(connection)
        self._changed.set()

    def hello(self, connection: Connection, request_id: int, body: bytes) -> None:
        if body.startswith(b"peer "):
            connection.become(Role.PEER, body[5:].decode(), FRAME_LIMIT)
        elif body == b"client":
            connection.become(Role.CLIENT, "", FRAME_LIMIT)
        else:
            connection.break_off(Status.UNAUTHENTICATED, "who are you?")
            return
        connection.reply(request_id, Opcode.HELLO, Status.OK, 0, b"welcome")
        self.ingress.request_wake()

    def request(self, connection: Connection, opcode: int, request_id: int, body: bytes) -> None:
        self.requests.append((opcode, request_id, body))
        connection.reply(request_id, opcode, Status.UNKNOWN_OPCODE, 0, b"")
        self.ingress.request_wake()

    def peer_frame(self, node_id: str, opcode: int, code: int, request_id: int, body: bytes) -> None:
        self.peer_frames.append((node_id, opcode, code, request_id, body))
        self._changed.set()

    def broken(self, connection: Connection, status: int, text: str) -> None:
        self.breaches.append((status, text))

    # -- the node --------------------------------------------------------------------------------------------------

    def _woken(self) -> None:
        if not self.paused:
            asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        self.ingress.asleep()
        writes, reads = self.ingress.take_writes(), self.ingress.take_reads()
        self.turns.append((len(writes[1]) if writes else 0, len(reads) if reads else 0))
        if writes is not None:
            results = WriteBuffer()
            self.table.apply(writes[0], 0, writes[0].count, self.applied_index + 1, results)
            self.applied_index += writes[0].count
            writes[1].deliver(results.take(), 0)
        if reads is not None:
            reads.serve(self.table)
        self.outbox.flush()
        self._changed.set()

    async def until_turned(self) -> None:
        """Wait for the next turn."""
        turns = len(self.turns)
        await self.until(lambda: len(self.turns) > turns)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a connection tells its owner."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def connect(self) -> Client:
        """A client, connected but silent."""
        made = socket.create_connection(self.address)
        made.setblocking(False)
        return Client(made)

    async def client(self) -> Client:
        """A client that has been let in."""
        client = self.connect()
        await client.send(encode_frame(Opcode.HELLO, 0, 0, 1, b"client"))
        assert await client.answer() == Answer(Opcode.HELLO, 0x80, Status.OK, 1, b"welcome")
        return client


class Client:
    """Sends bytes, and cuts what comes back into frames."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._reader = FrameReader(1 << 26)
        self._answers: list[Answer] = []
        self.reads = 0

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def answers(self, count: int) -> list[Answer]:
        """The next `count` answers. ConnectionError where the connection ends before."""
        while len(self._answers) < count:
            data = await asyncio.get_running_loop().sock_recv(self.socket, 1 << 20)
            if not data:
                raise ConnectionError(f"closed after {len(self._answers)} of {count} answers")
            self.reads += 1
            self._answers += [Answer(*frame) for frame in self._reader.feed(data)]
        taken, self._answers = self._answers[:count], self._answers[count:]
        return taken

    async def answer(self) -> Answer:
        return (await self.answers(1))[0]

    async def closed(self) -> bool:
        """Whether the server closes without another word."""
        try:
            return await asyncio.get_running_loop().sock_recv(self.socket, 1) == b""
        except ConnectionError:
            return True

    def reset(self) -> None:
        """Close with a RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    """A server on a free port."""
    owner = Server()

    def accept() -> Observed:
        return Observed(
            owner.outbox, owner.ingress, owner, hello_limit_bytes=HELLO_LIMIT, output_limit_bytes=OUTPUT_LIMIT
        )

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    owner.address = server.sockets[0].getsockname()
    try:
        yield owner
    finally:
        server.close()
        for connection in owner.connections:
            connection.abort()
        await server.wait_closed()
