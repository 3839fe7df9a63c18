"""The memtable through its Python face. Checkpoints read it so; everything else goes through `Table`: `bench_apply`."""

from __future__ import annotations

from itertools import count, cycle, islice, repeat

import pytest

from bench.micro.data import KEYS, distinct_numbers, endless_keys, exhaust, key, value
from bench.micro.measure import ROUND_OPERATIONS, Measure
from fastkv._core.codes import RECORD_HEADER_BYTES
from fastkv._core.memtable import Memtable

RECORD = bytes(RECORD_HEADER_BYTES) + value(1)


def filled() -> Memtable:
    """Every key, written in random order."""
    table = Memtable()
    exhaust(map(table.write, map(key, distinct_numbers(KEYS, seed=0)), repeat(RECORD), count(1)))
    return table


@pytest.fixture(scope="module")
def table() -> Memtable:
    """One for all that leave its keys as they are."""
    return filled()


@pytest.mark.parametrize("order", ["ascending", "random"])
def bench_insert(measure: Measure, order: str) -> None:
    """New keys, from an empty table to 100,000 of them: in the tree and in the index by hash."""
    chosen = list(range(KEYS)) if order == "ascending" else distinct_numbers(KEYS)
    named = [key(number) for number in chosen]

    def insert(table: Memtable) -> Memtable:
        exhaust(map(table.write, named, repeat(RECORD), count(1)))
        return table

    assert measure.fresh(insert, Memtable, operations=KEYS, rounds=5).count == KEYS


def bench_overwrite(measure: Measure, table: Memtable) -> None:
    """A record in the place of one of the same length."""
    named = endless_keys()
    revisions = count(KEYS + 1)
    nbytes = table.nbytes

    def overwrite() -> None:
        exhaust(map(table.write, islice(named, ROUND_OPERATIONS), repeat(RECORD), revisions))

    measure.repeat(overwrite, operations=ROUND_OPERATIONS)
    assert (table.count, table.nbytes) == (KEYS, nbytes)


def bench_overwrite_under_a_snapshot(measure: Measure) -> None:
    """The same where an open snapshot needs the record before: that one is kept, and the new one gets its own place."""
    table = filled()
    named = [key(number) for number in distinct_numbers(20 * ROUND_OPERATIONS)]
    coming = iter(named)
    revisions = count(KEYS + 1)

    def overwrite(newest_snapshot: int) -> int:
        new = islice(revisions, ROUND_OPERATIONS)
        exhaust(map(table.write, islice(coming, ROUND_OPERATIONS), repeat(RECORD), new, repeat(newest_snapshot)))
        return newest_snapshot

    measure.fresh(overwrite, lambda: next(revisions), operations=ROUND_OPERATIONS, rounds=20)
    old, new = table.read(named[0], KEYS + 1)[1], table.read(named[0])[1]
    assert old is not None
    assert new is not None
    assert old[:8] != new[:8]


def bench_read(measure: Measure, table: Memtable) -> None:
    """A key by its hash."""
    named = endless_keys()
    found = measure.repeat(
        lambda: list(map(table.read, islice(named, ROUND_OPERATIONS))), operations=ROUND_OPERATIONS
    )
    assert all(there for there, _ in found)


def bench_read_of_no_key(measure: Measure, table: Memtable) -> None:
    """What every look-up costs that has to go on to an older table or the store."""
    named = cycle([key(number) for number in distinct_numbers(KEYS, first=KEYS)])
    found = measure.repeat(
        lambda: list(map(table.read, islice(named, ROUND_OPERATIONS))), operations=ROUND_OPERATIONS
    )
    assert not any(there for there, _ in found)


def bench_items(measure: Measure, table: Memtable) -> None:
    """Every key in order: what a checkpoint reads."""

    def walk(table: Memtable) -> int:
        return sum(1 for _ in table.items())

    assert measure.fresh(walk, lambda: table, operations=KEYS, rounds=5) == KEYS
