"""Data of a newer release is refused before anything is made of it: by a start, by `check`, `repair` and `inspect`.

Each file says the version of its format in a place that no version moves, under a checksum, so that what is newer is
told from what is damaged. All of them are looked at first: a start that went on file by file would have changed the
first by the time it refuses the second. Whether the files are whole is asked later, by those that read them.

| file | its version | newer where |
|---|---|---|
| identity.json | `format` | its checksum is right |
| wal/*.wal | in the segment's header | the header's checksum is right |
| wal/sealed | the last digit of its magic | its checksum is right |
| store/data.mdb, and copies of it | LMDB's own, in the meta pages | both pages say so |
| the same | `format` of fastkv's meta record | its checksum is right |
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from fastkv.errors import NewerVersion
from fastkv.storage import identity, lmdb_format, lmdb_pages, wal_format, wal_seal
from fastkv.version import __version__


def refuse_newer(path: Path) -> None:
    """NewerVersion where a file of a data directory was written by a newer release. Changes nothing.

    A file that cannot be read is passed over here: whoever needs it says what that means.
    """
    for file, what, newer, known in _files(path):
        found = 0
        with contextlib.suppress(OSError):
            found = newer(file)
        if found:
            raise NewerVersion(
                f"{file} has {what} {found}, and this release (fastkv {__version__}) knows those up to {known}: a "
                "newer one wrote it. Start the node with the release that wrote it, or a later one. Nothing was changed"
            )


def _files(path: Path) -> Iterator[tuple[Path, str, Callable[[Path], int], int]]:
    yield path / identity.IDENTITY_FILE, "format", identity.newer_format, identity.FORMAT
    for segment in sorted((path / "wal").glob("*.wal")):
        yield segment, "format", wal_format.newer_segment, wal_format.VERSION
    yield path / "wal" / wal_seal.FILE, "format", wal_seal.newer_seal, wal_seal.VERSION
    images = sorted((path / "snapshots").glob("*.image"))
    for store in (path / "store" / lmdb_format.DATA_FILE, path / "store.ready" / lmdb_format.DATA_FILE, *images):
        if store.exists():
            yield store, "LMDB's format", lmdb_pages.newer_lmdb, lmdb_pages.VERSION
            yield store, "format", _newer_store, lmdb_format.FORMAT


def _newer_store(path: Path) -> int:
    return lmdb_format.newer_record(lmdb_pages.stored_meta(path))
