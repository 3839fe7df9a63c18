"""Reading a write-ahead log from disk: where it ends, and whether the end is torn or damaged.

`scan` follows the records from the first segment on, each vouched for by the chain, and changes nothing. Where no
further record is valid, the log ends, and what lies behind decides:

* zeros: a clean end;
* something, and no valid record behind says that the bad place had been durable: a *torn* write, one that nobody was
  told had succeeded, or what a recycled segment held before. `repair` cuts it off, durably;
* a valid record which was written when the bad place was already durable: *damage* to what may have been acknowledged.
  `scan` raises `DamagedLog`; nothing is cut.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

from fastkv._core import wal_record
from fastkv._core.codes import ENTRY_HEADER_BYTES
from fastkv.errors import DamagedLog, StorageError, WrongDirectory
from fastkv.log_types import HardState, Segment
from fastkv.storage.sync import sync_directory, sync_file
from fastkv.storage.wal_format import (
    ALIGNMENT,
    MIN_SEGMENT_BYTES,
    RECORD_HEADER_BYTES,
    RESTART,
    SEGMENT_HEADER_BYTES,
    STATE,
    VERSION,
    RecordHeader,
    SegmentHeader,
    StateRecord,
    is_zero,
    log_position,
    parse_record,
    parse_segment_header,
    parse_state,
    record_bytes,
)
from fastkv.storage.wal_index import EXTENT_BYTES, LogIndex
from fastkv.storage.wal_seal import read_seal
from fastkv.storage.wal_tail import Tail, holds_configuration

_SEGMENT_NAME = re.compile(r"([0-9a-f]{16})\.wal")


def segment_path(directory: Path, segment_id: int) -> Path:
    """The file of a segment."""
    return directory / f"{segment_id:016x}.wal"


@dataclass(slots=True)
class FoundSegment:
    """A segment that belongs to the log."""

    segment_id: int
    path: Path
    base_index: int
    """Where the log ended when this segment was begun: it has no entries up to there."""
    base_term: int


@dataclass(slots=True)
class Region:
    """Bytes `start` to `stop` of a file."""

    path: Path
    start: int
    stop: int


@dataclass(slots=True)
class Scan:
    """What is in a log directory."""

    hard_state: HardState = field(default_factory=HardState)
    index: LogIndex = field(default_factory=LogIndex)
    tail: list[Segment] = field(default_factory=list)
    """The newest entries, see `scan`."""
    configurations: list[tuple[int, bytes]] = field(default_factory=list)
    """Every ENTRY_CONFIG entry of the log, as (index, body)."""
    found: list[FoundSegment] = field(default_factory=list)
    salt: int = 0
    chain: int = 0
    """Of the last record."""
    end: int = 0
    """The position behind the last record."""
    durable_position: int = 0
    """The highest that a record states; what lies behind it may not have reached the disk yet."""
    spare: Path | None = None
    """A segment that was prepared and has not been begun."""
    torn: Region | None = None
    """What lies behind the end in the last segment: the residue of a torn write, or of a recycled segment."""
    surplus: list[Path] = field(default_factory=list)
    """Later segments that belong to the torn write, whole, and what was prepared behind them."""


def scan(
    directory: Path, identity: int, *, keep_above: int = 0, keep_bytes: int = 0, first_segment: int = 0
) -> Scan | None:
    """Read the log in `directory`, or None where there is no segment at all. Writes nothing.

    Keeps the newest entries in memory: those above index `keep_above`, the last `keep_bytes` of them and at least one
    run. Segments before `first_segment` are not looked at. DamagedLog; WrongDirectory for another node's log;
    StorageError for an unknown version and for files that do not belong there; OSError where the disk fails.
    """
    paths = [found for found in find_segments(directory) if found[0] >= first_segment]
    seal = read_seal(directory)
    if not paths:
        if seal is not None:
            raise DamagedLog(advice(f"the segments of the log in {directory} are gone"))
        return None
    follower = _Follower(identity, keep_above, keep_bytes)
    contents = ((segment_id, path, path.read_bytes()) for segment_id, path in paths)
    last = next(contents)
    follower.follow(*last)
    for content in contents:
        if not follower.follow(*content):
            _judge_end(follower.result, chain((last, content), contents))
            break
        last = content
    else:
        _judge_end(follower.result, (last,))
    result = follower.finish()
    if seal is not None and seal.salt == result.salt and seal.position > result.end:
        raise _lost_end(result, seal.position)
    return result


def find_segments(directory: Path) -> list[tuple[int, Path]]:
    """The segment files in order. DamagedLog where one is missing, StorageError for a name that is none."""
    found = []
    for path in directory.glob("*.wal"):
        match = _SEGMENT_NAME.fullmatch(path.name)
        if match is None:
            raise StorageError(f"{path} is no file of this log: the names of segments are 16 hexadecimal digits")
        found.append((int(match[1], 16), path))
    found.sort()
    for (before, _), (after, path) in pairwise(found):
        if after != before + 1:
            missing = segment_path(directory, before + 1)
            raise DamagedLog(advice(f"{missing} is missing, and the log goes on in {path.name}"))
    return found


class _Follower:
    """Follows the log from record to record."""

    def __init__(self, identity: int, keep_above: int, keep_bytes: int) -> None:
        self.result = Scan()
        self._identity = identity
        self._tail = Tail(keep_above, keep_bytes)
        self._commit = 0

    def follow(self, segment_id: int, path: Path, data: bytes) -> bool:
        """Follow the log through one file. False where the log has ended before it."""
        result, first = self.result, not self.result.found
        if len(data) < MIN_SEGMENT_BYTES:
            raise _cut_short(path, len(data))
        header = parse_segment_header(data)
        if header is not None:
            self._check_header(path, segment_id, header)
            if header.capacity not in (0, len(data)):
                raise _cut_short(path, len(data), header.capacity)
        if first:
            if header is None:
                raise _damaged_start(path, 0)
            result.salt, result.chain = header.salt, header.previous_chain
        elif header is None:
            return False
        view = memoryview(data)
        offset = SEGMENT_HEADER_BYTES
        record = self._next_record(view, segment_id, offset)
        if record is None or record.kind not in (STATE, RESTART):
            # The first segment was durable, record and all, before anything was removed before it.
            if first:
                raise _damaged_start(path, offset)
            return False
        while record is not None:
            end = offset + record_bytes(record.length)
            try:
                self._take(segment_id, path, record, offset, end, view)
            except (ValueError, IndexError) as error:
                # The chain vouches for it, so this is no torn write.
                what = f"{path}: the record at byte {offset} contradicts those before it ({error})"
                raise DamagedLog(advice(what)) from error
            offset = end if record.kind in (STATE, RESTART) else self._follow_run(segment_id, record, offset, end, data)
            record = self._next_record(view, segment_id, offset)
        return True

    def _follow_run(self, segment_id: int, record: RecordHeader, begin: int, start: int, data: bytes) -> int:
        """Take the records that only go on where `record` ended, as far as an extent goes. Where the next begins."""
        result, last_index = self.result, record.last_index
        end, run_index, chain, durable_position, commit, payload = wal_record.follow_run(
            data,
            start,
            log_position(segment_id, start),
            result.salt,
            record.chain,
            last_index,
            record.term,
            max_bytes=EXTENT_BYTES - (start - begin),
        )
        if end > start:
            count = run_index - last_index
            result.index.add(last_index + 1, count, record.term, segment_id, start, end)
            self._tail.add(last_index + 1, count, record.term, payload)
            result.chain, result.end, result.durable_position = chain, log_position(segment_id, end), durable_position
            self._commit = commit
        return end

    def _check_header(self, path: Path, segment_id: int, header: SegmentHeader) -> None:
        if header.version != VERSION:
            raise StorageError(f"{path} has format version {header.version}; this fastkv reads version {VERSION}")
        if header.identity != self._identity:
            raise WrongDirectory(f"{path} is the log of another node or cluster")
        if header.segment_id != segment_id:
            raise DamagedLog(advice(f"{path} holds segment {header.segment_id:016x}: it was renamed or copied"))
        if self.result.found and header.salt != self.result.salt:
            raise DamagedLog(advice(f"{path} is of another log than the segments before it"))

    def _next_record(self, view: memoryview, segment_id: int, offset: int) -> RecordHeader | None:
        record = parse_record(view, offset, log_position(segment_id, offset), self.result.salt)
        return record if record is not None and record.previous_chain == self.result.chain else None

    def _take(
        self, segment_id: int, path: Path, record: RecordHeader, start: int, end: int, view: memoryview
    ) -> None:
        result, first = self.result, record.first_index
        payload = bytes(view[start + RECORD_HEADER_BYTES :][: record.length])
        if record.kind == STATE:
            self._take_state(segment_id, path, parse_state(payload))
        elif record.kind == RESTART:
            self._restart(segment_id, path, parse_state(payload))
        else:
            if first <= result.index.last_index:
                self._cut(first - 1)
            result.index.add(first, record.entry_count, record.term, segment_id, start, end)
            self._tail.add(first, record.entry_count, record.term, payload)
            if holds_configuration(record.entry_count, payload):
                result.configurations.append((first, payload[ENTRY_HEADER_BYTES:]))
        result.chain = record.chain
        result.end = log_position(segment_id, end)
        # This node wrote them, and neither ever falls.
        result.durable_position = record.durable_position
        self._commit = record.commit

    def _take_state(self, segment_id: int, path: Path, state: StateRecord) -> None:
        result, index = self.result, self.result.index
        if state.end_index < index.last_index:
            self._cut(state.end_index)
        if not result.found or state.end_index < index.base_index:
            # The first segment; or the one before was about to be removed as well, because its entries had been cut
            # off and written again, in this one, from below where that one begins.
            result.index = LogIndex(state.end_index, state.end_term)
        elif index.term_at(state.end_index) != state.end_term:
            raise ValueError(f"entry {state.end_index} is not of term {state.end_term}")
        else:
            index.cut(state.end_index)
        if not result.found or result.found[-1].segment_id != segment_id:
            result.found.append(FoundSegment(segment_id, path, state.end_index, state.end_term))
        result.hard_state = state.hard_state

    def _restart(self, segment_id: int, path: Path, state: StateRecord) -> None:
        """A snapshot took the place of the log: it goes on behind it, in a segment that begins with this record."""
        result = self.result
        if result.found and result.found[-1].segment_id == segment_id:
            raise ValueError("a log restarts only where a segment begins")
        self._tail.clear()
        result.configurations.clear()
        result.index = LogIndex(state.end_index, state.end_term)
        result.found.append(FoundSegment(segment_id, path, state.end_index, state.end_term))
        result.hard_state = state.hard_state

    def _cut(self, last_index: int) -> None:
        self._tail.cut(last_index)
        self.result.configurations = [found for found in self.result.configurations if found[0] <= last_index]

    def finish(self) -> Scan:
        """What was found; the commit index, a hint, kept within the log."""
        result = self.result
        try:
            result.tail = self._tail.segments()
        except ValueError as error:
            raise DamagedLog(advice(f"{result.found[-1].path}: {error}")) from error
        commit = max(result.index.base_index, min(self._commit, result.index.last_index))
        result.hard_state = result.hard_state._replace(commit=commit)
        return result


def _judge_end(result: Scan, contents: Iterable[tuple[int, Path, bytes]]) -> None:
    """Is what lies behind the end of the log nothing, torn, or damage? `contents` begins with the last segment."""
    last_path = result.found[-1].path
    for number, (segment_id, path, data) in enumerate(contents):
        start = result.end & 0xFFFF_FFFF if number == 0 else 0
        zero = is_zero(memoryview(data)[start:])
        behind = [] if zero else list(records_behind(data, segment_id, start, result.salt))
        for record in behind:
            if record.durable_position > result.end:
                raise _damaged(last_path, result, record)
        if number == 0:
            result.torn = None if zero else Region(path, start, len(data))
        elif number == 1 and not behind and parse_segment_header(data) is None:
            result.spare = path     # zeros, or a recycled segment
        else:
            result.surplus.append(path)


def records_behind(data: bytes, segment_id: int, start: int, salt: int) -> Iterator[RecordHeader]:
    """Every self-valid record at `start` or behind it, wherever it begins, in order."""
    offset = start + -start % ALIGNMENT
    while (offset := wal_record.find_header(data, offset, log_position(segment_id, offset))) >= 0:
        record = parse_record(data, offset, log_position(segment_id, offset), salt)
        if record is not None:
            yield record
        offset += ALIGNMENT


def repair(directory: Path, result: Scan) -> None:
    """Make the log durable as it was read: cut off what is torn, and write again what may not have reached the disk.

    A process that was killed between write and sync leaves records that only the page cache has; and after a failed
    sync the kernel may take pages for clean that never reached the disk. What recovery believes, others will be told
    is durable, so it is written and synced here. OSError where that fails.
    """
    for path in reversed(result.surplus):       # from the end, so that a crash leaves no gap
        path.unlink()
        sync_directory(directory)
    if result.torn is not None:
        overwrite(result.torn, None)
    unsure = result.durable_position
    for found in result.found:
        if found.segment_id >= unsure >> 32:
            start = unsure & 0xFFFF_FFFF if found.segment_id == unsure >> 32 else 0
            last = found.segment_id == result.end >> 32
            stop = result.end & 0xFFFF_FFFF if last else found.path.stat().st_size
            with found.path.open("rb") as file:
                file.seek(start)
                overwrite(Region(found.path, start, stop), file.read(stop - start))
    result.torn, result.surplus = None, []


def overwrite(region: Region, content: bytes | None) -> None:
    """Put `content`, or zeros, into the region, durably."""
    left = memoryview(bytes(region.stop - region.start) if content is None else content)
    fd = os.open(region.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        offset = region.start
        while left:
            written = os.pwrite(fd, left, offset)
            left, offset = left[written:], offset + written
        sync_file(fd)
    finally:
        os.close(fd)


def _damaged_start(path: Path, offset: int) -> DamagedLog:
    return DamagedLog(advice(f"{path} is damaged at byte {offset}: the beginning of the log cannot be read"))


def _cut_short(path: Path, nbytes: int, capacity: int = 0) -> DamagedLog:
    """No torn write: a segment has its full size from the moment that its name exists."""
    whole = f"of its {capacity}" if capacity else f"and the smallest segment has {MIN_SEGMENT_BYTES}"
    return DamagedLog(advice(f"{path} is damaged at byte {nbytes}: it has {nbytes} bytes {whole}"))


def _lost_end(result: Scan, sealed: int) -> DamagedLog:
    path, offset = result.found[-1].path, result.end & 0xFFFF_FFFF
    until = f"byte {sealed & 0xFFFF_FFFF} of segment {sealed >> 32:016x}"
    return DamagedLog(advice(f"{path} is damaged at byte {offset}: the log went on to {until} when it was closed"))


def _damaged(path: Path, result: Scan, witness: RecordHeader) -> DamagedLog:
    first, last = result.index.last_index + 1, witness.first_index - 1
    lost = f"log entries {first} to {last}" if first <= last else f"records before log entry {witness.first_index}"
    offset = result.end & 0xFFFF_FFFF
    return DamagedLog(advice(f"{path} is damaged at byte {offset}: {lost} had been durable and cannot be read"))


def advice(what: str) -> str:
    """What is wrong, and what to do about it."""
    return (
        f"{what}. Nothing was changed. `fastkv check` with the node's data directory says all that is damaged; to go "
        "on, repair from peers: `fastkv repair` sets what is damaged aside, and says how the node gets it back"
    )
