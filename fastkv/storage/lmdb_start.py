"""What a start finds of an LMDB store, and what it makes where there is none.

LMDB commits by writing its meta page last, and syncing it. A process that was killed in between leaves a commit that
the kernel knows and the disk may not: the next one reads it, takes for durable what it says, and cuts the log. So what
is there is synced before it is read. And a new file of LMDB is nothing until its first pages are whole; after a power
loss it might be neither empty nor a store. So it is made under another name.
"""

from __future__ import annotations

import os
from pathlib import Path

import lmdb

from fastkv.storage.lmdb_format import DATA_FILE, DATABASES, NAMED_DATABASES
from fastkv.storage.sync import sync_directory, sync_file

FIRST_MAP_BYTES = 1 << 20
"""Of a new store; whoever opens it says how large it may become."""


def make_durable(store: Path) -> bool:
    """Sync the store's file, and its name. False where there is none, or an empty one. SyncFailed."""
    data = store / DATA_FILE
    if not data.exists() or not data.stat().st_size:
        return False
    fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync_file(fd)
    finally:
        os.close(fd)
    sync_directory(store)
    return True


def create(store: Path) -> None:
    """Make an empty store in the directory: it is there whole and durable, or not at all. OSError, lmdb.Error."""
    unfinished = store / "data.tmp"
    unfinished.unlink(missing_ok=True)
    with lmdb.open(
        str(unfinished), subdir=False, lock=False, map_size=FIRST_MAP_BYTES, max_dbs=NAMED_DATABASES
    ) as environment:
        for name in DATABASES:
            environment.open_db(name)       # commits, with all before it, and syncs
    unfinished.rename(store / DATA_FILE)
    sync_directory(store)
