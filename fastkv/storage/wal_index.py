"""Where the log's entries are on disk: the in-memory index over the segments.

One record a batch can be as little as one small entry, so an object for each record would cost more memory than the
entries themselves. The index holds *extents* instead: about 64 KiB of consecutive records of one term in one segment.
To read an entry, its extent is found by bisection and walked record by record, which reads at most 64 KiB too much.

Cutting a suffix off shortens the last extent in the index; the records behind the cut stay where they are on disk and
are never walked to, because an extent ends with its last index.
"""

from __future__ import annotations

from bisect import bisect_right

EXTENT_BYTES = 64 * 1024


class Extent:
    """Consecutive entries of one term, in the bytes `start` to `end` of one segment."""

    __slots__ = ("closed", "end", "first_index", "last_index", "segment_id", "start", "term")

    def __init__(self, first_index: int, last_index: int, term: int, segment_id: int, start: int, end: int) -> None:
        self.first_index = first_index
        self.last_index = last_index
        self.term = term
        self.segment_id = segment_id
        self.start = start
        self.end = end
        self.closed = False
        """Behind it are records that are not part of the log any more, so nothing may be added here."""


class LogIndex:
    """The entries `base_index + 1` to `last_index`, their terms and their places."""

    def __init__(self, base_index: int = 0, base_term: int = 0) -> None:
        self.base_index = base_index
        self.base_term = base_term
        self.last_index = base_index
        """The last entry; `base_index` when there is none."""
        self.last_term = base_term
        """The term of the last entry."""
        self._extents: list[Extent] = []
        self._firsts: list[int] = []        # first_index of each extent, for the bisection

    def add(self, first_index: int, count: int, term: int, segment_id: int, start: int, end: int) -> None:
        """A record with entries from `first_index` on is at bytes `start` to `end`; what was there before is cut off.

        ValueError where the record would leave a gap, or goes back in term.
        """
        if first_index != self.last_index + 1:
            self.cut(first_index - 1)
        if term < self.last_term:
            raise ValueError(f"entry {first_index} of term {term} follows one of term {self.last_term}")
        self.last_index = last_index = first_index + count - 1
        self.last_term = term
        if self._extents:
            extent = self._extents[-1]
            if (
                extent.term == term
                and extent.segment_id == segment_id
                and not extent.closed
                and end - extent.start <= EXTENT_BYTES
            ):
                extent.last_index = last_index
                extent.end = end
                return
        self._extents.append(Extent(first_index, last_index, term, segment_id, start, end))
        self._firsts.append(first_index)

    def cut(self, last_index: int) -> None:
        """Forget the entries above `last_index`. ValueError where that is not an index of this log or its base."""
        if not self.base_index <= last_index <= self.last_index:
            raise ValueError(f"the log of {self.base_index + 1} to {self.last_index} cannot end with {last_index}")
        extents = self._extents
        if last_index == self.last_index:
            return
        while extents and extents[-1].first_index > last_index:
            extents.pop()
            self._firsts.pop()
        if extents:
            extents[-1].last_index = last_index
            extents[-1].closed = True
        self.last_index = last_index
        self.last_term = extents[-1].term if extents else self.base_term

    def rebase(self, index: int, term: int) -> None:
        """Forget the entries up to `index`, which end an extent or come before the log."""
        dropped = bisect_right(self._firsts, index)
        del self._extents[:dropped]
        del self._firsts[:dropped]
        self.base_index, self.base_term = index, term
        if not self._extents:
            self.last_index, self.last_term = index, term

    def find(self, index: int) -> Extent:
        """The extent with the entry `index`. IndexError where there is none."""
        if not self.base_index < index <= self.last_index:
            raise IndexError(f"no entry {index} in a log of {self.base_index + 1} to {self.last_index}")
        return self._extents[bisect_right(self._firsts, index) - 1]

    def term_at(self, index: int) -> int:
        """The term of an entry or of the base. IndexError for any other index."""
        return self.base_term if index == self.base_index else self.find(index).term

    def has(self, index: int, term: int) -> bool:
        """Whether that entry, or base, is of that term."""
        return self.base_index <= index <= self.last_index and self.term_at(index) == term

    def __len__(self) -> int:
        return len(self._extents)
