"""The state machine's durable store: LMDB, a copy-on-write B+tree, written by checkpoints only.

A checkpoint is one write transaction with full sync: the changed records, in order, and how far they go. LMDB makes
that atomic over crashes and power loss, so data and applied index never part. It runs on a thread of its own; readers
see the state before it until it has committed, and are never blocked.

Facts this file is built on (LMDB's documentation, "Caveats"): a write transaction belongs to one thread; an
environment is never used across a fork; an open read transaction keeps old pages alive; the map may only be resized
while no transaction is open; `writemap` would kill the process on a full disk, so it is never used.
"""

from __future__ import annotations

import logging
import mmap
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import lmdb

from fastkv.errors import StorageError, WrongDirectory
from fastkv.kv.store import Changes, ImageInfo, ImageRefused, Items, StoreFull, StoreMeta, StorePinned
from fastkv.storage.lmdb_errors import is_input_output, is_no_space
from fastkv.storage.lmdb_format import (
    DATA_FILE,
    IDENTITY_KEY,
    META_KEY,
    NAMED_DATABASES,
    decode_meta,
    encode_meta,
    identity_of,
)
from fastkv.storage.lmdb_image import KIND, Incoming, LmdbImage, exchange, make_image, reserve_lock_file
from fastkv.storage.lmdb_pages import verify
from fastkv.storage.lmdb_start import create, make_durable
from fastkv.storage.lmdb_stream import CLOSING, TOO_SLOW, StreamDone, Streams
from fastkv.storage.sync import lacks_space

log = logging.getLogger(__name__)

SPARE_READERS = 16
PAGE_BYTES = 4096
SPARE_BYTES = 1 << 20
BURST_ITEMS = 64
BURST_S = 0.001
BURST_PAUSE_S = 0.0005

Done = Callable[[BaseException | None], None]
ImageDone = Callable[[LmdbImage | None, BaseException | None], None]


