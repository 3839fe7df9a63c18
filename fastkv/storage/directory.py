"""A node's data directory: one process at a time, one node for ever.

```
LOCK            held (flock) while a process uses the directory; contains its process id, for people
identity.json   {"format", "cluster", "node_id", "disk"}: whose data this is
wal/            the write-ahead log
store/          the state machine's store
```

A log under the wrong name is worse than none: a node that votes with another node's log can undo what was acknowledged.
So the identity is written before anything else, checked at each start, and never guessed for a directory that already
has something in it. `disk` is a random number of this very directory: a node that comes back with another one has lost
what it acknowledged under the old, and the others do not take it for the same member (see `node.acquaintances`).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path
from types import TracebackType
from typing import Self

from fastkv.errors import DirectoryInUse, StorageError, WrongDirectory
from fastkv.storage.sync import NO_SPACE, sync_directory, sync_file

FORMAT = 1
"""Of the directory as a whole; its parts have versions of their own."""
MAX_IDENTITY_BYTES = 64 * 1024


class DataDirectory:
    """An open data directory. Close it, or use it as a context manager."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.wal_path = path / "wal"
        self.store_path = path / "store"
        self.disk = 0
        """The number of this directory; never 0 once it is open."""
        self.joins = False
        """Whether its node was told that it is none of a cluster's founders: see `note_joins`."""
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, *, cluster: str, node_id: str) -> DataDirectory:
        """Take the directory, which is made where there is none.

        DirectoryInUse while another process has it, WrongDirectory where it belongs to another node or cluster,
        StorageError for one that this version of fastkv cannot use. OSError where the disk fails or is full.
        """
        _make(path)
        directory = cls(path, _lock(path / "LOCK"))
        try:
            directory._remove_leftovers()
            directory._check_identity(cluster, node_id)
            _make(directory.wal_path)
            _make(directory.store_path)
        except BaseException:
            directory.close()
            raise
        return directory

    def close(self) -> None:
        """Let others have it. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)     # and with it goes the lock
            self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remove_leftovers(self) -> None:
        leftovers = list(self.path.glob("*.tmp"))
        for path in leftovers:
            path.unlink()
        if leftovers:
            sync_directory(self.path)

    def _check_identity(self, cluster: str, node_id: str) -> None:
        path = self.path / "identity.json"
        drawn = secrets.randbits(63) | 1
        ours = {"format": FORMAT, "cluster": cluster, "node_id": node_id, "disk": drawn}
        if not path.exists():
            if self.wal_path.exists() or self.store_path.exists():
                raise StorageError(f"{self.path} has data, but no identity.json that says whose it is")
            _write_durably(path, json.dumps(ours).encode() + b"\n")
            self.disk = drawn
            return
        theirs = _read_identity(path)
        if theirs["format"] != FORMAT:
            raise StorageError(f"{path} says format {theirs['format']!r}; this fastkv reads format {FORMAT}")
        for name, what in (("node_id", "node"), ("cluster", "cluster")):
            if theirs[name] != ours[name]:
                raise WrongDirectory(f"{self.path} belongs to {what} {theirs[name]!r}, not to {what} {ours[name]!r}")
        if "disk" not in theirs:        # made by a version that did not draw one
            theirs["disk"] = drawn
            _write_durably(path, json.dumps(theirs).encode() + b"\n")
        disk = theirs["disk"]
        if not isinstance(disk, int) or disk <= 0:
            raise StorageError(f"{path} says disk {disk!r}, which is no number of a directory")
        self.disk = disk
        self.joins = theirs.get("joins") is True

    def note_joins(self) -> None:
        """Remember that this directory's node founds no cluster: others have told it that it is no founder."""
        path = self.path / "identity.json"
        _write_durably(path, json.dumps({**_read_identity(path), "joins": True}).encode() + b"\n")
        self.joins = True


def _make(path: Path) -> None:
    """Make a directory, durably, and those above it."""
    if path.is_dir():
        return
    _make(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
        os.close(fd)
        raise DirectoryInUse(f"{path.parent} is in use by process {holder or 'unknown'}") from None
    try:
        os.pwrite(fd, b"%-31d\n" % os.getpid(), 0)      # over what is there: a full disk has room for that
    except OSError as error:
        if error.errno not in NO_SPACE:
            os.close(fd)
            raise
        # It is for people only.
    return fd


def _read_identity(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        raw = file.read(MAX_IDENTITY_BYTES)
    try:
        identity = json.loads(raw)
    except ValueError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    if not isinstance(identity, dict) or not identity.keys() >= {"format", "cluster", "node_id"}:
        raise StorageError(f"{path} does not say whose data this is")
    return identity


def _write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that after a crash it is there whole, or not at all."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        sync_file(file.fileno())
    unfinished.rename(path)
    sync_directory(path.parent)
