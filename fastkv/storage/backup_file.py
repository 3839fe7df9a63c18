"""A backup: a snapshot as a file to be kept elsewhere, which says of itself what it is and whether it is whole.

It is the image that nodes give each other, byte for byte (`lmdb_image`), and behind it one page of 4096 bytes that
describes it: `magic | u32 version | u32 length | JSON | zeros | u64 xxh3 of all before`. The JSON has the checksum and
the length of the image, so that a file that was cut or altered anywhere is known as such without its cluster.

A file takes its name only once all of it is here, verified and synced, and never that of another file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import secrets
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from xxhash import xxh3_64, xxh3_64_intdigest

from fastkv.errors import BackupExists, BadBackup, NoSpace, StorageError
from fastkv.kv.store import ImageInfo, StoreMeta
from fastkv.storage.lmdb_image import KIND
from fastkv.storage.lmdb_pages import EVERYTHING, verify
from fastkv.storage.past_cache import PIECE_BYTES, PieceWriter, open_for_reading
from fastkv.storage.sync import lacks_space, sync_directory, sync_file

MAGIC = b"fkvback1"
VERSION = 1
TRAILER_BYTES = 4096
WRITEBACK_BYTES = 2 << 20
"""A copy is synced every so often: one that has to be written all at once would delay the log's syncs."""
PART_SUFFIX = ".fkvpart"
"""Of a backup that is not finished."""
_HEAD = struct.Struct("<8sII")
_CHECKSUM_BYTES = 8

Progress = Callable[[int, int], None]
"""Told bytes that are done, and bytes in all."""


def no_progress(done: int, total: int) -> None:
    """Nobody looks."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup says of itself."""

    cluster: str
    node: str
    """Which node it was taken from."""
    index: int
    """The last entry of the log that is in it."""
    term: int
    """That entry's."""
    revision: int
    keys: int
    state_hash: str
    """Equal to that of every node that had applied as much."""
    image_bytes: int
    image_checksum: str
    """xxh3_64 of all of them."""
    kind: str
    made_at: str
    """UTC, by the clock of whoever asked for it."""

    @property
    def file_bytes(self) -> int:
        """How long the whole file is."""
        return self.image_bytes + TRAILER_BYTES


def encode_trailer(backup: Backup) -> bytes:
    """The page behind the image."""
    said = json.dumps(asdict(backup), sort_keys=True).encode()
    body = _HEAD.pack(MAGIC, VERSION, len(said)) + said
    body += bytes(TRAILER_BYTES - _CHECKSUM_BYTES - len(body))
    return body + xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little")


def read_backup(path: Path) -> Backup:
    """What the file says of itself; only its end is read. BadBackup, OSError."""
    with path.open("rb") as file:
        nbytes = file.seek(0, os.SEEK_END)
        file.seek(max(0, nbytes - TRAILER_BYTES))
        page = file.read(TRAILER_BYTES)
    if len(page) < TRAILER_BYTES or page[:8] != MAGIC:
        raise BadBackup(f"{path} is no backup of fastkv, or its end is missing: it has {nbytes} bytes")
    if xxh3_64_intdigest(page[:-_CHECKSUM_BYTES]).to_bytes(_CHECKSUM_BYTES, "little") != page[-_CHECKSUM_BYTES:]:
        raise BadBackup(f"{path} was altered: its description has a wrong checksum")
    _, version, length = _HEAD.unpack_from(page)
    if version != VERSION:
        raise BadBackup(f"{path} has format {version}; this fastkv reads format {VERSION}")
    backup = Backup(**json.loads(page[_HEAD.size : _HEAD.size + length]))
    if nbytes != backup.file_bytes:
        raise BadBackup(f"{path} has {nbytes} bytes, and {backup.file_bytes} when it was made")
    return backup


def verify_backup(path: Path, progress: Progress = no_progress) -> Backup:
    """Read all of it: that it is what was written, and what was written is a whole state. BadBackup, OSError."""
    backup = read_backup(path)
    copy_image(path, -1, backup, progress)
    verify_image(path, backup)
    return backup


def copy_image(path: Path, target: int, backup: Backup, progress: Progress = no_progress) -> None:
    """Read the image, and write it to a descriptor where that is not -1. BadBackup, OSError."""
    checksum, done = xxh3_64(), 0
    source = open_for_reading(path)
    try:
        with mmap.mmap(-1, PIECE_BYTES) as memory, memoryview(memory) as whole:
            while done < backup.image_bytes:
                got = min(os.preadv(source, [whole], done), backup.image_bytes - done)
                if not got:
                    raise BadBackup(f"{path} has ended after {done} bytes while it was read")
                with whole[:got] as piece:
                    checksum.update(piece)
                    if target >= 0:
                        write_all(target, piece)
                if target >= 0 and done // WRITEBACK_BYTES != (done + got) // WRITEBACK_BYTES:
                    sync_file(target, data_only=True)
                done += got
                progress(done, backup.image_bytes)
    finally:
        os.close(source)
    if f"{checksum.intdigest():016x}" != backup.image_checksum:
        raise BadBackup(f"{path} was altered: its checksum is not {backup.image_checksum}")


