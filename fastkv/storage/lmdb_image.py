"""Images of an LMDB store: how a whole state travels from one node to another.

A checkpoint leaves a whole state in the store, with its applied index in the same transaction. So a snapshot costs no
pause: LMDB copies the tree of the newest checkpoint, compacted, into a file, on a thread and without the interpreter's
lock, while reads and further checkpoints go on. The file is made under another name, checksummed, synced, renamed, and
the directory synced; only then is there an image.

On the receiving side the bytes grow in `store.part`, which survives a break and a restart. When all are there they are
verified - length, checksum, that it is a store, of this cluster, at the announced index - and made this node's own; the
rename to `store.ready` is the moment from which the installation will be completed, whatever happens:

| on the disk | the node's start makes of it |
|---|---|
| `store.part` | nothing; a fetch of the same image goes on from there |
| `store.ready`, ahead of `store` | the log restarts behind it, then it takes the place of `store` |
| `store.ready`, not ahead | nothing: the node caught up by the log while it came; removed |
| `store.old` | what was replaced: removed |

A directory is removed under the name `store.old`: half removed under its own, it would be taken for what it was.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import lmdb
from xxhash import xxh3_64

from fastkv.errors import StorageError
from fastkv.kv.store import ImageInfo, ImageRefused, StoreFull, StoreMeta
from fastkv.storage.lmdb_errors import is_input_output, is_no_space
from fastkv.storage.lmdb_format import (
    DATA_FILE,
    IDENTITY_KEY,
    META_KEY,
    decode_meta,
    encode_meta,
    identity_of,
)
from fastkv.storage.lmdb_pages import EVERYTHING, verify
from fastkv.storage.lmdb_start import make_durable
from fastkv.storage.sync import SyncFailed, sync_directory, sync_file

KIND = "lmdb-0.9"
INFO_FILE = "info.json"
LOCK_FILE = "lock.mdb"
READERS = 128
LOCK_HEAD_BYTES = 4096
READER_BYTES = 64
"""A reader's place in LMDB's lock file, and at least what stands before the first."""
READ_BYTES = 1 << 20

Done = Callable[[BaseException | None], None]


class LmdbImage:
    """A finished image, open for reading."""

    def __init__(self, path: Path, info: ImageInfo) -> None:
        self.path = path
        self.info = info
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes from `offset` on; fewer than asked for only at the end."""
        return os.pread(self._fd, nbytes, offset)

    def close(self) -> None:
        """Let go of the file. Idempotent.

        On a thread: where there is a newer image by now, its blocks go with it, a tenth of a second a gigabyte.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            threading.Thread(target=os.close, args=(fd,), name="close").start()


def make_image(environment: lmdb.Environment, directory: Path) -> tuple[Path, ImageInfo]:
    """Copy the newest checkpoint into a file of `directory`; to be called on a thread. OSError, lmdb.Error.

    DamagedStore where the store or its copy is not whole, down to the last byte: LMDB would follow a damaged page
    wherever it leads, and nobody is to be given what was never written.
    """
    if not directory.is_dir():
        directory.mkdir()
        sync_directory(directory.parent)
    unfinished = directory / "copy.tmp"
    try:
        with environment.begin() as transaction:        # its pages stay what they are while it is open
            verify(Path(environment.path()) / DATA_FILE, content_limit_bytes=EVERYTHING, transaction=transaction.id())
            _copy(environment, transaction, unfinished)
        digest, nbytes = _checksum(unfinished)
        meta = verify(unfinished, content_limit_bytes=EVERYTHING).meta or StoreMeta()
        info = ImageInfo(meta.applied_index, meta.applied_term, nbytes, digest, KIND)
        path = directory / f"{meta.applied_index:016x}-{meta.applied_term:016x}.image"
        unfinished.rename(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)      # on a full disk others need the room
        raise
    sync_directory(directory)
    return path, info


def _copy(environment: lmdb.Environment, transaction: lmdb.Transaction[bytes], target: Path) -> None:
    """LMDB's compacted copy, each of its large writes on the disk before the next.

    What is left in the cache goes out with the next sync of anybody: the log's would wait for all of it. SyncFailed
    where the disk fails.
    """
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_DSYNC | os.O_CLOEXEC, 0o644)
    try:
        environment.copyfd(fd, compact=True, txn=transaction)
        sync_file(fd)
    except lmdb.Error as error:
        if is_input_output(error):      # each of these writes is a sync, too
            raise SyncFailed(errno.EIO, f"the copy of the store has failed: {error}") from error
        raise
    finally:
        os.close(fd)


def _checksum(path: Path) -> tuple[int, int]:
    """xxh3_64 of a file, and its length."""
    checksum, nbytes = xxh3_64(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(READ_BYTES):
            checksum.update(piece)
            nbytes += len(piece)
    return checksum.intdigest(), nbytes


def read_meta(path: Path) -> tuple[StoreMeta, bytes]:
    """How far an image goes, and whose store it was copied from. StorageError where it is no store."""
    try:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, max_dbs=4)
    except lmdb.Error as error:
        raise StorageError(f"{path} is no store: {error}") from error
    try:
        meta_db = environment.open_db(b"meta", create=False)
        with environment.begin(db=meta_db) as transaction:
            stored, identity = transaction.get(META_KEY), transaction.get(IDENTITY_KEY)
    except lmdb.Error as error:
        raise StorageError(f"{path} is no store of fastkv: {error}") from error
    finally:
        environment.close()
    if stored is None or identity is None:
        raise StorageError(f"{path} does not say what it is a store of")
    return decode_meta(stored, path), identity


class Incoming:
    """An image on its way here. Everything but `finish` is quick; a break, or a restart, loses nothing."""

    def __init__(
        self, store: Path, info: ImageInfo, *, cluster: str, node_id: str, poster: Callable[..., object]
    ) -> None:
        self.info = info
        self._part = store.with_name("store.part")
        self._ready = store.with_name("store.ready")
        self._old = store.with_name("store.old")
        self._cluster = cluster
        self._node_id = node_id
        self._poster = poster
        self._fd = -1
        self.offset = self._open()
        """Bytes that are here: where to go on."""

    def _open(self) -> int:
        said = json.dumps(asdict(self.info), sort_keys=True)
        info = self._part / INFO_FILE
        if not info.exists() or info.read_text() != said:
            shutil.rmtree(self._part, ignore_errors=True)
            self._part.mkdir()
            info.write_text(said)
        self._fd = os.open(self._part / DATA_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._fd).st_size
        if size > self.info.nbytes:
            os.ftruncate(self._fd, 0)
            size = 0
        return size

    def write(self, data: bytes | memoryview) -> None:
        """The bytes at `offset`. OSError where the disk is full or fails."""
        left = memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, self.offset)
            left, self.offset = left[written:], self.offset + written

    def finish(self, done: Done) -> None:
        """Everything is here: verify it, on a thread, and make it ready to be installed; `done` comes on the loop.

        With ImageRefused where it is not what was announced: then it is removed. With StoreFull where there is no room
        to make it ready, and any other error where the disk fails: then it is not to be tried again.
        """

        def work() -> None:
            error: BaseException | None = None
            try:
                self._verify()
            except (OSError, lmdb.Error, StorageError, ImageRefused) as failure:
                error = self._judge(failure)
            self._poster(done, error)

        threading.Thread(target=work, name="snapshot", daemon=True).start()

    def _judge(self, failure: BaseException) -> BaseException:
        """What is to be said of a failed `_verify`."""
        if is_no_space(failure):
            return StoreFull(f"no room for a snapshot: {failure}")
        if isinstance(failure, OSError) or is_input_output(failure):
            return failure
        shutil.rmtree(self._part, ignore_errors=True)
        return failure if isinstance(failure, ImageRefused) else ImageRefused(str(failure))

    def _verify(self) -> None:
        info, data = self.info, self._part / DATA_FILE
        sync_file(self._fd)
        self.close()
        digest, nbytes = _checksum(data)
        if nbytes != info.nbytes:
            raise ImageRefused(f"the snapshot has {nbytes} bytes, and {info.nbytes} were announced")
        if digest != info.checksum:
            raise ImageRefused("the snapshot's checksum is wrong: it was altered on its way, or on a disk")
        verify(data, content_limit_bytes=EVERYTHING)
        meta, identity = read_meta(data)
        cluster = identity.decode(errors="replace").partition("\0")[0]
        if cluster != self._cluster:
            raise ImageRefused(f"the snapshot is of cluster {cluster!r}, and this node belongs to {self._cluster!r}")
        if (meta.applied_index, meta.applied_term) != (info.applied_index, info.applied_term):
            raise ImageRefused(
                f"the snapshot ends with entry {meta.applied_index} of term {meta.applied_term}, and "
                f"{info.applied_index} of term {info.applied_term} was announced"
            )
        _make_ours(self._part, identity_of(self._cluster, self._node_id))
        reserve_lock_file(self._part, READERS)
        (self._part / INFO_FILE).unlink()
        sync_directory(self._part)
        _discard(self._ready, self._old)
        self._part.rename(self._ready)
        sync_directory(self._ready.parent)

    def close(self) -> None:
        """Go on another time. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abort(self) -> None:
        """Forget what is here."""
        self.close()
        shutil.rmtree(self._part, ignore_errors=True)


