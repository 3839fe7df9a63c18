"""Fetching a snapshot from a running node: what `fastkv snapshot save` does on the wire.

Whoever is asked makes the snapshot and sends it part by part; a few parts are asked for ahead, so that the way there
and back costs nothing. A connection that breaks ends it: another node has another snapshot, so that nothing of the
first is of use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from itertools import islice

from fastkv._core.codes import Opcode, Status
from fastkv.client.addresses import Address
from fastkv.client.connection import Connection, Reply
from fastkv.client.faults import ClientClosed, ConnectionLostError, DeadlinePassedError
from fastkv.client.settings import Settings
from fastkv.errors import ProtocolError, Timeout, Unavailable, error_for
from fastkv.wire.backup import BackupAsk, SnapshotChunk, decode_snapshot_chunk, encode_backup_ask

CHUNK_BYTES = 120 * 1024
"""Below what the allocator maps anew for every block: such memory costs more than the bytes that are put there."""
AHEAD = 16
"""Parts that are asked for and not here yet."""


class Download:
    """One snapshot of one node. Made by `open`; iterate over `parts`, close them, then `close`."""

    def __init__(self, connection: Connection, first: SnapshotChunk, timeout_s: float) -> None:
        self.first = first
        """Which snapshot it is, and how long."""
        self.node_id = connection.hello.node_id
        self._connection = connection
        self._timeout_s = timeout_s

    @classmethod
    async def open(cls, address: Address, settings: Settings, *, stale: bool, timeout_s: float) -> Download:
        """Have the node make a snapshot, which may take `timeout_s`, as each part of it may.

        Unavailable and Timeout where the node cannot be reached or does not answer, NoSpace where it has no room for a
        snapshot, WrongCluster, and whatever else it refuses with.
        """
        try:
            connection = await Connection.open(address, settings, lambda _: None)
        except OSError as error:
            raise Unavailable(f"{address} cannot be reached: {str(error) or type(error).__name__}") from None
        try:
            reply = await _ask(connection, BackupAsk(0, 0, 0, CHUNK_BYTES, stale), timeout_s)
            return cls(connection, _chunk(reply), timeout_s)
        except BaseException:
            await _close(connection)
            raise

    async def parts(self) -> AsyncGenerator[bytes | memoryview, None]:
        """All bytes of the snapshot, in order. Unavailable, Timeout, ProtocolError: none of it is of use then."""
        first = self.first
        step = len(first.data)      # the node's own limit may be below what was asked for
        if not 0 < step <= first.total_bytes:
            raise ProtocolError(f"{self.node_id} sent {step} bytes of a snapshot of {first.total_bytes}")
        yield first.data
        left = iter(range(step, first.total_bytes, step))
        due = deque((offset, self._ask(offset, step)) for offset in islice(left, AHEAD))
        try:
            while due:
                offset, asked = due.popleft()
                chunk = _chunk(await asked)
                wanted = (offset, min(step, first.total_bytes - offset), first.checksum)
                if (chunk.offset, len(chunk.data), chunk.checksum) != wanted:
                    raise ProtocolError(f"{self.node_id} sent another part of the snapshot than was asked for")
                due.extend((offset, self._ask(offset, step)) for offset in islice(left, 1))
                yield chunk.data
        finally:
            for _, asked in due:
                asked.cancel()
            await asyncio.gather(*(asked for _, asked in due), return_exceptions=True)

    def _ask(self, offset: int, step: int) -> asyncio.Task[Reply]:
        nbytes = min(step, self.first.total_bytes - offset)
        ask = BackupAsk(self.first.index, self.first.checksum, offset, nbytes)
        return asyncio.ensure_future(_ask(self._connection, ask, self._timeout_s))

    async def close(self) -> None:
        """End the connection; the node lets go of the snapshot."""
        await _close(self._connection)


async def _close(connection: Connection) -> None:
    connection.lose(ClientClosed())
    await connection.closed


async def _ask(connection: Connection, ask: BackupAsk, timeout_s: float) -> Reply:
    deadline = asyncio.get_running_loop().time() + timeout_s
    try:
        return await connection.request(Opcode.BACKUP, encode_backup_ask(ask), deadline)
    except ConnectionLostError as lost:
        raise Unavailable(f"{connection.address} is gone: {lost}") from None
    except DeadlinePassedError:
        raise Timeout(f"{connection.address} has not answered within {timeout_s:g} s") from None


def _chunk(reply: Reply) -> SnapshotChunk:
    if reply.status == Status.KEY_NOT_FOUND:
        raise Unavailable(reply.body.decode(errors="replace"))
    if reply.status != Status.OK:
        raise error_for(reply.status, reply.body.decode(errors="replace"))
    try:
        return decode_snapshot_chunk(reply.body)
    except ValueError as error:
        raise ProtocolError(f"the snapshot cannot be read: {error}") from None
