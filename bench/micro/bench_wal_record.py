"""Records of the write-ahead log: the header that every append writes, and what a start reads back."""

from __future__ import annotations

import pytest

from bench.micro.data import SIZES, batch_of
from bench.micro.measure import Measure
from fastkv._core.entry import EntryBatch
from fastkv._core.wal_record import ENTRIES, RECORD_HEADER_BYTES, follow_run, parse_record
from fastkv.storage.wal_format import encode_record_header, log_position, padding_of

SALT = 0x1234_5678_9ABC_DEF0
START = log_position(7, 64)
TERM = 3


def record_of(batch: EntryBatch, position: int, first_index: int, previous_chain: int) -> tuple[bytes, int]:
    """A record's header, and its chain."""
    return encode_record_header(
        ENTRIES,
        batch.nbytes,
        batch.checksum,
        position=position,
        first_index=first_index,
        entry_count=batch.count,
        term=TERM,
        durable_position=position,
        commit=first_index - 1,
        previous_chain=previous_chain,
        salt=SALT,
    )


def log_of(records: int, size: int) -> bytes:
    """Records one after the other, each chained to the one before."""
    batch = batch_of(size)
    data, chain = bytearray(), 0
    for number in range(records):
        header, chain = record_of(batch, START + len(data), 1 + number * size, chain)
        data += header + batch.data + bytes(padding_of(batch.nbytes))
    return bytes(data)


def bench_encode_header(measure: Measure) -> None:
    """Interpreted: once for each record, whatever the number of its entries. The batch knows its checksum by then."""
    batch = batch_of(16)
    assert batch.checksum
    header, _ = measure.repeat(lambda: record_of(batch, START, 1, 0))
    assert len(header) == RECORD_HEADER_BYTES


@pytest.mark.parametrize("size", SIZES)
def bench_parse(measure: Measure, size: int) -> None:
    """One record, with both checksums; for each entry in it."""
    data = log_of(1, size)
    fields = measure.repeat(lambda: parse_record(data, 0, START, SALT), operations=size)
    assert fields is not None
    assert fields[4] == size


@pytest.mark.parametrize("size", [1, 16])
def bench_follow_run(measure: Measure, size: int) -> None:
    """A run of records at a start: 1024 entries, in records of a quiet cluster or a moderate load; for each entry."""
    data = log_of(1024 // size, size)
    found = measure.repeat(
        lambda: follow_run(data, 0, START, SALT, 0, 0, TERM, max_bytes=1 << 30), operations=1024
    )
    assert found[:2] == (len(data), 1024)
