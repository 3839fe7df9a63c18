"""Reading entries back from the log's segments, each record checked again before it is believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from fastkv._core.entry import EntryBatch
from fastkv.errors import DamagedLog
from fastkv.log_types import Segment
from fastkv.storage.wal_format import ENTRIES, RECORD_HEADER_BYTES, log_position, parse_record
from fastkv.storage.wal_index import Extent
from fastkv.storage.wal_recovery import advice


class OpenSegment(Protocol):
    """A segment's file, open for reading at least."""

    @property
    def segment_id(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def fd(self) -> int: ...


def read_extent(file: OpenSegment, extent: Extent, first: int, last: int, salt: int) -> Iterator[Segment]:
    """The entries `first` to `last` of an extent, which has them all, a run for each record.

    DamagedLog where a record is not what was written; OSError where the disk fails.
    """
    data = memoryview(os.pread(file.fd, extent.end - extent.start, extent.start))
    offset = 0
    while first <= last:
        at = extent.start + offset
        record = parse_record(data, offset, log_position(file.segment_id, at), salt)
        if record is None or record.first_index > first:
            what = f"{file.path} is damaged at byte {at}: log entries {first} to {last} cannot be read"
            raise DamagedLog(advice(what))
        if record.kind == ENTRIES and record.last_index >= first:
            payload = data[offset + RECORD_HEADER_BYTES :][: record.length]
            batch = EntryBatch(bytes(payload), record.entry_count, record.payload_checksum)
            run = Segment(record.first_index, record.term, batch).slice(first, min(last, record.last_index))
            yield run
            first = run.last_index + 1
        offset = record.end_offset - extent.start


def take_within(runs: Iterator[Segment], max_bytes: int) -> list[Segment]:
    """As many of the runs as fit into `max_bytes`, but at least the first entry."""
    taken: list[Segment] = []
    left = max_bytes
    for run in runs:
        if run.nbytes > left:
            if not taken:
                taken.append(run.slice(run.first_index, run.first_index + run.batch.fit(0, left) - 1))
            break
        taken.append(run)
        left -= run.nbytes
    return taken