class LmdbView:
    """The store at one moment: a read transaction."""

    def __init__(self, store: LmdbStore, transaction: lmdb.Transaction[bytes]) -> None:
        self._store = store
        self._transaction: lmdb.Transaction[bytes] | None = transaction

    def range(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """(key, record) of [start, end) in order, or backwards; an empty `end` is no bound."""
        assert self._transaction is not None, "the view is closed"
        cursor: lmdb.Cursor[bytes] = self._transaction.cursor(db=self._store.data)
        with cursor:
            if reverse:
                there = cursor.set_range(end) if end else False
                there = cursor.prev() if there else cursor.last()
                while there and cursor.key() >= start:
                    yield cursor.item()
                    there = cursor.prev()
            else:
                there = cursor.set_range(start) if start else cursor.first()
                while there and not (end and cursor.key() >= end):
                    yield cursor.item()
                    there = cursor.next()

    def close(self) -> None:
        """End the transaction. Closing twice is harmless."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None
            self._store.view_closed()


class LmdbStore:
    """A `kv.store.Store` in a directory of its own.

    `poster(callback, *arguments)` brings a call onto the loop from another thread (`loop.call_soon_threadsafe`).
    `on_checkpoint` is told, on the loop, how many seconds each checkpoint took.
    The file is looked at before LMDB is let near it: every page of its trees, and all its content where it is no longer
    than `verify_bytes` (see `lmdb_pages`). DamagedStore where it is not whole, WrongDirectory for another node's or
    cluster's store, StorageError for an unknown format or an unreadable file.
    """

    def __init__(
        self,
        path: Path,
        *,
        cluster: str,
        node_id: str,
        map_bytes: int,
        poster: Callable[..., object],
        snapshots: int = 64,
        verify_bytes: int = 1 << 40,
        on_checkpoint: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        exchange(path)      # an installation that a crash has interrupted; the log has restarted behind it by now
        path.mkdir(parents=True, exist_ok=True)
        if make_durable(path):
            verify(path / DATA_FILE, content_limit_bytes=verify_bytes)
        self._path = path
        self._cluster = cluster
        self._node_id = node_id
        self._poster = poster
        self._snapshots = snapshots
        self._on_checkpoint = on_checkpoint
        self._views = 0
        self._closed = False
        self._wanted_map_bytes = map_bytes
        self._image: tuple[Path, ImageInfo] | None = None
        self._image_wanted: list[ImageDone] = []
        self._streams = Streams(poster)
        self._image_directory = path.with_name("snapshots")
        shutil.rmtree(self._image_directory, ignore_errors=True)    # images are copies: none outlives its process
        self._open()
        self._jobs: queue.SimpleQueue[tuple[Changes, StoreMeta, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    def _open(self) -> None:
        path, readers = self._path, self._snapshots + SPARE_READERS
        reserve_lock_file(path, readers)
        try:
            if not make_durable(path):
                create(path)
            self._environment = lmdb.open(
                str(path),
                map_size=self._wanted_map_bytes,
                max_dbs=NAMED_DATABASES,
                max_readers=readers,
                sync=True,
                metasync=True,
                writemap=False,
                max_spare_txns=2,
            )
        except lmdb.Error as error:
            raise cannot_open(path, error) from error
        try:
            stale = self._environment.reader_check()
            if stale:
                log.info("cleared %d stale readers of %s", stale, path)
            self.data = self._environment.open_db(b"data")
            self._sessions_db = self._environment.open_db(b"sessions")
            self._meta_db = self._environment.open_db(b"meta")
            self._meta = self._open_meta(identity_of(self._cluster, self._node_id))
        except BaseException as error:
            self._environment.close()
            if isinstance(error, lmdb.Error):
                raise cannot_open(path, error) from error
            raise
        self._reader = self._environment.begin(db=self.data)

    def _open_meta(self, identity: bytes) -> StoreMeta:
        with self._environment.begin(db=self._meta_db) as transaction:
            found = transaction.get(IDENTITY_KEY)
            stored = transaction.get(META_KEY)
        if found is None:
            with self._environment.begin(db=self._meta_db, write=True) as transaction:
                transaction.put(IDENTITY_KEY, identity)
                transaction.put(META_KEY, encode_meta(StoreMeta()))
            return StoreMeta()
        if found != identity:
            cluster, _, node_id = found.decode(errors="replace").partition("\0")
            raise WrongDirectory(f"the store in {self._path} belongs to node {node_id!r} of cluster {cluster!r}")
        if stored is None:
            raise StorageError(f"the store in {self._path} does not say how far it goes")
        return decode_meta(stored, self._path)

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def meta(self) -> StoreMeta:
        """Of the last completed checkpoint."""
        return self._meta

    @property
    def bytes_on_disk(self) -> int:
        """What the store's file takes."""
        return (self._path / DATA_FILE).stat().st_blocks * 512

    def get(self, key: bytes) -> bytes | None:
        """A key's record as of the last completed checkpoint."""
        found: bytes | None = self._reader.get(key)
        return found

    def sessions(self) -> list[tuple[bytes, bytes]]:
        """Every session and idempotency key as of the last completed checkpoint."""
        with self._environment.begin(db=self._sessions_db) as transaction, transaction.cursor() as cursor:
            return list(cursor)

    def view(self) -> LmdbView:
        """The store as it is now, pinned until the view is closed."""
        self._views += 1
        return LmdbView(self, self._environment.begin(db=self.data))

    def view_closed(self) -> None:
        """A view has let go."""
        self._views -= 1

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint(self, changes: Changes, meta: StoreMeta, done: Done) -> None:
        """Write changes and `meta` in one durable transaction, on the checkpoint thread; see `kv.store.Store`."""
        if self._wanted_map_bytes > self._environment.info()["map_size"]:
            try:
                self._grow()
            except StoreFull as full:
                done(full)
                return
        self._jobs.put((changes, meta, done))

    def _grow(self) -> None:
        """Make the map larger. StoreFull where that cannot be done now; then the old one is as good as before."""
        if self._views:
            raise StorePinned("the store's map has to grow, and listings hold it open; they expire")
        self._streams.end(TOO_SLOW)     # whoever is too slow begins again; writes have nowhere else to go
        if self._image_wanted or self._streams.reading:     # a thread reads the map that would be taken away under it
            raise StoreFull("the store's map has to grow, once no snapshot is being made of it")
        if not can_map(self._wanted_map_bytes):
            raise StoreFull(f"the store's map has to grow, and there is no room for {self._wanted_map_bytes} addresses")
        self._reader.abort()
        self._environment.set_mapsize(self._wanted_map_bytes)
        self._reader = self._environment.begin(db=self.data)
        log.info("the store's map has grown to %d bytes", self._wanted_map_bytes)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            changes, meta, done = job
            error: BaseException | None = None
            began, free_bytes = time.monotonic(), self._free_bytes()
            try:
                self._write(changes, meta)
            except lmdb.MapFullError as full:
                error = full
            except Exception as failure:        # whatever it is, the loop has to hear of it
                short = is_input_output(failure) and not self._has_room(changes, free_bytes)
                no_space = short or is_no_space(failure)
                error = StoreFull(f"no room for a checkpoint: {failure}") if no_space else failure
            self._poster(self._finished, meta, done, error, time.monotonic() - began)

    def _write(self, changes: Changes, meta: StoreMeta) -> None:
        with self._environment.begin(write=True) as transaction:
            try:
                for database, items in ((self.data, changes.data), (self._sessions_db, changes.sessions)):
                    with transaction.cursor(database) as cursor:
                        write_in_bursts(cursor, items(), changes.urgent)
                transaction.put(META_KEY, encode_meta(meta), db=self._meta_db)
            except BaseException:
                if self._streams.reading:       # the package ends a failed transaction only once no copy is under way
                    self._poster(self._streams.end, TOO_SLOW)
                raise

    def _free_bytes(self) -> int:
        """What the file system has left."""
        said = os.statvfs(self._path)
        return said.f_bavail * said.f_frsize

    def _has_room(self, changes: Changes, free_bytes: int) -> bool:
        """Whether the file system would give the file as much more as a transaction of these changes may take.

        And would have when it had `free_bytes` left: room may have come since, from the log's old end for example.
        """
        try:
            with (self._path / DATA_FILE).open("r+b") as file:
                end = os.fstat(file.fileno()).st_size
                # New pages for what is written, which may be half full, and for what had to be copied on the way.
                sizes = [len(key) + len(record or b"") for key, record in chain(changes.data(), changes.sessions())]
                new, copied = 2 * sum(sizes), min(end, PAGE_BYTES * len(sizes))
                wanted = new + copied + SPARE_BYTES
                if free_bytes < wanted:
                    return False
                try:
                    os.posix_fallocate(file.fileno(), end, wanted)
                finally:
                    os.ftruncate(file.fileno(), end)        # only asking: the log needs the room more
        except OSError as error:
            return not lacks_space(error)
        return True

    def _finished(self, meta: StoreMeta, done: Done, error: BaseException | None, took_s: float) -> None:
        if self._closed:
            return          # posted just before `close`: durable or not, the next start will see
        if isinstance(error, lmdb.MapFullError):
            self._wanted_map_bytes = 2 * self._environment.info()["map_size"]
            error = StoreFull(f"the store's map is full; it grows to {self._wanted_map_bytes} bytes")
        elif error is None:
            # A transaction sees the state of its begin: look at the new one from now on.
            self._reader.abort()
            self._reader = self._environment.begin(db=self.data)
            self._meta = meta
            self._on_checkpoint(took_s)
        done(error)

    # -- images ------------------------------------------------------------------------------------------------------

    def image(self, done: ImageDone) -> None:
        """A copy of the newest checkpoint, for others; see `kv.store.Store`. It is made on a thread, one at a time."""
        if self._image is not None and self._image[1].applied_index == self._meta.applied_index:
            done(LmdbImage(*self._image), None)
            return
        self._image_wanted.append(done)
        if len(self._image_wanted) == 1:
            self._imager = threading.Thread(target=self._make_image, name="image", daemon=True)
            self._imager.start()

    def _make_image(self) -> None:
        made: tuple[Path, ImageInfo] | None = None
        error: BaseException | None = None
        try:
            made = make_image(self._environment, self._image_directory)
            if self._image is not None and self._image[0] != made[0]:
                self._image[0].unlink(missing_ok=True)      # whoever still reads it has it open
        except Exception as failure:        # whatever it is, the loop has to hear of it
            error = StoreFull(f"no room for a snapshot: {failure}") if is_no_space(failure) else failure
        self._poster(self._image_made, made, error)

    def _image_made(self, made: tuple[Path, ImageInfo] | None, error: BaseException | None) -> None:
        wanted, self._image_wanted = self._image_wanted, []
        if self._closed:
            return
        if isinstance(error, OSError):
            raise error         # the disk fails, or a sync has: nothing is to be tried again
        if made is not None:
            self._image = made
        for done in wanted:
            done(None if made is None else LmdbImage(*made), error)

    def stream(self, done: StreamDone) -> None:
        """The same, for somebody who takes it at once: straight from the store, without a file of it. See `LmdbStream`.

        `done(stream, error)` is called on the loop. Whoever gets it sends or closes it; the store may close it
        before, where it needs the room.
        """
        self._streams.begin(self._environment, done)

    def receive(self, info: ImageInfo) -> Incoming:
        """Begin to take in another node's image, or go on; see `kv.store.Store`."""
        if info.kind != KIND:
            raise ImageRefused(f"a snapshot of kind {info.kind!r} is of no use here; this node's are {KIND!r}")
        if info.applied_index <= self._meta.applied_index:
            raise ImageRefused(
                f"the snapshot ends with entry {info.applied_index}, this store with {self._meta.applied_index}"
            )
        return Incoming(self._path, info, cluster=self._cluster, node_id=self._node_id, poster=self._poster)

    def install(self) -> StoreMeta:
        """Take the place of what was: see `kv.store.Store`. No checkpoint is under way, and no view is open."""
        assert not self._views, "a view is open"
        while self._image_wanted and self._imager.is_alive():
            self._imager.join()         # it reads the store that is about to go
        self._streams.join()
        self._image = None
        self._reader.abort()
        self._environment.close()
        exchange(self._path)
        self._open()
        return self._meta

    def close(self) -> None:
        """Finish the checkpoint under way, then let go of the files. Views must be closed before."""
        self._closed = True
        self._streams.end(CLOSING)
        self._jobs.put(None)
        self._thread.join()
        if self._image_wanted:
            self._imager.join()
        self._streams.join()
        self._reader.abort()
        self._environment.close()


def write_in_bursts(cursor: lmdb.Cursor[bytes], items: Items, urgent: Callable[[], bool]) -> None:
    """Put and delete, with rests in between unless it is urgent.

    The package holds the interpreter's lock (GIL) around each item. A thread that works on and on is taken off its CPU
    at any moment, by another process, and if it holds the lock then, the event loop stands still until it has its turn
    again: tens of milliseconds on a busy machine. One that has slept is let finish a burst shorter than its time slice.
    """
    left = iter(items)
    began = time.monotonic()
    while some := list(islice(left, BURST_ITEMS)):
        cursor.putmulti([(key, record) for key, record in some if record is not None])
        for key, record in some:
            if record is None and cursor.set_key(key):
                cursor.delete()
        if time.monotonic() - began >= BURST_S and not urgent():
            time.sleep(BURST_PAUSE_S)
            began = time.monotonic()


def cannot_open(path: Path, error: lmdb.Error) -> StorageError:
    """What LMDB has against the file."""
    return StorageError(f"the store in {path} cannot be opened: {error}")


def can_map(nbytes: int) -> bool:
    """Whether the process has so many addresses left (`ulimit -v`).

    LMDB gives up its old map before it asks for a larger one; an environment without a map cannot be used again.
    """
    try:
        mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ).close()
    except (OSError, OverflowError):
        return False
    return True
