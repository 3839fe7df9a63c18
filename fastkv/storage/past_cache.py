"""Large files that are written or read once, past the page cache (O_DIRECT).

What a backup writes and reads is of no further use in memory. Through the cache it would take the place of what is, and
getting so much memory costs a busy machine more than the disk does: the nodes beside it wait for both.

A file system that does without O_DIRECT is written through the cache, with a sync behind each piece: what is left in
the cache goes out with the next sync of anybody, and a node's log would wait for all of it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fastkv.storage.sync import sync_file

ALIGNMENT = 4096
"""Of every read and write, in memory and in the file: at least what any disk has for a sector."""
PIECE_BYTES = 1 << 20
"""What is written or read at a time."""


def open_for_reading(path: Path) -> int:
    """A descriptor to read from in aligned pieces, past the cache where that can be done. OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _set_direct(fd, True)
        with mmap.mmap(-1, ALIGNMENT) as piece:
            os.preadv(fd, [piece], 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            os.close(fd)
            raise
        _set_direct(fd, False)
    return fd


def _set_direct(fd: int, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)


class PieceWriter:
    """Appends to an open, empty file; a thread writes one piece while the next is gathered.

    OSError where the disk is full or fails, from whichever call comes next. Whoever makes it calls `close`.
    """

    def __init__(self, fd: int) -> None:
        self.nbytes = 0
        """What was given to it."""
        self._fd = fd
        self._offset = 0
        self._direct = True
        self._gathered = 0
        # Memory of its own pages: aligned.
        self._piece, self._other = (memoryview(mmap.mmap(-1, PIECE_BYTES)) for _ in range(2))
        self._thread = ThreadPoolExecutor(1, "piece")
        self._writing: Future[None] | None = None

    def room(self) -> memoryview:
        """Memory for the next bytes: put some there, and say how many to `filled`."""
        return self._piece[self._gathered :]

    def filled(self, nbytes: int) -> None:
        """So many bytes of `room` are the next ones."""
        self.nbytes += nbytes
        self._gathered += nbytes
        if self._gathered == PIECE_BYTES:
            self._hand_over()

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes, from elsewhere."""
        left = memoryview(data)
        while left:
            room = self.room()
            some, left = left[: len(room)], left[len(room) :]
            room[: len(some)] = some
            self.filled(len(some))

    def flush(self) -> None:
        """Have everything in the file. It is not synced."""
        self._hand_over()
        self._wait()

    def close(self) -> None:
        """Stop. What was not flushed may be missing. Idempotent; the descriptor stays open."""
        self._thread.shutdown(cancel_futures=True)

    def _hand_over(self) -> None:
        self._wait()
        piece, self._gathered = self._piece[: self._gathered], 0
        self._piece, self._other = self._other, self._piece
        if piece:
            self._writing = self._thread.submit(self._write_piece, piece)

    def _wait(self) -> None:
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write_piece(self, piece: memoryview) -> None:
        """On the thread."""
        if self._direct:
            self._set_direct(len(piece) % ALIGNMENT == 0 and self._offset % ALIGNMENT == 0)
        while piece:
            try:
                written = os.pwrite(self._fd, piece, self._offset)
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._set_direct(False)
                continue
            piece, self._offset = piece[written:], self._offset + written
        if not self._direct:
            sync_file(self._fd, data_only=True)

    def _set_direct(self, wanted: bool) -> None:
        try:
            _set_direct(self._fd, wanted)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            wanted = False
        self._direct = wanted
