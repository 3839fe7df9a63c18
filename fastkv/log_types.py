"""What consensus and storage both speak of: runs of log entries, and the state a node must not forget.

A leaf, so that neither package has to import the other.
"""

from __future__ import annotations

from typing import NamedTuple

from fastkv._core.entry import EntryBatch


class HardState(NamedTuple):
    """What Raft calls persistent state (thesis figure 3.1), except the log itself.

    `term` and `vote` must be durable before anything that depends on them is sent. `commit` is a hint that shortens
    recovery: it may lag, and never runs ahead of the durable log.
    """

    term: int = 0
    vote: str = ""
    commit: int = 0


class Segment:
    """A run of consecutive log entries of one term: entries `first_index` to `last_index`, both included."""

    __slots__ = ("batch", "first_index", "last_index", "nbytes", "term")

    def __init__(self, first_index: int, term: int, batch: EntryBatch) -> None:
        self.first_index = first_index
        self.last_index = first_index + batch.count - 1
        self.term = term
        self.batch = batch
        self.nbytes = batch.nbytes

    def slice(self, first: int, last: int) -> Segment:
        """The entries `first` to `last`, both included; the segment itself when that is all of it."""
        if first == self.first_index and last == self.last_index:
            return self
        return Segment(first, self.term, self.batch.slice(first - self.first_index, last - self.first_index + 1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Segment):
            return NotImplemented
        return (self.first_index, self.term, self.batch) == (other.first_index, other.term, other.batch)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Segment({self.first_index}..{self.last_index} term {self.term}, {self.nbytes} B)"
