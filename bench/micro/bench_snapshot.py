"""Snapshots: pages of a SCAN over what memtables and the store hold, and what an open one costs."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice

import pytest

from bench.micro.data import KEYS, Applied, batches_of, distinct_numbers, key, no_store, numbers, put, statuses
from bench.micro.measure import ROUND_OPERATIONS, Measure
from fastkv._core.apply import Table
from fastkv._core.codes import Status
from fastkv._core.entry import EntryBatch
from fastkv._core.snapshot import TableSnapshot

PAGE = 100
PAGES = 64


class View:
    """A store's view that costs as little as one can: items in a sorted list."""

    def __init__(self, items: list[tuple[bytes, bytes]]) -> None:
        self._items = items

    def range(self, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        low = bisect_left(self._items, (start, b""))
        high = bisect_left(self._items, (end, b"")) if end else len(self._items)
        places = range(high - 1, low - 1, -1) if reverse else range(low, high)
        return (self._items[place] for place in places)

    def close(self) -> None:
        """Nothing is held but memory."""


EMPTY = View([])
STARTS = [key(number) for number in numbers(PAGES, below=KEYS - PAGE)]
ENDS = [key(number + PAGE) for number in numbers(PAGES, below=KEYS - PAGE)]


@pytest.fixture(scope="module")
def state() -> Applied:
    """Every key, in the active memtable."""
    return Applied()


@pytest.mark.parametrize("options", ["forward", "reverse", "keys only"])
def bench_scan(measure: Measure, state: Applied, options: str) -> None:
    """Pages of 100 items out of the active memtable; for each item."""
    reverse, keys_only = options == "reverse", options == "keys only"
    ranges = [(b"", end) for end in ENDS] if reverse else [(start, b"") for start in STARTS]
    with state.table.snapshot(EMPTY) as snapshot:

        def scan() -> int:
            return sum(snapshot.scan(start, end, PAGE, 0, reverse, keys_only)[1] for start, end in ranges)

        assert measure.repeat(scan, operations=PAGES * PAGE) == PAGES * PAGE


def bench_scan_of_stored_keys(measure: Measure, state: Applied) -> None:
    """The same where the store has all keys and the memtable every tenth, newer: a merge; for each item.

    The store is a sorted list, so that this is what the snapshot adds to the store's own time.
    """
    with state.table.snapshot(EMPTY) as snapshot:
        view = View(list(snapshot.items()))
    table = Table(no_store, KEYS, KEYS)
    Applied(table).apply(batches_of(map(put, distinct_numbers(KEYS // 10)), 1024))
    with table.snapshot(view) as snapshot:

        def scan() -> int:
            return sum(snapshot.scan(start, b"", PAGE, 0)[1] for start in STARTS)

        assert measure.repeat(scan, operations=PAGES * PAGE) == PAGES * PAGE


def bench_items(measure: Measure, state: Applied) -> None:
    """The whole state, in order; for each item."""
    with state.table.snapshot(EMPTY) as snapshot:

        def walk(snapshot: TableSnapshot) -> int:
            return sum(1 for _ in snapshot.items())

        assert measure.fresh(walk, lambda: snapshot, operations=KEYS, rounds=3) == KEYS


def bench_open_and_close(measure: Measure, state: Applied) -> None:
    """What every first page of a listing pays."""

    def open_and_close() -> bool:
        with state.table.snapshot(EMPTY) as snapshot:
            pass
        return snapshot.is_open

    assert measure.repeat(open_and_close) is False


def bench_overwrite_under_a_snapshot(measure: Measure) -> None:
    """An overwrite of a record that an open snapshot still needs: compare with `apply: overwrite`."""
    state = Applied()
    writes = iter(batches_of(map(put, distinct_numbers(20 * ROUND_OPERATIONS, seed=2)), 1024))
    opened: list[TableSnapshot] = []

    def setup() -> list[EntryBatch]:
        while opened:
            opened.pop().close()
        opened.append(state.table.snapshot(EMPTY))
        return list(islice(writes, ROUND_OPERATIONS // 1024))

    results = measure.fresh(state.apply, setup, operations=ROUND_OPERATIONS, rounds=20)
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}
    assert opened.pop().revision == state.table.revision - ROUND_OPERATIONS
