"""The log store in memory, for simulations: the disk outlives the process, and forgets what was not synced.

A `MemoryDisk` is the machine's disk, a `MemoryLogStore` one life of a process on it. The simulator decides when an
append is durable (`complete`), when the disk is full or fails, and when the power goes: then what was under way
survives up to some record and is gone from there on, as after `wal_recovery` has cut off a torn end. The order of
records, what replaces what, and what is refused are those of `Wal`; a test holds the two together.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from fastkv.log_types import HardState, Segment
from fastkv.storage.interfaces import Recovered
from fastkv.storage.wal_read import take_within


@dataclass(frozen=True, slots=True)
class Restart:
    """A snapshot takes the place of every entry."""

    index: int
    term: int
    hard_state: HardState


Record = HardState | Segment | Restart
FIRST_INDEX = attrgetter("first_index")


class LogImage:
    """What a log holds at one moment: hard state, and entries from `base_index + 1` on."""

    def __init__(self) -> None:
        self.hard_state = HardState()
        self.base_index = 0
        self.base_term = 0
        self.segments: list[Segment] = []

    def has(self, index: int, term: int) -> bool:
        """Whether that entry, or base, is of that term."""
        return self.base_index <= index <= self.last_index and self.term_at(index) == term

    def copy(self) -> LogImage:
        """An image of its own, of the same content."""
        image = LogImage()
        image.hard_state = self.hard_state
        image.base_index, image.base_term = self.base_index, self.base_term
        image.segments = list(self.segments)
        return image

    @property
    def last_index(self) -> int:
        """The last entry; `base_index` when there is none."""
        return self.segments[-1].last_index if self.segments else self.base_index

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self.segments[-1].term if self.segments else self.base_term

    def write(self, record: Record) -> None:
        """Apply one record. ValueError for entries that leave a gap, go below the base, or go back in term."""
        if isinstance(record, HardState):
            self.hard_state = record
            return
        if isinstance(record, Restart):
            self.hard_state = record.hard_state
            self.base_index, self.base_term, self.segments = record.index, record.term, []
            return
        if not self.base_index < record.first_index <= self.last_index + 1:
            raise ValueError(f"{record!r} does not fit a log of {self.base_index + 1} to {self.last_index}")
        segments = self.segments
        while segments and segments[-1].first_index >= record.first_index:
            segments.pop()
        if segments and segments[-1].last_index >= record.first_index:
            segments[-1] = segments[-1].slice(segments[-1].first_index, record.first_index - 1)
        if record.term < self.last_term:
            raise ValueError(f"{record!r} follows an entry of term {self.last_term}")
        segments.append(record)

    def at(self, index: int) -> int:
        """Which segment has the entry. IndexError where there is none."""
        if not self.base_index < index <= self.last_index:
            raise IndexError(f"no entry {index} in a log of {self.base_index + 1} to {self.last_index}")
        return bisect_right(self.segments, index, key=FIRST_INDEX) - 1

    def term_at(self, index: int) -> int:
        """The term of an entry or of the base. IndexError for any other index."""
        return self.base_term if index == self.base_index else self.segments[self.at(index)].term

    def compact(self, index: int) -> None:
        """Drop the segments whose entries are all at or below `index`."""
        kept = 0
        while kept < len(self.segments) and self.segments[kept].last_index <= index:
            self.base_index, self.base_term = self.segments[kept].last_index, self.segments[kept].term
            kept += 1
        del self.segments[:kept]


class MemoryDisk:
    """A simulated machine's disk, as far as the log goes."""

    def __init__(self) -> None:
        self.durable = LogImage()
        self.under_way: deque[tuple[int, Record]] = deque()
        """Ticket and record of what has been written and not synced."""
        self.full = False
        """No room for new entries: what `MemoryLogStore.has_room` says."""
        self.lives = 0
        """How many times it has been opened or has crashed: an older store is dead."""

    def crash(self, rng: random.Random) -> None:
        """The power goes: of what was under way, the first few records happen to be on the disk."""
        for _ in range(rng.randint(0, len(self.under_way))):
            self.durable.write(self.under_way.popleft()[1])
        self.under_way.clear()
        self.lives += 1


