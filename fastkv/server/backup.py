"""Backups of a running node: a client asks for a snapshot on the raw port, and is sent it.

It is the same image that other nodes fetch (`node.snapshots`), of a checkpoint that is made for it: first a read round
says how far the log has been acknowledged, then what is applied goes to the store, then the store is copied, straight
into the client's connection (`storage.lmdb_stream`), which is the loop's no more. Writes go on all the while, and all
backups together go no faster than the node allows: the kernel paces them (SO_MAX_PACING_RATE, socket(7)).
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from typing import Protocol

from fastkv._core.codes import Status
from fastkv._core.replies import text_for
from fastkv.errors import DamagedStore
from fastkv.kv.store import ImageInfo, StoreFull
from fastkv.node import Node
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.storage.lmdb_stream import LmdbStream, StreamEnded
from fastkv.wire.backup import BackupAsk, BackupOffer, decode_backup_ask, encode_backup_offer

log = logging.getLogger(__name__)

Deliver = Callable[[int, bytes], None]
"""Status and body of the answer."""

MAX_BACKUPS = 4
"""At a time. Each holds old pages of the store."""
STALLED_S = 60
"""A client that takes nothing for so long is given up."""
GONE = b"that snapshot is gone; begin again"
CLIENT_GONE = "whoever asked for it is gone"
SO_MAX_PACING_RATE = 47
"""Of asm-generic/socket.h; Python has no name for it."""


class Client(Protocol):
    """A connection that asks."""

    def detach(self) -> socket.socket | None:
        """Hand its socket over, once all answers are sent; None where they cannot be. It is lost in any case."""


class _Made:
    """A snapshot that is being made for a client, or waits until it asks for it."""

    __slots__ = ("stream",)

    def __init__(self) -> None:
        self.stream: LmdbStream | None = None


class BackupServer:
    """Of one node. Lives on the loop."""

    def __init__(self, node: Node, store: LmdbStore, *, bytes_per_s: int) -> None:
        self._node = node
        self._store = store
        self._bytes_per_s = bytes_per_s
        self._made: dict[Client, _Made] = {}
        self._sending: dict[LmdbStream, socket.socket] = {}

    def asked(self, client: Client, body: bytes, deliver: Deliver) -> None:
        """A client asks. ValueError where the body is no such question."""
        ask = decode_backup_ask(body)
        made = self._made.get(client)
        if not ask.index:
            self._make(client, ask, deliver)
        elif made is None or made.stream is None or not _is_of(made.stream, ask):
            deliver(Status.KEY_NOT_FOUND, GONE)
        else:
            self._send(client, made.stream, deliver)

    def forget(self, client: Client) -> None:
        """The client is gone."""
        made = self._made.pop(client, None)
        if made is not None and made.stream is not None:
            made.stream.close(CLIENT_GONE)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _make(self, client: Client, ask: BackupAsk, deliver: Deliver) -> None:
        self.forget(client)
        if len(self._made) + len(self._sending) >= MAX_BACKUPS:
            deliver(Status.OVERLOADED, f"{MAX_BACKUPS} backups are being taken from this node already".encode())
            return
        made = self._made[client] = _Made()

        def fail(status: int, text: bytes = b"") -> None:
            if self._made.get(client) is made:
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
            elif self._made.get(client) is not made:
                stream.close(CLIENT_GONE)
            else:
                made.stream = stream
                stream.on_end = lambda error: self._ended(client, stream, error)
                deliver(Status.OK, _offer(stream.info))

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
        if isinstance(error, StreamEnded):
            return Status.KEY_NOT_FOUND, str(error).encode()
        status = Status.NO_SPACE if isinstance(error, StoreFull) else Status.UNSUPPORTED
        return status, f"this node cannot make a snapshot: {error}".encode()

    def _send(self, client: Client, stream: LmdbStream, deliver: Deliver) -> None:
        del self._made[client]
        deliver(Status.OK, b"")
        receiver = client.detach()
        if receiver is None:
            stream.close("the client takes no answers")
            return
        receiver.setblocking(True)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", STALLED_S, 0))
        self._sending[stream] = receiver
        self._share_pace()
        stream.send(receiver)

    def _ended(self, client: Client, stream: LmdbStream, error: BaseException | None) -> None:
        made = self._made.get(client)
        if made is not None and made.stream is stream:
            del self._made[client]
        if self._sending.pop(stream, None) is not None:
            self._share_pace()
        if error is None:
            log.info("a backup was sent, as of entry %d: %d bytes", stream.info.applied_index, stream.info.nbytes)
        else:
            log.warning("a backup was not sent to its end: %s", error)

    def _share_pace(self) -> None:
        for receiver in self._sending.values():
            try:
                receiver.setsockopt(
                    socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("@L", self._bytes_per_s // len(self._sending))
                )
            except OSError as error:        # a sandbox with a network of its own, say
                log.warning("this system paces no connection, so that backups go as fast as they can: %s", error)


def _offer(info: ImageInfo) -> bytes:
    return encode_backup_offer(
        BackupOffer(info.applied_index, info.applied_term, info.nbytes, info.checksum, info.kind)
    )


def _is_of(stream: LmdbStream, ask: BackupAsk) -> bool:
    return (ask.index, ask.state_hash) == (stream.info.applied_index, stream.info.checksum)
