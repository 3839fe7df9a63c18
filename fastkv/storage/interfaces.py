"""What a node needs of the store of its log. What the state machine needs of its own store stands in `kv.store`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastkv.log_types import HardState, Segment


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a log store found when it was opened. All of it is durable."""

    hard_state: HardState
    base_index: int
    """Entries up to here have been cut; `base_term` is that entry's term."""
    base_term: int
    segments: list[Segment]
    """The newest entries, consecutive; older ones are read with `read`."""
    first_index: int
    last_index: int
    configurations: list[tuple[int, bytes]] = field(default_factory=list)
    """The ENTRY_CONFIG entries of the log, as (index, body)."""


class LogStore(Protocol):
    """Term, vote and entries on a disk, written in order and made durable in the background."""

    recovered: Recovered

    @property
    def durable_ticket(self) -> int:
        """Everything appended under this ticket and before is on the disk."""

    def notify_at(self, ticket: int) -> bool:
        """Signal, once, that this ticket is durable. False where it is already: then no signal comes of it.

        Of several tickets that are asked for, the lowest counts. A failure is signalled in any case.
        """

    @property
    def first_index(self) -> int:
        """The oldest entry that has not been cut."""

    @property
    def bytes_on_disk(self) -> int:
        """What the log takes."""

    def append(self, hard_state: HardState | None, segments: Sequence[Segment]) -> int:
        """Write hard state and entries, in this order; returns at once, with the ticket to wait for.

        A segment that begins at or before the log's end replaces that end, in the same durable step.
        """

    def has_room(self, nbytes: int) -> bool:
        """Whether entries of so many bytes can be written: False while the disk is full."""

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        """Entries from `first` on, at most up to `last` and about `max_bytes`, at least one."""

    def term_at(self, index: int) -> int:
        """The term of an entry that has not been cut."""

    def compact(self, index: int) -> None:
        """Nobody needs the entries up to `index` any more: whole files of them may go."""

    def shrink(self) -> None:
        """Give up space that is kept to be used again: somebody else needs it."""

    def restart(self, index: int, term: int) -> int:
        """A snapshot that ends with entry `index` of `term` takes the place of the log; the ticket to wait for.

        Nothing is dropped where the log has that entry. Otherwise every entry goes, and the next one is `index` + 1;
        the hard state stays, but for a term that is earlier than the snapshot's. Until that is durable, a crash leaves
        the old log. `has_room` has to be asked before.
        """

    def index_behind(self, nbytes: int) -> int:
        """The largest index with `nbytes` of log behind it on the disk, roughly; that of the base for a shorter log."""

    def poll(self) -> None:
        """Called on each tick: look again at a disk that was full, tidy up behind."""

    def close(self) -> None:
        """Make everything durable, and let go of the files."""
