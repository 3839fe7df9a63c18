"""The write-ahead log: what this node has promised to remember.

Entries and hard state go into one sequence of records in segment files. `append` encodes and returns at once; the
writer's thread (`_core.wal_writer`) makes it durable and signals `fileno`. An entry's bytes are those that the client
sent and that the followers get; they and their checksum are passed on, not made again.

* `wal_format`: the bytes. `wal_index`: where each entry is.
* `wal_recovery`: what is read when a node starts, and how a torn end is told from a damaged one.
* `wal_segments`: segment files, made ahead of need.

The loop's thread owns a `Wal`. Only a roll into a segment that is not ready yet, and reading back an entry that is
still under way to the disk, ever wait; both are the exception.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xxhash import xxh3_64_intdigest

from fastkv._core.wal_writer import WalWriter
from fastkv.errors import DamagedLog
from fastkv.log_types import HardState, Segment
from fastkv.storage.interfaces import Recovered
from fastkv.storage.wal_format import (
    ENTRIES,
    MAX_PAYLOAD_BYTES,
    MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES,
    RESTART,
    SEGMENT_HEADER_BYTES,
    STATE,
    encode_record_header,
    encode_segment_header,
    encode_state,
    first_records,
    log_identity,
    log_position,
    padding_of,
    record_bytes,
)
from fastkv.storage.wal_index import LogIndex
from fastkv.storage.wal_read import read_extent, take_within
from fastkv.storage.wal_recovery import Scan, advice, repair, scan
from fastkv.storage.wal_seal import write_seal
from fastkv.storage.wal_segments import SegmentFile, SegmentPreparer, create_first_segment, remove_leftovers

FIRST_SEGMENT = 1
RETRY_S = 1.0
"""How often a full disk is looked at again."""
CLOSE_PATIENCE_S = 0.1
"""How often a log that is being closed looks whether the disk is slow or full."""
RESERVE_BYTES = 64 * 1024
"""Kept free in the last segment of a full disk, so that votes and terms can still be written."""
SEAL_AFTER_POLLS = 20
"""Polls without a record after which the log is sealed."""


class Wal:
    """The `LogStore` on disk."""

    def __init__(
        self,
        directory: Path,
        *,
        cluster: str,
        node_id: str,
        segment_bytes: int = 64 << 20,
        keep_above: int = 0,
        keep_bytes: int = 64 << 20,
        recycle_bytes: int = 256 << 20,
        restart_at: tuple[int, int] | None = None,
        awaits_snapshot: bool = False,
    ) -> None:
        """Open the log in `directory`, or begin one where there is none, and make what was found durable.

        `keep_above` is the index that the state machine has durably applied, from entries that were durable here: of
        those above it, the last `keep_bytes` bytes are in `recovered.segments`, and older ones come from `read`.
        `segment_bytes` is the size of new segments; of those that are not needed any more, `recycle_bytes` are kept for
        reuse. With `restart_at`, the index (which `keep_above` is as well) and term where a snapshot ends that a crash
        kept from being installed, the log restarts there first. With `awaits_snapshot` it may begin behind what is
        applied. DamagedLog where entries are lost that had been durable, WrongDirectory for another node's log,
        StorageError for an unknown format, OSError where the disk fails or is full.
        """
        if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES or segment_bytes % MIN_SEGMENT_BYTES:
            raise ValueError(f"segment_bytes is a multiple of {MIN_SEGMENT_BYTES}, not {segment_bytes}")
        self._directory = directory
        self._identity = log_identity(cluster, node_id)
        self._segment_bytes = segment_bytes
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)
        found = self._find(keep_above, keep_bytes, restart_at, awaits_snapshot)
        self._hard_state = found.hard_state
        self._index = found.index
        self._salt = found.salt
        self._chain = found.chain
        self._offset = found.end & 0xFFFF_FFFF
        self._durable_position = found.end
        self._ticket = 0
        self._in_flight: deque[tuple[int, int]] = deque()       # ticket, position behind its record
        self._sealed_ticket = self._polled_ticket = -1
        self._quiet_polls = 0
        self._retry_at = 0.0
        self._unprepared = False
        self._segments = [SegmentFile(segment.segment_id, segment.path) for segment in found.found]
        for file, segment in zip(self._segments, found.found, strict=True):
            file.base_index, file.base_term = segment.base_index, segment.base_term
        self._current = self._segments[-1]
        self.kept_from: Callable[[], int] = lambda: self._current.segment_id
        """The first segment that somebody else still needs, whatever `compact` is told."""
        self._preparer = SegmentPreparer(directory, segment_bytes, recycle_bytes // segment_bytes)
        if found.spare is not None:
            self._preparer.adopt(self._current.segment_id + 1, found.spare)
        else:
            self._preparer.prepare(self._current.segment_id + 1)
        self._writer = WalWriter()
        if restart_at is not None and not found.index.has(*restart_at):
            self.wait(self.restart(*restart_at))
            found.tail, found.configurations, found.hard_state = [], [], self._hard_state
        self.recovered = self._recovered(found)

    def _find(self, keep_above: int, keep_bytes: int, restart_at: tuple[int, int] | None, any_base: bool) -> Scan:
        directory = self._directory
        found = scan(directory, self._identity, keep_above=keep_above, keep_bytes=keep_bytes)
        if found is None:
            if keep_above and restart_at is None:
                what = f"{directory} is empty, and the store beside it has applied log entries up to {keep_above}"
                raise DamagedLog(advice(what))
            first = first_records(FIRST_SEGMENT, self._identity, self._segment_bytes)
            create_first_segment(directory, FIRST_SEGMENT, self._segment_bytes, first)
            found = scan(directory, self._identity)
            assert found is not None
        low, high = 0 if any_base else found.index.base_index, found.index.last_index
        if restart_at is None and not low <= keep_above <= high:
            entries = f"entries {found.index.base_index + 1} to {found.index.last_index}"
            what = f"the log in {directory} has {entries}, and the store beside it has applied those up to {keep_above}"
            raise DamagedLog(advice(what))
        repair(directory, found)
        return found

    def _recovered(self, found: Scan) -> Recovered:
        index = self._index
        segments = found.tail
        if not segments and index.last_index > index.base_index:
            segments = self.read(index.last_index, index.last_index, 0)     # consensus asks for the last entry first
        return Recovered(
            hard_state=found.hard_state,
            base_index=index.base_index,
            base_term=index.base_term,
            segments=segments,
            first_index=index.base_index + 1,
            last_index=index.last_index,
            configurations=found.configurations,
        )

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, hard_state: HardState | None, segments: Sequence[Segment]) -> int:
        """Write the hard state, where term or vote have changed, and then the entries; the ticket of it all.

        Returns at once. A run that begins at or below the last index replaces what is there from its first entry on:
        cut and continuation are one record, so that no crash comes between them. A change of the commit index alone
        waits for the next record. ValueError for entries that leave a gap or go back in term; OSError once a write or
        sync has failed.
        """
        if hard_state is not None:
            changed = (hard_state.term, hard_state.vote) != (self._hard_state.term, self._hard_state.vote)
            self._hard_state = hard_state
            if changed:
                self._write_state()
        for segment in segments:
            self._write_entries(segment)
        self._writer.kick()
        return self._ticket

    def _write_state(self) -> None:
        index = self._index
        payload = encode_state(self._hard_state, index.last_index, index.last_term)
        if record_bytes(len(payload)) > self._current.capacity - self._offset:
            self._roll(0)     # a segment begins with the state
        else:
            self._write(STATE, payload, xxh3_64_intdigest(payload), index.last_index + 1, 0, self._hard_state.term)

    def _write_entries(self, segment: Segment) -> None:
        batch, first = segment.batch, segment.first_index
        nbytes = record_bytes(batch.nbytes)
        if batch.nbytes > MAX_PAYLOAD_BYTES:
            raise ValueError(f"a run of entries has at most {MAX_PAYLOAD_BYTES} bytes, not {batch.nbytes}")
        self._index.cut(first - 1)
        # A segment has no entries below where it begins: only so any number of the oldest can be removed.
        if nbytes > self._current.capacity - self._offset or first <= self._current.base_index:
            self._roll(nbytes)
        start = self._offset
        self._index.add(first, batch.count, segment.term, self._current.segment_id, start, start + nbytes)
        self._write(ENTRIES, batch.data, batch.checksum, first, batch.count, segment.term)

    def restart(self, index: int, term: int) -> int:
        """A snapshot that ends with entry `index` of `term` takes the place of the log; see `LogStore.restart`.

        It is one record, at the beginning of a segment, so that no crash comes between the old log and the new.
        """
        if self._index.has(index, term):
            return self._ticket
        if term > self._hard_state.term:
            self._hard_state = HardState(term, "", index)
        self._index = LogIndex(index, term)
        self._roll(0, RESTART)
        self._writer.kick()
        return self._ticket

    def _roll(self, room_bytes: int, kind: int = STATE) -> None:
        """Begin the next segment, with room for `room_bytes` behind the state that it begins with."""
        end_index, end_term = self._index.last_index, self._index.last_term
        payload = encode_state(self._hard_state, end_index, end_term)
        segment_id = self._current.segment_id + 1
        file = self._preparer.take(segment_id, SEGMENT_HEADER_BYTES + record_bytes(len(payload)) + room_bytes)
        self._unprepared = file.bare        # what waits for room has it before the next segment does
        if not file.bare:
            self._preparer.prepare(segment_id + 1)
        header = encode_segment_header(segment_id, self._chain, self._identity, self._salt, file.capacity)
        file.base_index, file.base_term, file.first_ticket = end_index, end_term, self._ticket + 1
        self._segments.append(file)
        self._current, self._offset = file, SEGMENT_HEADER_BYTES
        self._write(kind, payload, xxh3_64_intdigest(payload), end_index + 1, 0, self._hard_state.term, before=header)

    def _write(
        self,
        kind: int,
        payload: bytes,
        checksum: int,
        first_index: int,
        entry_count: int,
        term: int,
        *,
        before: bytes = b"",
    ) -> None:
        """Queue one record at the end of the log, and `before` in front of it."""
        file, offset = self._current, self._offset
        header, self._chain = encode_record_header(
            kind,
            len(payload),
            checksum,
            position=log_position(file.segment_id, offset),
            first_index=first_index,
            entry_count=entry_count,
            term=term,
            durable_position=self._known_durable(),
            commit=self._hard_state.commit,
            previous_chain=self._chain,
            salt=self._salt,
        )
        nbytes = record_bytes(len(payload))
        self._ticket += 1
        self._writer.submit(
            file.fd, offset - len(before), before + header, payload, padding_of(len(payload)), self._ticket, entry_count
        )
        self._offset = offset + nbytes
        file.last_ticket = self._ticket
        self._in_flight.append((self._ticket, log_position(file.segment_id, self._offset)))

    def _known_durable(self) -> int:
        """The position before which everything is on disk."""
        durable, in_flight = self._writer.durable_ticket, self._in_flight
        while in_flight and in_flight[0][0] <= durable:
            self._durable_position = in_flight.popleft()[1]
        return self._durable_position

    def _seal(self) -> None:
        """Write a record that says of all before it that it is durable.

        Damage to the last records of a log cannot be told from a torn write unless something behind them says that they
        had been durable. In a busy log the next record does; a log that falls silent, or is closed, says it itself.
        """
        payload = encode_state(self._hard_state, self._index.last_index, self._index.last_term)
        if record_bytes(len(payload)) <= self._current.capacity - self._offset:
            self._write_state()
            self._writer.kick()
            self._sealed_ticket = self._ticket

    # -- what is durable -----------------------------------------------------------------------------------------------

    @property
    def durable_ticket(self) -> int:
        """Everything up to this ticket is on disk."""
        return self._writer.durable_ticket

    @property
    def durable_position(self) -> int:
        """Where the log ends on the disk: segment id and offset, as `wal_format.log_position` puts them together."""
        return self._known_durable()

    @property
    def first_segment(self) -> int:
        """The oldest segment that there still is."""
        return self._segments[0].segment_id

    def notify_at(self, ticket: int) -> bool:
        """Have `fileno` become readable once this ticket is durable. False where it is already: then it does not."""
        return self._writer.notify_at(ticket)

    def fileno(self) -> int:
        """Becomes readable when what `notify_at` was asked for is durable, or the disk has failed: then `collect`."""
        return self._writer.fileno()

    def collect(self) -> int:
        """Take the signal of `fileno`; the durable ticket. OSError once a write or sync has failed."""
        return self._writer.collect()

    def wait(self, ticket: int, timeout_s: float | None = None) -> bool:
        """Wait for a ticket; for use without a loop. False when `timeout_s` has passed, OSError as for `collect`."""
        return self._writer.wait(ticket, timeout_s)

    def stalled_ns(self) -> int:
        """How long the write and sync under way have taken so far, in ns; 0 when there are none."""
        return self._writer.stalled_ns()

    @property
    def fsync_seconds(self) -> tuple[list[int], float]:
        """How long syncs took: see `WalWriter.fsync_seconds`."""
        return self._writer.fsync_seconds

    @property
    def batch_entries(self) -> tuple[list[int], float]:
        """Entries in a group commit: see `WalWriter.batch_entries`."""
        return self._writer.batch_entries

    def poll(self) -> None:
        """To be called on every tick: raises what has failed aside, and looks whether a full disk has room again."""
        now = time.monotonic()
        try_again = now >= self._retry_at and not self._writer.full
        if try_again:
            self._retry_at = now + RETRY_S
        if self._unprepared and self._writer.durable_ticket == self._ticket:
            self._unprepared = False
            self._preparer.prepare(self._current.segment_id + 1)
        self._preparer.poll(try_again=try_again and not self._unprepared)
        if self._ticket != self._polled_ticket:
            self._polled_ticket, self._quiet_polls = self._ticket, 0
            return
        self._quiet_polls += 1
        if self._quiet_polls >= SEAL_AFTER_POLLS and self._sealed_ticket != self._ticket == self._writer.durable_ticket:
            self._seal()

    # -- space ---------------------------------------------------------------------------------------------------------

    def has_room(self, nbytes: int) -> bool:
        """Whether `append` may be given so many bytes of entries: False on a full disk only, where more waits."""
        reserve = min(RESERVE_BYTES, self._segment_bytes // 8)
        fits = not self._current.bare and nbytes + reserve <= self._current.capacity - self._offset
        return not self._writer.full and (fits or self._preparer.has_space())

    @property
    def bytes_on_disk(self) -> int:
        """Size of all segments, the prepared one too."""
        return sum(file.capacity for file in self._segments) + self._preparer.ready_bytes

    def compact(self, index: int) -> None:
        """Entries up to `index` may go: remove the oldest segments, as long as they have no other entries.

        The entries are in the state machine's store, durably, and no follower is to get them from here. Returns at
        once; the files go on a thread of their own.
        """
        if index < self._index.base_index:
            return      # what is left below is not part of the log any more
        kept = self._removable(index)
        for file in self._segments[:kept]:
            file.close()
            self._preparer.retire(file.path)
        del self._segments[:kept]
        if kept:
            self._index.rebase(self._segments[0].base_index, self._segments[0].base_term)

    def shrink(self) -> None:
        """Give up the space of the segments that are kept for reuse: somebody else needs it."""
        self._preparer.shrink()

    def index_behind(self, nbytes: int) -> int:
        """The largest index that begins a segment with at least `nbytes` of log behind; that of the base else."""
        behind = 0
        for file in reversed(self._segments):
            behind += self._offset if file is self._current else file.capacity
            if behind >= nbytes:
                # A segment may begin behind what was cut off later, or before the log restarted.
                return max(min(file.base_index, self._index.last_index), self._index.base_index)
        return self._index.base_index

    def _removable(self, index: int) -> int:
        """How many of the oldest segments hold nothing above `index`."""
        most = self.kept_from() - self._segments[0].segment_id
        for number in range(min(len(self._segments) - 1, most), 0, -1):
            file = self._segments[number]
            if file.base_index <= index:
                # Where a suffix was cut off, those before this one may begin above it: none of them will do instead.
                return number if file.first_ticket <= self._writer.durable_ticket else 0
        return 0

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The oldest entry that can be read."""
        return self._index.base_index + 1

    @property
    def last_index(self) -> int:
        """The newest entry, durable or not."""
        return self._index.last_index

    def term_at(self, index: int) -> int:
        """The term of an entry, or of the one before the first. IndexError for any other index."""
        return self._index.term_at(index)

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        """Entries from `first` on, at most up to `last` and about `max_bytes`, at least one.

        IndexError where there is no entry `first`; DamagedLog where it cannot be read back as it was written.
        """
        self._index.find(first)
        return take_within(self._runs(first, min(last, self._index.last_index)), max_bytes)

    def _runs(self, first: int, last: int) -> Iterator[Segment]:
        while first <= last:
            extent = self._index.find(first)
            if log_position(extent.segment_id, extent.end) > self._known_durable():
                self._writer.wait(self._ticket)
            file = self._segments[extent.segment_id - self._segments[0].segment_id]
            stop = min(last, extent.last_index)
            yield from read_extent(file, extent, first, stop, self._salt)
            first = stop + 1

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Make everything durable, and close. OSError where that has failed, or a full disk had no room for it."""
        if self._writer.error is None and self._sealed_ticket != self._ticket:
            while not (there := self._writer.wait(self._ticket, CLOSE_PATIENCE_S)) and not self._writer.full:
                pass
            if there:
                self._seal()
        self._writer.close()
        self._preparer.close()
        for file in self._segments:
            file.close()
        self._segments.clear()
        if self._writer.error is not None:
            raise self._writer.error
        write_seal(self._directory, log_position(self._current.segment_id, self._offset), self._salt)
