"""What the state machine needs of its durable store: a sorted map, and its own progress in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class StoreMeta:
    """How far the stored state goes. Written in the transaction that writes the data, or not at all."""

    applied_index: int = 0
    applied_term: int = 0
    revision: int = 0
    key_count: int = 0
    state_hash: int = 0
    membership: bytes = b""


Items = Iterable[tuple[bytes, bytes | None]]
"""Keys with their records; None where the key goes."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a checkpoint writes. Each part may be asked for more than once, and iterated, on another thread."""

    data: Callable[[], Items]
    """Keys and their records, in order."""
    sessions: Callable[[], Items] = tuple
    """Clients' sessions, and idempotency keys; their keys have eight bytes."""
    urgent: Callable[[], bool] = lambda: True
    """Whether there is no time to be considerate of others: asked now and then, on another thread."""


class StoreFull(Exception):
    """There is no room for a checkpoint now. Nothing was changed; later it may work."""


class StorePinned(StoreFull):
    """There is no room for a checkpoint until the open views are closed."""


class ImageRefused(ValueError):
    """What was sent is no snapshot that this node can use. It was removed, and nothing has changed."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """A snapshot: a copy of a store as of a checkpoint, byte for byte, for another node."""

    applied_index: int
    applied_term: int
    nbytes: int
    checksum: int
    """xxh3_64 of all bytes."""
    kind: str
    """What made it; only a store of that kind can take it in."""


class Image(Protocol):
    """An image, open for reading."""

    @property
    def info(self) -> ImageInfo: ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """Bytes from `offset` on; fewer than asked for only at the end."""

    def close(self) -> None:
        """Let go of it."""


class Incoming(Protocol):
    """An image that is being taken in. A break, or a restart, loses nothing."""

    @property
    def offset(self) -> int:
        """Bytes that are here: where to go on."""

    def write(self, data: bytes | memoryview) -> None:
        """The bytes at `offset`. OSError where the disk is full or fails."""

    def finish(self, done: Callable[[BaseException | None], None]) -> None:
        """All is here: verify it, away from the loop, and make it ready for `Store.install`.

        `done` is called on the loop: with None, with ImageRefused where it is not what was announced, with StoreFull
        where there is no room now, and with any other error where the disk fails.
        """

    def close(self) -> None:
        """Go on another time."""

    def abort(self) -> None:
        """Forget what is here."""


class StoreView(Protocol):
    """The store at one moment, for as long as the view is open."""

    def range(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """(key, record) of [start, end) in order, or backwards; an empty `end` is no bound."""

    def close(self) -> None:
        """Let go of it: an open view keeps old pages alive."""


class Store(Protocol):
    """A durable sorted map from keys to records."""

    @property
    def meta(self) -> StoreMeta:
        """Of the last completed checkpoint."""

    def get(self, key: bytes) -> bytes | None:
        """A key's record as of the last completed checkpoint."""

    def sessions(self) -> Iterable[tuple[bytes, bytes]]:
        """Every session and idempotency key, as (key, record)."""

    def view(self) -> StoreView:
        """The store as it is now."""

    def checkpoint(
        self,
        changes: Changes,
        meta: StoreMeta,
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Write changes and `meta` in one durable transaction, away from the loop.

        `done` is called on the loop: with None, or with what went wrong, and then nothing has changed. StoreFull where
        trying again makes sense.
        """

    def image(self, done: Callable[[Any, BaseException | None], None]) -> None:
        """Make an `Image` of the newest checkpoint, away from the loop; `done(image, error)` is called on the loop.

        The newest image is kept and given out again while there is no newer checkpoint. StoreFull where there is no
        room for one. Several may ask at a time; each closes what it gets.
        """

    def receive(self, info: ImageInfo) -> Incoming:
        """Begin to take in an image, or go on where it was left off. ImageRefused where it is of no use."""

    def install(self) -> StoreMeta:
        """Put the image that was received and finished in the place of this store's content. Synchronous, and short.

        Only while no checkpoint is under way and no view is open. The caller has made sure that the log restarts behind
        it: from `finish` on, the next start completes what a crash interrupts here.
        """

    def close(self) -> None:
        """Let go of the files. A checkpoint under way is finished or given up whole."""
