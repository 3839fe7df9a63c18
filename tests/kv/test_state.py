"""The state machine: the order of applying, and when checkpoints are written, fail, and are tried again."""

from __future__ import annotations

import random

import pytest

from fastkv._core.apply import CorruptEntry
from fastkv._core.codes import Kind
from fastkv._core.state_hash import hash_of
from fastkv.kv.state import HARD_LIMIT
from fastkv.kv.store import StoreFull, StoreMeta, StorePinned
from tests.kv.machine import Harness, delete, put, segment
from tests.reference.state_machine import State

# -- applying --------------------------------------------------------------------------------------------------------


def test_results_are_those_of_the_twin() -> None:
    harness, twin = Harness(), State()
    entries = [put(b"a", b"1"), (Kind.NOOP, b""), delete(b"b"), put(b"a", b"2"), delete(b"a")]
    assert harness.apply(*entries) == twin.apply(entries)
    machine = harness.machine
    assert (machine.applied_index, machine.applied_term, machine.revision, machine.key_count) == (5, 1, 3, 0)


@pytest.mark.parametrize("first", [0, 1, 2, 4, 5])
def test_entries_are_applied_once_and_in_order(first: int) -> None:
    harness = Harness()
    harness.fill(b"a", b"b")
    run = segment(first, put(b"c"), put(b"d"))
    with pytest.raises(AssertionError, match=f"entry {first} is applied after entry 2"):
        harness.machine.apply(run, first, first + 1, None)
    assert (harness.machine.applied_index, harness.machine.revision) == (2, 2)


def test_a_run_may_be_applied_in_pieces() -> None:
    whole, pieces = Harness(), Harness()
    run = segment(1, *(put(b"%d" % number) for number in range(6)), term=3)
    whole.machine.apply(run, 1, 6, None)
    for first, last in [(1, 1), (2, 4), (5, 6)]:
        pieces.machine.apply(run, first, last, None)
    assert pieces.contents() == whole.contents()
    assert (pieces.machine.applied_index, pieces.machine.applied_term) == (6, 3)


def test_a_damaged_entry_is_not_passed_over() -> None:
    harness = Harness()
    with pytest.raises(CorruptEntry):
        harness.apply((Kind.ENTRY_PUT, b"\0"))
    assert harness.machine.applied_index == 0


def test_a_configuration_is_taken_note_of_and_changes_nothing_else() -> None:
    harness = Harness()
    harness.fill(b"a")
    before = harness.machine.revision, harness.machine.state_hash, harness.contents()
    assert harness.machine.membership == b""
    assert harness.apply((Kind.ENTRY_CONFIG, b"one")) == bytes(8) + (1).to_bytes(8, "little")
    harness.apply((Kind.ENTRY_CONFIG, b"two"))
    harness.apply((Kind.NOOP, b""))
    assert (harness.machine.revision, harness.machine.state_hash, harness.contents()) == before
    assert (harness.machine.membership, harness.machine.applied_index) == (b"two", 4)
    harness.checkpoint()
    harness.apply((Kind.ENTRY_CONFIG, b"three"))
    assert Harness(harness.disk).machine.membership == b"two"


# -- when a checkpoint is due ----------------------------------------------------------------------------------------


def test_nothing_is_due_where_nothing_was_applied() -> None:
    harness = Harness(memtable_bytes=0, checkpoint_log_bytes=0, checkpoint_age_ticks=0)
    harness.ticks(50)
    assert not harness.machine.checkpoint_due


def test_due_for_the_memtables_size() -> None:
    harness = Harness(memtable_bytes=500_000)
    harness.fill(b"a")
    assert not harness.machine.checkpoint_due
    harness.apply(put(b"b", bytes(500_000)))
    assert harness.machine.checkpoint_due


def test_due_for_the_logs_length_even_where_the_memtable_does_not_grow() -> None:
    harness = Harness(checkpoint_log_bytes=1000)
    run = segment(1, put(b"k", bytes(87)))
    assert run.nbytes == 100
    for _ in range(9):
        harness.apply(put(b"k", bytes(87)))
    assert not harness.machine.checkpoint_due
    harness.apply(put(b"k", bytes(87)))
    assert harness.machine.checkpoint_due


def test_a_run_that_is_applied_in_pieces_counts_once() -> None:
    harness = Harness(checkpoint_log_bytes=1001)
    run = segment(1, *[put(b"k", bytes(87))] * 10)
    for index in range(1, 11):
        harness.machine.apply(run, index, index, None)
    assert not harness.machine.checkpoint_due  # 1000 bytes, not ten times as many


