"""The durable store when things go wrong: kills, full disks, readers that died."""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from fastkv.kv.store import Changes, StoreFull, StoreMeta
from fastkv.storage.lmdb_errors import is_no_space
from fastkv.storage.sync import SyncFailed
from tests.storage.stores import Items, Opened, state_at

REPOSITORY = Path(__file__).parents[2]


WRITER = """
import queue, sys, pathlib
from fastkv.kv.store import Changes, StoreMeta
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.storage.sync import SyncFailed
from tests.storage.stores import changes_of, meta_at

posted = queue.SimpleQueue()
store = LmdbStore(pathlib.Path(sys.argv[1]), cluster="c", node_id="node-1", map_bytes=1 << 26,
                  poster=lambda *call: posted.put(call))
held = store.view()
print("ready", flush=True)
index = store.meta.applied_index
while True:
    index += 1
    answers = []
    store.checkpoint(Changes(lambda: changes_of(index).items()), meta_at(index), answers.append)
    call = posted.get()
    call[0](*call[1:])
    assert answers == [None], answers
    print(index, flush=True)
"""


@pytest.mark.slow
def test_data_and_applied_index_move_together_over_kills(tmp_path: Path) -> None:
    """A writer of checkpoints is killed at random moments: nothing is half there, nothing that it reported is lost."""
    rng = random.Random(12)
    applied_index = 0
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            for _ in range(rng.randint(1, 25)):
                reported = int(writer.stdout.readline())
            busy_us = rng.randrange(8000)
            select.select([], [], [], busy_us / 1e6)  # somewhere within the checkpoints that follow
            writer.kill()
            reported = max([reported, *map(int, writer.stdout.read().split("\n")[:-1])])
        assert writer.returncode == -signal.SIGKILL
        with Opened(tmp_path) as opened:
            applied_index = opened.store.meta.applied_index
            assert applied_index in (reported, reported + 1)
            assert opened.contents() == state_at(applied_index)
    assert applied_index > 5


READER = """
import lmdb, sys
environment = lmdb.open(sys.argv[1], max_dbs=4, readonly=True)
transaction = environment.begin()
print("ready", flush=True)
sys.stdin.read()
"""


def test_stale_readers_are_cleared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that was killed, while another (a backup, say) keeps the table of readers alive."""
    Opened(tmp_path).store.close()
    caplog.set_level(logging.INFO, "fastkv.storage.lmdb_store")
    arguments = [sys.executable, "-c", READER, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as backup:
        assert backup.stdout is not None
        assert backup.stdout.readline() == "ready\n"
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as killed:
            assert killed.stdout is not None
            assert killed.stdout.readline() == "ready\n"
            killed.kill()
        with Opened(tmp_path) as opened:
            opened.write({b"a": b"1"}, 1)
        backup.communicate("")
    assert "cleared 1 stale readers" in caplog.text


def test_an_input_output_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    """LMDB calls a short write EIO: where there is room, it was something else, and the node has to stop."""
    error = lmdb.Error("mdb_txn_commit: Input/output error")

    def items() -> Iterator[tuple[bytes, bytes | None]]:
        yield b"a", b"1"
        if not raised:
            raised.append(error)
            raise error

    raised: list[Exception] = []
    Opened(tmp_path).store.close()
    before = (tmp_path / "data.mdb").stat().st_size
    outcome: list[BaseException | None] = []
    with Opened(tmp_path) as opened:
        opened.store.checkpoint(Changes(items), StoreMeta(1), outcome.append)
        opened.run_one()
    assert outcome == [error]
    assert (tmp_path / "data.mdb").stat().st_size == before  # asking for room has taken none


LIMITED = """
import pathlib, resource, sys
from fastkv.kv.store import StoreFull, StoreMeta
from fastkv.storage.sync import SyncFailed
from tests.storage.stores import Opened

with Opened(pathlib.Path(sys.argv[1])) as opened:
    opened.write({b"kept": b"1"}, 1)
    view = opened.store.view()
    changes = {b"%04d" % number: bytes(1000) for number in range(2000)}
    size = (pathlib.Path(sys.argv[1]) / "data.mdb").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 5000, 200_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
        error = opened.checkpoint(changes, StoreMeta(2))
        assert isinstance(error, StoreFull), repr(error)
        assert opened.contents() == {b"kept": b"1"}
        assert opened.store.get(b"kept") == b"1"
        assert opened.store.meta.applied_index == 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    opened.write(changes, 2)
    assert opened.contents() == {**changes, b"kept": b"1"}
    assert list(view.range(b"", b"", False)) == [(b"kept", b"1")]
    view.close()
"""


def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with Opened(tmp_path) as opened:
        assert opened.store.meta.applied_index == 2


CRAMPED = """
import pathlib, resource, sys
from fastkv.kv.store import StoreFull, StoreMeta
from fastkv.storage.sync import SyncFailed
from tests.storage.stores import Opened

with Opened(pathlib.Path(sys.argv[1]), map_bytes=1 << 24) as opened:
    opened.write({b"kept": b"1"}, 1)
    changes = {b"%05d" % number: bytes(1000) for number in range(20_000)}
    assert "grows to 33554432 bytes" in str(opened.checkpoint(changes, StoreMeta(2)))
    with open("/proc/self/statm") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), hard))
    for _ in range(2):
        error = opened.checkpoint(changes, StoreMeta(2))
        assert isinstance(error, StoreFull) and "33554432 addresses" in str(error), repr(error)
        assert opened.store.get(b"kept") == b"1"
        assert opened.contents() == {b"kept": b"1"}
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    opened.write(changes, 2)
    assert opened.contents() == {**changes, b"kept": b"1"}
"""


def test_a_map_that_cannot_grow_is_kept(tmp_path: Path) -> None:
    """LMDB lets go of the old map first: to find out there that the new one does not fit would be too late."""
    done = subprocess.run(
        [sys.executable, "-c", CRAMPED, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted by root: ENOSPC itself is not tested here")
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "fastkv-test", str(mounted)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here, ENOSPC itself is not tested: {done.stderr.strip()}")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_a_full_disk_is_reported_and_passes(small_disk: Path) -> None:
    changes: Items = {b"%04d" % number: bytes(1000) for number in range(1500)}
    ballast = small_disk / "ballast"
    with Opened(small_disk / "store") as opened:
        opened.write({b"kept": b"1"}, 1)
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        ballast.write_bytes(bytes(free - 300_000))
        for _ in range(2):
            error = opened.checkpoint(changes, StoreMeta(2))
            assert isinstance(error, StoreFull), repr(error)
            assert (opened.contents(), opened.store.meta.applied_index) == ({b"kept": b"1"}, 1)
        ballast.unlink()
        opened.write(changes, 2)
        assert opened.contents() == {**changes, b"kept": b"1"}
    with Opened(small_disk / "store") as opened:
        assert opened.store.meta.applied_index == 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lmdb.Error("mdb_put: No space left on device"), True),
        (lmdb.Error("mdb_txn_commit: File too large"), True),
        (lmdb.Error("mdb_txn_commit: Disk quota exceeded"), True),
        (OSError(28, "No space left on device"), True),
        (SyncFailed(28, "No space left on device"), False),
        (OSError(5, "Input/output error"), False),
        (lmdb.Error("mdb_txn_commit: Input/output error"), False),
        (lmdb.CorruptedError("mdb_get: MDB_CORRUPTED"), False),
    ],
)
def test_only_a_want_of_room_passes(error: Exception, expected: bool) -> None:
    assert is_no_space(error) is expected
