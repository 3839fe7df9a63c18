"""What the matter is where LMDB fails: the package passes on the system's text, and not its number."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import lmdb

from fastkv.storage.sync import NO_SPACE, lacks_space

GROWTH_BYTES = 1 << 20
NO_SPACE_TEXTS = tuple(os.strerror(number) for number in sorted(NO_SPACE))


def is_no_space(error: BaseException) -> bool:
    """Whether the disk, or the quota, or the file-size limit is the matter: a condition that passes.

    Where it was LMDB's own sync that found no room, that is no harm: a transaction that failed is never built upon, and
    the next one writes each of its pages anew before it syncs them.
    """
    said = isinstance(error, lmdb.Error) and any(text in str(error) for text in NO_SPACE_TEXTS)
    return said or lacks_space(error)


def is_input_output(error: BaseException) -> bool:
    """Whether LMDB says I/O error: a failed disk, or a write that ended short, which is how a disk fills up."""
    return isinstance(error, lmdb.Error) and os.strerror(errno.EIO) in str(error)


def has_room(data: Path) -> bool:
    """Whether a store's file could grow by a little. Nobody has it open. OSError where the disk fails."""
    with data.open("r+b") as file:
        end = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), end, GROWTH_BYTES)
        except OSError as error:
            if lacks_space(error):
                return False
            raise
        finally:
            os.ftruncate(file.fileno(), end)        # only asking
    return True