def test_due_for_age() -> None:
    harness = Harness(checkpoint_age_ticks=7)
    harness.ticks(100)
    harness.fill(b"a")
    harness.ticks(6)
    assert not harness.machine.checkpoint_due
    harness.ticks(1)
    assert harness.machine.checkpoint_due


def test_age_begins_anew_with_each_checkpoint() -> None:
    harness = Harness(checkpoint_age_ticks=5)
    harness.fill(b"a")
    harness.ticks(5)
    harness.checkpoint()
    harness.ticks(50)
    assert not harness.machine.checkpoint_due
    harness.fill(b"b")
    assert not harness.machine.checkpoint_due
    harness.ticks(5)
    assert harness.machine.checkpoint_due


def test_not_due_while_one_is_written() -> None:
    harness = Harness(memtable_bytes=1)
    harness.fill(b"a")
    harness.machine.start_checkpoint()
    harness.fill(b"b")
    assert not harness.machine.checkpoint_due
    harness.store.complete()
    assert harness.machine.checkpoint_due


# -- what a checkpoint is --------------------------------------------------------------------------------------------


def test_a_checkpoint_is_the_state_as_it_was_at_its_start() -> None:
    harness = Harness()
    harness.apply(put(b"a", b"1"), put(b"b"), term=2)
    expected = harness.contents()
    harness.machine.start_checkpoint()
    harness.apply(put(b"a", b"2"), delete(b"b"), put(b"c"), term=3)
    assert harness.machine.durable_applied_index == 0
    harness.store.complete()
    assert sorted(harness.disk.records.items()) == expected
    assert harness.disk.meta == StoreMeta(
        applied_index=2, applied_term=2, revision=2, key_count=2, state_hash=hash_of(expected)
    )
    assert (harness.machine.durable_applied_index, harness.machine.checkpoints) == (2, 1)


def test_a_restart_goes_on_from_the_last_checkpoint() -> None:
    """Replay from the applied index gives the same state, and no command counts twice."""
    harness, twin = Harness(), State()
    entries = [put(b"a", b"1"), put(b"b"), delete(b"a"), put(b"b", b"2"), put(b"c")]
    twin.apply(entries)
    harness.apply(*entries[:2])
    harness.checkpoint()
    harness.apply(*entries[2:4])
    harness.machine.start_checkpoint()
    harness.store.close()  # as in a crash: what was under way is lost

    again = Harness(harness.disk)
    assert (again.machine.applied_index, again.machine.durable_applied_index, again.machine.revision) == (2, 2, 2)
    again.apply(*entries[2:])
    assert again.contents() == [(key, record.encode()) for key, record in twin.snapshot().items()]
    assert (again.machine.revision, again.machine.key_count) == (twin.revision, len(twin.records))
    assert again.machine.state_hash == twin.state_hash


@pytest.mark.parametrize("seed", range(10))
def test_equal_entries_make_equal_states_whatever_the_checkpoints(seed: int) -> None:
    rng = random.Random(seed)
    twin, harness = State(), Harness()
    for _ in range(80):
        key = b"%d" % rng.randrange(12)
        entry = delete(key) if rng.random() < 0.3 else put(key, bytes(rng.randrange(20)))
        assert harness.apply(entry) == twin.apply([entry])
        dice = rng.random()
        if dice < 0.1 and not harness.store.pending:
            harness.machine.start_checkpoint()
        elif dice < 0.2 and harness.store.pending:
            harness.store.complete()
        elif dice < 0.3 and harness.store.pending:
            harness.store.fail(StoreFull("no room"))
        assert harness.contents() == [(key, record.encode()) for key, record in twin.snapshot().items()]
        assert harness.machine.state_hash == hash_of(harness.contents())


def test_a_checkpoint_that_somebody_waits_for_begins_at_once() -> None:
    harness, told = Harness(), list[BaseException | None]()
    harness.machine.checkpoint_soon(told.append)
    assert told == [None], "there is nothing to write"
    harness.fill(b"a")
    harness.machine.checkpoint_soon(told.append)
    harness.machine.checkpoint_soon(told.append)
    assert harness.machine.checkpoint_due
    assert len(told) == 1
    harness.checkpoint()
    assert told == [None, None, None]
    assert not harness.machine.checkpoint_due


