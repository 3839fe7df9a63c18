"""An image of the store that goes straight to whoever asked for it, without a file: LMDB's compacted copy, in a pipe.

One read transaction, on a thread: the store is verified as of that transaction, which also says how long a copy will
be. Then LMDB writes the copy, which waits in the pipe for whoever takes it, part by part, in order. Its checksum is not
known beforehand: it goes by the hash of its state, and whoever takes it in verifies that.

A file would be kinder to the store: a transaction that is open keeps the pages that it sees, and the map may not grow
under it. But a backup of a running node is to cost its writers little, and a second copy on the same disk, synced, read
and verified, costs more than all the rest. So whoever takes a stream has to keep up: `Streams.end` ends them all, where
the store needs its room.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import lmdb

from fastkv.errors import StorageError
from fastkv.kv.store import ImageInfo, StoreMeta
from fastkv.storage.lmdb_format import DATA_FILE
from fastkv.storage.lmdb_image import KIND
from fastkv.storage.lmdb_pages import EVERYTHING, verify

PIPE_BYTES = 1 << 20
"""What may wait to be taken: the most that Linux gives to everybody."""

TOO_SLOW = "the store needs the room that this snapshot holds open; begin again, and take it faster"

StreamDone = Callable[["LmdbStream | None", BaseException | None], None]


class StreamEnded(StorageError):
    """The store has ended a stream, because it needs the room that the stream holds, or because the node stops."""


class LmdbStream:
    """One copy on its way. Lives on the loop; what it does on its thread is in `_work`."""

    def __init__(self, environment: lmdb.Environment, ready: Callable[[BaseException | None], object]) -> None:
        self.info: ImageInfo
        """What there will be, once it is ready. For a checksum it has the state's hash."""
        self.offset = 0
        """Bytes that were taken."""
        self.on_close: Callable[[], None] = lambda: None
        """Called before the descriptor is closed."""
        self._environment = environment
        self._ready = ready
        self._parts: list[bytes] = []
        self._failure: BaseException | None = None
        self._lock = threading.Lock()       # of the two below
        self._ended = False
        self._fd = -1
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)

    def start(self) -> None:
        """Begin its work."""
        self._thread.start()

    # -- on the loop -------------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """What becomes readable when there is more to take."""
        return self._fd

    def take(self, nbytes: int) -> bytes | None:
        """The next bytes, as many as are asked for unless the copy ends; None where not all of them are here yet.

        StreamEnded where the store has ended it, StorageError and lmdb.Error where the copy has failed.
        """
        if self._ended:
            raise StreamEnded(TOO_SLOW)
        wanted = min(nbytes, self.info.nbytes - self.offset)
        missing = wanted - sum(len(part) for part in self._parts)
        while missing:
            try:
                part = os.read(self._fd, missing)
            except BlockingIOError:
                return None
            if not part:
                raise self._failure or StorageError(f"the copy of the store ended before byte {self.info.nbytes}")
            self._parts.append(part)
            missing -= len(part)
        taken = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self.offset += wanted
        return taken

    def close(self) -> None:
        """Let go of it; its thread ends soon. Idempotent."""
        if self._fd >= 0:
            self.on_close()
        with self._lock:
            self._ended = True
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)        # whoever writes into the pipe is told

    @property
    def is_reading(self) -> bool:
        """Whether its thread may still look at the store."""
        return self._thread.is_alive()

    def join(self) -> None:
        """Wait until it does not. After `close`."""
        self._thread.join()

    # -- on the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        writer, announced = -1, False
        try:
            with self._environment.begin() as transaction:      # its pages stay what they are while it is open
                data = Path(self._environment.path()) / DATA_FILE
                found = verify(data, content_limit_bytes=EVERYTHING, transaction=transaction.id())
                meta = found.meta or StoreMeta()
                nbytes = found.compacted_pages * found.page_bytes
                self.info = ImageInfo(meta.applied_index, meta.applied_term, nbytes, meta.state_hash, KIND)
                reader, writer = _pipe()
                self._begin(reader)
                announced = True
                self._ready(None)
                self._environment.copyfd(writer, compact=True, txn=transaction)
        except Exception as failure:            # whatever it is, the loop has to hear of it
            self._failure = StreamEnded(TOO_SLOW) if self._ended else failure
            if not announced:
                self._ready(self._failure)
        finally:
            if writer >= 0:
                os.close(writer)                # behind what it tells of

    def _begin(self, reader: int) -> None:
        os.set_blocking(reader, False)
        with self._lock:
            if not self._ended:
                self._fd = reader
                return
        os.close(reader)
        raise StreamEnded(TOO_SLOW)


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    with contextlib.suppress(PermissionError):      # the system allows less: a smaller one does, too
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


class Streams:
    """Those of one store. Lives on the loop; `poster` brings calls there, as for the store."""

    def __init__(self, poster: Callable[..., object]) -> None:
        self._poster = poster
        self._streams: list[LmdbStream] = []

    def begin(self, environment: lmdb.Environment, done: StreamDone) -> None:
        """Begin a stream of the newest checkpoint. `done` is called on the loop, with it or with what went wrong."""
        self._streams = [stream for stream in self._streams if stream.is_reading]
        stream = LmdbStream(environment, lambda error: self._poster(self._ready, stream, done, error))
        self._streams.append(stream)
        stream.start()

    def _ready(self, stream: LmdbStream, done: StreamDone, error: BaseException | None) -> None:
        if error is None:
            done(stream, None)
        else:
            done(None, error)

    @property
    def reading(self) -> bool:
        """Whether any of them may still look at the store."""
        return any(stream.is_reading for stream in self._streams)

    def end(self) -> None:
        """Close them all. Their threads end soon: see `reading`."""
        for stream in self._streams:
            stream.close()

    def join(self) -> None:
        """Close them all, and wait."""
        self.end()
        for stream in self._streams:
            stream.join()