class MemoryLogStore:
    """A `LogStore` on a `MemoryDisk`."""

    def __init__(
        self, disk: MemoryDisk, *, keep_above: int = 0, restart_at: tuple[int, int] | None = None
    ) -> None:
        """Open the disk. `recovered.segments` has the entries above `keep_above`, and at least the last run.

        With `restart_at`, the log restarts there first, durably: see `restart`.
        """
        disk.under_way.clear()      # a process that ended without a crash has left nothing either
        disk.lives += 1
        self._disk = disk
        self._life = disk.lives
        self._image = disk.durable.copy()
        self._nbytes_at_most = sum(segment.nbytes for segment in self._image.segments)
        """Of all entries there are; what was replaced or has gone since counts as well."""
        self._error: OSError | None = None
        self.submitted_ticket = 0
        """Of the last append."""
        self._durable_ticket = self._notify_at = 0
        self.stall_ns = 0
        """What `stalled_ns` answers; set by the simulator."""
        if restart_at is not None:
            self.complete(self.restart(*restart_at))
        self.recovered = self._recover(keep_above)

    def _recover(self, keep_above: int) -> Recovered:
        image = self._image
        commit = max(image.base_index, min(image.hard_state.commit, image.last_index))
        return Recovered(
            hard_state=image.hard_state._replace(commit=commit),
            base_index=image.base_index,
            base_term=image.base_term,
            segments=[segment for segment in image.segments if segment.last_index > keep_above] or image.segments[-1:],
            first_index=image.base_index + 1,
            last_index=image.last_index,
            configurations=[
                (segment.first_index, segment.batch.config)
                for segment in image.segments
                if segment.batch.config is not None
            ],
        )

    # -- what the simulator does ---------------------------------------------------------------------------------------

    def complete(self, ticket: int) -> None:
        """The disk has synced everything up to `ticket`. Raises what `fail` was given."""
        self._check()
        under_way = self._disk.under_way
        while under_way and under_way[0][0] <= ticket:
            self._disk.durable.write(under_way.popleft()[1])
        self._durable_ticket = max(self._durable_ticket, min(ticket, self.submitted_ticket))

    def take_signal(self) -> bool:
        """Whether what `notify_at` was asked for has come about; it is forgotten then."""
        is_due = 0 < self._notify_at <= self._durable_ticket
        if is_due:
            self._notify_at = 0
        return is_due

    def fail(self, error: OSError) -> None:
        """The write or sync under way has failed: nothing more becomes durable, every later call raises `error`."""
        self._error = error

    def _check(self) -> None:
        assert self._life == self._disk.lives, "this process is dead: its disk has crashed, or another has opened it"
        if self._error is not None:
            raise self._error

    # -- the log store -------------------------------------------------------------------------------------------------

    @property
    def durable_ticket(self) -> int:
        """Everything up to this ticket survives a crash."""
        return self._durable_ticket

    def notify_at(self, ticket: int) -> bool:
        """Have `take_signal` say, once, that this ticket is durable. False where it is already."""
        waits = ticket > self._durable_ticket
        if waits:
            self._notify_at = min(self._notify_at or ticket, ticket)
        return waits

    @property
    def first_index(self) -> int:
        """The oldest entry that can be read."""
        return self._image.base_index + 1

    @property
    def last_index(self) -> int:
        """The newest entry, durable or not."""
        return self._image.last_index

    @property
    def bytes_on_disk(self) -> int:
        """Bytes of all entries."""
        return sum(segment.nbytes for segment in self._image.segments)

    def append(self, hard_state: HardState | None, segments: Sequence[Segment]) -> int:
        """Write the hard state, where term or vote have changed, and then the entries; the ticket of it all."""
        self._check()
        before = self._image.hard_state
        records: list[Record] = list(segments)
        if hard_state is not None and (hard_state.term, hard_state.vote) != (before.term, before.vote):
            records.insert(0, hard_state)
        for record in records:
            self._submit(record)
        return self.submitted_ticket

    def restart(self, index: int, term: int) -> int:
        """A snapshot that ends with entry `index` of `term` takes the place of the log; see `LogStore.restart`."""
        self._check()
        if not self._image.has(index, term):
            before = self._image.hard_state
            self._submit(Restart(index, term, HardState(term, "", index) if term > before.term else before))
        return self.submitted_ticket

    def _submit(self, record: Record) -> None:
        self._image.write(record)
        if isinstance(record, Segment):
            self._nbytes_at_most += record.nbytes
        self.submitted_ticket += 1
        self._disk.under_way.append((self.submitted_ticket, record))

    def has_room(self, nbytes: int) -> bool:
        """Whether entries may be appended: False while the simulator says that the disk is full."""
        return not self._disk.full

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        """Entries from `first` on, at most up to `last` and about `max_bytes`, at least one."""
        image = self._image
        last = min(last, image.last_index)
        wanted = (segment for segment in image.segments[image.at(first) :] if segment.first_index <= last)
        runs = (run.slice(max(first, run.first_index), min(last, run.last_index)) for run in wanted)
        return take_within(runs, max_bytes)

    def term_at(self, index: int) -> int:
        """The term of an entry, or of the one before the first. IndexError for any other index."""
        return self._image.term_at(index)

    def index_behind(self, nbytes: int) -> int:
        """The largest index with at least `nbytes` of entries behind; that of the base for a shorter log."""
        behind = 0
        if nbytes > self._nbytes_at_most:       # a simulation asks this at every tick
            return self._image.base_index
        for segment in reversed(self._image.segments):
            behind += segment.nbytes
            if behind >= nbytes:
                return segment.first_index - 1
        return self._image.base_index

    def shrink(self) -> None:
        """Nothing is kept."""

    def compact(self, index: int) -> None:
        """Entries up to `index`, which are durable, may go."""
        self._image.compact(index)
        if not self._disk.under_way:
            # As on a real disk, nothing goes before what follows it is durable. The next call comes with the next tick.
            self._disk.durable.compact(index)

    def poll(self) -> None:
        """There is nothing aside that could fail."""

    def stalled_ns(self) -> int:
        """How long the write under way has taken so far, as the simulator says."""
        return self.stall_ns

    def close(self) -> None:
        """Make everything durable. Raises what `fail` was given."""
        self.complete(self.submitted_ticket)
        self._disk.lives += 1
