"""A node's data directory: one process at a time, one node for ever.

```
LOCK            held (flock) while a process uses the directory; contains its process id, for people
identity.json   whose data this is: see `identity`
wal/            the write-ahead log
store/          the state machine's store
```

A log under the wrong name is worse than none: a node that votes with another node's log can undo what was acknowledged.
So the identity is written before anything else, checked at each start, and never guessed for a directory that already
has something in it. A start believes the names that it finds; whoever gave them may have been killed before it had
synced them, so they are synced first of all.

`disk` is a random number of this very directory: a node that comes back with another one has lost what it acknowledged
under the old, and the others do not take it for the same member (see `node.acquaintances`). `joins` and `restored` say
how it began: by joining a cluster, or from a backup.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from fastkv.errors import DirectoryInUse, StorageError, WrongDirectory
from fastkv.storage.formats import refuse_newer
from fastkv.storage.identity import FORMAT, IDENTITY_FILE, draw_disk, read_identity, write_identity
from fastkv.storage.sync import NO_SPACE, sync_directory

LOCK_NAME = "LOCK"
AWAITS_FILE = "awaits_snapshot"
"""In the directory of a store: it takes the place of a damaged one, and goes with the log only once a snapshot is here.

It goes with this directory, when the snapshot's takes its place."""


class DataDirectory:
    """An open data directory. Close it, or use it as a context manager."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.wal_path = path / "wal"
        self.store_path = path / "store"
        self.disk = 0
        """The number of this directory; never 0 once it is open."""
        self.restored = ""
        """Which restore it was made by, the same for all nodes of a cluster; empty where by none."""
        self.joins = False
        """Whether its node was told that it is none of a cluster's founders: see `note_joins`."""
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, *, cluster: str, node_id: str) -> DataDirectory:
        """Take the directory, which is made where there is none.

        DirectoryInUse while another process has it, WrongDirectory where it belongs to another node or cluster,
        NewerVersion for one that a newer release has written: nothing is changed then but the process id in LOCK. Other
        StorageErrors for one that cannot be used. OSError where the disk fails or is full.
        """
        _make(path)
        directory = cls(path, _lock(path / LOCK_NAME))
        try:
            refuse_newer(path)
            _sync_names_above(path)
            directory._remove_leftovers()
            directory._check_identity(cluster, node_id)
            _make(directory.wal_path)
            _make(directory.store_path)
        except BaseException:
            directory.close()
            raise
        return directory

    @property
    def awaits_snapshot(self) -> bool:
        """Whether a repair has set the store aside, and none has taken its place yet."""
        return (self.store_path / AWAITS_FILE).exists()

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
        """Remove what a crash left half written, and make durable the names that it left unsynced."""
        for path in self.path.glob("*.tmp"):
            path.unlink()
        sync_directory(self.path)

    def _check_identity(self, cluster: str, node_id: str) -> None:
        path = self.path / IDENTITY_FILE
        drawn = draw_disk()
        ours: dict[str, object] = {"format": FORMAT, "cluster": cluster, "node_id": node_id, "disk": drawn}
        if not path.exists():
            if self.wal_path.exists() or self.store_path.exists():
                raise StorageError(f"{self.path} has data, but no identity.json that says whose it is")
            write_identity(path, ours)
            self.disk = drawn
            return
        theirs = read_identity(path)
        for name, what in (("node_id", "node"), ("cluster", "cluster")):
            if theirs[name] != ours[name]:
                raise WrongDirectory(f"{self.path} belongs to {what} {theirs[name]!r}, not to {what} {ours[name]!r}")
        if "disk" not in theirs:        # made by a version that did not draw one
            theirs["disk"] = drawn
            write_identity(path, theirs)
        disk = theirs["disk"]
        if not isinstance(disk, int) or disk <= 0:
            raise StorageError(f"{path} says disk {disk!r}, which is no number of a directory")
        self.disk = disk
        self.joins = theirs.get("joins") is True
        self.restored = str(theirs.get("restored", ""))

    def note_restored(self, restored: str) -> None:
        """Remember which restore has made this directory."""
        path = self.path / IDENTITY_FILE
        write_identity(path, {**read_identity(path), "restored": restored})
        self.restored = restored

    def note_joins(self) -> None:
        """Remember that this directory's node founds no cluster: others have told it that it is no founder."""
        path = self.path / IDENTITY_FILE
        write_identity(path, {**read_identity(path), "joins": True})
        self.joins = True


def _make(path: Path) -> None:
    """Make a directory, durably, and those above it."""
    if path.is_dir():
        return
    _make(path.parent)
    path.mkdir(exist_ok=True)
    sync_directory(path.parent)


def _sync_names_above(path: Path) -> None:
    """Make the directory's own name durable, and those of the directories above it that a node can have made."""
    path = path.resolve()
    device = path.stat().st_dev
    for above in path.parents:
        if above.stat().st_dev != device or not os.access(above, os.R_OK | os.W_OK):
            return
        sync_directory(above)


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
