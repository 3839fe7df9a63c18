"""AppendEntries: filled by the leader, written, and taken apart by the follower."""

from __future__ import annotations

import pytest

from bench.micro.data import SIZES, batch_of
from bench.micro.measure import Measure
from fastkv._core.append import encode_append, fill, parse_append
from fastkv._core.entry import EntryBatch
from fastkv.log_types import Segment

TERM = 3
MAX_BYTES = 1 << 20
MAX_ENTRIES = 16384


@pytest.mark.parametrize("size", SIZES)
def bench_encode_append(measure: Measure, size: int) -> None:
    """The leader's side. The batch's checksum is known by then: the log has asked for it."""
    batches = [(TERM, batch_of(size))]
    assert batches[0][1].checksum
    body = measure.repeat(lambda: encode_append(TERM, 99, TERM, 99, 90, 0, batches), operations=size)
    assert parse_append(body)[6][0][1] == batches[0][1]


@pytest.mark.parametrize("size", SIZES)
def bench_parse_append(measure: Measure, size: int) -> None:
    """The follower's side: one copy, the check of the entries, and the checksum."""
    body = encode_append(TERM, 99, TERM, 99, 90, 0, [(TERM, batch_of(size))])

    def parse() -> EntryBatch:
        return parse_append(body)[6][0][1]

    assert measure.repeat(parse, operations=size).count == size


def log_of(segments: int, size: int) -> list[Segment]:
    """A log's newest runs, all of the same batch."""
    batch = batch_of(size)
    return [Segment(1 + number * size, TERM, batch) for number in range(segments)]


def bench_fill_with_the_newest_batch(measure: Measure) -> None:
    """What a follower that keeps up is sent: one batch, whole; for each message."""
    (newest,) = log_of(1, 16)
    assert measure.repeat(lambda: fill([newest], 1, MAX_BYTES, MAX_ENTRIES)) == [newest]


def bench_fill_with_64_batches(measure: Measure) -> None:
    """What a follower that is behind is sent; for each batch of 16 entries."""
    log = log_of(64, 16)
    assert len(measure.repeat(lambda: fill(log, 1, MAX_BYTES, MAX_ENTRIES), operations=64)) == 64


def bench_fill_from_within_a_batch(measure: Measure) -> None:
    """The rest of a batch of 1024, which has to be copied: what comes after a budget has cut it; for each entry."""
    log = log_of(1, 1024)
    (rest,) = measure.repeat(lambda: fill(log, 513, MAX_BYTES, MAX_ENTRIES), operations=512)
    assert (rest.first_index, rest.last_index) == (513, 1024)
