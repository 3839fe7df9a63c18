"""The compiled reader of log records against its readable twin, on good bytes and on damaged ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from fastkv._core.wal_record import MAX_PAYLOAD_BYTES, RECORD_HEADER_BYTES, follow_run, parse_record
from tests.core.strategies import u64
from tests.reference.wal import record_at

SALT = 0x1234_5678_9ABC_DEF0
START = 7 << 32


def record(
    position: int,
    *,
    kind: int = 1,
    first_index: int = 1,
    count: int = 1,
    term: int = 1,
    payload: bytes = bytes(8),
    previous: int = 0,
    length: int | None = None,
    reserved: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """A record with true checksums, whatever it says."""
    length = len(payload) if length is None else length
    head = struct.pack(
        "<IBBHQQIIQQQQQ",
        length, kind, reserved[0], reserved[1], position, first_index, count, reserved[2], term, position, 5,
        xxh3_64_intdigest(payload), previous,
    )  # fmt: skip
    return head + xxh3_64_intdigest(head, SALT).to_bytes(8, "little") + payload + bytes(-len(payload) % 8)


def chained(specs: list[tuple[int, int, bytes]], *, first_index: int = 1) -> bytes:
    """Records one after the other; each spec is (count, term, payload)."""
    data, index, previous = b"", first_index, 0
    for count, term, payload in specs:
        data += record(
            START + len(data), first_index=index, count=count, term=term, payload=payload, previous=previous
        )
        previous = struct.unpack_from("<Q", data, len(data) - len(payload) - -len(payload) % -8 - 8)[0]
        index += count
    return data


@given(st.binary(max_size=60), u64, u64, st.integers(0, 3), st.integers(0, 9), st.integers(0, 3), st.data())
def test_one_record(
    payload: bytes, first_index: int, term: int, kind: int, count: int, shift: int, data: st.DataObject
) -> None:
    offset = shift * 8
    good = record(START + offset, kind=kind, first_index=first_index, count=count, term=term, payload=payload)
    whole = bytearray(bytes(offset) + good)
    for _ in range(data.draw(st.integers(0, 2))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(0, 255))
    cut = bytes(whole[: len(whole) - data.draw(st.sampled_from([0, 0, 0, 1, 8, 40]))])
    places = (offset, START + offset), (offset, START), (offset - 8, START + offset - 8), (len(cut), START)
    for at, position in places:
        assert parse_record(cut, at, position, SALT) == record_at(cut, at, position, SALT)
    assert parse_record(cut, offset, START + offset, SALT + 1) is None


def test_a_good_record() -> None:
    data = record(START, first_index=3, term=9, payload=b"x" * 13)
    fields = parse_record(data, 0, START, SALT)
    assert fields is not None
    assert fields[:8] == (13, 1, START, 3, 1, 9, START, 5)
    assert len(data) == RECORD_HEADER_BYTES + 16


@pytest.mark.parametrize("reserved", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_reserved_bits(reserved: tuple[int, int, int]) -> None:
    assert parse_record(record(START, reserved=reserved), 0, START, SALT) is None


@pytest.mark.parametrize("length", [MAX_PAYLOAD_BYTES + 1, 0xFFFF_FFFF, MAX_PAYLOAD_BYTES, 1000])
def test_a_length_is_bounded_before_it_is_used(length: int) -> None:
    assert parse_record(record(START, length=length), 0, START, SALT) is None


specs = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from([1, 1, 1, 2]), st.integers(24, 60).map(bytes)), min_size=1, max_size=12
)


@given(specs, st.integers(0, 2000), st.integers(-1, 1500))
def test_a_run(parts: list[tuple[int, int, bytes]], max_bytes: int, flipped: int) -> None:
    """The run is exactly what walking along with the twin, record by record, finds."""
    data = bytearray(chained(parts))
    if 0 <= flipped < len(data):
        data[flipped] ^= 1
    term, offset, last, chain, durable, commit, payloads = parts[0][1], 0, 0, 0, 0, 0, b""
    while (found := record_at(bytes(data), offset, START + offset, SALT)) is not None:
        length, kind, _, first_index, count, found_term, found_durable, found_commit, _, previous, found_chain = found
        end = offset + 80 + length + -length % 8
        if (kind, first_index, found_term, previous) != (1, last + 1, term, chain) or end > max_bytes:
            break
        payloads += bytes(data[offset + 80 : offset + 80 + length])
        offset, last, chain, durable, commit = end, last + count, found_chain, found_durable, found_commit
    assert follow_run(bytes(data), 0, START, SALT, 0, 0, term, max_bytes=max_bytes) == (
        offset,
        last,
        chain,
        durable,
        commit,
        payloads,
    )


def test_a_run_ends_before_what_does_not_follow() -> None:
    good = chained([(2, 1, bytes(24)), (1, 1, bytes(24))])
    size = len(good) // 2
    assert follow_run(good, 0, START, SALT, 0, 0, 1, max_bytes=1 << 20)[:2] == (2 * size, 3)
    assert follow_run(good, 0, START, SALT, 1, 0, 1, max_bytes=1 << 20)[:2] == (0, 0), "another chain"
    assert follow_run(good, 0, START, SALT, 0, 1, 1, max_bytes=1 << 20)[:2] == (0, 1), "another index"
    assert follow_run(good, 0, START, SALT, 0, 0, 2, max_bytes=1 << 20)[:2] == (0, 0), "another term"
    assert follow_run(good, 0, START, SALT, 0, 0, 1, max_bytes=2 * size - 1)[:2] == (size, 2), "too long"
