"""`WriteBuffer`: what every frame, entry and result is written into first."""

from __future__ import annotations

from bench.micro.data import exhaust, puts
from bench.micro.measure import Measure
from fastkv._core.buffer import WriteBuffer

COUNT = 1024


def bench_write(measure: Measure) -> None:
    """Bytes of a PUT's size; the core itself calls this without Python in between."""
    out = WriteBuffer()
    bodies = puts()[:COUNT]

    def write() -> int:
        exhaust(map(out.write, bodies))
        nbytes = len(out)
        out.clear()
        return nbytes

    assert measure.repeat(write, operations=COUNT) == sum(map(len, bodies))


def bench_write_u64(measure: Measure) -> None:
    """A number: the least that there is to write."""
    out = WriteBuffer()

    def write() -> int:
        exhaust(map(out.write_u64, range(COUNT)))
        nbytes = len(out)
        out.clear()
        return nbytes

    assert measure.repeat(write, operations=COUNT) == 8 * COUNT


def bench_write_and_take_a_batch(measure: Measure) -> None:
    """A whole batch's bytes in one piece, and out again: two copies of 150 KiB, and one allocation."""
    out = WriteBuffer()
    body = b"".join(puts()[:COUNT])

    def write_and_take() -> bytes:
        out.write(body)
        return out.take()

    assert measure.repeat(write_and_take, operations=COUNT) == body
