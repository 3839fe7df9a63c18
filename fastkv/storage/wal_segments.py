"""Segment files: made ahead of need, recycled, removed, on a thread of their own.

A segment is created whole and zero-filled before the log needs it, so that an append overwrites blocks that exist and
`fdatasync` has no metadata to flush (measured in docs/architecture/wal.md). It appears under its final name, with a
rename, when all its zeros are durable; the log then begins it without touching the directory. A segment that the log
does not need any more is kept, and becomes a later one once its beginning is zeros: what it holds behind that are
records of another segment, which never pass for records of this one. So a log that goes round writes nothing twice.

No space is an ordinary state here, not a failure: `has_space` says so, what was half made is removed, and `poll` tries
again. Whoever has to go on meanwhile, with a vote say, `take`s a *bare* segment: a small file that is one hole, whose
writes wait for room. Any other error is final and raised by the next call of the log's own thread.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from fastkv.storage.sync import lacks_space, sync_directory, sync_file
from fastkv.storage.wal_format import ALIGNMENT
from fastkv.storage.wal_recovery import Region, overwrite, segment_path

FILL_BYTES = 1 << 20
"""Zeros written, and synced, in one go. A sync of a whole segment would hold up the log's own syncs for tens of ms."""
FILL_PAUSE_S = 0.004
"""Rest between two such pieces."""
BARE_BYTES = 64 * 1024
"""Of a bare segment, where no more is asked for."""
BLOCK_BYTES = 512
"""What `st_blocks` counts."""
BLANK_BYTES = 4096
"""The beginning of a recycled segment that is zeroed: no header there is taken for this segment's."""


class SegmentFile:
    """One segment of the log, open."""

    __slots__ = (
        "bare", "base_index", "base_term", "capacity", "fd", "first_ticket", "last_ticket", "path", "segment_id",
    )  # fmt: skip

    def __init__(self, segment_id: int, path: Path, *, bare: bool = False) -> None:
        """Open a segment; `bare` where it has no room reserved."""
        self.segment_id = segment_id
        self.path = path
        self.bare = bare
        self.fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.capacity = os.fstat(self.fd).st_size
        self.base_index = 0
        self.base_term = 0
        self.first_ticket = 0
        self.last_ticket = 0

    def close(self) -> None:
        """Close the file. Nothing may be under way to it."""
        os.close(self.fd)


