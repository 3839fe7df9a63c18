"""The archive of the log: what point-in-time restores replay over a backup.

A thread copies the log, as far as it is durable, into a directory elsewhere: whole segments, and every few seconds what
has been added to the newest one. A segment leaves the log only once all of it is in the archive (`Wal.kept_from`).
Copies have the names and the bytes of their segments, so that the same code reads and judges them (`archive_read`).

```
ARCHIVE/NODE_ID/DISK-FIRST/     a run: segments of one data directory without a gap, FIRST being the first one's number
    archive.json                whose log it is
    times                       a line for each look: `unix time, commit index`, by this node's clock
    *.wal                       segments; the newest one grows
```

A new data directory, and a log of which the archive has missed a part, begin a new run. Where the archive cannot be
written the log is kept, and grows; `problem` says so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import NamedTuple

from fastkv.storage.sync import sync_directory, sync_file, write_durably
from fastkv.storage.wal_recovery import find_segments, segment_path

log = logging.getLogger(__name__)

ABOUT_FILE = "archive.json"
TIMES_FILE = "times"
RUN_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})")
COPY_BYTES = 1 << 20
WRITEBACK_BYTES = 8 << 20
CLOSE_PATIENCE_S = 20.0
"""How long a stop waits for the last of the log to be archived. What is missing then comes after the next start."""


class _Seen(NamedTuple):
    """How far the log was durable when it was looked at."""

    position: int
    commit: int
    at: float


class LogArchive:
    """Copies one node's log. The methods but `_work`'s belong to the log's thread, and return at once."""

    def __init__(self, directory: Path, *, cluster: str, node_id: str, disk: int, interval_s: float) -> None:
        self._root = directory / node_id
        self._about = {"cluster": cluster, "node_id": node_id, "disk": disk}
        self._disk = disk
        self._interval_s = interval_s
        self._changed = threading.Condition()
        self._seen = _Seen(0, 0, 0.0)
        self._closing = False
        self._log = Path()
        self._run = Path()
        self._copy: _Copy | None = None
        self._done = _Seen(0, 0, 0.0)
        self.next_segment = 0
        """Segments with a lower number are archived, whole."""
        self.problem = ""
        """Why the archive cannot be written; empty while it can."""
        self._thread = threading.Thread(target=self._work, name="fastkv-archive", daemon=True)

    def begin(self, log_directory: Path, first_segment: int) -> None:
        """The log in that directory begins with this segment. OSError where the archive cannot be written."""
        self._log = log_directory
        self._run, self.next_segment = self._find_run(first_segment)
        self._thread.start()

    def offer(self, position: int, commit: int) -> None:
        """The log is durable up to `position`, and committed up to entry `commit`."""
        before, self._seen = self._seen, _Seen(position, commit, time.time())
        if before.position >> 32 != position >> 32:
            with self._changed:
                self._changed.notify_all()

    def close(self) -> None:
        """Archive what was offered last, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_PATIENCE_S)

    # -- where -------------------------------------------------------------------------------------------------------

    def _find_run(self, first_segment: int) -> tuple[Path, int]:
        """The run that this log goes on with, and the segment to go on from; a new run where there is none."""
        runs = sorted(path for path in self._root.glob(f"{self._disk:016x}-*") if RUN_NAME.fullmatch(path.name))
        if runs:
            segments = find_segments(runs[-1])
            # The last one may not be whole, or have bytes that were not synced: it is copied again.
            following = segments[-1][0] if segments else int(runs[-1].name[-16:], 16)
            if following >= first_segment or following + 1 == first_segment:
                return runs[-1], max(following, first_segment)
        run = self._root / f"{self._disk:016x}-{first_segment:016x}"
        _make(run)
        about = run / ABOUT_FILE
        write_durably(about, json.dumps({**self._about, "first_segment": first_segment}).encode() + b"\n")
        return run, first_segment

    # -- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(self._is_due, self._interval_s)
                closing = self._closing
            seen = self._seen
            if seen.position <= self._done.position and seen.commit <= self._done.commit:
                continue
            try:
                self._archive(seen)
            except OSError as error:
                self._failed(error)
                if not closing:
                    with self._changed:
                        self._changed.wait_for(lambda: self._closing, self._interval_s)
            else:
                if self.problem:
                    log.info("the log is being archived again")
                self.problem = ""
        if self._copy is not None:
            self._copy.close()

    def _is_due(self) -> bool:
        return self._closing or self._seen.position >> 32 > self.next_segment

    def _failed(self, error: OSError) -> None:
        problem = f"the log cannot be archived in {self._run}, and is kept until it can: {error.strerror or error}"
        if problem != self.problem:
            log.error("%s", problem)
        self.problem = problem
        if self._copy is not None:
            self._copy.close()      # what failed is copied anew
            self._copy = None

    def _archive(self, seen: _Seen) -> None:
        last = seen.position >> 32
        while self.next_segment <= last:
            if self._copy is None:
                self._copy = _Copy(segment_path(self._log, self.next_segment), self._run)
            stop = seen.position & 0xFFFF_FFFF if self.next_segment == last else self._copy.capacity
            self._copy.up_to(stop)
            if self.next_segment == last:
                break
            self._copy.close()
            self._copy = None
            self.next_segment += 1
        if seen.commit > self._done.commit:
            _append_durably(self._run / TIMES_FILE, f"{seen.at:.3f} {seen.commit}\n".encode())
        self._done = seen


class _Copy:
    """A segment on its way into a run. Its file takes its name with the first bytes, and grows from then on."""

    def __init__(self, source: Path, run: Path) -> None:
        self._run = run
        self._source = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        self._path = run / source.name
        self._unfinished = run / f"{source.name}.part"
        self._named = False
        self._offset = 0
        self._target = -1
        try:
            self.capacity = os.fstat(self._source).st_size
            self._target = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._target, self.capacity)       # what is not there yet is a hole: zeros
        except OSError:
            self.close()
            raise

    def up_to(self, stop: int) -> None:
        """Have the segment's bytes up to `stop` in the archive, durably."""
        unsynced = 0
        while self._offset < stop:
            data = os.pread(self._source, min(COPY_BYTES, stop - self._offset), self._offset)
            if not data:
                raise OSError(f"{self._path.name} is shorter than its log says")
            self._offset += os.pwrite(self._target, data, self._offset)
            unsynced += len(data)
            if unsynced >= WRITEBACK_BYTES:     # little by little, so that the log's own syncs are not held up
                sync_file(self._target, data_only=True)
                unsynced = 0
        sync_file(self._target)
        if not self._named:
            self._unfinished.rename(self._path)
            sync_directory(self._run)
            self._named = True

    def close(self) -> None:
        for fd in (self._source, self._target):
            if fd >= 0:
                os.close(fd)
        self._source = self._target = -1


def _make(directory: Path) -> None:
    """Make a directory and those above it, durably."""
    if not directory.is_dir():
        _make(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
        sync_directory(directory.parent)


def _append_durably(path: Path, line: bytes) -> None:
    is_new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line)
        sync_file(fd, data_only=True)
    finally:
        os.close(fd)
    if is_new:
        sync_directory(path.parent)