def verify_image(path: Path, backup: Backup) -> None:
    """Hold the image at the beginning of a file against what is said of it: pages, content, and how far it goes."""
    meta, cluster, node = _look_into(path)
    said = (backup.index, backup.term, backup.revision, backup.keys, backup.state_hash, backup.cluster, backup.node)
    found = (meta.applied_index, meta.applied_term, meta.revision, meta.key_count, f"{meta.state_hash:016x}")
    if said != (*found, cluster, node):
        raise BadBackup(f"{path} is not what it says that it is")


def _look_into(path: Path) -> tuple[StoreMeta, str, str]:
    """How far the image goes, the cluster, and the node that it is of; all of it is read. BadBackup, OSError."""
    try:
        found = verify(path, content_limit_bytes=EVERYTHING, is_compacted=True)
    except StorageError as error:
        raise BadBackup(f"{path} is not whole: {error}") from error
    if found.meta is None:
        raise BadBackup(f"{path} is no store of fastkv")
    cluster, _, node = found.identity.decode(errors="replace").partition("\0")
    return found.meta, cluster, node


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write at the descriptor's place."""
    done = 0
    with memoryview(data) as left:
        while done < len(left):
            done += os.write(fd, left[done:])


def give_name(unfinished: Path, final: Path) -> None:
    """Give a file its name, where no other file has it. BackupExists."""
    try:
        os.link(unfinished, final)      # unlike a rename, it takes no other file's place
    except FileExistsError:
        raise BackupExists(f"{final} is there already, and is left as it is") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        if final.exists():              # a file system without links
            raise BackupExists(f"{final} is there already, and is left as it is") from None
        unfinished.rename(final)


def remove_leftovers(directory: Path) -> None:
    """Remove what backups that were killed have left: nobody holds a lock on it any more."""
    for path in directory.glob(f".*{PART_SUFFIX}"):
        with path.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)


class BackupWriter:
    """Takes in a stream (see `lmdb_stream`), under another name. `finish` makes a backup of it, `abort` leaves nothing.

    NoSpace where there is no room: then nothing is left, either. OSError where the disk fails.
    """

    def __init__(self, directory: Path, image: ImageInfo) -> None:
        if image.kind != KIND:
            raise BadBackup(f"the node makes snapshots of kind {image.kind!r}; this fastkv knows {KIND!r}")
        self._image = image
        self._announced = (image.applied_index, image.applied_term, image.checksum)
        self._directory = directory
        remove_leftovers(directory)
        self._unfinished = directory / f".{secrets.token_hex(8)}{PART_SUFFIX}"
        self._checksum = xxh3_64()
        self._fd = os.open(self._unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._pieces = PieceWriter(self._fd)

    @property
    def nbytes(self) -> int:
        """Bytes of the image that are here."""
        return self._pieces.nbytes

    def room(self) -> memoryview:
        """Memory for the next bytes: put some there, and say how many to `filled`."""
        return self._pieces.room()

    def filled(self, nbytes: int) -> None:
        """So many bytes of `room` are the next ones."""
        self._checksum.update(self._pieces.room()[:nbytes])
        try:
            self._pieces.filled(nbytes)
        except OSError as error:
            self._failed(error)
            raise

    def finish(self, made_at: str, name: Callable[[Backup], Path]) -> tuple[Path, Backup]:
        """All is here: verify it, and give it the name that is asked for. BadBackup; BackupExists."""
        image, path = self._image, self._unfinished
        try:
            self._pieces.flush()
            if self.nbytes != image.nbytes:
                raise BadBackup(f"{self.nbytes} bytes were received, and {image.nbytes} announced")
            meta, cluster, node = _look_into(path)
            if (meta.applied_index, meta.applied_term, meta.state_hash) != self._announced:
                raise BadBackup("what was received is not the snapshot that was announced")
            backup = Backup(
                cluster, node, meta.applied_index, meta.applied_term, meta.revision, meta.key_count,
                f"{meta.state_hash:016x}", image.nbytes, f"{self._checksum.intdigest():016x}", image.kind, made_at,
            )  # fmt: skip
            self._pieces.write(encode_trailer(backup))
            self._pieces.flush()
            sync_file(self._fd)
            final = name(backup)
            give_name(path, final)
            sync_directory(self._directory)
        except OSError as error:
            self._failed(error)
            raise
        finally:
            self.abort()
        return final, backup

    def abort(self) -> None:
        """Leave nothing behind. Idempotent."""
        if self._fd >= 0:
            self._pieces.close()
            os.close(self._fd)
            self._fd = -1
            self._unfinished.unlink(missing_ok=True)

    def _failed(self, error: OSError) -> None:
        self.abort()
        if lacks_space(error):
            raise NoSpace(f"there is no room for the backup in {self._directory}: nothing was kept") from error
