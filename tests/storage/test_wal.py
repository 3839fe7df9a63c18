"""The write-ahead log, as long as the disk does what it is told."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from fastkv._core.entry import EntryBatch
from fastkv.errors import DamagedLog, StorageError, WrongDirectory
from fastkv.log_types import HardState, Segment
from fastkv.storage import wal as wal_module
from fastkv.storage.wal import Wal
from fastkv.storage.wal_format import encode_segment_header, log_identity, record_bytes
from tests.storage.logs import CLUSTER, NODE, SMALL_BYTES, entries_of, fill, opened, reference, run, write


def test_a_new_log_is_empty(tmp_path: Path) -> None:
    with opened(tmp_path / "wal") as wal:
        recovered = wal.recovered
        assert recovered.hard_state == HardState(0, "", 0)
        assert (recovered.base_index, recovered.base_term, recovered.segments) == (0, 0, [])
        assert (recovered.first_index, recovered.last_index) == (1, 0)
        assert wal.term_at(0) == 0
        assert wal.has_room(1 << 40)
    assert reference(tmp_path / "wal").entries == {}


def test_what_is_appended_is_there_afterwards(tmp_path: Path) -> None:
    state = HardState(3, "node-2", 2)
    with opened(tmp_path) as wal:
        ticket = wal.append(state, [run(1, 1, b"a", b"b"), run(3, 3, b"", b"d")])
        assert wal.wait(ticket, 10)
        assert wal.durable_ticket >= ticket
        assert wal.last_index == 4
        assert [wal.term_at(index) for index in range(5)] == [0, 1, 1, 3, 3]
    with opened(tmp_path) as wal:
        assert wal.recovered.hard_state == state
        assert wal.recovered.segments == [run(1, 1, b"a", b"b"), run(3, 3, b"", b"d")]
        assert (wal.recovered.first_index, wal.recovered.last_index) == (1, 4)
    log = reference(tmp_path)
    assert (log.term, log.vote, log.commit) == state
    assert log.entries == {1: (1, 1, b"a"), 2: (1, 1, b"b"), 3: (3, 1, b""), 4: (3, 1, b"d")}


def test_tickets_grow_and_the_eventfd_tells_of_them(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        first = wal.append(None, [run(1, 1, b"a")])
        second = wal.append(None, [run(2, 1, b"b")])
        assert first < second
        assert wal.notify_at(second) or wal.durable_ticket >= second
        while wal.collect() < second:
            assert select.select([wal.fileno()], [], [], 10)[0]
        assert wal.durable_ticket == second
        assert wal.append(None, []) == second, "nothing to write: durable with what was written before"


def test_the_bytes_are_written_as_they_came(tmp_path: Path) -> None:
    """Encode once, checksum once: the record has the very bytes of the batch, and its checksum."""
    segment = run(1, 1, *(b"value %d" % number for number in range(20)))
    with opened(tmp_path) as wal:
        write(wal, segment)
    (path,) = sorted(tmp_path.glob("*1.wal"))
    data = path.read_bytes()
    at = data.index(segment.batch.data)
    assert segment.batch.checksum.to_bytes(8, "little") in data[at - 80 : at]
    with opened(tmp_path) as wal:
        assert wal.recovered.segments[0].batch.data == segment.batch.data


def test_term_and_vote_alone(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, hard_state=HardState(1, "node-1", 0))
        write(wal, hard_state=HardState(2, "", 0))
        write(wal, hard_state=HardState(2, "nøde-3", 0))
    with opened(tmp_path) as wal:
        assert wal.recovered.hard_state == HardState(2, "nøde-3", 0)


def test_the_commit_index_rides_along(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a", b"b"), hard_state=HardState(1, "", 0))
        before = wal.durable_ticket
        assert wal.append(HardState(1, "", 2), []) == before, "it is a hint, and not worth a sync of its own"
        write(wal, run(3, 1, b"c"))
    assert reference(tmp_path).commit == 2
    with opened(tmp_path) as wal:
        assert wal.recovered.hard_state.commit == 2


def test_a_commit_index_ahead_of_the_log_is_cut_to_it(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a"), hard_state=HardState(1, "", 7))
    with opened(tmp_path) as wal:
        assert wal.recovered.hard_state.commit == 1


# -- what does not follow --------------------------------------------------------------------------------------------


def test_a_conflict_replaces_the_suffix(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a", b"b", b"c"), run(4, 1, b"d", b"e"))
        write(wal, run(3, 2, b"C"), hard_state=HardState(2, "", 0))
        assert wal.last_index == 3
        assert entries_of(wal.read(1, 99, 1 << 20)) == {1: (1, b"a"), 2: (1, b"b"), 3: (2, b"C")}
        assert wal.term_at(3) == 2
        write(wal, run(4, 2, b"D"))
    with opened(tmp_path) as wal:
        expected = {1: (1, b"a"), 2: (1, b"b"), 3: (2, b"C"), 4: (2, b"D")}
        assert entries_of(wal.recovered.segments) == expected
        assert entries_of(wal.read(1, 4, 1 << 20)) == expected


def test_a_conflict_and_its_continuation_are_one_record(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a", b"b", b"c"))
        before = len(reference(tmp_path).records)
        write(wal, run(1, 2, b"A", b"B"))
        assert len(reference(tmp_path).records) == before + 1


@pytest.mark.parametrize("first", [0, 5])
def test_entries_that_leave_a_gap_are_refused(tmp_path: Path, first: int) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a", b"b", b"c"))
        with pytest.raises(ValueError, match="cannot end"):
            wal.append(None, [run(first, 1, b"x")])


def test_entries_that_go_back_in_term_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 2, b"a"))
        with pytest.raises(ValueError, match="term 1"):
            wal.append(None, [run(2, 1, b"x")])


# -- reading -----------------------------------------------------------------------------------------------------------


def test_read_within_bounds(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"aa", b"bb", b"cc"), run(4, 2, b"dd", b"ee"), run(6, 2, b"ff"))
        assert wal.read(1, 6, 10) == [run(1, 1, b"aa")]
        assert wal.read(1, 6, 20) == [run(1, 1, b"aa", b"bb")]
        assert wal.read(2, 6, 20) == [run(2, 1, b"bb", b"cc")]
        assert wal.read(2, 6, 40) == [run(2, 1, b"bb", b"cc"), run(4, 2, b"dd", b"ee")]
        assert wal.read(3, 4, 1000) == [run(3, 1, b"cc"), run(4, 2, b"dd")]
        assert wal.read(6, 600, 0) == [run(6, 2, b"ff")]
        with pytest.raises(IndexError):
            wal.read(7, 7, 100)


def test_read_what_is_still_under_way(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        wal.append(None, [run(1, 1, b"x" * 2000)])
        assert entries_of(wal.read(1, 1, 1 << 20)) == {1: (1, b"x" * 2000)}


def test_what_is_read_back_is_checked(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a" * 100), run(2, 1, b"b" * 100))
        path = next(tmp_path.glob("*1.wal"))
        data = path.read_bytes()
        path.write_bytes(data.replace(b"bbb", b"bcb", 1))
        assert wal.read(1, 1, 100) == [run(1, 1, b"a" * 100)]
        with pytest.raises(DamagedLog, match=r"0001\.wal is damaged at byte .* entries 2 to 2 .*repair from peers"):
            wal.read(1, 2, 1000)
        path.write_bytes(data)


def test_only_the_newest_entries_are_kept_in_memory(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 100)
    with opened(tmp_path, keep_above=90) as wal:
        assert sorted(entries_of(wal.recovered.segments)) == list(range(91, 101))
        assert sorted(entries_of(wal.read(1, 90, 1 << 20))) == list(range(1, 91)), "the older ones are read"
    with opened(tmp_path, keep_above=100) as wal:
        assert sorted(entries_of(wal.recovered.segments)) == [100], "the last one always is"


def test_memory_is_bounded_however_much_there_is(tmp_path: Path) -> None:
    with opened(tmp_path, segment_bytes=1 << 20) as wal:
        for index in range(1, 31):
            write(wal, run(index, 1, bytes(40_000)))
    with opened(tmp_path, keep_bytes=100_000) as wal:
        assert sorted(entries_of(wal.recovered.segments)) == [29, 30]
        assert wal.recovered.first_index == 1
    with opened(tmp_path, keep_bytes=0) as wal:
        assert sorted(entries_of(wal.recovered.segments)) == [30]


def test_small_records_are_joined_when_they_are_read(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 50)
        fill(wal, 30, first=51, term=2)
    with opened(tmp_path) as wal:
        assert [(segment.first_index, segment.last_index) for segment in wal.recovered.segments] == [(1, 50), (51, 80)]


# -- whose it is, and how far it goes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cluster", "node"), [("other", NODE), (CLUSTER, "node-2")])
def test_another_nodes_log(tmp_path: Path, cluster: str, node: str) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 3)
    with pytest.raises(WrongDirectory):
        Wal(tmp_path, cluster=cluster, node_id=node, segment_bytes=SMALL_BYTES)


def test_an_unknown_version(tmp_path: Path) -> None:
    header = bytearray(encode_segment_header(1, 0, log_identity(CLUSTER, NODE), 0, SMALL_BYTES))
    header[8] = 2
    header[56:] = xxh3_64_intdigest(bytes(header[:56])).to_bytes(8, "little")
    (tmp_path / f"{1:016x}.wal").write_bytes(bytes(header) + bytes(SMALL_BYTES - 64))
    with pytest.raises(StorageError, match="version 2; this fastkv reads version 1"), opened(tmp_path):
        pass


@pytest.mark.parametrize("keep_above", [2, 101])
def test_a_log_that_does_not_go_with_the_store(tmp_path: Path, keep_above: int) -> None:
    with opened(tmp_path) as wal:
        fill(wal, 100)
        wal.compact(50)
        assert wal.first_index > 3
    with pytest.raises(DamagedLog, match=f"up to {keep_above}.*repair from peers"), opened(
        tmp_path, keep_above=keep_above
    ):
        pass


def test_a_log_that_is_gone_while_the_store_is_not(tmp_path: Path) -> None:
    with pytest.raises(DamagedLog, match="is empty, and the store beside it"), opened(tmp_path, keep_above=1):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("segment_bytes", [0, 100, 5000, 1 << 33])
def test_segment_sizes_are_bounded(tmp_path: Path, segment_bytes: int) -> None:
    with pytest.raises(ValueError, match="multiple"), opened(tmp_path, segment_bytes=segment_bytes):
        pass


def test_a_payload_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_module, "MAX_PAYLOAD_BYTES", 100)
    with opened(tmp_path) as wal, pytest.raises(ValueError, match="at most 100"):
        wal.append(None, [run(1, 1, b"x" * 100)])


# -- the seal ----------------------------------------------------------------------------------------------------------


def test_a_silent_log_is_sealed_once(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a"))
        for _ in range(100):
            wal.poll()
            wal.wait(wal.append(None, []))
        log = reference(tmp_path)
        name, offset, kind = log.records[-1]
        assert kind == 2
        assert log.durable_position == (int(name[:16], 16) << 32) + offset, "all before the seal is known to be durable"
        count = len(log.records)
        for _ in range(100):
            wal.poll()
        assert len(reference(tmp_path).records) == count
    assert len(reference(tmp_path).records) == count, "and not again at the end"


def test_close_seals(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a"))
    log = reference(tmp_path)
    assert log.position - log.durable_position == record_bytes(34)


def test_metrics(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"a", b"b", b"c"))
        write(wal, run(4, 1, b"d"))
        counts, total_s = wal.fsync_seconds
        assert sum(counts) == 2
        assert total_s > 0
        assert wal.batch_entries == ([1, 0, 1] + [0] * 13, 4.0)
        assert wal.stalled_ns() == 0


def test_the_example_of_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (Path(__file__).parents[2] / "docs" / "architecture" / "wal.md").read_text()
    example = bytes.fromhex(document.partition("### Example")[2].split("```")[1])
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(1, n + 1)))
    with opened(tmp_path) as wal:
        write(wal, Segment(1, 1, EntryBatch(bytes.fromhex("0200000001000000") + b"hi", 1)))
        data = next(tmp_path.glob("*1.wal")).read_bytes()
    assert data[: len(example)].hex() == example.hex()
    assert not any(data[len(example) :])
