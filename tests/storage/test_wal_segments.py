"""Segments of the log: rolled into, prepared ahead, removed, recycled."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from fastkv.log_types import HardState
from tests.storage.logs import SMALL_BYTES, entries_of, fill, opened, reference, run, write


def segments_of(path: Path) -> list[int]:
    """Ids of the segments that have something in them."""
    found = []
    for file in sorted(path.glob("*.wal")):
        with contextlib.suppress(FileNotFoundError):    # one that is just being removed
            if any(file.read_bytes()):
                found.append(int(file.stem, 16))
    return found


def test_rolls_over_segments(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 100)
        assert wal.bytes_on_disk >= len(segments_of(tmp_path)) * SMALL_BYTES
    assert segments_of(tmp_path) == [1, 2, 3, 4, 5]
    assert sorted(reference(tmp_path).entries) == list(range(1, 101))
    with opened(tmp_path) as wal:
        assert sorted(entries_of(wal.recovered.segments)) == list(range(1, 101))


def test_every_segment_begins_with_the_state(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, hard_state=HardState(1, "node-2", 0))
        fill(wal, 60)
    log = reference(tmp_path)
    assert [(offset, kind) for _, offset, kind in log.records if offset == 64] == [(64, 2)] * len(segments_of(tmp_path))


def test_a_record_larger_than_a_segment_gets_one_of_its_size(tmp_path: Path) -> None:
    large = run(1, 1, os.urandom(3 * SMALL_BYTES), os.urandom(5))
    with opened(tmp_path) as wal:
        write(wal, large)
        write(wal, run(3, 1, b"small"))
        assert wal.read(1, 1, 1) == [large.slice(1, 1)]
    with opened(tmp_path) as wal:
        assert entries_of(wal.recovered.segments) == entries_of([large, run(3, 1, b"small")])


def test_a_segment_is_prepared_ahead_of_need_and_used(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 30)
    assert sorted(int(path.stem, 16) for path in tmp_path.glob("*.wal")) in ([1, 2], [1, 2, 3])
    with opened(tmp_path) as wal:
        fill(wal, 30, first=31)
    assert len(reference(tmp_path).entries) == 60


def test_several_writes_in_one_append_may_cross_a_segment(tmp_path: Path) -> None:
    segments = [run(index, 1, b"x" * 700) for index in range(1, 30)]
    with opened(tmp_path) as wal:
        write(wal, *segments, hard_state=HardState(1, "node-1", 0))
    with opened(tmp_path) as wal:
        assert entries_of(wal.recovered.segments) == entries_of(segments)
        assert wal.recovered.hard_state.vote == "node-1"


def test_a_cut_below_the_segment_begins_another(tmp_path: Path) -> None:
    """Only so any number of the oldest segments can be removed: each says where the log ended before it."""
    with opened(tmp_path) as wal:
        fill(wal, 50)
        before = segments_of(tmp_path)
        write(wal, run(10, 2, b"new"))
        assert segments_of(tmp_path) == [*before, before[-1] + 1]
        assert wal.last_index == 10
        fill(wal, 20, first=11, term=2)
    with opened(tmp_path) as wal:
        entries = entries_of(wal.recovered.segments)
        assert sorted(entries) == list(range(1, 31))
        assert entries[10] == (2, b"new")


# -- compaction --------------------------------------------------------------------------------------------------------


def wait_for(path: Path, segments: list[int]) -> None:
    """Until the maintenance thread has removed what it was told to; bounded by the test's timeout."""
    while segments_of(path) != segments:
        os.sched_yield()


def test_compaction_removes_whole_segments(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 100)
        last = segments_of(tmp_path)[-1]
        base = [segment.base_index for segment in wal._segments]
        wal.compact(base[3] - 1)
        assert wal.first_index == base[2] + 1
        wait_for(tmp_path, list(range(3, last + 1)))
        assert wal.term_at(base[2]) == 1
        with pytest.raises(IndexError):
            wal.term_at(base[2] - 1)
        with pytest.raises(IndexError):
            wal.read(base[2], 99, 1000)
        assert sorted(entries_of(wal.read(base[2] + 1, 100, 1 << 20))) == list(range(base[2] + 1, 101))
    with opened(tmp_path, keep_above=base[2]) as wal:
        assert (wal.recovered.base_index, wal.recovered.base_term) == (base[2], 1)
        assert sorted(entries_of(wal.recovered.segments)) == list(range(base[2] + 1, 101))


def test_the_current_segment_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 50)
        wal.compact(50)
        last = wal._current.segment_id
        wait_for(tmp_path, [last])
        fill(wal, 50, first=51)
    with opened(tmp_path, keep_above=100) as wal:
        assert wal.recovered.last_index == 100


def test_a_log_may_be_empty_above_its_base(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 50)
        write(wal, hard_state=HardState(9, "x" * 3900, 0))      # fills what is left: the next is in a new segment
        wal.compact(50)
        assert wal.first_index == 51
        write(wal, hard_state=HardState(9, "y", 0))
    with opened(tmp_path, keep_above=50) as wal:
        recovered = wal.recovered
        assert (recovered.base_index, recovered.last_index, recovered.segments) == (50, 50, [])
        assert recovered.hard_state == HardState(9, "y", 50)
        write(wal, run(51, 9, b"next"))


def test_compaction_where_a_suffix_was_cut_off_keeps_what_is_needed(tmp_path: Path) -> None:
    """Segment 3 begins behind entry 40, segment 4 behind entry 9: the log cannot begin with segment 3."""
    with opened(tmp_path) as wal:
        fill(wal, 50)
        write(wal, run(10, 2, b"ten"))
        bases = [segment.base_index for segment in wal._segments]
        assert bases[-1] == 9
        assert bases[-2] > 30
        wal.compact(8)
        assert wal.first_index == 1
        wal.compact(9)
        assert wal.first_index == 10
        assert wal.term_at(9) == 1
        assert entries_of(wal.read(10, 10, 100)) == {10: (2, b"ten")}
    with opened(tmp_path, keep_above=9) as wal:
        assert (wal.recovered.base_index, wal.recovered.last_index) == (9, 10)


def test_recycled_segments_are_clean(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        for round_number in range(8):
            fill(wal, 40, first=1 + round_number * 40)
            wal.compact((round_number + 1) * 40)
    assert sorted(reference(tmp_path).entries)[-1] == 320, "the twin finds nothing behind the last record"
    with opened(tmp_path, keep_above=320) as wal:
        assert wal.recovered.last_index == 320
