"""The door of a node, through the face that HTTP uses. Clients of the raw port come in compiled: `bench_connection`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice

import pytest

from bench.micro.data import KEYS, SIZES, endless_puts, numbers
from bench.micro.door import Door, get_body
from bench.micro.measure import Measure
from fastkv._core.codes import Consistency, Opcode
from fastkv._core.entry import EntryBatch
from fastkv._core.ingress import Ingress
from fastkv._core.replies import Waiters


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """A node that nobody is connected to."""
    door = Door(0)
    yield door
    door.close()


@pytest.mark.parametrize("size", SIZES)
def bench_put(measure: Measure, door: Door, size: int) -> None:
    """Check a command, gather it, and hand the batch over with those who wait for it."""
    ingress: Ingress = door.ingress
    sink = door.connection()
    bodies = endless_puts()
    opcode = int(Opcode.PUT)

    def gather() -> tuple[EntryBatch, Waiters] | None:
        ingress.asleep()
        for body in islice(bodies, size):
            ingress.submit(sink, 7, opcode, body)
        return ingress.take_writes()

    taken = measure.repeat(gather, operations=size)
    assert taken is not None
    assert (taken[0].count, len(taken[1])) == (size, size)


@pytest.mark.parametrize("size", SIZES)
def bench_get(measure: Measure, door: Door, size: int) -> None:
    """Gather linearizable reads and serve them, once they are confirmed; the answers go to nobody."""
    ingress: Ingress = door.ingress
    sink = door.connection()
    bodies = cycle([get_body(number) for number in numbers(KEYS)])
    opcode = int(Opcode.GET)

    def gather_and_serve() -> int:
        ingress.asleep()
        for body in islice(bodies, size):
            ingress.submit(sink, 7, opcode, body)
        reads = ingress.take_reads()
        assert reads is not None
        reads.serve(door.state.table)
        return len(reads)

    assert measure.repeat(gather_and_serve, operations=size) == size


def bench_stale_get(measure: Measure, door: Door) -> None:
    """A read that is answered at once."""
    ingress: Ingress = door.ingress
    sink = door.connection()
    bodies = cycle([get_body(number, Consistency.STALE_READ) for number in numbers(KEYS)])
    opcode = int(Opcode.GET)

    def serve() -> int:
        for body in islice(bodies, 1024):
            ingress.submit(sink, 7, opcode, body)
        return ingress.reads_waiting

    assert measure.repeat(serve, operations=1024) == 0
