"""Answers on their way back: results handed to those who wait, and sent, one flush for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.micro.data import SIZES, results_of
from bench.micro.door import SHAPES, Door
from bench.micro.measure import Measure
from fastkv._core.codes import Opcode, Status
from fastkv._core.replies import CallbackSink, Outbox, Waiters


@pytest.fixture(params=SHAPES, ids=[f"c{clients}x{depth}" for clients, depth in SHAPES])
def shape(request: pytest.FixtureRequest) -> tuple[int, int]:
    """Connections, and requests on each."""
    shape: tuple[int, int] = request.param
    return shape


@pytest.fixture
def door(shape: tuple[int, int]) -> Iterator[Door]:
    door = Door(shape[0])
    yield door
    door.close()


class Waiting:
    """Requests that wait, on every connection of a door; and their answers, taken before the next ones wait."""

    def __init__(self, door: Door, shape: tuple[int, int], status: int) -> None:
        self._door = door
        self._depth = shape[1]
        self._status = status
        self.operations = shape[0] * shape[1]
        self.rounds = max(50, 4096 // self.operations)
        self._waits = False

    def waiters(self) -> Waiters:
        """The waiters of one batch."""
        if self._waits:
            self.check()
        self._waits = True
        waiters = Waiters()
        for connection in self._door.connections:
            for request_id in range(self._depth):
                waiters.append(connection, request_id, Opcode.PUT)
        return waiters

    def check(self) -> None:
        """Everybody has got the answers, in order."""
        expected = [(request_id, self._status) for _ in self._door.connections for request_id in range(self._depth)]
        assert self._door.answers(self._depth) == expected


def bench_deliver(measure: Measure, door: Door, shape: tuple[int, int]) -> None:
    """Results into the connections' buffers, and out through the kernel."""
    waiting = Waiting(door, shape, Status.OK)
    results = results_of(waiting.operations)

    def deliver(waiters: Waiters) -> int:
        waiters.deliver(results, 0)
        door.outbox.flush()
        return len(waiters)

    count = measure.fresh(deliver, waiting.waiters, operations=waiting.operations, rounds=waiting.rounds)
    assert count == waiting.operations
    waiting.check()


def bench_fail(measure: Measure, door: Door, shape: tuple[int, int]) -> None:
    """An error and its text to everybody: what an overload costs the node that has it."""
    waiting = Waiting(door, shape, Status.OVERLOADED)

    def fail(waiters: Waiters) -> int:
        waiters.fail(Status.OVERLOADED)
        door.outbox.flush()
        return len(waiters)

    count = measure.fresh(fail, waiting.waiters, operations=waiting.operations, rounds=waiting.rounds)
    assert count == waiting.operations
    waiting.check()


@pytest.mark.parametrize("size", SIZES)
def bench_callbacks(measure: Measure, size: int) -> None:
    """Callers inside the process, as the HTTP face is one: an id, a waiter, a result, a call."""
    outbox = Outbox()
    errors: list[BaseException] = []
    sink = CallbackSink(outbox, errors.append)
    results = results_of(size)
    revisions: list[int] = []

    def deliver(status: int, flags: int, revision: int, payload: bytes) -> None:
        revisions.append(revision)

    def wait_and_deliver() -> int:
        revisions.clear()
        waiters = Waiters()
        for _ in range(size):
            waiters.append(sink, sink.expect(deliver), Opcode.PUT)
        waiters.deliver(results, 0)
        outbox.flush()
        return len(revisions)

    assert measure.repeat(wait_and_deliver, operations=size) == size
    assert revisions == list(range(1, size + 1))
    assert not errors
