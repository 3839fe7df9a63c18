"""An image of the store that goes straight to whoever asked for it, without a file: LMDB's compacted copy, to a socket.

One read transaction, on a thread: the store is verified as of that transaction, which also says how long a copy will
be. Then LMDB writes the copy to the socket by itself: no byte of it passes through the interpreter. Its checksum is not
known beforehand: it goes by the hash of its state, and whoever takes it in verifies that.

A file would be kinder to the store: a transaction that is open keeps the pages that it sees, and the map may not grow
under it. But a backup of a running node is to cost its writers little, and a second copy on the same disk, synced, read
and verified, costs more than all the rest. So whoever takes a stream has to keep up: `Streams.end` ends them all, where
the store needs its room.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb

from fastkv.errors import StorageError
from fastkv.kv.store import ImageInfo, StoreMeta
from fastkv.storage.lmdb_format import DATA_FILE
from fastkv.storage.lmdb_image import KIND
from fastkv.storage.lmdb_pages import EVERYTHING, verify

IDLE_S = 60.0
"""A stream that nobody takes within so long is given up."""

TOO_SLOW = "the store needs the room that it holds open: a faster disk or network for it helps"
CLOSING = "the store is closed"

StreamDone = Callable[["LmdbStream | None", BaseException | None], None]


class StreamEnded(StorageError):
    """A stream was ended before its last byte: by the store, which needs its room, or because nobody took it."""


class LmdbStream:
    """One copy on its way. Lives on the loop, where `poster` brings calls; its thread has `_work`."""

    def __init__(
        self,
        environment: lmdb.Environment,
        poster: Callable[..., object],
        ready: Callable[[LmdbStream, BaseException | None], None],
    ) -> None:
        self.info: ImageInfo
        """What there will be, once it is ready. For a checksum it has the state's hash."""
        self.on_end: Callable[[BaseException | None], None] = lambda error: None
        """Called once after it was ready: with None when all was sent, or StreamEnded, lmdb.Error or OSError."""
        self._environment = environment
        self._poster = poster
        self._ready = ready
        self._receivers: queue.SimpleQueue[socket.socket | None] = queue.SimpleQueue()
        self._receiver: socket.socket | None = None
        self._why_ended = ""
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)

    def start(self) -> None:
        """Begin its work."""
        self._thread.start()

    # -- on the loop -------------------------------------------------------------------------------------------------

    def send(self, receiver: socket.socket) -> None:
        """Send it all to a socket that blocks, which is closed behind the last byte. Once, after it is ready."""
        assert self._receiver is None, "a stream is sent once"
        self._receiver = receiver
        self._receivers.put(receiver)

    def close(self, why: str) -> None:
        """Let go of it; its thread ends soon. Idempotent: the first reason is the one that is told."""
        self._why_ended = self._why_ended or why
        self._receivers.put(None)
        if self._receiver is not None:
            with contextlib.suppress(OSError):          # whoever takes it is gone already
                self._receiver.shutdown(socket.SHUT_RDWR)

    @property
    def is_reading(self) -> bool:
        """Whether its thread may still look at the store."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it does not. After `close`."""
        self._thread.join()

    def _sent(self, error: BaseException | None) -> None:
        if self._receiver is not None:
            self._receiver.close()
        self.on_end(error)

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        failure: BaseException | None = None
        announced = False
        try:
            with self._environment.begin() as transaction:      # its pages stay what they are while it is open
                self.info = self._look(transaction)
                announced = True
                self._poster(self._ready, self, None)
                self._copy(transaction)
        except Exception as error:              # whatever it is, the loop has to hear of it
            failure = StreamEnded(self._why_ended) if self._why_ended else error
        if announced:
            self._poster(self._sent, failure)
        else:
            self._poster(self._ready, self, failure)

    def _look(self, transaction: lmdb.Transaction) -> ImageInfo:
        data = Path(self._environment.path()) / DATA_FILE
        found = verify(data, content_limit_bytes=EVERYTHING, transaction=transaction.id())
        meta = found.meta or StoreMeta()
        nbytes = found.compacted_pages * found.page_bytes
        return ImageInfo(meta.applied_index, meta.applied_term, nbytes, meta.state_hash, KIND)

    def _copy(self, transaction: lmdb.Transaction) -> None:
        try:
            receiver = self._receivers.get(timeout=IDLE_S)
        except queue.Empty:
            raise StreamEnded(f"nobody has taken it for {IDLE_S:g} s") from None
        if receiver is None:
            raise StreamEnded(self._why_ended)
        self._environment.copyfd(receiver.fileno(), compact=True, txn=transaction)


class Streams:
    """Those of one store. Lives on the loop; `poster` brings calls there, as for the store."""

    def __init__(self, poster: Callable[..., object]) -> None:
        self._poster = poster
        self._streams: list[LmdbStream] = []

    def begin(self, environment: lmdb.Environment, done: StreamDone) -> None:
        """Begin a stream of the newest checkpoint. `done` is called on the loop, with it or with what went wrong."""
        self._streams = [stream for stream in self._streams if stream.is_reading]

        def ready(stream: LmdbStream, error: BaseException | None) -> None:
            done(stream if error is None else None, error)

        stream = LmdbStream(environment, self._poster, ready)
        self._streams.append(stream)
        stream.start()

    @property
    def reading(self) -> bool:
        """Whether any of them may still look at the store."""
        return any(stream.is_reading for stream in self._streams)

    def end(self, why: str) -> None:
        """Close them all. Their threads end soon: see `reading`."""
        for stream in self._streams:
            stream.close(why)

    def join(self) -> None:
        """Close them all, and wait."""
        self.end(CLOSING)
        for stream in self._streams:
            stream.join()
