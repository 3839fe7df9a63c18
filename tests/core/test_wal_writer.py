"""The log writer's thread: order, durability, group commit, and what a failing disk does."""

from __future__ import annotations

import errno
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastkv._core.wal_writer import BATCH_BOUNDS, FSYNC_BOUNDS_S, WalWriter

FILE_BYTES = 1 << 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.truncate(fd, FILE_BYTES)
    yield fd
    os.close(fd)


@pytest.fixture
def writer() -> Iterator[WalWriter]:
    with WalWriter() as writer:
        yield writer


def read(fd: int, offset: int, nbytes: int) -> bytes:
    return os.pread(fd, nbytes, offset)


def test_writes_header_payload_and_padding(writer: WalWriter, file: int) -> None:
    os.pwrite(file, b"x" * 64, 0)
    writer.submit(file, 8, b"head", b"payload", 5, 1)
    writer.kick()
    assert writer.wait(1, 10)
    assert read(file, 0, 26) == b"x" * 8 + b"headpayload" + bytes(5) + b"xx"
    assert writer.durable_ticket == 1


def test_nothing_is_written_before_the_kick(writer: WalWriter, file: int) -> None:
    writer.submit(file, 0, b"one", b"", 0, 1)
    with pytest.raises(ValueError, match="not been handed"):
        writer.wait(1, 10)
    assert read(file, 0, 3) == bytes(3)
    writer.kick()
    assert writer.wait(1, 10)
    assert read(file, 0, 3) == b"one"


def test_more_jobs_than_one_call_takes(writer: WalWriter, file: int) -> None:
    """Contiguous runs, gaps and more vectors than pwritev allows, all in one batch."""
    expected = bytearray(FILE_BYTES)
    offset = 0
    for ticket in range(1, 3001):
        header, payload, padding = b"h%d" % ticket, b"p" * (ticket % 91), ticket % 8
        writer.submit(file, offset, header, payload, padding, ticket, 1)
        expected[offset : offset + len(header) + len(payload)] = header + payload
        offset += len(header) + len(payload) + padding
        if ticket % 500 == 0:
            offset += 4096
    writer.kick()
    assert writer.wait(3000, 10)
    assert read(file, 0, FILE_BYTES) == expected
    assert sum(writer.fsync_seconds[0]) == 1, "one group commit"
    assert writer.batch_entries == ([0] * 12 + [1, 0, 0, 0], 3000.0)


