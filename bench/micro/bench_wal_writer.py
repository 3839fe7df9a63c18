"""The log writer's thread: what a durable record costs, disk included, and what of it the event loop pays.

On a real disk, in `data/bench`, into a file that is made as the log's segments are: whole and zeroed beforehand, so
that a sync has no metadata to write.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.micro.data import SIZES, batch_of
from bench.micro.measure import Measure
from fastkv._core.wal_record import RECORD_HEADER_BYTES
from fastkv._core.wal_writer import WalWriter
from fastkv.storage.wal_format import padding_of, record_bytes

DATA_DIR = Path(__file__).parents[2] / "data" / "bench"
FILE_BYTES = 4 << 20
PATIENCE_S = 60
HEADER = bytes(range(RECORD_HEADER_BYTES))
GROUP = 16


class Record:
    """So many entries, on their way to the disk."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.payload = batch_of(entries).data
        self.padding = padding_of(len(self.payload))
        self.nbytes = record_bytes(len(self.payload))


class Log:
    """A writer and its file; records go behind each other, and at the end begin anew."""

    def __init__(self, fd: int, writer: WalWriter) -> None:
        self._fd = fd
        self.writer = writer
        self.ticket = 0
        self._offset = 0

    def submit(self, record: Record) -> None:
        if self._offset + record.nbytes > FILE_BYTES:
            self._offset = 0
        self.ticket += 1
        self.writer.submit(
            self._fd, self._offset, HEADER, record.payload, record.padding, self.ticket, record.entries
        )
        self._offset += record.nbytes

    def wait(self) -> int:
        """Until everything is durable, and the signal of it is taken."""
        assert self.writer.wait(self.ticket, PATIENCE_S)
        return self.writer.collect()


@pytest.fixture(scope="module")
def log() -> Iterator[Log]:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="micro-", dir=DATA_DIR) as directory:
        fd = os.open(Path(directory) / "segment", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, bytes(FILE_BYTES), 0)
            os.fsync(fd)
            with WalWriter() as writer:
                yield Log(fd, writer)
        finally:
            os.close(fd)


@pytest.mark.parametrize("size", SIZES)
def bench_durable(measure: Measure, log: Log, size: int) -> None:
    """One record, written and synced; for each entry in it. Nearly all of it is the disk's time."""
    record = Record(size)

    def write(_: None) -> int:
        log.submit(record)
        log.writer.kick()
        return log.wait()

    assert measure.fresh(write, lambda: None, operations=size, rounds=200) == log.ticket


def bench_group_commit(measure: Measure, log: Log) -> None:
    """Sixteen records of one entry that share a sync; for each. Compare with `durable[1]`."""
    record = Record(1)

    def write(_: None) -> int:
        for _number in range(GROUP):
            log.submit(record)
        log.writer.kick()
        return log.wait()

    assert measure.fresh(write, lambda: None, operations=GROUP, rounds=200) == log.ticket


def bench_hand_over(measure: Measure, log: Log) -> None:
    """What the event loop pays for a record: it submits and goes on. The thread is idle before."""
    record = Record(16)

    def hand_over(_: int) -> int:
        log.submit(record)
        log.writer.kick()
        return log.ticket

    assert measure.fresh(hand_over, log.wait, operations=1, rounds=200) == log.ticket
    assert log.wait() == log.ticket


def bench_submit(measure: Measure, log: Log) -> None:
    """Queueing alone, without waking the thread; for each record."""
    record = Record(1)
    count = 1000

    def submit(_: int) -> int:
        for _number in range(count):
            log.submit(record)
        return log.ticket

    def setup() -> int:
        log.writer.kick()
        return log.wait()

    assert measure.fresh(submit, setup, operations=count, rounds=20) == log.ticket
    assert setup() == log.ticket
