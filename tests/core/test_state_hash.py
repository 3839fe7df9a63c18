"""The state hash: its digest, and the indexes at which it is remembered."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastkv._core.apply import Table
from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, EntryBatch
from fastkv._core.state_hash import hash_of
from tests.reference import digest


@given(st.binary(min_size=1, max_size=300), st.binary(min_size=32, max_size=300))
@example(b"k", bytes(32))
@example(bytes(15), bytes(64))
@example(bytes(64), bytes(128))
def test_the_digest_is_the_twins(key: bytes, record: bytes) -> None:
    assert hash_of([(key, record)]) == digest.digest_record(key, record)


@pytest.mark.parametrize("length", [*range(1, 140), 191, 192, 193, 10_000])
def test_every_byte_counts(length: int) -> None:
    data = random.Random(length).randbytes(length)
    record = bytes(32) + data
    seen = {hash_of([(b"k", record)])}
    for at in range(0, length, 1 + length // 200):
        changed = bytearray(record)
        changed[32 + at] ^= 1 << at % 8
        seen.add(hash_of([(b"k", bytes(changed))]))
        key = bytearray(data[:511])
        key[at % len(key)] ^= 1 << at % 8
        seen.add(hash_of([(bytes(key), record)]))
    assert len(seen) == 1 + 2 * len(range(0, length, 1 + length // 200))


def test_the_order_does_not_count_and_what_goes_with_what_does() -> None:
    one, other = bytes(32) + b"1", bytes(32) + b"2"
    assert hash_of([]) == 0
    assert hash_of([(b"a", one), (b"b", other)]) == hash_of([(b"b", other), (b"a", one)])
    assert hash_of([(b"a", one), (b"b", other)]) != hash_of([(b"a", other), (b"b", one)])


def test_zeros_of_different_lengths_differ() -> None:
    assert len({hash_of([(b"k", bytes(length))]) for length in range(32, 400)}) == 400 - 32


# -- the points at which it is noted -----------------------------------------------------------------------------------


def nothing(key: bytes) -> bytes | None:
    """A store without keys."""
    return None


def noops(count: int) -> EntryBatch:
    builder = BatchBuilder()
    for _ in range(count):
        builder.append(Kind.NOOP, b"")
    return builder.take()


def test_the_newest_eight_of_each_step_are_remembered() -> None:
    table = Table(nothing, state_hash=77)
    batch, index = noops(1000), 0
    assert table.hash_points() == []
    for last in [63, 64, 1000, 5000, 40_000, 524_287, 524_288, 600_000, 2_500_000]:
        while index < last:
            count = min(1000, last - index)
            table.apply(batch, 0, count, index + 1)
            index += count
        expected = {
            at for step in (2**6, 2**12, 2**18) for at in range(last // step * step, 0, -step)[:8]
        }  # fmt: skip
        assert table.hash_points() == [(at, 77) for at in sorted(expected)]


def test_the_hash_is_that_of_its_index() -> None:
    """Whatever the batches: the state is the same after the same entry."""
    rng = random.Random(5)
    entries = [(Kind.ENTRY_PUT, b"\1\0\0\0" + bytes([rng.randrange(20)]) + rng.randbytes(9)) for _ in range(400)]
    builder = BatchBuilder()
    for kind, body in entries:
        builder.append(kind, body)
    batch = builder.take()
    whole, pieces = Table(nothing), Table(nothing)
    whole.apply(batch, 0, 400, 1)
    expected = []
    for index in range(1, 401):
        pieces.apply(batch, index - 1, index, index)
        if index % 64 == 0:
            expected.append((index, pieces.state_hash))
    assert whole.hash_points() == pieces.hash_points() == expected


def test_a_restart_forgets_them() -> None:
    table = Table(nothing)
    table.apply(noops(200), 0, 200, 1)
    table.restart(5, 4, 3, [])
    assert (table.revision, table.key_count, table.state_hash, table.hash_points()) == (5, 4, 3, [])
