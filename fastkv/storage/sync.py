"""Making files durable, and what it means where that fails.

A sync that fails is final, whatever its reason. The kernel may take the pages for clean that never reached the disk, so
that a second sync succeeds and proves nothing. So `SyncFailed` is never taken for a full disk, never tried again, and
ends the process; the next start looks at what is on the disk. A *write* that finds no room is another matter: nothing
was promised, and there may be room later.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The disk, the quota or the file-size limit is the matter: a condition that passes."""


class SyncFailed(OSError):
    """What was written may not be on the disk: the process has to end."""


def sync_file(fd: int, *, data_only: bool = False) -> None:
    """fsync, or fdatasync. SyncFailed."""
    try:
        os.fdatasync(fd) if data_only else os.fsync(fd)
    except OSError as error:
        raise SyncFailed(error.errno, f"a sync has failed: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make names that were created, renamed or removed in the directory durable. SyncFailed."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that after a crash it is there whole, or not at all. OSError, SyncFailed."""
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        sync_file(file.fileno())
    unfinished.rename(path)
    sync_directory(path.parent)


def lacks_space(error: BaseException) -> bool:
    """Whether an error of the system says that there is no room, and not that a sync has failed."""
    return isinstance(error, OSError) and not isinstance(error, SyncFailed) and error.errno in NO_SPACE
