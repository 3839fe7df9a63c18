"""Backups of a running node: a client asks for a snapshot on the raw port, and is sent it part by part.

It is the same image that other nodes fetch (`node.snapshots`), of a checkpoint that is made for it: first a read round
says how far the log has been acknowledged, then what is applied goes to the store, then the store is copied. Writes go
on all the while. Whoever asks decides how fast it goes; the image is let go of with the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

from fastkv._core.codes import Status
from fastkv._core.replies import text_for
from fastkv.errors import DamagedStore
from fastkv.kv.store import Image, Store, StoreFull
from fastkv.node import Node
from fastkv.wire.backup import BackupAsk, SnapshotChunk, decode_backup_ask, encode_snapshot_chunk_body

Deliver = Callable[[int, bytes], None]
"""Status and body of the answer."""

IDLE_S = 60.0
"""A backup of which nothing is asked for so long is given up."""
MAX_BACKUPS = 4
"""At a time. Each holds on to an image, and to its room on the disk."""


class _Backup:
    """One client's."""

    __slots__ = ("image", "used_s")

    def __init__(self, now_s: float) -> None:
        self.image: Image | None = None
        self.used_s = now_s

    def close(self) -> None:
        if self.image is not None:
            self.image.close()
            self.image = None


class BackupServer:
    """Of one node; a client is whatever stands for its connection. Lives on the loop."""

    def __init__(self, node: Node, store: Store, *, chunk_bytes: int) -> None:
        self._node = node
        self._store = store
        self._chunk_bytes = chunk_bytes
        self._loop = asyncio.get_running_loop()
        self._backups: dict[Hashable, _Backup] = {}
        self.sent_bytes = 0

    def asked(self, client: Hashable, body: bytes, deliver: Deliver) -> None:
        """A client asks. ValueError where the body is no such question; OSError where the disk fails."""
        ask = decode_backup_ask(body)
        backup = self._backups.get(client)
        if not ask.index:
            self._begin(client, ask, deliver)
        elif backup is None or backup.image is None or not _is_of(backup.image, ask):
            deliver(Status.KEY_NOT_FOUND, b"that snapshot is gone; begin again")
        else:
            backup.used_s = self._loop.time()
            self._serve(backup.image, ask, deliver)

    def forget(self, client: Hashable) -> None:
        """The client is gone."""
        backup = self._backups.pop(client, None)
        if backup is not None:
            backup.close()

    # -- steps -------------------------------------------------------------------------------------------------------

    def _begin(self, client: Hashable, ask: BackupAsk, deliver: Deliver) -> None:
        self.forget(client)
        now_s = self._loop.time()
        for other in [other for other, backup in self._backups.items() if now_s - backup.used_s > IDLE_S]:
            if self._backups[other].image is not None:      # else it is being made
                self.forget(other)
        if len(self._backups) >= MAX_BACKUPS:
            deliver(Status.OVERLOADED, f"{MAX_BACKUPS} backups are being taken from this node already".encode())
            return
        backup = self._backups[client] = _Backup(now_s)

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
                self._store.image(made)

        def made(image: Image | None, error: BaseException | None) -> None:
            if image is None:
                fail(*self._what_failed(error))
            elif self._backups.get(client) is not backup:
                image.close()       # whoever asked is gone
            else:
                backup.image, backup.used_s = image, self._loop.time()
                self._serve(image, ask, deliver)

        ingress = self._node.ingress
        if ingress.refuse_reads:
            fail(ingress.refuse_reads)
        elif ask.stale:
            confirmed()
        else:
            ingress.add_read_task(confirmed, fail)

    def _what_failed(self, error: BaseException | None) -> tuple[int, bytes]:
        if isinstance(error, DamagedStore):
            self._node.distrust(str(error))
            return Status.CORRUPT_STATE, str(error).encode()
        status = Status.NO_SPACE if isinstance(error, StoreFull) else Status.UNSUPPORTED
        return status, f"this node cannot make a snapshot: {error}".encode()

    def _serve(self, image: Image, ask: BackupAsk, deliver: Deliver) -> None:
        info = image.info
        data = image.read(ask.offset, min(ask.nbytes, self._chunk_bytes))
        chunk = SnapshotChunk(
            info.applied_index, info.applied_term, info.nbytes, info.checksum, info.kind, ask.offset, data
        )
        self.sent_bytes += len(data)
        deliver(Status.OK, encode_snapshot_chunk_body(chunk))


def _is_of(image: Image, ask: BackupAsk) -> bool:
    info = image.info
    return (ask.index, ask.checksum) == (info.applied_index, info.checksum) and ask.offset <= info.nbytes