def test_several_files(writer: WalWriter, tmp_path: Path) -> None:
    fds = [os.open(tmp_path / f"{number}", os.O_RDWR | os.O_CREAT) for number in range(3)]
    for ticket in range(1, 31):
        fd = fds[(ticket - 1) // 10]
        writer.submit(fd, (ticket - 1) % 10, b"%d" % (ticket % 10), b"", 0, ticket)
    writer.kick()
    assert writer.wait(30, 10)
    assert [read(fd, 0, 20) for fd in fds] == [b"1234567890"] * 3
    for fd in fds:
        os.close(fd)


def signalled(writer: WalWriter, within_s: float = 0) -> bool:
    return bool(select.select([writer.fileno()], [], [], within_s)[0])


def test_the_eventfd_says_that_what_is_waited_for_is_there(writer: WalWriter, file: int) -> None:
    assert not signalled(writer)
    for ticket in (1, 2):
        assert writer.notify_at(ticket)
        writer.submit(file, ticket, b"x", b"", 0, ticket)
        writer.kick()
        assert signalled(writer, within_s=10)
        assert writer.collect() == ticket
        assert not signalled(writer)


def test_nobody_is_woken_who_does_not_wait(writer: WalWriter, file: int) -> None:
    for ticket in (1, 2):
        writer.submit(file, ticket, b"x", b"", 0, ticket)
        writer.kick()
        assert writer.wait(ticket, 10)
        assert not writer.notify_at(ticket), "it is there already"
    watched = os.dup(writer.fileno())
    writer.close()          # behind it, the thread has done all that it was going to do
    assert not select.select([watched], [], [], 0)[0]
    os.close(watched)


def test_there_is_one_signal_for_the_lowest_of_several_tickets(writer: WalWriter, file: int) -> None:
    assert writer.notify_at(3)
    assert writer.notify_at(2)
    assert writer.notify_at(3)
    for ticket in (1, 2, 3):
        writer.submit(file, ticket, b"x", b"", 0, ticket)
        writer.kick()
        assert writer.wait(ticket, 10)
        assert signalled(writer, within_s=10 if ticket == 2 else 0) == (ticket == 2)
        writer.collect()


def test_collect_without_a_signal(writer: WalWriter) -> None:
    assert writer.collect() == 0


def test_bytes_are_kept_until_they_are_durable(writer: WalWriter, file: int) -> None:
    payload = os.urandom(1 << 16)
    before = sys.getrefcount(payload)
    writer.submit(file, 0, b"", payload, 0, 1)
    assert sys.getrefcount(payload) == before + 1
    writer.kick()
    assert writer.wait(1, 10)
    writer.collect()
    assert sys.getrefcount(payload) == before
    assert read(file, 0, len(payload)) == payload


def test_bytes_that_nobody_waits_for_are_let_go_with_the_next_write(writer: WalWriter, file: int) -> None:
    payload = os.urandom(1 << 16)
    before = sys.getrefcount(payload)
    writer.submit(file, 0, b"", payload, 0, 1)
    writer.kick()
    assert writer.wait(1, 10)
    assert sys.getrefcount(payload) == before + 1
    writer.submit(file, 1 << 16, b"x", b"", 0, 2)
    writer.kick()
    assert sys.getrefcount(payload) == before


def test_ticket_and_padding_are_bounded(writer: WalWriter, file: int) -> None:
    writer.submit(file, 0, b"x", b"", 0, 5)
    with pytest.raises(ValueError, match="does not follow"):
        writer.submit(file, 0, b"x", b"", 0, 5)
    with pytest.raises(ValueError, match="padding"):
        writer.submit(file, 0, b"x", b"", 8, 6)
    with pytest.raises(TypeError):
        writer.submit(file, 0, None, b"", 0, 6)  # type: ignore[arg-type]


def test_close_writes_what_was_kicked(file: int) -> None:
    writer = WalWriter()
    for ticket in range(1, 101):
        writer.submit(file, ticket * 8, b"x" * 8, b"", 0, ticket)
        writer.kick()
    writer.close()
    assert writer.durable_ticket == 100
    assert read(file, 8, 800) == b"x" * 800
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.submit(file, 0, b"x", b"", 0, 101)
    with pytest.raises(ValueError, match="closed"):
        writer.collect()


def test_a_writer_that_nobody_closes_ends_with_its_object(file: int) -> None:
    before = len(os.listdir("/proc/self/task"))
    writer = WalWriter()
    assert len(os.listdir("/proc/self/task")) == before + 1
    writer.submit(file, 0, b"x", b"", 0, 1)
    writer.kick()
    del writer
    assert len(os.listdir("/proc/self/task")) == before
    assert read(file, 0, 1) == b"x"


def test_the_first_error_is_final(writer: WalWriter, file: int, tmp_path: Path) -> None:
    closed = os.open(tmp_path / "closed", os.O_RDWR | os.O_CREAT)
    os.close(closed)
    writer.submit(file, 0, b"good", b"", 0, 1)
    writer.kick()
    assert writer.wait(1, 10)
    writer.submit(closed, 0, b"bad", b"", 0, 2)
    writer.kick()
    with pytest.raises(OSError, match="pwritev") as raised:
        writer.wait(2, 10)
    assert raised.value.errno == errno.EBADF
    with pytest.raises(OSError, match="pwritev"):
        writer.submit(file, 0, b"later", b"", 0, 3)
    assert select.select([writer.fileno()], [], [], 10)[0], "the loop hears of it"
    with pytest.raises(OSError, match="pwritev"):
        writer.collect()
    assert writer.durable_ticket == 1
    assert read(file, 0, 4) == b"good"
    assert writer.wait(1, 0), "what was durable stays durable"


def test_a_full_device_is_waited_for_until_the_writer_is_closed(writer: WalWriter) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    writer.submit(full, 0, b"x", b"", 0, 1)
    writer.kick()
    assert not writer.wait(1, 0.5), "nothing is durable, and nothing has failed"
    assert writer.full
    assert writer.error is None
    writer.close()
    assert writer.durable_ticket == 0
    assert isinstance(writer.error, OSError)
    assert writer.error.errno == errno.ENOSPC
    os.close(full)


def test_short_writes_are_gone_on_with_once_there_is_room(tmp_path: Path) -> None:
    """A file size limit cuts a pwritev short, and fails the next: all has to be there once there is none any more."""
    script = """
import os, resource, sys
from fastkv._core.wal_writer import WalWriter
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
with WalWriter() as writer:
    writer.submit(fd, 0, b"a" * 3000, b"b" * 3000, 0, 1)
    writer.kick()
    while not writer.full:
        assert not writer.wait(1, 0.01)
    print(os.pread(fd, 9999, 0) == b"a" * 3000 + b"b" * 2000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print(writer.wait(1, 30), writer.full, os.pread(fd, 9999, 0) == b"a" * 3000 + b"b" * 3000)
"""
    path = tmp_path / "file"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "True", "False", "True"]


STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed: injected disk errors are NOT tested")

INJECTED = """
import os, sys, time
from fastkv._core.wal_writer import WalWriter
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.truncate(fd, 65536)
with WalWriter() as writer:
    for ticket in range(1, 11):
        try:
            writer.submit(fd, ticket * 100, b"h" * 30, b"p" * 70, 0, ticket)
            writer.kick()
            writer.wait(ticket, 10)
        except OSError as error:
            print("failed", ticket, error.errno, error)
    print("durable", writer.durable_ticket)
    print("content", os.pread(fd, 1000, 100) == (b"h" * 30 + b"p" * 70) * 10)
"""


def injected(tmp_path: Path, *rules: str, script: str = INJECTED) -> tuple[list[str], str]:
    """Lines that the script printed under the rules, and the calls that were traced."""
    assert STRACE is not None
    trace = tmp_path / "trace"
    command = [STRACE, "-f", "-o", str(trace), "-e", "trace=pwritev,fdatasync"]
    for rule in rules:
        command += ["-e", f"inject={rule}"]
    done = subprocess.run(
        [*command, sys.executable, "-c", script, tmp_path / "file"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return done.stdout.splitlines(), trace.read_text()


@needs_strace
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_eintr_is_no_error(tmp_path: Path, call: str) -> None:
    lines, trace = injected(tmp_path, f"{call}:error=EINTR:when=2..6")
    assert lines == ["durable 10", "content True"]
    assert trace.count("EINTR") == 5


@needs_strace
def test_a_failed_sync_is_never_retried(tmp_path: Path) -> None:
    lines, trace = injected(tmp_path, "fdatasync:error=EIO:when=3")
    failures, durable = lines[:8], lines[8]
    assert durable == "durable 2", "nothing is durable after the failure"
    assert [line.split()[:3] for line in failures] == [["failed", str(n), str(errno.EIO)] for n in range(3, 11)]
    assert all("fdatasync" in line for line in failures)
    assert trace.count("fdatasync(") == 3, "two good ones, the bad one, and none after it"
    assert trace.count("pwritev(") == 3


@needs_strace
def test_a_failed_write_is_not_followed_by_a_sync(tmp_path: Path) -> None:
    lines, trace = injected(tmp_path, "pwritev:error=EIO:when=4")
    assert "durable 3" in lines
    assert trace.count("pwritev(") == 4
    assert trace.count("fdatasync(") == 3


@needs_strace
def test_what_queues_while_the_disk_works_shares_a_sync_and_the_stall_shows(tmp_path: Path) -> None:
    script = """
import os, sys
from fastkv._core.wal_writer import WalWriter
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
with WalWriter() as writer:
    print(writer.stalled_ns())
    for ticket in range(1, 101):
        writer.submit(fd, ticket, b"x", b"", 0, ticket)
        writer.kick()
        if ticket == 1:
            writer.wait(1, 0.25)       # the first sync is under way now, and takes a second
            print(200_000_000 < writer.stalled_ns() < 1_000_000_000)
    print(writer.wait(100, 0.01), writer.wait(100, 10), writer.stalled_ns())
    print(sum(writer.fsync_seconds[0]), writer.fsync_seconds[1] > 1)
"""
    lines, trace = injected(tmp_path, "fdatasync:delay_enter=1000000:when=1", script=script)
    assert lines == ["0", "True", "False True 0", "2 True"]
    assert trace.count("fdatasync(") == 2


def test_buckets_are_those_of_the_metrics() -> None:
    assert FSYNC_BOUNDS_S[0] == 0.00005
    assert FSYNC_BOUNDS_S[-1] == 5.0
    assert list(FSYNC_BOUNDS_S) == sorted(FSYNC_BOUNDS_S)
    assert tuple(float(2**power) for power in range(15)) == BATCH_BOUNDS


@pytest.mark.parametrize(("entries", "bucket"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (16384, 14), (16385, 15)])
def test_batch_buckets(writer: WalWriter, file: int, entries: int, bucket: int) -> None:
    writer.submit(file, 0, b"x", b"", 0, 1, entries)
    writer.kick()
    writer.wait(1, 10)
    counts, total = writer.batch_entries
    assert (counts.index(1), sum(counts), total) == (bucket, 1, entries)
