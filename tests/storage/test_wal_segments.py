"""Segments of the log: rolled into, prepared ahead, removed, recycled."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastkv.log_types import HardState
from fastkv.storage import wal_segments
from fastkv.storage.wal import Wal
from tests.storage.logs import (
    CLUSTER,
    NODE,
    SMALL_BYTES,
    entries_of,
    fill,
    found,
    opened,
    records,
    reference,
    run,
    segment,
    write,
)


def segments_of(path: Path) -> list[int]:
    """Ids of the segments that have something in them."""
    ids = []
    for file in sorted(path.glob("*.wal")):
        with contextlib.suppress(FileNotFoundError):    # one that is just being removed
            if any(file.read_bytes()):
                ids.append(int(file.stem, 16))
    return ids


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


def until_tidy(wal: Wal, path: Path) -> list[Path]:
    """The segments that are kept for reuse, once all that are not needed are out of the log and the next is made."""
    names = {f"{wal._current.segment_id + more:016x}.wal" for more in (0, 1)}
    while {file.name for file in path.glob("*.wal")} != names or not wal._preparer.ready_bytes:
        os.sched_yield()
    return [file for file in path.glob("*.tmp") if file.stem != "prepared"]


@pytest.mark.slow
@pytest.mark.parametrize("segment_bytes", [4096, 16384])
def test_segments_go_round(tmp_path: Path, segment_bytes: int) -> None:
    """What a recycled segment held before is no part of the log, wherever the log ends in it."""
    with opened(tmp_path, segment_bytes=segment_bytes) as wal:
        for round_number in range(12):
            fill(wal, 90, first=1 + round_number * 90)
            wal.compact((round_number + 1) * 90)
            until_tidy(wal, tmp_path)
        last = wal._current.segment_id
    assert sorted(reference(tmp_path).entries)[-1] == 1080, "the twin finds nothing behind the last record"
    if segment_bytes > 4096:
        content = segment(tmp_path, last).read_bytes()
        end = records(segment(tmp_path, last))[-1][1]
        assert any(content[end:]), "the test does not see a recycled segment"
    with opened(tmp_path, segment_bytes=segment_bytes, keep_above=1080) as wal:
        assert wal.recovered.last_index == 1080
        fill(wal, 200, first=1081)
    with opened(tmp_path, segment_bytes=segment_bytes, keep_above=1080) as wal:
        assert wal.recovered.last_index == 1280


def test_a_recycled_segment_that_was_not_begun_is_the_spare(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    with opened(path, segment_bytes=16384) as wal:
        fill(wal, 300)
        wal.compact(300)
        assert until_tidy(wal, path)
        used = wal._current.segment_id
        while wal._current.segment_id == used:      # the spare is begun, and a recycled one becomes the next
            fill(wal, 1, first=wal.last_index + 1)
        wal.compact(wal.last_index - 1)
        until_tidy(wal, path)
        spare = wal._current.segment_id + 1
        last_index = wal.last_index
    assert any(segment(path, spare).read_bytes()), "it is all zeros, so it is not a recycled one"
    assert found(path).spare == segment(path, spare)
    with opened(path, segment_bytes=16384, keep_above=last_index - 1) as wal:
        assert wal.recovered.last_index == last_index
        assert wal._preparer.ready_bytes == 16384
        fill(wal, 300, first=last_index + 1)


@pytest.mark.slow
def test_a_recycled_segment_costs_no_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled: list[int] = []
    genuine = wal_segments.fill_with_zeros

    def counting(path: Path, nbytes: int, go_on: Callable[[int], bool]) -> bool:
        filled.append(nbytes)
        return genuine(path, nbytes, go_on)

    with opened(tmp_path, segment_bytes=1 << 16) as wal:
        fill(wal, 1500)
        wal.compact(1500)
        assert len(until_tidy(wal, tmp_path)) >= 3
        monkeypatch.setattr(wal_segments, "fill_with_zeros", counting)
        fill(wal, 1200, first=1501)
    assert filled
    assert set(filled) == {wal_segments.BLANK_BYTES}


def test_no_more_is_kept_than_was_asked_for_and_it_can_be_given_up(tmp_path: Path) -> None:
    wal = Wal(tmp_path, cluster=CLUSTER, node_id=NODE, segment_bytes=4096, recycle_bytes=3 * 4096)
    fill(wal, 200)
    wal.compact(200)
    assert len(until_tidy(wal, tmp_path)) == 3
    wal.shrink()
    while list(tmp_path.glob("0*.tmp")):
        os.sched_yield()
    fill(wal, 50, first=201)
    wal.close()
