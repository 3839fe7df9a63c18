"""Everything that is wrong with a log, and not only the first of it: for whoever looks at a stopped node's directory.

`wal_recovery` stops where it cannot go on. This goes on behind each place that cannot be read, with the next record
that vouches for itself, and judges the places afterwards by the same rule: one that had been durable when a later
record was written is damage, and one at the end that nothing speaks for is a torn write.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from fastkv._core.codes import ENTRY_HEADER_BYTES
from fastkv.errors import StorageError
from fastkv.log_types import HardState
from fastkv.storage.wal_format import (
    ENTRIES,
    MIN_SEGMENT_BYTES,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    is_zero,
    log_position,
    parse_record,
    parse_segment_header,
    record_bytes,
)
from fastkv.storage.wal_recovery import Scan, records_behind, scan, segment_path
from fastkv.storage.wal_seal import read_seal
from fastkv.storage.wal_tail import holds_configuration

HEXADECIMAL = 16


class Spot(NamedTuple):
    """A place in a file of the log, and what is the matter there."""

    path: Path
    offset: int
    what: str
    means: str


@dataclass(slots=True)
class SegmentSurvey:
    """What is in one segment's file."""

    path: Path
    segment_id: int
    nbytes: int
    begun: bool = True
    records: int = 0
    first_index: int = 0
    """Of the entries that its records hold; 0 where there are none."""
    last_index: int = 0
    first_term: int = 0
    last_term: int = 0
    end: int = 0
    """The byte behind its last record."""


@dataclass(slots=True)
class LogSurvey:
    """What was found in a log's directory."""

    segments: list[SegmentSurvey] = field(default_factory=list)
    base_index: int = 0
    last_index: int = 0
    hard_state: HardState = field(default_factory=HardState)
    membership: bytes = b""
    """The newest that the log holds; empty where it holds none. Of a damaged log, the last one that can be read."""
    damages: list[Spot] = field(default_factory=list)
    torn: Spot | None = None
    """Where a write was torn: nobody was told that it had succeeded, and a start cuts it off."""


def survey_log(directory: Path, identity: int | None) -> LogSurvey:
    """Look at everything in a log's directory; `identity` is its node's, where that is known. Writes nothing."""
    surveyor = _Surveyor(directory, identity)
    surveyor.run()
    return surveyor.result