class SegmentPreparer:
    """Makes the next segment, and takes back those that are not needed any more.

    The methods belong to the log's thread; only `take` may wait.
    """

    def __init__(self, directory: Path, segment_bytes: int, recycled: int) -> None:
        """Keeps up to `recycled` segments for reuse."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._keep = recycled
        self._changed = threading.Condition()
        self._wanted: tuple[int, int] | None = None     # segment id and bytes of what is to be made
        self._ready: tuple[int, int] | None = None      # what has been made
        self._retired: deque[Path] = deque()
        self._recycled: deque[Path] = deque()
        self._stuck = False         # a full file system does not even let go of what was retired
        self._shrink = False        # what is kept for reuse is to be given up
        self._due = False           # what is wanted is to be tried (again)
        self._space: bool | None = None     # whether there is space for it; None until the file system was asked
        self._urgent = False
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="fastkv-wal-segments", daemon=True)
        self._thread.start()

    def has_space(self) -> bool:
        """Whether the next segment is made, or has its space reserved.

        Where the file system was not asked yet, waits until it was: that is done first of all, in less than a tick.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._space is not None or self._failure is not None)
            return bool(self._space)

    @property
    def ready_bytes(self) -> int:
        """Size of the segment that is ready to be taken; 0 when there is none."""
        ready = self._ready
        return ready[1] if ready else 0

    def prepare(self, segment_id: int) -> None:
        """Begin to make a segment. Returns at once."""
        with self._changed:
            self._want(segment_id, self._segment_bytes)

    def adopt(self, segment_id: int, path: Path) -> None:
        """A segment that is there already, under its final name: of zeros, or a bare one that is made anew."""
        found = path.stat()
        with self._changed:
            if found.st_blocks * BLOCK_BYTES < found.st_size:
                self._want(segment_id, self._segment_bytes)
            else:
                self._ready, self._space = (segment_id, found.st_size), True

    def take(self, segment_id: int, min_bytes: int) -> SegmentFile:
        """The segment, with at least `min_bytes`; waits until it is made. On a full disk a bare one. OSError."""
        with self._changed:
            if self._ready is None or self._ready[1] < min_bytes:
                self._ready = None
                self._want(segment_id, max(min_bytes, self._segment_bytes))
                self._urgent = True
                self._changed.wait_for(lambda: not self._due or self._failure is not None)
                self._urgent = False
            self._raise_failure()
            path = segment_path(self._directory, segment_id)
            if self._ready is None:
                self._wanted = None
                make_bare(self._directory, segment_id, max(min_bytes, BARE_BYTES))
                return SegmentFile(segment_id, path, bare=True)
            assert self._ready[0] == segment_id
            self._ready = None
        return SegmentFile(segment_id, path)

    def retire(self, path: Path) -> None:
        """The log does not need this segment any more: recycle or remove it. Oldest first."""
        with self._changed:
            self._retired.append(path)
            self._changed.notify_all()

    def shrink(self) -> None:
        """Somebody else needs the space of what is kept for reuse."""
        with self._changed:
            self._shrink = True
            self._changed.notify_all()

    def poll(self, *, try_again: bool) -> None:
        """Raise what has failed; where there was no space, look again whether there is some now."""
        with self._changed:
            self._raise_failure()
            if try_again:
                self._stuck = False
                self._due = self._due or self._space is False
                self._changed.notify_all()

    def close(self) -> None:
        """End the thread: what was retired is gone, what is half made is left."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _want(self, segment_id: int, nbytes: int) -> None:
        self._wanted = (segment_id, nbytes)
        self._due, self._space = True, None
        self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while self._work_once():
                pass
        except BaseException as failure:
            with self._changed:
                self._failure = failure
                self._changed.notify_all()

    def _work_once(self) -> bool:
        """Do one thing that is to be done, or wait for one. False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._leaving or self._due or self._shrink)
            retired = self._retired.popleft() if self._leaving else None
            if self._closing and retired is None:
                return False
            wanted = self._wanted if self._due else None
        if retired is not None:
            self._take_back(retired)
        elif wanted is not None:
            self._make(*wanted)
        else:
            self._give_up_recycled()
        return True

    def _take_back(self, path: Path) -> None:
        """Out of the log, durably, before the next one goes: a crash leaves no gap."""
        try:
            if len(self._recycled) >= self._keep or path.stat().st_size != self._segment_bytes:
                path.unlink()
            else:
                kept = path.with_suffix(".tmp")
                path.rename(kept)
                self._recycled.append(kept)
        except OSError as error:
            if not lacks_space(error):
                raise
            with self._changed:
                self._retired.appendleft(path)
                self._stuck = True
            return
        sync_directory(self._directory)
        with self._changed:
            self._due = self._wanted is not None    # there is space again, or a file to be used again

    @property
    def _leaving(self) -> bool:
        return bool(self._retired) and not self._stuck

    def _give_up_recycled(self) -> None:
        while self._recycled:
            self._recycled.popleft().unlink()
        with self._changed:
            self._shrink = False

    def _make(self, segment_id: int, nbytes: int) -> None:
        recycle = bool(self._recycled) and nbytes == self._segment_bytes
        unfinished = self._recycled[0] if recycle else self._directory / "prepared.tmp"
        try:
            if not recycle:
                reserve_space(unfinished, nbytes)
            self._has_space(segment_id, nbytes, True)
            if not fill_with_zeros(unfinished, BLANK_BYTES if recycle else nbytes, self._pause):
                return
            unfinished.rename(segment_path(self._directory, segment_id))
        except OSError as error:
            if not lacks_space(error):
                raise               # not to be worked around
            if not recycle:         # one to be used again has its blocks, but a file system may want others for them
                unfinished.unlink(missing_ok=True)      # leave what there is to others, who may free more
            self._has_space(segment_id, nbytes, False)
            return
        if recycle:
            self._recycled.popleft()
        sync_directory(self._directory)
        with self._changed:
            if self._wanted == (segment_id, nbytes):
                self._wanted, self._ready, self._due = None, (segment_id, nbytes), False
            self._changed.notify_all()

    def _has_space(self, segment_id: int, nbytes: int, there_is: bool) -> None:
        with self._changed:
            if self._wanted == (segment_id, nbytes):    # and not a larger one by now
                self._space, self._due = there_is, there_is
            self._changed.notify_all()

    def _pause(self, fd: int) -> bool:
        """Sync what was written and rest a little, unless the log waits for the segment. False at the end."""
        if not self._urgent:
            sync_file(fd, data_only=True)
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._urgent, FILL_PAUSE_S)
            return not self._closing


_ZEROS = bytes(FILL_BYTES)


def reserve_space(path: Path, nbytes: int) -> None:
    """Make a file of that many bytes, so that writing them will not lack space. OSError at once where there is none."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, nbytes)
    finally:
        os.close(fd)


def fill_with_zeros(path: Path, nbytes: int, go_on: Callable[[int], bool]) -> bool:
    """Fill a file with that many durable zeros. False when `go_on`, asked after each piece, has stopped it."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        offset = 0
        while offset < nbytes:
            offset += os.pwrite(fd, memoryview(_ZEROS)[: nbytes - offset], offset)
            if not go_on(fd):
                return False
        sync_file(fd)
    finally:
        os.close(fd)
    return True


def make_bare(directory: Path, segment_id: int, nbytes: int) -> None:
    """Make a segment that takes no room yet: a hole of that many bytes, whole and durable. OSError."""
    unfinished = directory / "bare.tmp"
    fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.ftruncate(fd, -(-nbytes // ALIGNMENT) * ALIGNMENT)
        sync_file(fd)
    finally:
        os.close(fd)
    unfinished.rename(segment_path(directory, segment_id))
    sync_directory(directory)


def create_first_segment(directory: Path, segment_id: int, nbytes: int, content: bytes) -> None:
    """The first segment of a new log, with its first records: it is there whole and durable, or not at all."""
    unfinished = directory / "first.tmp"
    reserve_space(unfinished, nbytes)
    fill_with_zeros(unfinished, nbytes, lambda fd: True)
    overwrite(Region(unfinished, 0, len(content)), content)
    unfinished.rename(segment_path(directory, segment_id))
    sync_directory(directory)


def remove_leftovers(directory: Path) -> None:
    """Remove segments that a crash left half made or half recycled, and make the names of the others durable.

    A process that was killed between rename and sync leaves names that only the kernel knows; the log goes on in such a
    segment as in any other.
    """
    for path in sorted(directory.glob("*.tmp")):
        path.unlink()
    sync_directory(directory)
