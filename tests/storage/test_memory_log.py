"""The simulator's disk: what a crash keeps, what a failure does. That it is a log at all is in test_wal_model."""

from __future__ import annotations

import errno
import random

import pytest

from fastkv.log_types import HardState
from fastkv.storage.memory_log import MemoryDisk, MemoryLogStore
from tests.storage.logs import entries_of, run


def test_nothing_is_durable_before_the_simulator_says_so() -> None:
    store = MemoryLogStore(MemoryDisk())
    first = store.append(None, [run(1, 1, b"a")])
    second = store.append(HardState(1, "n", 0), [run(2, 1, b"b")])
    assert store.durable_ticket == 0
    store.complete(first)
    assert first <= store.durable_ticket < second
    store.complete(store.submitted_ticket)
    assert store.durable_ticket == second
    assert store.append(HardState(1, "n", 2), []) == second


def test_a_signal_comes_once_and_only_where_it_is_asked_for() -> None:
    store = MemoryLogStore(MemoryDisk())
    first, second, third = (store.append(None, [run(index, 1, b"x")]) for index in (1, 2, 3))
    store.complete(first)
    assert not store.take_signal()
    assert not store.notify_at(first)
    assert store.notify_at(third)
    assert store.notify_at(second)
    store.complete(second)
    assert store.take_signal()
    store.complete(third)
    assert not store.take_signal(), "the lowest counts, once"


def test_a_crash_keeps_what_was_synced_and_some_first_records_of_the_rest() -> None:
    outcomes = set()
    for seed in range(60):
        disk = MemoryDisk()
        store = MemoryLogStore(disk)
        store.complete(store.append(HardState(1, "a", 0), [run(1, 1, b"synced")]))
        store.append(HardState(2, "b", 0), [run(1, 2, b"replaced"), run(2, 2, b"new")])
        disk.crash(random.Random(seed))
        recovered = MemoryLogStore(disk).recovered
        outcomes.add((recovered.hard_state.term, tuple(body for _, body in entries_of(recovered.segments).values())))
    assert outcomes == {(1, (b"synced",)), (2, (b"synced",)), (2, (b"replaced",)), (2, (b"replaced", b"new"))}


def test_the_same_seed_keeps_the_same() -> None:
    def life(seed: int) -> int:
        disk = MemoryDisk()
        MemoryLogStore(disk).append(None, [run(index, 1, b"x") for index in range(1, 100)])
        disk.crash(random.Random(seed))
        return MemoryLogStore(disk).recovered.last_index

    assert [life(seed) for seed in range(5)] == [life(seed) for seed in range(5)]
    assert len({life(seed) for seed in range(5)}) > 1


def test_opening_again_without_a_crash_loses_what_was_not_synced() -> None:
    disk = MemoryDisk()
    MemoryLogStore(disk).append(None, [run(1, 1, b"x")])
    assert MemoryLogStore(disk).recovered.last_index == 0


def test_a_store_of_a_life_before_is_dead() -> None:
    disk = MemoryDisk()
    store = MemoryLogStore(disk)
    ticket = store.append(None, [run(1, 1, b"x")])
    disk.crash(random.Random(0))
    with pytest.raises(AssertionError, match="dead"):
        store.complete(ticket)
    with pytest.raises(AssertionError, match="dead"):
        store.append(None, [run(2, 1, b"x")])


def test_close_makes_everything_durable() -> None:
    disk = MemoryDisk()
    store = MemoryLogStore(disk)
    store.append(HardState(3, "n", 0), [run(1, 3, b"x")])
    store.close()
    recovered = MemoryLogStore(disk).recovered
    assert (recovered.hard_state, recovered.last_index) == (HardState(3, "n", 0), 1)


def test_a_failure_is_final() -> None:
    disk = MemoryDisk()
    store = MemoryLogStore(disk)
    ticket = store.append(None, [run(1, 1, b"x")])
    store.fail(OSError(errno.EIO, "injected"))
    for _ in range(2):
        with pytest.raises(OSError, match="injected"):
            store.complete(ticket)
    with pytest.raises(OSError, match="injected"):
        store.append(None, [run(2, 1, b"x")])
    assert store.durable_ticket == 0


def test_a_full_disk() -> None:
    disk = MemoryDisk()
    store = MemoryLogStore(disk)
    assert store.has_room(1)
    disk.full = True
    assert not store.has_room(1)


def test_compaction_waits_for_what_is_under_way() -> None:
    disk = MemoryDisk()
    store = MemoryLogStore(disk)
    store.complete(store.append(None, [run(1, 1, b"a"), run(2, 1, b"b")]))
    store.append(None, [run(3, 1, b"c")])
    store.compact(2)
    assert store.first_index == 3
    assert disk.durable.base_index == 0, "not yet"
    store.complete(store.submitted_ticket)
    store.compact(2)
    assert disk.durable.base_index == 2


def test_the_commit_index_stays_within_the_log() -> None:
    disk = MemoryDisk()
    store = MemoryLogStore(disk)
    store.complete(store.append(HardState(1, "n", 9), [run(1, 1, b"a")]))
    assert MemoryLogStore(disk).recovered.hard_state.commit == 1
