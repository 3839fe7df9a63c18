"""Client sessions: what exactly once adds to a write, and what a checkpoint writes of them.

A hundred sessions, each with the results of its newest 1024 writes, as many as are ever remembered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from bench.micro.data import KEYS, Applied, batches_of, put, statuses
from bench.micro.measure import ROUND_OPERATIONS, Measure
from fastkv._core.codes import SESSION_WINDOW, Kind, Status
from fastkv._core.entry import EntryBatch, encode_session
from fastkv._core.sessions import Sessions

OPEN = 100
LIMIT = 4096


class Clients:
    """A table with all keys, and the sessions, used in random order."""

    def __init__(self) -> None:
        self.state = Applied()
        self.ids = [self.state.index + number for number in range(1, OPEN + 1)]
        self.state.apply(batches_of([encode_session(LIMIT)] * OPEN, 1024, Kind.ENTRY_SESSION))
        self._sequences = dict.fromkeys(self.ids, 0)
        self._rng = random.Random(1)
        self.state.apply(batches_of(self._in_turn(SESSION_WINDOW), 1024))

    def _in_turn(self, writes: int) -> Iterator[bytes]:
        """So many writes of each session."""
        for _ in range(writes):
            yield from map(self._next, self.ids)

    def _next(self, session: int) -> bytes:
        self._sequences[session] += 1
        return put(self._rng.randrange(KEYS), session=(session, self._sequences[session]))

    def writes(self, count: int) -> list[EntryBatch]:
        """New writes."""
        return batches_of(map(self._next, self._rng.choices(self.ids, k=count)), 1024)


@pytest.fixture(scope="module")
def clients() -> Clients:
    return Clients()


def bench_write(measure: Measure, clients: Clients) -> None:
    """A new write. The result of the oldest one that its session remembers goes."""
    results = measure.fresh(
        clients.state.apply, lambda: clients.writes(ROUND_OPERATIONS), operations=ROUND_OPERATIONS, rounds=20
    )
    assert statuses(results) == {Status.OK: ROUND_OPERATIONS}


def bench_write_that_comes_again(measure: Measure, clients: Clients) -> None:
    """A write that was applied before: it is answered as it was then."""
    again = clients.writes(ROUND_OPERATIONS)
    first = clients.state.apply(again)
    results = measure.repeat(lambda: clients.state.apply(again), operations=ROUND_OPERATIONS)
    assert results == first


def bench_open(measure: Measure) -> None:
    """A new session where as many are open as may be: the one that was used longest ago goes."""
    state = Applied()
    opening = batches_of([encode_session(LIMIT)] * LIMIT, 1024, Kind.ENTRY_SESSION)
    state.apply(opening)
    results = measure.repeat(lambda: state.apply(opening), operations=LIMIT)
    assert statuses(results) == {Status.OK: LIMIT}
    assert state.table.session_count == LIMIT


def bench_checkpoint(measure: Measure, clients: Clients) -> None:
    """What a checkpoint keeps of a session that was used since the last one: 16 KiB, whatever was new; for each."""

    def setup() -> None:
        clients.state.apply(batches_of(clients._in_turn(1), 1024))

    changes = measure.fresh(
        lambda _: clients.state.table.take_session_changes(), setup, operations=OPEN, rounds=50
    )
    assert len(changes) == OPEN


def bench_load(measure: Measure, clients: Clients) -> None:
    """Sessions from what a checkpoint kept, at a start; for each."""
    records = clients.state.table.session_records()

    def load(sessions: Sessions) -> Sessions:
        sessions.load(records)
        return sessions

    assert measure.fresh(load, Sessions, operations=OPEN, rounds=20).count == OPEN
