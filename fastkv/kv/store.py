"""What the state machine needs of its durable store: a sorted map, and its own progress in the same transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoreMeta:
    """How far the stored state goes. Written in the transaction that writes the data, or not at all."""

    applied_index: int = 0
    applied_term: int = 0
    revision: int = 0
    key_count: int = 0
    state_hash: int = 0
    membership: bytes = b""


class StoreFull(Exception):
    """There is no room for a checkpoint now. Nothing was changed; later it may work."""


class StorePinned(StoreFull):
    """There is no room for a checkpoint until the open views are closed."""


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

    def view(self) -> StoreView:
        """The store as it is now."""

    def checkpoint(
        self,
        items: Callable[[], Iterable[tuple[bytes, bytes | None]]],
        meta: StoreMeta,
        done: Callable[[BaseException | None], None],
    ) -> None:
        """Write changes (None deletes) and `meta` in one durable transaction, away from the loop.

        `items` may be called, and iterated, on another thread. `done` is called on the loop: with None, or with what
        went wrong (StoreFull where trying again makes sense); then nothing has changed.
        """

    def close(self) -> None:
        """Let go of the files. A checkpoint under way is finished or given up whole."""
