"""The log as consensus sees it: runs of entries in memory, older ones behind a reader.

Entries 1 to `last_index` exist, except that those up to `base_index` may have been cut. The newest are in memory as
`Segment`s; what was evicted is read back through the `LogReader`. Invariants, checked on every change: segments are
consecutive, terms never fall, and what is not on the disk yet is never evicted or cut.

Because terms never fall, every question about terms is a bisection: none takes longer for a longer log.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Protocol

from fastkv._core.append import fill
from fastkv.log_types import Segment
from fastkv.raft.types import InvariantBroken, require

READ_BYTES = 16 << 20
"""How much of evicted entries is read at a time."""

MESSAGE_SEGMENTS = 64
"""How many segments one message may take: those behind are not looked at."""


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
        "durable_index",
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
        self.durable_index = self.last_index
        """Entries up to here are on this node's disk, and nothing that is under way to it takes them away again."""

    def append(self, segment: Segment) -> None:
        """Add entries right behind the last."""
        if segment.first_index != self.last_index + 1 or segment.term < self.last_term:
            raise InvariantBroken(f"{segment!r} does not follow entry {self.last_index} of term {self.last_term}")
        self._segments.append(segment)
        self._firsts.append(segment.first_index)
        self.nbytes_in_memory += segment.nbytes
        self.last_index = segment.last_index
        self.last_term = segment.term

    def truncate(self, from_index: int) -> None:
        """Drop entry `from_index` and everything behind it. The caller knows that none of them is committed."""
        last_term = self.term(from_index - 1)
        if last_term is None or from_index > self.last_index:
            raise InvariantBroken(f"no entry {from_index} to truncate from")
        while self._segments and self._segments[-1].first_index >= from_index:
            self.nbytes_in_memory -= self._segments.pop().nbytes
            self._firsts.pop()
        if self._segments and self._segments[-1].last_index >= from_index:
            whole = self._segments[-1]
            kept = whole.slice(whole.first_index, from_index - 1)
            self.nbytes_in_memory += kept.nbytes - whole.nbytes
            self._segments[-1] = kept
        self.last_index = from_index - 1
        self.last_term = last_term
        self.durable_index = min(self.durable_index, self.last_index)

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

        What both sides of a conflict use to skip whole terms (paper section 5.3, end). The base is the answer where no
        entry is old enough.
        """
        low, low_term, high = self.base_index, self.base_term, min(index, self.last_index)
        if self.term(high) == term:
            return high, term       # nearly always
        while low < high:
            middle = (low + high + 1) // 2
            found = self.term(middle)
            if found is not None and found <= term:
                low, low_term = middle, found
            else:
                high = middle - 1
        return low, low_term

    def slice(self, first: int, max_bytes: int, max_entries: int) -> list[Segment]:
        """Entries from `first` on within both budgets, at least one where there is one."""
        if first > self.last_index:
            return []
        at = bisect_right(self._firsts, first) - 1
        if at < 0:
            last = min(first + max_entries - 1, (self._firsts[0] if self._firsts else self.last_index + 1) - 1)
            return fill(self._reader.read(first, last, max_bytes), first, max_bytes, max_entries)
        # A message takes few segments: do not copy the list's whole rest to look at its beginning.
        return fill(self._segments[at : at + MESSAGE_SEGMENTS], first, max_bytes, max_entries)

    def from_to(self, first: int, last: int) -> list[Segment]:
        """The entries `first` to `last`, both included; only a first part of them where they have to be read back.

        A start can have hundreds of megabytes to apply: they come in pieces of READ_BYTES, not in one.
        """
        at = bisect_right(self._firsts, first) - 1
        if at < 0:
            evicted_last = self._firsts[0] - 1 if self._firsts else last
            return self._reader.read(first, min(last, evicted_last), READ_BYTES)
        stop = bisect_right(self._firsts, last)
        taken = self._segments[at:stop]
        taken[-1] = taken[-1].slice(taken[-1].first_index, min(last, taken[-1].last_index))
        taken[0] = taken[0].slice(max(first, taken[0].first_index), taken[0].last_index)
        return taken

    def cut(self, index: int, term: int) -> None:
        """The entries up to `index`, the last of which is of `term`, are gone for good."""
        require(index <= self.durable_index, f"entry {index} is cut, and durable are those up to {self.durable_index}")
        if index > self.base_index:
            self.evict(index)
            self.base_index, self.base_term = index, term

    def restore(self, index: int, term: int) -> None:
        """A snapshot that is on the disk holds the entries up to `index`, which match ours: those are not needed."""
        self.durable_index = max(self.durable_index, index)
        self.cut(index, term)

    def reset(self, index: int, term: int) -> None:
        """A snapshot that is on the disk ends with `index`; nothing of this log belongs behind it."""
        self._segments.clear()
        self._firsts.clear()
        self.nbytes_in_memory = 0
        self.base_index = self.last_index = self.durable_index = index
        self.base_term = self.last_term = term

    def evict(self, index: int) -> None:
        """Forget entries up to `index` in memory, whole segments only; never those that are not on the disk yet.

        What two other disks have can be applied before this one has it, and reading it back would wait for the disk.
        """
        index = min(index, self.durable_index)
        kept = bisect_right(self._firsts, index)
        if kept and self._segments[kept - 1].last_index > index:
            kept -= 1
        for segment in self._segments[:kept]:
            self.nbytes_in_memory -= segment.nbytes
        del self._segments[:kept], self._firsts[:kept]
