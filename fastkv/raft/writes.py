"""Writes of entries that were handed out to be persisted, and what they still count for when they are on the disk."""

from __future__ import annotations

from collections import deque

from fastkv.log_types import Segment
from fastkv.raft.types import InvariantBroken


class _Write:
    __slots__ = ("last_index", "lasting_index", "term")

    def __init__(self, last: Segment) -> None:
        self.last_index = self.lasting_index = last.last_index
        """Of its entries, those up to `lasting_index` have not been replaced since."""
        self.term = last.term

    def __repr__(self) -> str:
        return f"entry {self.last_index} of term {self.term}"


class WritesUnderWay:
    """In the order in which they began, which is that in which the disk ends them."""

    def __init__(self) -> None:
        self._writes: deque[_Write] = deque()

    def began(self, last: Segment) -> None:
        """A write whose last run of entries is this one."""
        self._writes.append(_Write(last))

    def replaced(self, from_index: int) -> None:
        """The entries from there on belong to the log no more, also where a write under way has them."""
        for write in self._writes:
            write.lasting_index = min(write.lasting_index, from_index - 1)

    def ended(self, index: int, term: int) -> int:
        """The oldest write, which ends with this entry, is on the disk: up to where its entries still are the log's."""
        write = self._writes.popleft() if self._writes else None
        if write is None or (write.last_index, write.term) != (index, term):
            raise InvariantBroken(f"entry {index} of term {term} is persisted, and the write under way is {write}")
        return write.lasting_index
