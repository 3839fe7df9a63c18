"""Backups of a running node: a client asks for a snapshot on the raw port, and is sent it part by part.

It is the same image that other nodes fetch (`node.snapshots`), of a checkpoint that is made for it: first a read round
says how far the log has been acknowledged, then what is applied goes to the store, then the store is copied, straight
to whoever asks (`storage.lmdb_stream`). Writes go on all the while, and all backups together go no faster than the node
allows. What the stream holds is let go of with the connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable

from fastkv._core.codes import Status
from fastkv._core.replies import text_for
from fastkv.errors import DamagedStore
from fastkv.kv.store import ImageInfo, StoreFull
from fastkv.node import Node
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.storage.lmdb_stream import LmdbStream, StreamEnded
from fastkv.wire.backup import BackupAsk, SnapshotChunk, decode_backup_ask, encode_snapshot_chunk_body

Deliver = Callable[[int, bytes], None]
"""Status and body of the answer."""

IDLE_S = 60.0
"""A backup of which nothing is asked for so long is given up."""
MAX_BACKUPS = 4
"""At a time. Each holds old pages of the store."""
SPARE_S = 0.005
"""What was not sent in so much time may be made up for: timers are not exact."""
SHORTEST_S = 0.002
"""Of a wait. The loop's timers know milliseconds: for less it would come back at once, and again, and again."""
GONE = b"that snapshot is gone; begin again"


class Pace:
    """So many bytes a second, and no more."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._due_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """How long to wait until more may be sent; 0 for not at all."""
        return max(SHORTEST_S, self._due_s - now_s) if self._due_s > now_s else 0.0

    def sent(self, now_s: float, nbytes: int) -> None:
        """So much was sent."""
        self._due_s = max(self._due_s, now_s - SPARE_S) + nbytes / self._bytes_per_s


class _Backup:
    """One client's."""

    __slots__ = ("asks", "stream", "timer", "used_s", "waits")

    def __init__(self, now_s: float) -> None:
        self.stream: LmdbStream | None = None
        self.asks: deque[tuple[BackupAsk, Deliver]] = deque()
        """Not answered yet."""
        self.timer: asyncio.TimerHandle | None = None
        self.waits = False
        """For the stream to have more."""
        self.used_s = now_s

    def close(self) -> None:
        self.asks.clear()
        if self.timer is not None:
            self.timer.cancel()
        if self.stream is not None:
            self.stream.close()