def test_one_under_way_does_not_have_what_came_since() -> None:
    harness, told = Harness(), list[BaseException | None]()
    harness.fill(b"a")
    harness.machine.start_checkpoint()
    harness.fill(b"b")
    harness.machine.checkpoint_soon(told.append)
    assert not harness.machine.checkpoint_due
    harness.store.complete()
    assert told == []
    assert harness.machine.checkpoint_due
    harness.checkpoint()
    assert told == [None]
    assert harness.machine.durable_applied_index == 2


def test_who_waits_for_a_checkpoint_is_told_that_there_is_no_room() -> None:
    harness, told = Harness(), list[BaseException | None]()
    harness.fill(b"a")
    harness.machine.checkpoint_soon(told.append)
    harness.machine.start_checkpoint()
    harness.store.fail(full := StoreFull("no room"))
    assert told == [full]
    harness.ticks(10)
    harness.checkpoint()
    assert told == [full]


# -- checkpoints that fail -------------------------------------------------------------------------------------------


def test_a_full_disk_loses_nothing_and_is_tried_again_later() -> None:
    harness = Harness(memtable_bytes=1, retry_ticks=10)
    harness.fill(b"a", b"b")
    harness.machine.start_checkpoint()
    harness.store.fail(full := StoreFull("no room"))
    harness.fill(b"c")
    assert harness.machine.checkpoint_error is full
    assert harness.machine.durable_applied_index == 0
    assert [key for key, _ in harness.contents()] == [b"a", b"b", b"c"]
    harness.ticks(9)
    assert not harness.machine.checkpoint_due
    harness.ticks(1)
    assert harness.machine.checkpoint_due
    harness.checkpoint()
    assert harness.machine.checkpoint_error is None
    assert harness.disk.meta.applied_index == 2  # what was frozen then, not what came after
    assert sorted(harness.disk.records) == [b"a", b"b"]
    assert harness.machine.checkpoint_due
    harness.checkpoint()
    assert sorted(harness.disk.records) == [b"a", b"b", b"c"]


def test_each_failure_waits_anew() -> None:
    harness = Harness(memtable_bytes=1, retry_ticks=3)
    harness.fill(b"a")
    for _ in range(3):
        assert harness.machine.checkpoint_due
        harness.machine.start_checkpoint()
        harness.store.fail(StoreFull("no room"))
        assert not harness.machine.checkpoint_due
        harness.ticks(3)
    harness.checkpoint()
    assert harness.machine.checkpoints == 1


def test_any_other_error_stops_the_node_at_the_next_tick() -> None:
    harness = Harness()
    harness.fill(b"a")
    harness.machine.start_checkpoint()
    harness.store.fail(OSError(5, "Input/output error"))
    assert not harness.machine.checkpoint_due, "what failed is not tried again before the node has ended"
    with pytest.raises(OSError, match="Input/output error"):
        harness.machine.tick()
    with pytest.raises(OSError, match="Input/output error"):
        harness.machine.tick()
    assert harness.machine.durable_applied_index == 0


def test_over_the_limit_while_checkpoints_do_not_keep_up() -> None:
    harness = Harness(memtable_bytes=1_000_000, retry_ticks=1)
    harness.apply(put(b"a", bytes(1_000_000)))
    harness.machine.start_checkpoint()
    harness.apply(put(b"b", bytes(HARD_LIMIT * 1_000_000 - 100_000)))
    assert not harness.machine.over_limit
    harness.apply(put(b"c", bytes(100_000)))
    assert harness.machine.over_limit
    harness.store.fail(StoreFull("no room"))
    assert harness.machine.over_limit
    harness.ticks(1)
    harness.checkpoint()
    assert harness.machine.over_limit  # what came after still waits for its own
    harness.machine.start_checkpoint()
    assert not harness.machine.over_limit


@pytest.mark.parametrize(
    ("error", "written_bytes", "listings"),
    [
        (StorePinned("listings hold it open"), HARD_LIMIT * 10_000, 0),
        (StorePinned("listings hold it open"), 10, 1),  # there is time: they end or expire
        (StoreFull("no room"), HARD_LIMIT * 10_000, 1),  # their end would not help
    ],
)
def test_listings_give_way_to_writes_only_where_that_helps(error: StoreFull, written_bytes: int, listings: int) -> None:
    harness = Harness(memtable_bytes=10_000, retry_ticks=10)
    harness.fill(b"a", b"b")
    assert harness.scan(limit=1).cursor
    harness.machine.start_checkpoint()
    harness.apply(put(b"c", bytes(written_bytes)))
    harness.store.fail(error)
    assert len(harness.machine.held) == listings
    assert harness.machine.checkpoint_due is (listings == 0)  # then there is nothing to wait for
