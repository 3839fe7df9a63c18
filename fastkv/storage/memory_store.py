"""The state machine's store in memory, for simulations: a checkpoint is durable when the simulator says so.

What is on the "disk" is a `StoredState`, which outlives the store as a disk outlives a process. A crash before
`complete` loses a checkpoint whole; data and applied index always move together. Images take as long as the simulator
says, too: what `image` and `finish` are to answer waits for `step`.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from fastkv.kv.store import Changes, ImageInfo, ImageRefused, StoreMeta

KIND = "memory"


@dataclass
class StoredState:
    """What is on the disk."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    meta: StoreMeta = field(default_factory=StoreMeta)
    sessions: dict[bytes, bytes] = field(default_factory=dict)
    part: tuple[ImageInfo, bytes] | None = None
    """An image that is being taken in, as far as it is here."""
    ready: StoredState | None = None
    """An image that was finished and not installed yet: what the next start completes."""

    def pending_install(self) -> tuple[int, int] | None:
        """(index, term) of a snapshot whose installation is to be completed; see `lmdb_image.pending_install`."""
        if self.ready is not None and self.ready.meta.applied_index <= self.meta.applied_index:
            self.ready = None
        return None if self.ready is None else (self.ready.meta.applied_index, self.ready.meta.applied_term)

    def exchange(self) -> None:
        """Put what is ready in the place of what was."""
        if self.pending_install() is not None:
            assert self.ready is not None
            ready, self.ready = self.ready, None
            self.records, self.meta, self.sessions = ready.records, ready.meta, ready.sessions

    def crash(self) -> None:
        """The power goes: of an image that is being taken in nothing was synced."""
        self.part = None


class MemoryImage:
    """A `kv.store.Image`."""

    def __init__(self, info: ImageInfo, content: bytes) -> None:
        self.info = info
        self._content = content

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._content[offset : offset + nbytes]

    def close(self) -> None:
        """Nothing is held but memory."""


class MemoryIncoming:
    """A `kv.store.Incoming`."""

    def __init__(self, store: MemoryStore, disk: StoredState, info: ImageInfo) -> None:
        self._store = store
        self._disk = disk
        self._info = info
        if disk.part is None or disk.part[0] != info:
            disk.part = info, b""

    @property
    def offset(self) -> int:
        assert self._disk.part is not None
        return len(self._disk.part[1])

    def write(self, data: bytes | memoryview) -> None:
        assert self._disk.part is not None
        self._disk.part = self._info, self._disk.part[1] + data

    def finish(self, done: Callable[[BaseException | None], None]) -> None:
        self._store.jobs.append(lambda: done(self._verify()))

    def _verify(self) -> BaseException | None:
        assert self._disk.part is not None
        content, self._disk.part = self._disk.part[1], None
        if len(content) != self._info.nbytes or xxh3_64_intdigest(content) != self._info.checksum:
            return ImageRefused("the snapshot is not what was announced")
        records, meta, sessions = pickle.loads(content)     # of our own making, and never from outside a simulation
        if (meta.applied_index, meta.applied_term) != (self._info.applied_index, self._info.applied_term):
            return ImageRefused("the snapshot ends with another entry than was announced")
        self._disk.ready = StoredState(records, meta, sessions)
        return None

    def close(self) -> None:
        """What is here stays."""

    def abort(self) -> None:
        self._disk.part = None


class MemoryView:
    """The records at one moment."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self._records = sorted(records.items())

    def range(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        chosen = [item for item in self._records if item[0] >= start and (not end or item[0] < end)]
        return iter(reversed(chosen) if reverse else chosen)

    def close(self) -> None:
        """Nothing is held but memory."""


class _Checkpoint(NamedTuple):
    """One under way."""

    data: dict[bytes, bytes | None]
    sessions: dict[bytes, bytes | None]
    meta: StoreMeta
    done: Callable[[BaseException | None], None]


class MemoryStore:
    """A `kv.store.Store`."""

    def __init__(self, disk: StoredState) -> None:
        disk.exchange()
        self._disk = disk
        self.jobs: deque[Callable[[], None]] = deque()
        """What was asked for and takes a while; see `step`."""
        self._pending: _Checkpoint | None = None

    @property
    def meta(self) -> StoreMeta:
        return self._disk.meta

    @property
    def pending(self) -> bool:
        """Whether a checkpoint waits for `complete` or `fail`."""
        return self._pending is not None

    def get(self, key: bytes) -> bytes | None:
        return self._disk.records.get(key)

    def view(self) -> MemoryView:
        return MemoryView(self._disk.records)

    def sessions(self) -> list[tuple[bytes, bytes]]:
        return sorted(self._disk.sessions.items())

    def checkpoint(
        self, changes: Changes, meta: StoreMeta, done: Callable[[BaseException | None], None]
    ) -> None:
        assert self._pending is None, "one checkpoint at a time"
        self._pending = _Checkpoint(dict(changes.data()), dict(changes.sessions()), meta, done)

    def complete(self) -> None:
        """The checkpoint under way is durable."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        for stored, changes in ((self._disk.records, pending.data), (self._disk.sessions, pending.sessions)):
            for key, record in changes.items():
                if record is None:
                    stored.pop(key, None)
                else:
                    stored[key] = record
        self._disk.meta = pending.meta
        pending.done(None)

    def fail(self, error: BaseException) -> None:
        """The checkpoint under way fails; nothing has changed."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        pending.done(error)

    # -- images ------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """The oldest of `jobs` is done."""
        self.jobs.popleft()()

    def image(self, done: Callable[[MemoryImage | None, BaseException | None], None]) -> None:
        self.jobs.append(lambda: done(self._make_image(), None))

    def _make_image(self) -> MemoryImage:
        disk = self._disk
        records, sessions = dict(sorted(disk.records.items())), dict(sorted(disk.sessions.items()))
        content = pickle.dumps((records, disk.meta, sessions), protocol=5)
        meta = disk.meta
        info = ImageInfo(meta.applied_index, meta.applied_term, len(content), xxh3_64_intdigest(content), KIND)
        return MemoryImage(info, content)

    def receive(self, info: ImageInfo) -> MemoryIncoming:
        if info.kind != KIND:
            raise ImageRefused(f"a snapshot of kind {info.kind!r} is of no use here")
        if info.applied_index <= self._disk.meta.applied_index:
            raise ImageRefused("the snapshot is older than this store")
        return MemoryIncoming(self, self._disk, info)

    def install(self) -> StoreMeta:
        assert self._pending is None, "a checkpoint is under way"
        self._disk.exchange()
        return self._disk.meta

    def close(self) -> None:
        """A checkpoint under way is lost, as in a crash."""
        self._pending = None
        self.jobs.clear()
