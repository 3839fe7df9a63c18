"""Connections on real sockets, and a node behind them that does in one turn what was asked; without an event loop.

So that a benchmark measures what is ours: the bytes are put where the event loop would have received them, and the
answers leave through the kernel.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

from bench.micro.data import Applied, key, put
from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Consistency, Opcode
from fastkv._core.connection import Connection, Role
from fastkv._core.frames import FrameReader, encode_frame
from fastkv._core.ingress import Ingress
from fastkv._core.replies import Outbox

LIMIT_BYTES = 1 << 24
SOCKET_BUFFER_BYTES = 1 << 21
READ_BYTES = 65536
"""What one read of a socket brings at most."""

SHAPES = ((1, 1), (1, 16), (64, 16))
"""Connections, and requests in flight on each: as in the loads `c1`, `c1x16` and `c64x16`."""


class SocketTransport(asyncio.Transport):
    """A transport that only shows its socket: a connection sends by itself while the kernel takes everything."""

    def __init__(self, made: socket.socket) -> None:
        super().__init__()
        self._socket = made

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no such buffer."""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        raise AssertionError(f"the kernel did not take {len(data)} bytes of answers: measure with fewer")

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """The door closes the socket."""


class Door:
    """So many clients of a node that holds every key."""

    def __init__(self, clients: int) -> None:
        self.state = Applied()
        self.outbox = Outbox()
        self.ingress = Ingress(
            self.state.table, self._woken, value_limit_bytes=LIMIT_BYTES, open_limit_bytes=LIMIT_BYTES
        )
        self.connections: list[Connection] = []
        self.wakes = 0
        self.peer_frames = 0
        self._sockets: list[socket.socket] = []
        self._clients: list[tuple[socket.socket, FrameReader]] = []
        with socket.create_server(("127.0.0.1", 0)) as listening:
            for _ in range(clients):
                self._connect(listening)

    def _connect(self, listening: socket.socket) -> None:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
        for made, option in ((client, socket.SO_RCVBUF), (server, socket.SO_SNDBUF)):
            made.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = self.connection()
        connection.connection_made(SocketTransport(server))
        connection.become(Role.CLIENT, "", LIMIT_BYTES)
        self.connections.append(connection)
        self._sockets += [client, server]
        self._clients.append((client, FrameReader(LIMIT_BYTES)))

    def connection(self) -> Connection:
        """One that nobody is connected to: what it is answered is dropped at once."""
        return Connection(
            self.outbox, self.ingress, self, hello_limit_bytes=LIMIT_BYTES, output_limit_bytes=LIMIT_BYTES
        )

    def close(self) -> None:
        for connection in self.connections:
            connection.connection_lost(None)
        for made in self._sockets:
            made.close()

    # -- the owner of the connections --------------------------------------------------------------------------------

    def connection_made(self, connection: Connection) -> None:
        """It is known already."""

    def connection_lost(self, connection: Connection) -> None:
        """The door is closing."""

    def hello(self, connection: Connection, request_id: int, body: bytes) -> None:
        raise AssertionError("these clients say no HELLO")

    def request(self, connection: Connection, opcode: int, request_id: int, body: bytes) -> None:
        raise AssertionError(f"nobody asks for {opcode:#x}")

    def peer_frame(self, node_id: str, opcode: int, code: int, request_id: int, body: bytes) -> None:
        self.peer_frames += 1

    def broken(self, connection: Connection, status: int, text: str) -> None:
        raise AssertionError(text)

    # -- what happens ------------------------------------------------------------------------------------------------

    def _woken(self) -> None:
        self.wakes += 1

    def receive(self, streams: list[bytes]) -> None:
        """What each client has sent arrives."""
        for connection, stream in zip(self.connections, streams, strict=True):
            for at in range(0, len(stream), READ_BYTES):
                part = stream[at : at + READ_BYTES]
                memoryview(connection.get_buffer(-1))[: len(part)] = part
                connection.buffer_updated(len(part))

    def turn(self) -> None:
        """Do what was asked, and send the answers: what a node does in a turn, but for consensus and the log."""
        self.ingress.asleep()
        writes, reads = self.ingress.take_writes(), self.ingress.take_reads()
        if writes is not None:
            batch, waiters = writes
            results = WriteBuffer()
            self.state.table.apply(batch, 0, batch.count, self.state.index + 1, results)
            self.state.index += batch.count
            waiters.deliver(results.take(), 0)
        if reads is not None:
            reads.serve(self.state.table)
        self.outbox.flush()

    def answers(self, count: int) -> list[tuple[int, int]]:
        """Request id and status of `count` answers to each client, in their order."""
        found: list[tuple[int, int]] = []
        for client, reader in self._clients:
            mine: list[tuple[int, int]] = []
            while len(mine) < count:
                mine += [(request_id, code) for _, _, code, request_id, _ in reader.feed(client.recv(1 << 20))]
            found += mine
        return found


def get_body(number: int, consistency: int = Consistency.LINEARIZABLE) -> bytes:
    """The body of a GET of key `number`."""
    return struct.pack("<BBH", consistency, 0, len(key(number))) + key(number)


def put_stream(chosen: list[int]) -> bytes:
    """Frames of PUTs."""
    return b"".join(encode_frame(Opcode.PUT, 0, 0, number, put(number)) for number in chosen)


def get_stream(chosen: list[int]) -> bytes:
    """Frames of GETs."""
    return b"".join(encode_frame(Opcode.GET, 0, 0, number, get_body(number)) for number in chosen)
