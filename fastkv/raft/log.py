"""The log as consensus sees it: runs of entries in memory, older ones behind a reader.

Entries 1 to `last_index` exist, except that those up to `base_index` may have been cut. The newest are in memory as
`Segment`s; what was evicted is read back through the `LogReader`. Invariants, checked on every change: segments are
consecutive, terms never fall, nothing at or below the commit index is ever cut off.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Protocol

from fastkv._core.append import fill
from fastkv.log_types import Segment
from fastkv.raft.types import require

READ_BYTES = 16 << 20
"""How much of evicted entries is read at a time."""


class LogReader(Protocol):
    """Where evicted entries are."""

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        """Entries from `first` on, at most up to `last` and about `max_bytes`, at least one."""

    def term_at(self, index: int) -> int:
        """The term of an entry that is not cut."""


class RaftLog:
    """The entries behind `base_index`. Indexes count from 1; index 0 is the empty log's end, in term 0."""

    __slots__ = (
        "_firsts",
        "_reader",
        "_segments",
        "base_index",
        "base_term",
        "last_index",
        "last_term",
        "nbytes_in_memory",
    )

    def __init__(
        self,
        base_index: int,
        base_term: int,
        segments: Iterable[Segment],
        reader: LogReader,
        *,
        last_index: int | None = None,
    ) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self._reader = reader
        self._segments: list[Segment] = []
        self._firsts: list[int] = []
        self.nbytes_in_memory = 0
        segments = list(segments)
        # What lies between the base and the first segment in memory is on disk only.
        self.last_index = segments[0].first_index - 1 if segments else (last_index or base_index)
        self.last_term = base_term if self.last_index == base_index else reader.term_at(self.last_index)
        for segment in segments:
            self.append(segment)

    def append(self, segment: Segment) -> None:
        """Add entries right behind the last."""
        require(segment.first_index == self.last_index + 1, f"{segment!r} does not follow entry {self.last_index}")
        require(segment.term >= self.last_term, f"{segment!r} follows an entry of term {self.last_term}")
        self._segments.append(segment)
        self._firsts.append(segment.first_index)
        self.nbytes_in_memory += segment.nbytes
        self.last_index = segment.last_index
        self.last_term = segment.term

    def truncate(self, from_index: int) -> None:
        """Drop entry `from_index` and everything behind it. The caller knows that none of them is committed."""
        require(self.base_index < from_index <= self.last_index, f"no entry {from_index} to truncate from")
        last_term = self.term(from_index - 1)
        while self._segments and self._segments[-1].first_index >= from_index:
            self.nbytes_in_memory -= self._segments.pop().nbytes
            self._firsts.pop()
        if self._segments and self._segments[-1].last_index >= from_index:
            whole = self._segments[-1]
            kept = whole.slice(whole.first_index, from_index - 1)
            self.nbytes_in_memory += kept.nbytes - whole.nbytes
            self._segments[-1] = kept
        require(last_term is not None, f"entry {from_index - 1} has no term")
        self.last_index = from_index - 1
        self.last_term = last_term or 0

    def term(self, index: int) -> int | None:
        """The term of an entry; None where it does not exist or has been cut."""
        if index == self.last_index:
            return self.last_term
        if index == self.base_index:
            return self.base_term
        if not self.base_index < index < self.last_index:
            return None
        at = bisect_right(self._firsts, index) - 1
        return self._segments[at].term if at >= 0 else self._reader.term_at(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether entry `index` exists with that term: the consistency check of AppendEntries (paper section 5.3)."""
        return self.term(index) == term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (thesis 3.6.1): term first, then index."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def last_not_above(self, index: int, term: int) -> tuple[int, int]:
        """The last entry at or before `index` whose term is at most `term`, as (index, its term).

        What both sides of a conflict use to skip whole terms (paper section 5.3, end). The end of what is kept is the
        answer where no entry is old enough.
        """
        index = min(index, self.last_index)
        while index > self.base_index:
            found = self.term(index)
            if found is not None and found <= term:
                return index, found
            index = self._term_start(index) - 1
        return self.base_index, self.base_term

    def _term_start(self, index: int) -> int:
        """A place to go on from: the first entry of the run in memory that holds `index`, or `index` itself."""
        at = bisect_right(self._firsts, index) - 1
        return self._segments[at].first_index if at >= 0 else index

    def slice(self, first: int, max_bytes: int, max_entries: int) -> list[Segment]:
        """Entries from `first` on within both budgets, at least one where there is one."""
        if first > self.last_index:
            return []
        at = bisect_right(self._firsts, first) - 1
        if at < 0:
            last = min(first + max_entries - 1, (self._firsts[0] if self._firsts else self.last_index + 1) - 1)
            return fill(self._reader.read(first, last, max_bytes), first, max_bytes, max_entries)
        # A message takes few segments: do not copy the list's whole rest to look at its beginning.
        return fill(self._segments[at : at + 64], first, max_bytes, max_entries)

    def between(self, first: int, last: int) -> list[Segment]:
        """Exactly the entries `first` to `last`, both included."""
        taken: list[Segment] = []
        while first <= last:
            at = bisect_right(self._firsts, first) - 1
            if at < 0:
                evicted_last = self._firsts[0] - 1 if self._firsts else last
                found = self._reader.read(first, min(last, evicted_last), READ_BYTES)
            else:
                found = [self._segments[at]]
            for segment in found:
                piece = segment.slice(max(first, segment.first_index), min(last, segment.last_index))
                taken.append(piece)
                first = piece.last_index + 1
        return taken

    def cut(self, index: int, term: int) -> None:
        """The entries up to `index`, the last of which is of `term`, are gone for good."""
        require(index <= self.last_index, f"entry {index} is cut from a log that ends at {self.last_index}")
        if index > self.base_index:
            self.evict(index)
            self.base_index, self.base_term = index, term

    def evict(self, index: int) -> None:
        """Forget entries up to `index` in memory, whole segments only. The caller knows that they are durable."""
        kept = bisect_right(self._firsts, index)
        if kept and self._segments[kept - 1].last_index > index:
            kept -= 1
        for segment in self._segments[:kept]:
            self.nbytes_in_memory -= segment.nbytes
        del self._segments[:kept], self._firsts[:kept]
