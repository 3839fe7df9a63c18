"""Fetching a snapshot from a running node: what `fastkv snapshot save` does on the wire.

Whoever is asked makes the snapshot; then the connection is nothing but its bytes, which are received straight into
whatever memory they are to be written from. So that part is plain blocking code, on a socket that no event loop has
any more. A connection that breaks ends it: another node has another snapshot, so that nothing of the first is of use.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator

from fastkv._core.codes import FRAME_HEADER_BYTES, Opcode, Status
from fastkv._core.frames import FrameReader, FrameTooLarge, encode_frame
from fastkv.client.addresses import Address
from fastkv.client.connection import Connection
from fastkv.client.faults import ClientClosed, ConnectionLostError, DeadlinePassedError
from fastkv.client.settings import Settings
from fastkv.errors import ProtocolError, Timeout, Unavailable, error_for
from fastkv.wire.backup import BackupAsk, BackupOffer, decode_backup_offer, encode_backup_ask

RECEIVE_BYTES = 256 * 1024
"""At a time: so much stays in a core's cache for whatever is done with it next."""
ANSWER_LIMIT_BYTES = 64 * 1024
"""Of an answer that is no snapshot."""


class Download:
    """One snapshot of one node, which holds it ready. Made by `open`; take its `pieces`, then `close`."""

    def __init__(self, address: Address, node_id: str, offer: BackupOffer, taken: socket.socket) -> None:
        self.offer = offer
        """Which snapshot it is, and how long."""
        self.node_id = node_id
        self._address = address
        self._socket = taken

    @classmethod
    async def open(cls, address: Address, settings: Settings, *, stale: bool, timeout_s: float) -> Download:
        """Have the node make a snapshot, which may take `timeout_s`; no byte of it may take longer, either.

        Unavailable and Timeout where the node cannot be reached or does not answer, NoSpace where it has no room for a
        snapshot, WrongCluster, and whatever else it refuses with.
        """
        try:
            connection = await Connection.open(address, settings, lambda _: None)
        except OSError as error:
            raise Unavailable(f"{address} cannot be reached: {str(error) or type(error).__name__}") from None
        try:
            offer = await _have_made(connection, stale, timeout_s)
            taken = connection.detach()
        except ConnectionLostError as lost:
            raise Unavailable(f"{address} is gone: {lost}") from None
        finally:
            connection.lose(ClientClosed())
            await connection.closed
        patience = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        return cls(address, connection.hello.node_id, offer, taken)

    def pieces(self, room: Callable[[], memoryview]) -> Iterator[int]:
        """Receive the whole snapshot, in order, into the memory that `room` gives each time; yields how much is there.

        Unavailable, Timeout, ProtocolError, and whatever the node refuses with: none of it is of use then.
        """
        ask = encode_backup_ask(BackupAsk(self.offer.index, self.offer.state_hash))
        try:
            self._say(encode_frame(Opcode.BACKUP, 0, 0, 1, ask))
            self._hear_answer()
            left = self.offer.nbytes
            while left:
                got = self._receive(room()[: min(left, RECEIVE_BYTES)])
                left -= got
                yield got
        except _Ended:
            raise Unavailable(
                f"{self.node_id} ended the connection before the last byte of its snapshot: it stops, or it needed the "
                "room that the snapshot held (its log says so). Begin again; a faster disk or network helps"
            ) from None

    def close(self) -> None:
        """End the connection; the node lets go of the snapshot. Idempotent."""
        self._socket.close()

    def _hear_answer(self) -> None:
        """The one frame that comes before the snapshot."""
        reader = FrameReader(ANSWER_LIMIT_BYTES)
        head = self._receive_all(FRAME_HEADER_BYTES)
        try:
            frames = reader.feed(head) or reader.feed(self._receive_all(int.from_bytes(head[:4], "little")))
        except FrameTooLarge as error:
            raise ProtocolError(f"{self._address}: {error}") from None
        ((opcode, _, status, _, body),) = frames
        if opcode == Opcode.GOODBYE:
            raise _Ended
        _check(status, body)
        if opcode != Opcode.BACKUP or body:
            raise ProtocolError(f"{self._address} says something else before its snapshot: opcode {opcode:#x}")

    def _say(self, frame: bytes) -> None:
        try:
            self._socket.sendall(frame)
        except OSError as error:
            raise Unavailable(f"{self._address} is gone: {error}") from None

    def _receive_all(self, nbytes: int) -> bytes:
        received = bytearray(nbytes)
        with memoryview(received) as room:
            done = 0
            while done < nbytes:
                done += self._receive(room[done:])
        return bytes(received)

    def _receive(self, room: memoryview) -> int:
        """As much as there is room for, unless there is less before the time is up."""
        try:
            got = self._socket.recv_into(room, 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise Timeout(f"{self._address} has sent nothing more in time") from None
        except OSError as error:
            raise Unavailable(f"{self._address} is gone: {error}") from None
        if not got:
            raise _Ended
        return got


class _Ended(Exception):
    """The other side has closed the connection."""


async def _have_made(connection: Connection, stale: bool, timeout_s: float) -> BackupOffer:
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        reply = await connection.request(Opcode.BACKUP, encode_backup_ask(BackupAsk(0, 0, stale)), deadline)
    except DeadlinePassedError:
        raise Timeout(f"{connection.address} has not answered within {timeout_s:g} s") from None
    _check(reply.status, reply.body)
    try:
        return decode_backup_offer(reply.body)
    except ValueError as error:
        raise ProtocolError(f"{connection.address} offers something else than a snapshot: {error}") from None


def _check(status: int, body: bytes) -> None:
    """Raise what the node has against it."""
    text = body.decode(errors="replace")
    if status == Status.KEY_NOT_FOUND:
        raise Unavailable(text)
    if status != Status.OK:
        raise error_for(status, text)
