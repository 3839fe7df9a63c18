"""What the tests of the log stores share: runs of entries, a model of a log, and small logs on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder
from fastkv.log_types import HardState, Segment
from fastkv.storage.wal import Wal
from fastkv.storage.wal_format import (
    RecordHeader,
    log_identity,
    log_position,
    parse_record,
    parse_segment_header,
)
from fastkv.storage.wal_recovery import Scan, scan
from tests.reference.wal import Log, read_log

CLUSTER, NODE = "cluster", "node-1"
SMALL_BYTES = 4096
"""The smallest segment there may be: a few dozen records."""


def run(first_index: int, term: int, *bodies: bytes) -> Segment:
    """Entries of one term from `first_index` on."""
    builder = BatchBuilder()
    for body in bodies:
        builder.append(1, body)
    return Segment(first_index, term, builder.take())


def configuration(index: int, term: int, body: bytes) -> Segment:
    """An ENTRY_CONFIG entry."""
    builder = BatchBuilder()
    builder.append(Kind.ENTRY_CONFIG, body)
    return Segment(index, term, builder.take())


def entries_of(segments: Iterable[Segment]) -> dict[int, tuple[int, bytes]]:
    """Term and body of each entry."""
    return {
        segment.first_index + number: (segment.term, entry.body)
        for segment in segments
        for number, entry in enumerate(segment.batch.entries())
    }


@contextmanager
def opened(
    path: Path, *, segment_bytes: int = SMALL_BYTES, keep_above: int = 0, keep_bytes: int = 1 << 30
) -> Iterator[Wal]:
    """The log in a directory, closed afterwards."""
    wal = Wal(
        path,
        cluster=CLUSTER,
        node_id=NODE,
        segment_bytes=segment_bytes,
        keep_above=keep_above,
        keep_bytes=keep_bytes,
    )
    try:
        yield wal
    finally:
        wal.close()


def write(wal: Wal, *segments: Segment, hard_state: HardState | None = None) -> None:
    """Append, and wait until it is durable."""
    assert wal.wait(wal.append(hard_state, segments), 30)


def fill(wal: Wal, count: int, *, first: int = 1, term: int = 1) -> None:
    """Write entries of 100 bytes, one a record: some twenty make a small segment."""
    for index in range(first, first + count):
        write(wal, run(index, term, b"%09d " % index * 10))


def reference(path: Path) -> Log:
    """The log as the readable twin reads it."""
    return read_log(path, CLUSTER, NODE)


def snapshot(wal: Wal, source: Path, target: Path) -> Path:
    """The log's files as they are now. What the maintenance thread is working on is left out, as is what it adds."""
    target.mkdir(parents=True)
    for number in range(wal._segments[0].segment_id, wal._current.segment_id + 1):
        name = f"{number:016x}.wal"
        shutil.copyfile(source / name, target / name)
    return target


class Model:
    """A log as a plain mapping from index to (term, body)."""

    def __init__(self) -> None:
        self.entries: dict[int, tuple[int, bytes]] = {}
        self.hard_state = HardState()

        self.kinds: dict[int, int] = {}

    @property
    def last_index(self) -> int:
        return max(self.entries, default=0)

    @property
    def configurations(self) -> set[int]:
        """The indexes of ENTRY_CONFIG entries."""
        return {index for index, kind in self.kinds.items() if kind == Kind.ENTRY_CONFIG and index in self.entries}

    def append(self, hard_state: HardState | None, segments: Iterable[Segment]) -> None:
        """What every log store has to make of an append."""
        if hard_state is not None:
            self.hard_state = hard_state
        for segment in segments:
            for index in [index for index in self.entries if index >= segment.first_index]:
                del self.entries[index]
            self.entries.update(entries_of([segment]))
            for index, entry in enumerate(segment.batch.entries(), segment.first_index):
                self.kinds[index] = entry.kind


# -- logs that something happens to ------------------------------------------------------------------------------------


def copied(source: Path, target: Path) -> Path:
    """A copy of a log's directory."""
    shutil.copytree(source, target)
    return target


def segment(path: Path, number: int) -> Path:
    """The file of a segment."""
    return path / f"{number:016x}.wal"


def records(path: Path) -> list[tuple[int, int, RecordHeader]]:
    """(start, end, header) of each record of a segment."""
    data = memoryview(path.read_bytes())
    header = parse_segment_header(data)
    assert header is not None
    found, offset = [], 64
    while (record := parse_record(data, offset, log_position(header.segment_id, offset), header.salt)) is not None:
        found.append((offset, record.end_offset, record))
        offset = record.end_offset
    return found


def found(path: Path) -> Scan:
    """The log as recovery finds it, before it changes anything."""
    result = scan(path, log_identity(CLUSTER, NODE), keep_bytes=1 << 30)
    assert result is not None
    return result


def indexes(path: Path) -> list[int]:
    """Of the entries that recovery finds."""
    return sorted(entries_of(found(path).tail))


def patch(path: Path, offset: int, content: bytes) -> None:
    """Overwrite some bytes of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)
