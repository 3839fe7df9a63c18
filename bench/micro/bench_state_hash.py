"""The state hash from a state alone: what a node computes when it starts or has installed a snapshot."""

from __future__ import annotations

import pytest

from bench.micro.data import KEYS, Applied
from bench.micro.measure import Measure
from fastkv._core.state_hash import hash_of
from fastkv.storage.memory_store import MemoryView


@pytest.fixture(scope="module")
def state() -> Applied:
    return Applied()


def bench_hash_of(measure: Measure, state: Applied) -> None:
    """The sum over all keys with their records; for each. The apply loop digests each record it writes the same way."""
    with state.table.snapshot(MemoryView({})) as snapshot:
        items = list(snapshot.items())
    assert measure.fresh(hash_of, lambda: items, operations=KEYS, rounds=20) == state.table.state_hash


def bench_hash_points(measure: Measure, state: Applied) -> None:
    """The hashes that a node tells the others, a few times a second."""
    points = measure.repeat(state.table.hash_points)
    assert points[-1][0] == state.index // 64 * 64