class BackupServer:
    """Of one node; a client is whatever stands for its connection. Lives on the loop."""

    def __init__(self, node: Node, store: LmdbStore, *, chunk_bytes: int, bytes_per_s: float) -> None:
        self._node = node
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._pace = Pace(bytes_per_s)
        self._loop = asyncio.get_running_loop()
        self._backups: dict[Hashable, _Backup] = {}
        self.sent_bytes = 0

    def asked(self, client: Hashable, body: bytes, deliver: Deliver) -> None:
        """A client asks, for one part behind the other. ValueError where the body is no such question."""
        ask = decode_backup_ask(body)
        backup = self._backups.get(client)
        if not ask.index:
            self._begin(client, ask, deliver)
        elif backup is None or backup.stream is None or not _is_of(backup.stream, ask):
            deliver(Status.KEY_NOT_FOUND, GONE)
        else:
            backup.used_s = self._loop.time()
            backup.asks.append((ask, deliver))
            self._serve(backup)

    def forget(self, client: Hashable) -> None:
        """The client is gone."""
        backup = self._backups.pop(client, None)
        if backup is not None:
            backup.close()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _begin(self, client: Hashable, ask: BackupAsk, deliver: Deliver) -> None:
        self.forget(client)
        if len(self._backups) >= MAX_BACKUPS:
            deliver(Status.OVERLOADED, f"{MAX_BACKUPS} backups are being taken from this node already".encode())
            return
        backup = self._backups[client] = _Backup(self._loop.time())

        def fail(status: int, text: bytes = b"") -> None:
            if self._backups.get(client) is backup:
                self.forget(client)
            deliver(status, text or text_for(status))

        def confirmed() -> None:
            self._node.machine.checkpoint_soon(durable)
            self._node.ingress.request_wake()

        def durable(error: BaseException | None) -> None:
            if error is not None:
                fail(Status.NO_SPACE, str(error).encode())
            else:
                self._store.stream(ready)

        def ready(stream: LmdbStream | None, error: BaseException | None) -> None:
            if stream is None:
                fail(*self._what_failed(error))
            elif self._backups.get(client) is not backup:
                stream.close()      # whoever asked is gone
            else:
                backup.stream, backup.used_s = stream, self._loop.time()
                stream.on_close = lambda: self._closed(backup)
                backup.asks.append((ask, deliver))
                self._serve(backup)
                self._end_if_idle(client, backup)

        ingress = self._node.ingress
        if ingress.refuse_reads:
            fail(ingress.refuse_reads)
        elif ask.stale:
            confirmed()
        else:
            ingress.add_read_task(confirmed, fail)

    def _end_if_idle(self, client: Hashable, backup: _Backup) -> None:
        """Look now and then; what is held for nobody keeps the store's old pages."""
        if self._backups.get(client) is not backup:
            return
        idle_s = self._loop.time() - backup.used_s
        if idle_s >= IDLE_S and not backup.asks:
            self.forget(client)
        else:
            wait_s = IDLE_S if backup.asks else IDLE_S - idle_s
            self._loop.call_later(max(wait_s, SHORTEST_S), self._end_if_idle, client, backup)

    def _what_failed(self, error: BaseException | None) -> tuple[int, bytes]:
        if isinstance(error, DamagedStore):
            self._node.distrust(str(error))
            return Status.CORRUPT_STATE, str(error).encode()
        if isinstance(error, StreamEnded):
            return Status.KEY_NOT_FOUND, str(error).encode()
        status = Status.NO_SPACE if isinstance(error, StoreFull) else Status.UNSUPPORTED
        return status, f"this node cannot make a snapshot: {error}".encode()

    # -- parts -------------------------------------------------------------------------------------------------------

    def _serve(self, backup: _Backup) -> None:
        """Answer what can be answered now, and come back for the rest."""
        while backup.asks and backup.timer is None:
            wait_s = self._pace.wait_s(self._loop.time())
            if wait_s:
                self._stop_waiting(backup)
                backup.timer = self._loop.call_later(wait_s, self._in_time, backup)
            elif not self._answer(backup):
                return

    def _in_time(self, backup: _Backup) -> None:
        backup.timer = None
        self._serve(backup)

    def _answer(self, backup: _Backup) -> bool:
        """Answer the oldest question. False where its part is not here yet."""
        ask, deliver = backup.asks[0]
        stream = backup.stream
        assert stream is not None
        answer = (int(Status.KEY_NOT_FOUND), GONE)
        if ask.offset == stream.offset:
            try:
                data = stream.take(min(ask.nbytes, self._chunk_bytes))
            except Exception as error:      # the copy has failed, or was ended: nothing of it is of use
                answer = self._what_failed(error)
            else:
                if data is None:
                    self._wait(backup, stream)
                    return False
                answer = (Status.OK, self._part(stream.info, ask.offset, data))
        backup.asks.popleft()
        deliver(*answer)
        return True

    def _part(self, info: ImageInfo, offset: int, data: bytes) -> bytes:
        self._pace.sent(self._loop.time(), len(data))
        self.sent_bytes += len(data)
        return encode_snapshot_chunk_body(
            SnapshotChunk(info.applied_index, info.applied_term, info.nbytes, info.checksum, info.kind, offset, data)
        )

    def _wait(self, backup: _Backup, stream: LmdbStream) -> None:
        if not backup.waits:
            backup.waits = True
            self._loop.add_reader(stream.fileno(), self._serve, backup)

    def _closed(self, backup: _Backup) -> None:
        """The store may have done that: whoever waits is told."""
        self._stop_waiting(backup)
        self._loop.call_soon(self._serve, backup)

    def _stop_waiting(self, backup: _Backup) -> None:
        if backup.waits and backup.stream is not None:
            backup.waits = False
            self._loop.remove_reader(backup.stream.fileno())


def _is_of(stream: LmdbStream, ask: BackupAsk) -> bool:
    return (ask.index, ask.checksum) == (stream.info.applied_index, stream.info.checksum)
