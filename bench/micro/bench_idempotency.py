"""Idempotency keys, through `apply` as in a node: what they add to a write, and what a checkpoint writes of them.

As many are remembered as there ever are, so that every new one drives out the oldest.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import pytest

from bench.micro.data import KEYS, Applied, batches_of, put, statuses
from bench.micro.measure import ROUND_OPERATIONS, Measure
from fastkv._core.codes import Status
from fastkv._core.entry import EntryBatch
from fastkv._core.idempotency import IdempotencyKeys

KEPT = 1 << 16
FACTOR = 0x9E37_79B9_7F4A_7C15
"""Odd, so that its multiples modulo 2**64 all differ: keys are hashes, and look like it."""


class Clients:
    """A table with all keys, and writes each of which carries an idempotency key of its own."""

    def __init__(self) -> None:
        self.state = Applied()
        self._bodies: Iterator[bytes] = (
            put(number % KEYS, session=(1 << 63 | number * FACTOR % (1 << 63), number * FACTOR % (1 << 64)))
            for number in count(1)
        )
        self.state.apply(self.writes(KEPT))

    def writes(self, count: int) -> list[EntryBatch]:
        """New writes."""
        return batches_of(islice(self._bodies, count), 1024)


@pytest.fixture(scope="module")
def clients() -> Clients:
    return Clients()


def bench_write(measure: Measure, clients: Clients) -> None:
    """A key that was never seen."""
    results = measure.fresh(
        clients.state.apply, lambda: clients.writes(ROUND_OPERATIONS), operations=ROUND_OPERATIONS, rounds=20
    )
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}
    assert len(clients.state.table.session_records()) == KEPT


def bench_write_that_comes_again(measure: Measure, clients: Clients) -> None:
    """A key that was seen with the same command: it is answered as it was then."""
    again = clients.writes(ROUND_OPERATIONS)
    first = clients.state.apply(again)
    results = measure.repeat(lambda: clients.state.apply(again), operations=ROUND_OPERATIONS)
    assert results == first


def bench_checkpoint(measure: Measure, clients: Clients) -> None:
    """What a checkpoint keeps of the keys since the last one, and drops of the oldest; for each new key."""
    clients.state.table.take_session_changes()

    def setup() -> None:
        clients.state.apply(clients.writes(ROUND_OPERATIONS))

    changes = measure.fresh(
        lambda _: clients.state.table.take_session_changes(), setup, operations=ROUND_OPERATIONS, rounds=20
    )
    assert len(changes) == 2 * ROUND_OPERATIONS


def bench_load(measure: Measure, clients: Clients) -> None:
    """All keys from what checkpoints kept, at a start; for each."""
    records = clients.state.table.session_records()

    def load(keys: IdempotencyKeys) -> IdempotencyKeys:
        keys.load(records)
        return keys

    assert measure.fresh(load, IdempotencyKeys, operations=KEPT, rounds=3).count == KEPT
