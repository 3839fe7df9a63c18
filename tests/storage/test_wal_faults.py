"""The log on a failing disk, on a full one, and in a process that is killed: real system calls, real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastkv.log_types import HardState
from fastkv.storage.wal import Wal
from tests.storage.logs import CLUSTER, NODE, SMALL_BYTES, entries_of, opened, reference, run, write

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed: injected disk errors are NOT tested")

PREAMBLE = """
import sys
from pathlib import Path
from fastkv.log_types import HardState
from fastkv.storage.wal import Wal
from tests.storage.logs import CLUSTER, NODE, opened, run, write
"""


def child(script: str, path: Path, *rules: str, trace: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script on a log, with system calls that fail as the rules say."""
    command = [sys.executable, "-c", PREAMBLE + script, str(path)]
    if rules:
        assert STRACE is not None
        injections = [word for rule in rules for word in ("-e", f"inject={rule}")]
        calls = "pwritev,fdatasync,fsync,rename,unlink,unlinkat,pwrite64"
        command = [STRACE, "-f", "-o", str(trace), "-e", f"trace={calls}", *injections, *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# -- errors ------------------------------------------------------------------------------------------------------------

APPEND_UNTIL_IT_FAILS = """
wal = Wal(Path(sys.argv[1]), cluster=CLUSTER, node_id=NODE, segment_bytes=1 << 20)
for index in range(1, 21):
    try:
        wal.wait(wal.append(None, [run(index, 1, b"entry %d" % index)]), 30)
        wal.collect()
        print("acked", index, flush=True)
    except OSError as error:
        print("failed", error.errno, flush=True)
try:
    wal.close()
except OSError as error:
    print("closed", error.errno)
"""


@needs_strace
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_after_a_disk_error_nothing_is_acknowledged(tmp_path: Path, call: str) -> None:
    """The first error is final. What was acknowledged before it is there; what was not may be."""
    path = tmp_path / "wal"
    opened(path, segment_bytes=1 << 20).__enter__().close()
    # The writer's own calls begin with the first record; fdatasync also prepares segments, but not any more here.
    wait_for_spare(path)
    done = child(APPEND_UNTIL_IT_FAILS, path, f"{call}:error=EIO:when=6", trace=tmp_path / "trace")
    lines = done.stdout.splitlines()
    assert lines[:5] == [f"acked {index}" for index in range(1, 6)], done.stderr
    assert lines[5:-1] == [f"failed {errno.EIO}"] * 15
    assert lines[-1] == f"closed {errno.EIO}"
    trace = (tmp_path / "trace").read_text()
    assert trace.count("INJECTED") == 1
    assert trace.partition("INJECTED")[2].count("pwritev(") == 0, "nothing is written after the error"
    with opened(path) as wal:
        kept = sorted(entries_of(wal.recovered.segments))
        assert kept in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
        write(wal, run(kept[-1] + 1, 2, b"after"))


def wait_for_spare(path: Path) -> None:
    """Open the log until the next segment is ready, so that nothing is left to be prepared."""
    with opened(path, segment_bytes=1 << 20) as wal:
        while not wal._preparer.ready_bytes:
            os.sched_yield()


@needs_strace
@pytest.mark.parametrize("call", ["pwritev", "fdatasync"])
def test_eintr_and_short_writes_go_on(tmp_path: Path, call: str) -> None:
    done = child(APPEND_UNTIL_IT_FAILS, tmp_path / "wal", f"{call}:error=EINTR:when=1..20+2", trace=tmp_path / "trace")
    assert done.stdout.splitlines() == [f"acked {index}" for index in range(1, 21)], done.stderr
    assert "EINTR" in (tmp_path / "trace").read_text()
    assert sorted(reference(tmp_path / "wal").entries) == list(range(1, 21))


@needs_strace
def test_an_error_aside_is_raised_by_the_next_tick(tmp_path: Path) -> None:
    """A segment that cannot be prepared because the disk fails: not to be worked around."""
    script = """
wal = Wal(Path(sys.argv[1]), cluster=CLUSTER, node_id=NODE, segment_bytes=4096)
try:
    while True:
        wal.poll()
except OSError as error:
    print("failed", error.errno)
"""
    # The first sync of a file is the first segment's; the directory's comes second, the recovery's third.
    done = child(script, tmp_path / "wal", "fdatasync:error=EIO:when=1", trace=tmp_path / "trace")
    assert done.stdout.splitlines() == [f"failed {errno.EIO}"], done.stderr


@needs_strace
@pytest.mark.parametrize("number", range(1, 7))
def test_an_error_while_opening_leaves_a_log_that_opens(tmp_path: Path, number: int) -> None:
    """The n-th sync of the start fails: the node does not start, and later it does."""
    path = tmp_path / "wal"
    script = "with opened(Path(sys.argv[1])) as wal: print(wal.recovered.last_index)"
    done = child(script, path, f"fsync:error=EIO:when={number}", trace=tmp_path / "trace")
    assert done.returncode == 1 or done.stdout == "0\n", done.stderr
    with opened(path) as wal:
        assert wal.recovered.last_index == 0
        write(wal, run(1, 1, b"a"))


@needs_strace
def test_every_name_that_comes_or_goes_is_made_durable(tmp_path: Path) -> None:
    """After each create, rename and unlink, and before the next, the directory is synced."""
    script = """
from fastkv.storage.directory import DataDirectory
with DataDirectory.open(Path(sys.argv[1]) / "data", cluster=CLUSTER, node_id=NODE) as directory:
    for life in range(2):
        with opened(directory.wal_path, keep_above=life * 100) as wal:
            for index in range(life * 100 + 1, life * 100 + 101):
                write(wal, run(index, 1, b"x" * 200))
                wal.compact(index - 10)
"""
    assert STRACE is not None
    trace = tmp_path / "trace"
    command = [STRACE, "-f", "-y", "-o", str(trace), "-e", "trace=rename,unlink,mkdir,fsync"]
    subprocess.run([*command, sys.executable, "-c", PREAMBLE + script, str(tmp_path)], check=True, timeout=60)
    pending: dict[str, str] = {}        # by thread: the directory that has to be synced next
    changes = 0
    for line in trace.read_text().splitlines():
        thread, call = line.split(maxsplit=1)
        if f'"{tmp_path}/data' in call and call.startswith(("rename(", "unlink(", "mkdir(")) and "= 0" in call:
            assert thread not in pending, f"{pending[thread]} was not synced before {call}"
            pending[thread] = str(Path(call.split('"')[1]).parent)
            changes += 1
        elif call.startswith("fsync(") and pending.get(thread) == call.partition("<")[2].partition(">")[0]:
            del pending[thread]
    assert not pending
    assert changes > 20


# -- kill -9 -----------------------------------------------------------------------------------------------------------

APPEND_FOR_EVER = """
wal = Wal(Path(sys.argv[1]), cluster=CLUSTER, node_id=NODE, segment_bytes=16384, keep_above=int(sys.argv[2]))
index = wal.recovered.last_index + 1
term = wal.recovered.hard_state.term + 1
wal.wait(wal.append(HardState(term, NODE, 0), []))
print("term", term, flush=True)
while True:
    bodies = [b"%d %d " % (index + number, term) + b"x" * (index * 37 % 500) for number in range(1 + index % 5)]
    wal.wait(wal.append(None, [run(index, term, *bodies)]))
    index += len(bodies)
    print("acked", index - 1, flush=True)
    if index % 7 == 0:
        wal.compact(index - 200)
"""


@pytest.mark.slow
def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    acked = 0
    for life in range(1, 9):
        # The log is compacted up to 200 entries before the last acknowledged one: the store has at least those.
        applied = max(0, acked - 150)
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + APPEND_FOR_EVER, str(tmp_path), str(applied)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == f"term {life}\n"
        wanted = acked + 40 * life
        for line in process.stdout:
            acked = int(line.split()[1])
            if acked >= wanted:
                process.send_signal(signal.SIGKILL)
                break
        for line in process.stdout:     # what it had said before it died
            if line.endswith("\n"):
                acked = int(line.split()[1])
        process.wait()
        with opened(tmp_path, keep_above=max(0, acked - 150), segment_bytes=16384) as wal:
            assert wal.recovered.hard_state.term == life
            assert wal.recovered.last_index >= acked
            entries = entries_of(wal.read(wal.first_index, wal.last_index, 1 << 30))
            base, acked = wal.recovered.base_index, wal.recovered.last_index
            assert sorted(entries) == list(range(base + 1, acked + 1))
            assert all(body.startswith(b"%d %d " % (index, term)) for index, (term, body) in entries.items())
    assert base > 0, "compaction happened as well"


KILLED_ON_THE_WAY = """
with opened(Path(sys.argv[1])) as wal:
    first = wal.recovered.last_index + 1
    for index in range(first, first + 60):
        write(wal, run(index, 1, b"%d" % index * 50), hard_state=HardState(index, NODE, 0))
        print(index, flush=True)
        if index % 20 == 0:
            wal.compact(index - 10)
"""


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("call", ["pwritev", "fdatasync", "fsync", "rename", "unlink", "pwrite64"])
def test_a_kill_at_the_nth_call_of_every_kind(tmp_path: Path, call: str) -> None:
    """Appending, rolling, preparing, removing: wherever it is cut short, the log opens with what was acknowledged."""
    for number in [1, 2, 3, 4, 5, 7, 11, 20]:
        path = tmp_path / f"{number}"
        done = child(KILLED_ON_THE_WAY, path, f"{call}:signal=KILL:when={number}", trace=tmp_path / "trace")
        acked = [int(line) for line in done.stdout.splitlines()]
        applied = max(acked, default=0) // 20 * 20 - 10
        with opened(path, keep_above=max(0, applied)) as wal:
            assert wal.last_index >= max(acked, default=0), f"{call} {number}"
            assert wal.recovered.hard_state.term >= max(acked, default=0)
            entries = entries_of(wal.read(wal.first_index, wal.last_index, 1 << 30)) if wal.last_index else {}
            assert sorted(entries) == list(range(wal.first_index, wal.last_index + 1))
            write(wal, run(wal.last_index + 1, 99, b"on"))
        assert not list(path.glob("first.tmp"))


# -- a full disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk: a full disk is tested with a file size limit only")
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk ({mounted.stderr.strip()}): a full disk is tested with a file size limit only")
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_full_disk_refuses_and_recovers(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastkv.storage.wal.RETRY_S", 0.01)
    segment_bytes = 64 * 1024
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(64 * 1024))
    with opened(small_disk / "wal", segment_bytes=segment_bytes) as wal:
        index = 0
        while wal.has_room(1000):
            index += 1
            write(wal, run(index, 1, bytes(1000)))
            assert index < 1000
        assert not wal._preparer.has_space()
        assert not list((small_disk / "wal").glob("*.tmp")), "what was half made is given back"
        # Votes still go, and reads.
        for term in range(1, 11):
            write(wal, hard_state=HardState(term, NODE, 0))
        assert len(entries_of(wal.read(1, index, 1 << 30))) == index
        wal.poll()
        assert not wal.has_room(1000)
        ballast.unlink()
        while not wal.has_room(1000):       # bounded by the test's timeout
            wal.poll()
        last = index + 30
        for more in range(index + 1, last + 1):
            assert wal.has_room(1000)
            write(wal, run(more, 10, bytes(1000)))
    with opened(small_disk / "wal", segment_bytes=segment_bytes) as wal:
        assert wal.recovered.last_index == last
        assert wal.recovered.hard_state.term == 10


def test_more_votes_than_a_full_disk_has_room_for_wait_for_it(small_disk: Path) -> None:
    """The log goes on in a segment that has no room of its own: nothing fails, and nothing is durable too early."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(64 * 1024))
    with opened(small_disk / "wal", segment_bytes=64 * 1024) as wal:
        while wal.has_room(1000):
            write(wal, run(wal.last_index + 1, 1, bytes(1000)))
        with (small_disk / "rest").open("ab", buffering=0) as rest, contextlib.suppress(OSError):
            while rest.write(bytes(4096)):
                pass
        term, ticket = 1, wal.durable_ticket
        while not wal._writer.full:         # bounded by the test's timeout
            if wal.durable_ticket == ticket:
                term += 1
                ticket = wal.append(HardState(term, NODE, 0), [])
        assert wal.durable_ticket < ticket
        assert not wal.has_room(0)
        ballast.unlink()
        assert wal.wait(ticket, 30)
        assert not wal._writer.full
    with opened(small_disk / "wal", segment_bytes=64 * 1024) as wal:
        assert wal.recovered.hard_state.term == term


def test_compaction_makes_room_on_a_full_disk(small_disk: Path) -> None:
    with opened(small_disk / "wal", segment_bytes=64 * 1024) as wal:
        index = 0
        for _ in range(3):
            while wal.has_room(1000):
                index += 1
                write(wal, run(index, 1, bytes(1000)))
                assert index < 2000
            wal.compact(index)
            while not wal.has_room(1000):
                os.sched_yield()
        assert index > 400
    assert reference(small_disk / "wal").last() == (index, 1)


def test_a_disk_too_small_to_begin_with(small_disk: Path) -> None:
    with pytest.raises(OSError, match="No space left") as raised:
        Wal(small_disk / "wal", cluster=CLUSTER, node_id=NODE, segment_bytes=1 << 20)
    assert raised.value.errno == errno.ENOSPC
    with opened(small_disk / "wal", segment_bytes=64 * 1024) as wal:
        assert wal.recovered.last_index == 0


def test_a_file_size_limit_is_a_full_disk(tmp_path: Path) -> None:
    """Without root: the next segment may not be as large as it is to be."""
    script = """
import resource
path = Path(sys.argv[1])
with opened(path) as wal:
    while not wal._preparer.ready_bytes:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with opened(path, segment_bytes=8192) as wal:
    index = 0
    while wal.has_room(100):
        index += 1
        write(wal, run(index, 1, bytes(100)))
    print(index, not wal._preparer.has_space(), len(list(path.glob("*.tmp"))))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    while not wal.has_room(100):
        wal.poll()
    for index in range(index + 1, index + 100):
        write(wal, run(index, 1, bytes(100)))
    print(index)
"""
    done = child(script, tmp_path / "wal")
    first, last = done.stdout.splitlines() or [done.stderr, ""]
    count, full, leftovers = first.split()
    assert (full, leftovers) == ("True", "0")
    assert int(count) > 15
    assert reference(tmp_path / "wal").last() == (int(last), 1)


def test_prepared_segments_do_not_hold_the_log_up(tmp_path: Path) -> None:
    """The next segment is ready long before it is needed; a roll then touches no directory."""
    with opened(tmp_path / "wal", segment_bytes=SMALL_BYTES) as wal:
        deadline = time.monotonic() + 10
        while not wal._preparer.ready_bytes:
            assert time.monotonic() < deadline
            os.sched_yield()
        names = sorted(path.name for path in (tmp_path / "wal").iterdir())
        assert names == [f"{1:016x}.wal", f"{2:016x}.wal"]
        for index in range(1, 30):
            write(wal, run(index, 1, bytes(100)))
        assert wal._current.segment_id == 2
