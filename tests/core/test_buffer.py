"""WriteBuffer against a bytearray."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv._core.buffer import WriteBuffer

WIDTHS = {"u8": ("<B", 2**8), "u16": ("<H", 2**16), "u32": ("<I", 2**32), "u64": ("<Q", 2**64)}
numbers = st.sampled_from(sorted(WIDTHS)).flatmap(
    lambda width: st.tuples(st.just(width), st.integers(0, WIDTHS[width][1] - 1))
)
steps = st.lists(
    st.one_of(numbers, st.tuples(st.just("bytes"), st.binary(max_size=900)), st.tuples(st.just("take"), st.just(0)))
)


@settings(deadline=None)
@given(steps)
def test_holds_what_a_bytearray_would(steps: list[tuple[str, int | bytes]]) -> None:
    buffer, twin = WriteBuffer(), bytearray()
    for what, value in steps:
        if isinstance(value, bytes):
            buffer.write(value)
            twin += value
        elif what == "take":
            assert buffer.take() == bytes(twin)
            twin.clear()
        else:
            getattr(buffer, f"write_{what}")(value)
            twin += struct.pack(WIDTHS[what][0], value)
        assert len(buffer) == len(twin)
        assert bytes(buffer) == bytes(twin)


def test_is_empty_after_clear() -> None:
    buffer = WriteBuffer()
    buffer.write(b"some bytes")
    buffer.clear()
    assert (len(buffer), bytes(buffer), buffer.take()) == (0, b"", b"")


def test_serves_again_after_a_burst_gave_its_memory_back() -> None:
    buffer = WriteBuffer()
    for _ in range(2):
        buffer.write(bytes(3 << 20))
        assert buffer.take() == bytes(3 << 20)
        buffer.write_u8(7)
        assert buffer.take() == b"\x07"


@pytest.mark.parametrize(("width", "bound"), [(width, bound) for width, (_, bound) in WIDTHS.items()])
def test_refuses_a_number_that_does_not_fit(width: str, bound: int) -> None:
    buffer = WriteBuffer()
    for value in (-1, bound):
        with pytest.raises(OverflowError):
            getattr(buffer, f"write_{width}")(value)
    assert len(buffer) == 0
