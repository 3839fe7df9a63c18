"""Frames of the raw-TCP port, written one by one and cut out of a stream as Python sees them."""

from __future__ import annotations

import pytest

from bench.micro.data import SIZES, put, puts
from bench.micro.measure import Measure
from fastkv._core.codes import FRAME_HEADER_BYTES, Opcode
from fastkv._core.frames import FrameReader, encode_frame

LIMIT_BYTES = 1 << 20


def bench_encode_frame(measure: Measure) -> None:
    """A PUT, as the Python client sends it."""
    body = put(1)
    assert measure.repeat(lambda: encode_frame(Opcode.PUT, 0, 0, 7, body)) == encode_frame(Opcode.PUT, 0, 0, 7, body)


@pytest.mark.parametrize("size", SIZES)
def bench_feed(measure: Measure, size: int) -> None:
    """PUTs that arrive together, as the Python client and the links between nodes take their frames.

    A node takes its clients' frames in place, without a tuple and a copy for each: see `bench_connection`.
    """
    reader = FrameReader(LIMIT_BYTES)
    stream = b"".join(encode_frame(Opcode.PUT, 0, 0, number, body) for number, body in enumerate(puts()[:size]))
    frames = measure.repeat(lambda: reader.feed(stream), operations=size)
    assert [frame[3] for frame in frames] == list(range(size))


def bench_receive_in_place(measure: Measure) -> None:
    """A frame of 64 KiB in 16 parts, received into the reader's own memory: an AppendEntries under load."""
    reader = FrameReader(LIMIT_BYTES)
    part = encode_frame(Opcode.APPEND, 0, 0, 1, bytes(65536 - FRAME_HEADER_BYTES))
    parts = [part[at : at + 4096] for at in range(0, len(part), 4096)]

    def receive() -> int:
        count = 0
        for data in parts:
            reader.get_buffer()[: len(data)] = data
            reader.received(len(data))
            count += len(reader.frames())
        return count

    assert measure.repeat(receive, operations=len(parts)) == 1