class _Surveyor:
    def __init__(self, directory: Path, identity: int | None) -> None:
        self.result = LogSurvey()
        self._directory = directory
        self._identity = identity
        self._salt: int | None = None
        self._chain: int | None = None
        """Of the record before; None where that could not be read."""
        self._gaps: list[tuple[int, Spot]] = []
        """Places that cannot be read, with their positions: torn or damaged, as is judged at the end."""
        self._durable = 0
        """The highest position that any record says is durable."""

    def run(self) -> None:
        paths = self._names()
        for number, (segment_id, path) in enumerate(paths):
            try:
                data = path.read_bytes()
            except OSError as error:
                self._damage(path, 0, f"the file cannot be read: {error.strerror}", "its entries are lost")
                self._chain = None
                continue
            self._look(segment_id, path, data, first=number == 0, last=number == len(paths) - 1)
        seal = read_seal(self._directory)
        if seal is not None and self._salt in (None, seal.salt):
            self._durable = max(self._durable, seal.position)
        self._judge()
        self._compare(bool(paths) or seal is not None)

    def _names(self) -> list[tuple[int, Path]]:
        found = []
        for path in sorted(self._directory.glob("*.wal")):
            if len(path.stem) == HEXADECIMAL and set(path.stem) <= set("0123456789abcdef"):
                found.append((int(path.stem, HEXADECIMAL), path))
            else:
                self._damage(path, 0, "the file is none of this log's", "somebody has put it there: move it away")
        for (before, _), (after, path) in pairwise(found):
            if after != before + 1:
                lost = segment_path(self._directory, before + 1)
                what = f"the file is missing, and the log goes on in {path.name}"
                self._damage(lost, 0, what, "its entries are lost")
        return found

    def _damage(self, path: Path, offset: int, what: str, means: str) -> None:
        self.result.damages.append(Spot(path, offset, what, means))

    # -- a segment -----------------------------------------------------------------------------------------------------

    def _look(self, segment_id: int, path: Path, data: bytes, *, first: bool, last: bool) -> None:
        segment = SegmentSurvey(path, segment_id, len(data))
        self.result.segments.append(segment)
        if len(data) < MIN_SEGMENT_BYTES:
            self._damage(path, len(data), f"the file has {len(data)} bytes: it was cut", "what it held behind is lost")
        header = parse_segment_header(data)
        if header is not None:
            self._check_header(path, segment_id, header, len(data))
        elif last and not first and not self._has_records(data, segment_id):
            segment.begun = False           # prepared for later, or recycled
            return
        elif len(data) >= SEGMENT_HEADER_BYTES:
            self._damage(path, 0, "the beginning of the segment cannot be read", "what it belongs to is not known")
        if self._salt is not None:
            self._follow(segment, data, first=first)

    def _has_records(self, data: bytes, segment_id: int) -> bool:
        return self._salt is not None and any(True for _ in records_behind(data, segment_id, 0, self._salt))

    def _check_header(self, path: Path, segment_id: int, header: SegmentHeader, nbytes: int) -> None:
        if header.segment_id != segment_id:
            self._damage(path, 0, f"it holds segment {header.segment_id:016x}", "it was renamed or copied")
        if self._identity is not None and header.identity != self._identity:
            self._damage(path, 0, "it is the log of another node or cluster", "it was put there by mistake")
        if self._salt is not None and header.salt != self._salt:
            self._damage(path, 0, "it is of another log than those before it", "it was put there by mistake")
        if header.capacity not in (0, nbytes) and nbytes >= MIN_SEGMENT_BYTES:
            what = f"the file has {nbytes} bytes, and had {header.capacity}"
            self._damage(path, min(nbytes, header.capacity), what, "what it held behind is lost")
        if self._chain is not None and header.previous_chain != self._chain:
            before = self.result.segments[-2]
            means = "the last records of that segment are lost"
            self._damage(before.path, before.end, f"the records up to {path.name} cannot be read", means)
        self._salt = header.salt if self._salt is None else self._salt
        self._chain = header.previous_chain

    def _follow(self, segment: SegmentSurvey, data: bytes, *, first: bool) -> None:
        """Every record of a segment, also behind places that cannot be read."""
        assert self._salt is not None
        view, segment_id, offset = memoryview(data), segment.segment_id, SEGMENT_HEADER_BYTES
        while True:
            record = parse_record(view, offset, log_position(segment_id, offset), self._salt)
            if record is None:
                behind = next(records_behind(data, segment_id, offset, self._salt), None)
                if behind is None:
                    break
                self._gap(segment, offset, f"up to byte {behind.position & 0xFFFF_FFFF} nothing can be read", first)
                record, offset = behind, behind.position & 0xFFFF_FFFF
            elif self._chain is not None and record.previous_chain != self._chain:
                self._gap(segment, offset, "the record does not follow the one before it", first)
            self._chain = record.chain
            self._durable = max(self._durable, record.durable_position)
            segment.records += 1
            if record.kind == ENTRIES:
                segment.first_index = min(segment.first_index or record.first_index, record.first_index)
                segment.last_index = max(segment.last_index, record.last_index)
                segment.first_term = segment.first_term or record.term
                segment.last_term = record.term
                payload = bytes(view[offset + RECORD_HEADER_BYTES :][: record.length])
                if holds_configuration(record.entry_count, payload):
                    self.result.membership = payload[ENTRY_HEADER_BYTES:]
            offset += record_bytes(record.length)
        segment.end = offset
        if not segment.records or not is_zero(view[offset:]):
            self._gap(segment, offset, "what stands there is no record", first and not segment.records)
        elif offset < len(data):
            self._gaps.append((log_position(segment_id, offset), Spot(segment.path, offset, "", "")))

    def _gap(self, segment: SegmentSurvey, offset: int, what: str, first: bool) -> None:
        if first and offset == SEGMENT_HEADER_BYTES:
            self._damage(segment.path, offset, what, "the beginning of the log is lost")
            return
        self._gaps.append((log_position(segment.segment_id, offset), Spot(segment.path, offset, what, "")))

    # -- the whole -----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        last = max((s.segment_id for s in self.result.segments if s.begun and s.records), default=0)
        for position, spot in self._gaps:
            at_the_end = position >> 32 >= last and position == self._gaps[-1][0]
            inside = spot.what != "what stands there is no record" and spot.what != ""
            if (inside or at_the_end) and self._durable > position:
                what = spot.what or "there are zeros"
                self._damage(spot.path, spot.offset, what, "records are lost that had been durable")
            elif (inside or at_the_end) and spot.what and self.result.torn is None:
                self.result.torn = spot._replace(means="a write was torn; nobody was told that it had succeeded")

    def _compare(self, exists: bool) -> None:
        """What a start makes of the log; it must not find anything that was not found here."""
        result = self.result
        if not exists:
            return
        try:
            found = scan(self._directory, self._identity if self._identity is not None else self._any_identity())
        except (StorageError, OSError) as error:
            if not result.damages:
                what = str(error).partition(". Nothing was changed")[0]
                self._damage(self._directory, 0, what, "a node does not start with it")
            return
        if found is not None:
            self._tell(found)

    def _any_identity(self) -> int:
        for segment in self.result.segments:
            with segment.path.open("rb") as file:
                header = parse_segment_header(file.read(SEGMENT_HEADER_BYTES))
            if header is not None:
                return header.identity
        return 0

    def _tell(self, found: Scan) -> None:
        result = self.result
        result.base_index, result.last_index = found.index.base_index, found.index.last_index
        result.hard_state = found.hard_state
        result.membership = found.configurations[-1][1] if found.configurations else b""