def _make_ours(directory: Path, identity: bytes) -> None:
    """An image is a copy of another node's store, and says so. Nobody else has it open."""
    set_meta(directory, read_meta(directory / DATA_FILE)[0], identity)


def set_meta(directory: Path, meta: StoreMeta, identity: bytes) -> None:
    """Have a store say that it goes so far, and whose it is. Nobody else has it open. lmdb.Error, OSError."""
    with lmdb.open(str(directory), max_dbs=4, map_size=_map_bytes(directory), lock=False) as environment:
        meta_db = environment.open_db(b"meta", create=False)
        with environment.begin(db=meta_db, write=True) as transaction:
            transaction.put(META_KEY, encode_meta(meta))
            transaction.put(IDENTITY_KEY, identity)


def _map_bytes(directory: Path) -> int:
    return max(1 << 20, 2 * (directory / DATA_FILE).stat().st_size)


def reserve_lock_file(directory: Path, readers: int) -> None:
    """Give LMDB's table of readers its blocks. OSError where there is no room.

    LMDB writes it through a map of a file with holes: on a full disk, that kills the process.
    """
    path = directory / LOCK_FILE
    is_new = not path.exists()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(fd, 0, LOCK_HEAD_BYTES + readers * READER_BYTES)
    finally:
        os.close(fd)
    if is_new:
        sync_directory(directory)


