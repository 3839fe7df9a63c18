"""The apply loop: what one committed entry costs every node. The commonest is an overwrite in the active memtable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from bench.micro.data import (
    KEYS,
    SIZES,
    Applied,
    batches_of,
    distinct_numbers,
    endless_keys,
    endless_puts,
    key,
    numbers,
    put,
    statuses,
)
from bench.micro.measure import ROUND_OPERATIONS, Measure
from fastkv._core.apply import Table
from fastkv._core.codes import Kind, Status
from fastkv._core.entry import EntryBatch, encode_command
from fastkv.storage.memory_store import MemoryView

ROUNDS = 20
"""Of benchmarks that use keys up: as many as there are keys for."""


def supply(bodies: Iterator[bytes], size: int, kind: int = Kind.ENTRY_PUT) -> Callable[[], list[EntryBatch]]:
    """Makes the batches of a round, which nobody has looked into before: a batch is applied once."""
    return lambda: batches_of(islice(bodies, ROUND_OPERATIONS), size, kind)


@pytest.fixture(scope="module")
def state() -> Applied:
    """One for all that leave its keys as they are."""
    return Applied()


@pytest.mark.parametrize("size", SIZES)
def bench_overwrite(measure: Measure, state: Applied, size: int) -> None:
    """With results, as on the node that clients wait at."""
    results = measure.fresh(state.apply, supply(endless_puts(), size), operations=ROUND_OPERATIONS)
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}
    assert state.table.key_count == KEYS


@pytest.mark.parametrize("size", SIZES)
def bench_overwrite_without_results(measure: Measure, state: Applied, size: int) -> None:
    """As on a follower, where nobody waits."""

    def apply(batches: list[EntryBatch]) -> int:
        before = state.table.revision
        for batch in batches:
            state.table.apply(batch, 0, batch.count, state.index + 1)
            state.index += batch.count
        return state.table.revision - before

    changes = measure.fresh(apply, supply(endless_puts(), size), operations=ROUND_OPERATIONS)
    assert changes == ROUND_OPERATIONS


@pytest.mark.parametrize("order", ["ascending", "random"])
def bench_insert(measure: Measure, order: str) -> None:
    """New keys beside 100,000 others."""
    state = Applied()
    count = ROUNDS * ROUND_OPERATIONS
    new = range(KEYS, KEYS + count) if order == "ascending" else distinct_numbers(count, first=KEYS)
    results = measure.fresh(state.apply, supply(map(put, new), 1024), operations=ROUND_OPERATIONS, rounds=ROUNDS)
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}
    assert state.table.key_count > KEYS


def bench_delete(measure: Measure) -> None:
    """A tombstone in the place of a record."""
    state = Applied()
    bodies = (encode_command(Kind.ENTRY_DELETE, key(number)) for number in distinct_numbers(KEYS))
    deletes = supply(bodies, 1024, Kind.ENTRY_DELETE)
    results = measure.fresh(state.apply, deletes, operations=ROUND_OPERATIONS, rounds=ROUNDS)
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}
    assert state.table.key_count < KEYS


def bench_compare_and_set(measure: Measure) -> None:
    """An overwrite on the condition that the key has a certain revision, which it has."""
    state = Applied()
    chosen = distinct_numbers(KEYS, seed=2)
    records = {number: state.table.get(key(number)) or b"" for number in chosen}
    bodies = (put(number, compare=int.from_bytes(records[number][:8], "little")) for number in chosen)
    results = measure.fresh(state.apply, supply(bodies, 1024), operations=ROUND_OPERATIONS, rounds=ROUNDS)
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}


def bench_compare_and_set_refused(measure: Measure, state: Applied) -> None:
    """The same with a revision that no key has."""
    refused = (put(number, compare=1 << 60) for number in numbers(50 * ROUND_OPERATIONS))
    results = measure.fresh(state.apply, supply(refused, 1024), operations=ROUND_OPERATIONS)
    assert statuses(results) == {Status.PRECONDITION_FAILED: ROUND_OPERATIONS}


@pytest.fixture(scope="module")
def stored(state: Applied) -> dict[bytes, bytes]:
    """Every key, in a store that costs as little as a store can."""
    with state.table.snapshot(MemoryView({})) as snapshot:
        return dict(snapshot.items())


def bench_overwrite_of_stored_keys(measure: Measure, state: Applied, stored: dict[bytes, bytes]) -> None:
    """The first write to a key since the last checkpoints: it is fetched from the store, and its slot is new.

    The store is a dictionary, so that this is what the table adds to the store's own time.
    """
    fresh = Applied(Table(stored.get, state.table.revision, KEYS, state.table.state_hash))
    writes = supply(map(put, distinct_numbers(KEYS)), 1024)
    results = measure.fresh(fresh.apply, writes, operations=ROUND_OPERATIONS, rounds=ROUNDS)
    assert fresh.table.key_count == KEYS
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}


def bench_get(measure: Measure, state: Applied) -> None:
    """A record from the active memtable, as a bytes object; reads of clients are in `bench_ingress`."""
    named, get = endless_keys(), state.table.get
    records = measure.repeat(lambda: list(map(get, islice(named, ROUND_OPERATIONS))), operations=ROUND_OPERATIONS)
    assert None not in records


def bench_get_of_stored_keys(measure: Measure, stored: dict[bytes, bytes]) -> None:
    """A record that no memtable has."""
    named, get = endless_keys(), Table(stored.get, KEYS, KEYS).get
    records = measure.repeat(lambda: list(map(get, islice(named, ROUND_OPERATIONS))), operations=ROUND_OPERATIONS)
    assert None not in records
