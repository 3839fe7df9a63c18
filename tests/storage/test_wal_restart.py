"""A snapshot takes the place of the log: one record, which is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastkv.errors import DamagedLog
from fastkv.log_types import HardState
from fastkv.storage.wal import Wal
from tests.storage.logs import (
    CLUSTER,
    NODE,
    SMALL_BYTES,
    configuration,
    copied,
    entries_of,
    fill,
    opened,
    run,
    segment,
    snapshot,
    write,
)


def test_the_log_goes_on_behind_the_snapshot(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a"), configuration(2, 1, b"old"), hard_state=HardState(3, "node-2", 1))
        wal.wait(wal.restart(500, 2))
        assert (wal.first_index, wal.last_index, wal.term_at(500)) == (501, 500, 2)
        write(wal, run(501, 3, b"b"), configuration(502, 3, b"new"))
    with opened(tmp_path, keep_above=500) as wal:
        recovered = wal.recovered
        assert (recovered.base_index, recovered.base_term, recovered.last_index) == (500, 2, 502)
        assert recovered.hard_state[:2] == (3, "node-2")
        assert recovered.configurations == [(502, b"new")]
        assert entries_of(wal.read(501, 502, 1 << 20)) == {501: (3, b"b"), 502: (3, b"new")}


def test_a_log_that_has_the_snapshot_s_last_entry_keeps_all(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 60)
        ticket = wal.append(None, [])
        assert wal.restart(50, 1) == ticket
        assert (wal.first_index, wal.last_index) == (1, 60)
        assert wal.restart(50, 2) > ticket          # the same index, another entry
        assert (wal.first_index, wal.last_index) == (51, 50)


def test_a_snapshot_of_a_later_term_brings_that_term(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a"), hard_state=HardState(3, "node-2", 1))
        wal.wait(wal.restart(500, 9))
    with opened(tmp_path, keep_above=500) as wal:
        assert wal.recovered.hard_state[:2] == (9, "")


def test_old_segments_go_with_the_next_compaction(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 100)
        wal.wait(wal.restart(500, 2))
        before = wal.bytes_on_disk
        wal.compact(50)                             # of a log that is no more
        assert wal.first_index == 501
        wal.compact(500)
        assert (wal.first_index, wal.last_index) == (501, 500)
        assert wal.bytes_on_disk < before
        fill(wal, 100, first=501, term=2)
    with opened(tmp_path, keep_above=500) as wal:
        assert (wal.recovered.first_index, wal.recovered.last_index) == (501, 600)


@pytest.mark.slow
def test_torn_at_any_byte_it_is_the_old_log_or_the_new(tmp_path: Path) -> None:
    with opened(tmp_path / "wal") as wal:
        write(wal, run(1, 1, b"a", b"b"), hard_state=HardState(3, "node-2", 1))
        wal.wait(wal.restart(500, 2))
        whole = snapshot(wal, tmp_path / "wal", tmp_path / "whole")
        last = wal._current.segment_id
        end = wal._offset
    outcomes = set()
    for at in range(end + 1):
        path = copied(whole, tmp_path / f"torn at {at}")
        data = segment(path, last).read_bytes()
        segment(path, last).write_bytes(data[:at] + bytes(len(data) - at))
        with opened(path) if at < end else opened(path, keep_above=500) as wal:
            recovered = wal.recovered
            outcomes.add((at == end, recovered.base_index, recovered.last_index))
            assert recovered.hard_state[:2] == (3, "node-2")
            write(wal, run(recovered.last_index + 1, 3, b"more"))
    assert outcomes == {(False, 0, 2), (True, 500, 500)}


def test_an_interrupted_installation_is_completed_at_the_start(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 60)
    with pytest.raises(DamagedLog):
        Wal(tmp_path, cluster=CLUSTER, node_id=NODE, segment_bytes=SMALL_BYTES, keep_above=500)
    for _ in range(2):                              # and again, where that was interrupted too
        wal = Wal(
            tmp_path, cluster=CLUSTER, node_id=NODE, segment_bytes=SMALL_BYTES, keep_above=500, restart_at=(500, 7)
        )
        assert (wal.recovered.base_index, wal.recovered.base_term, wal.recovered.segments) == (500, 7, [])
        assert wal.recovered.hard_state.term == 7
        wal.close()


def test_an_empty_directory_can_be_started_behind_a_snapshot(tmp_path: Path) -> None:
    wal = Wal(tmp_path, cluster=CLUSTER, node_id=NODE, segment_bytes=SMALL_BYTES, keep_above=500, restart_at=(500, 7))
    assert (wal.recovered.base_index, wal.recovered.last_index) == (500, 500)
    wal.close()


def test_how_much_log_lies_behind_an_index(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 200)
        assert wal.index_behind(1 << 30) == 0
        kept = wal.index_behind(3 * SMALL_BYTES)
        assert 0 < wal.index_behind(4 * SMALL_BYTES) < kept < wal.index_behind(SMALL_BYTES) <= 200
        wal.compact(kept)
        assert wal.first_index == kept + 1
