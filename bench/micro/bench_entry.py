"""Entries and batches: encoded by clients, gathered by the ingress, checked by whoever gets them from elsewhere."""

from __future__ import annotations

from itertools import islice

import pytest

from bench.micro.data import SIZES, VALUE_BYTES, batch_of, batches_of, endless_puts, key, put, puts, value
from bench.micro.measure import ROUND_OPERATIONS, Measure
from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, EntryBatch, decode_command, encode_command

VALUE_LIMIT = 1 << 20


def bench_encode_command(measure: Measure) -> None:
    """A PUT, as the Python client and the HTTP face encode it."""
    name, content = key(1), value(1)
    assert measure.repeat(lambda: encode_command(Kind.ENTRY_PUT, name, content)) == put(1)


def bench_encode_command_of_a_session(measure: Measure) -> None:
    """The same with a session and a sequence, as the Python client does it."""
    name, content = key(1), value(1)
    body = measure.repeat(lambda: encode_command(Kind.ENTRY_PUT, name, content, session=(77, 1)))
    assert body == put(1, session=(77, 1))


def bench_decode_command(measure: Measure) -> None:
    """Taken apart into Python objects, which the hot path never does."""
    body = put(1)
    decoded = measure.repeat(lambda: decode_command(Kind.ENTRY_PUT, body))
    assert (decoded.key, len(decoded.value)) == (key(1), VALUE_BYTES)


@pytest.mark.parametrize("size", SIZES)
def bench_build(measure: Measure, size: int) -> None:
    """Gather a batch and take it: what group commit adds to an entry."""
    builder = BatchBuilder()
    bodies = puts()[:size]
    kind = int(Kind.ENTRY_PUT)

    def build() -> EntryBatch:
        for body in bodies:
            builder.append(kind, body)
        return builder.take()

    assert measure.repeat(build, operations=size).count == size


@pytest.mark.parametrize("size", SIZES)
def bench_check(measure: Measure, size: int) -> None:
    """That bytes are exactly so many entries: once for each batch that was read from the log."""
    data = batch_of(size).data
    assert measure.repeat(lambda: EntryBatch(data, size), operations=size).count == size


@pytest.mark.parametrize("size", SIZES)
def bench_check_and_checksum(measure: Measure, size: int) -> None:
    """The same with its xxh3: once for each batch that came from the leader, and its equal when the log is written."""
    batch = batch_of(size)
    data, checksum = batch.data, batch.checksum
    assert measure.repeat(lambda: EntryBatch(data, size, checksum), operations=size).checksum == checksum


@pytest.mark.parametrize("size", SIZES)
def bench_check_commands(measure: Measure, size: int) -> None:
    """That all entries are well-formed commands: once for each batch that a follower forwarded."""
    bodies = endless_puts()
    count = max(ROUND_OPERATIONS, size)

    def check(batches: list[EntryBatch]) -> int:
        for batch in batches:
            batch.check_commands(VALUE_LIMIT)
        return len(batches)

    checked = measure.fresh(check, lambda: batches_of(islice(bodies, count), size), operations=count)
    assert checked == count // size


def bench_slice(measure: Measure) -> None:
    """Half of a batch of 1024, as when a message's budget ends within a batch; for each entry taken."""
    batch = batch_of(1024)
    assert measure.repeat(lambda: batch.slice(256, 768), operations=512).count == 512


def bench_fit(measure: Measure) -> None:
    """How much of a batch of 1024 a budget allows: a bisection."""
    batch = batch_of(1024)
    half = batch.nbytes // 2
    assert measure.repeat(lambda: batch.fit(1, half)) in range(510, 515)
