"""The state machine's store in memory, for simulations: a checkpoint is durable when the simulator says so.

What is on the "disk" is a `StoredState`, which outlives the store as a disk outlives a process. A crash before
`complete` loses a checkpoint whole; data and applied index always move together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from fastkv.kv.store import StoreMeta


@dataclass
class StoredState:
    """What is on the disk."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    meta: StoreMeta = field(default_factory=StoreMeta)


class MemoryView:
    """The records at one moment."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        self._records = sorted(records.items())

    def range(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        chosen = [item for item in self._records if item[0] >= start and (not end or item[0] < end)]
        return iter(reversed(chosen) if reverse else chosen)

    def close(self) -> None:
        """Nothing is held but memory."""


class MemoryStore:
    """A `kv.store.Store`."""

    def __init__(self, disk: StoredState) -> None:
        self._disk = disk
        self._pending: tuple[dict[bytes, bytes | None], StoreMeta, Callable[[BaseException | None], None]] | None = None

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

    def checkpoint(
        self,
        items: Callable[[], Iterable[tuple[bytes, bytes | None]]],
        meta: StoreMeta,
        done: Callable[[BaseException | None], None],
    ) -> None:
        assert self._pending is None, "one checkpoint at a time"
        self._pending = dict(items()), meta, done

    def complete(self) -> None:
        """The checkpoint under way is durable."""
        assert self._pending is not None
        (changes, meta, done), self._pending = self._pending, None
        for key, record in changes.items():
            if record is None:
                self._disk.records.pop(key, None)
            else:
                self._disk.records[key] = record
        self._disk.meta = meta
        done(None)

    def fail(self, error: BaseException) -> None:
        """The checkpoint under way fails; nothing has changed."""
        assert self._pending is not None
        (_, _, done), self._pending = self._pending, None
        done(error)

    def close(self) -> None:
        """A checkpoint under way is lost, as in a crash."""
        self._pending = None
