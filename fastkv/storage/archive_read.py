"""Reading an archive of the log (`archive`): which entries it has, and those entries, each record checked again.

An entry is used only where it is known to have been committed: records say how far that was known when they were
written, and so do the lines of `times`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fastkv.errors import BadArchive, DamagedLog, StorageError
from fastkv.log_types import Segment
from fastkv.storage.archive import ABOUT_FILE, TIMES_FILE
from fastkv.storage.wal_format import (
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    log_identity,
    log_position,
    parse_record,
    parse_segment_header,
    parse_state,
    record_bytes,
)
from fastkv.storage.wal_read import read_extent
from fastkv.storage.wal_recovery import advice, find_segments, scan, segment_path

HEAD_BYTES = SEGMENT_HEADER_BYTES + record_bytes(0x1_0100)
"""Of a segment: its header and the record of the state, which is the first."""


def find_runs(directory: Path) -> list[Path]:
    """Every run of segments in the directory, or the directory itself where it is one."""
    if (directory / ABOUT_FILE).exists():
        return [directory]
    return sorted(path.parent for pattern in ("*", "*/*") for path in directory.glob(f"{pattern}/{ABOUT_FILE}"))


def base_of(path: Path, segment_id: int) -> int:
    """The entry before which a segment begins. BadArchive where it cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    header = parse_segment_header(head)
    place = log_position(segment_id, SEGMENT_HEADER_BYTES)
    record = parse_record(head, SEGMENT_HEADER_BYTES, place, header.salt) if header else None
    if record is None:
        raise BadArchive(f"{path} is damaged: its beginning cannot be read")
    return parse_state(head[SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES :][: record.length]).end_index


def first_needed(segments: list[tuple[int, Path]], index: int) -> int:
    """The segment from which on everything behind entry `index` is there; the first one where that is too late."""
    for segment_id, path in reversed(segments):
        if base_of(path, segment_id) <= index:
            return segment_id
    return segments[0][0] if segments else 0


def prune(directory: Path, index: int) -> list[Path]:
    """Remove segments that hold nothing behind entry `index` which a backup has: oldest first. What was removed."""
    removed = []
    for run in find_runs(directory):
        segments = find_segments(run)
        needed = first_needed(segments, index)
        for segment_id, path in segments:
            if segment_id < needed:
                path.unlink()
                removed.append(path)
    return removed


class _Opened:
    """One segment of a run at a time, open for reading only."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self.segment_id = 0
        self.path = run
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def go_to(self, segment_id: int) -> None:
        """Open that one, where it is not open."""
        if self.fd < 0 or segment_id != self.segment_id:
            self.__exit__()
            self.segment_id, self.path = segment_id, segment_path(self._run, segment_id)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)


class ArchivedLog:
    """One run, as far as it goes behind entry `after`. BadArchive where it is not whole; OSError."""

    def __init__(self, run: Path, after: int) -> None:
        self.path = run
        about = _read_about(run)
        self.cluster, self.node_id = about["cluster"], about["node_id"]
        try:
            segments = find_segments(run)
            found = scan(
                run, log_identity(self.cluster, self.node_id), first_segment=first_needed(segments, after)
            ) if segments else None
        except DamagedLog as error:
            what = str(error).removesuffix(advice(""))
            raise BadArchive(f"the archive in {run} is not whole: {what}") from error
        except StorageError as error:
            raise BadArchive(str(error)) from error
        if found is None:
            raise BadArchive(f"the archive in {run} is empty")
        self._index, self._salt = found.index, found.salt
        self._times = _read_times(run)
        known = max([found.hard_state.commit, *(index for _, index in self._times)])
        self.first = found.index.base_index + 1
        """The oldest entry that is here."""
        self.last = min(found.index.last_index, known)
        """The newest that is here and was committed."""

    def index_at(self, moment: float) -> int:
        """The newest entry that this node knew to be committed at that time, by its clock; 0 where it does not say."""
        return max((index for at, index in self._times if at <= moment), default=0)

    @property
    def newest_time(self) -> float:
        """When the archive was added to last; 0 where it does not say."""
        return self._times[-1][0] if self._times else 0.0

    def entries(self, first: int, last: int) -> Iterator[Segment]:
        """The committed entries `first` to `last`, in runs. BadArchive."""
        if not self.first <= first or last > self.last:
            there = f"entries {self.first} to {self.last}"
            raise BadArchive(f"the archive in {self.path} has {there}, not {first} to {last}")
        try:
            with _Opened(self.path) as file:
                while first <= last:
                    extent = self._index.find(first)
                    file.go_to(extent.segment_id)
                    stop = min(last, extent.last_index)
                    yield from read_extent(file, extent, first, stop, self._salt)
                    first = stop + 1
        except DamagedLog as error:
            raise BadArchive(str(error).removesuffix(advice(""))) from error

    def term_at(self, index: int) -> int:
        """An entry's term."""
        return self._index.term_at(index)


def _read_about(run: Path) -> dict[str, str]:
    try:
        about = json.loads((run / ABOUT_FILE).read_bytes())
        return {"cluster": str(about["cluster"]), "node_id": str(about["node_id"])}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadArchive(f"{run / ABOUT_FILE} does not say whose log it is: {error}") from error


def _read_times(run: Path) -> list[tuple[float, int]]:
    """The lines of `times` that are whole; a node's clock may have been set back between two."""
    try:
        lines = (run / TIMES_FILE).read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    times = []
    for line in lines:
        at, _, index = line.partition(" ")
        try:
            times.append((float(at), int(index)))
        except ValueError:
            continue        # a line that a power loss has torn; the ones around it are good
    return times