def pending_install(store: Path, verify_bytes: int = 0) -> tuple[int, int] | None:
    """(index, term) of a snapshot whose installation is to be completed; None where there is none.

    One that the log has overtaken is removed: the log may have been cut behind it since, and must not go back to it.
    What this says is durable: the log restarts on the strength of it. The snapshot's content is verified up to so many
    bytes; DamagedStore where it, or the store, is not whole.
    """
    ready, old = store.with_name("store.ready"), store.with_name("store.old")
    if not ready.exists():
        return None
    sync_directory(store.parent)        # whoever gave it its name may have been killed before it synced that
    if (ready / DATA_FILE).exists():
        verify(ready / DATA_FILE, content_limit_bytes=verify_bytes)
        meta, _ = read_meta(ready / DATA_FILE)
        if not make_durable(store):
            return meta.applied_index, meta.applied_term
        verify(store / DATA_FILE, content_limit_bytes=0)
        if read_meta(store / DATA_FILE)[0].applied_index < meta.applied_index:
            return meta.applied_index, meta.applied_term
    _discard(ready, old)
    return None


def exchange(store: Path) -> None:
    """Put `store.ready`, where it is ahead, in the place of `store`. Any crash leaves something to go on from."""
    ready, old = store.with_name("store.ready"), store.with_name("store.old")
    if pending_install(store) is not None:
        shutil.rmtree(old, ignore_errors=True)
        if store.exists():
            store.rename(old)
        ready.rename(store)
    if store.parent.exists():
        sync_directory(store.parent)    # also what a killed process has exchanged; only then may the old one go
    shutil.rmtree(old, ignore_errors=True)


def _discard(directory: Path, old: Path) -> None:
    """Remove a directory whole, as far as any later start can see."""
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
        sync_directory(directory.parent)
        shutil.rmtree(old, ignore_errors=True)
