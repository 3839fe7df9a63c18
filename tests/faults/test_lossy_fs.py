"""The lossy disk as the kernel sees it: calls go through, caches hold nothing back, and the power goes when told to."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from tests.faults import lossy_mount
from tests.faults.lossy_disk import Kind, Loss
from tests.faults.lossy_mount import CannotMount, LossyMount, mounted_or_skipped


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LossyMount]:
    """A lossy disk."""
    with mounted_or_skipped(tmp_path) as mount:
        yield mount


def lose_power(disk: LossyMount) -> None:
    disk.cut(Loss.ALL, 0)
    disk.power_on()


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def test_what_was_synced_survives_and_nothing_else(disk: LossyMount) -> None:
    (disk.path / "kept").write_bytes(b"synced")
    sync(disk.path / "kept")
    sync(disk.path)
    (disk.path / "lost").write_bytes(b"file and name")
    (disk.path / "kept").write_bytes(b"not synced, and longer")
    assert (disk.path / "kept").read_bytes() == b"not synced, and longer"
    lose_power(disk)
    assert [path.name for path in disk.path.iterdir()] == ["kept"]
    assert (disk.path / "kept").read_bytes() == b"synced"


def test_a_write_with_o_dsync_is_durable(disk: LossyMount) -> None:
    fd = os.open(disk.path / "file", os.O_RDWR | os.O_CREAT | os.O_DSYNC)
    sync(disk.path)
    os.pwrite(fd, b"durable", 0)
    os.close(fd)
    lose_power(disk)
    assert (disk.path / "file").read_bytes() == b"durable"


def test_calls_do_what_they_do_elsewhere(disk: LossyMount) -> None:
    """Room ahead, truncation, vectors, a shared map, a removed file that is still open, renames over each other."""
    fd = os.open(disk.path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, 10_000)
    assert os.fstat(fd).st_size == 10_000
    assert os.pwritev(fd, [b"abc", b"def"], 5) == 6
    os.ftruncate(fd, 8_192)
    with mmap.mmap(fd, 8_192) as mapped:
        assert mapped[5:11] == b"abcdef"
        mapped[0:2] = b"xy"
        mapped.flush()
    assert os.pread(fd, 11, 0) == b"xy\0\0\0abcdef"
    (disk.path / "other").write_bytes(b"other")
    (disk.path / "other").rename(disk.path / "file")
    assert (disk.path / "file").read_bytes() == b"other"
    assert os.pread(fd, 2, 0) == b"xy", "what was open lives on"
    os.close(fd)
    (disk.path / "directory").mkdir()
    (disk.path / "directory" / "file").touch()
    with pytest.raises(OSError, match="not empty") as raised:
        (disk.path / "directory").rmdir()
    assert raised.value.errno == errno.ENOTEMPTY


def test_after_a_cut_every_descriptor_fails(disk: LossyMount) -> None:
    fd = os.open(disk.path / "file", os.O_RDWR | os.O_CREAT)
    disk.cut(Loss.ALL, 0)
    for call in (lambda: os.pwrite(fd, b"x", 0), lambda: os.fsync(fd), lambda: os.listdir(disk.path)):
        with pytest.raises(OSError, match="Input/output error") as raised:
            call()
        assert raised.value.errno == errno.EIO
    os.close(fd)
    disk.power_on()
    assert list(disk.path.iterdir()) == []


WRITER = """
import os, sys
for number in range(100):
    fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    os.pwrite(fd, b"%02d" % number, 0)
    os.fsync(fd)
"""


@pytest.mark.parametrize("power_goes", [False, True])
def test_before_the_nth_change_the_caller_is_killed_or_the_power_goes(disk: LossyMount, power_goes: bool) -> None:
    (disk.path / "file").touch()
    sync(disk.path)
    if power_goes:
        disk.arm_cut(7, Loss.ALL, 0, [Kind.SYNC])
    else:
        disk.arm_kill(7, [Kind.SYNC])
    done = subprocess.run([sys.executable, "-c", WRITER, disk.path / "file"], timeout=60, check=False)
    assert done.returncode == -9
    assert disk.changes() == {"changes": 7, "fired": True, "off": power_goes}
    if power_goes:
        disk.power_on()
        assert (disk.path / "file").read_bytes() == b"05", "six writes were synced"
    else:
        assert (disk.path / "file").read_bytes() == b"06", "the seventh is in the cache"
        lose_power(disk)
        assert (disk.path / "file").read_bytes() == b"05"


LMDB = """
import lmdb, os, signal, sys
environment = lmdb.open(sys.argv[1], map_size=1 << 24)
for number in range(10):
    with environment.begin(write=True) as transaction:
        transaction.put(b"key", b"%d" % number)
print("done", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_lmdb_works_on_it_and_its_commits_are_durable(disk: LossyMount, tmp_path: Path) -> None:
    store = disk.path / "store"
    subprocess.run([sys.executable, "-c", LMDB, store], timeout=60, check=False)
    sync(store)
    sync(disk.path)
    lose_power(disk)
    copy = tmp_path / "copy"        # read elsewhere: nothing of this process is to be mapped when a server ends
    copy.write_bytes((store / "data.mdb").read_bytes())
    with lmdb.open(str(copy), subdir=False, lock=False) as environment, environment.begin() as transaction:
        assert transaction.get(b"key") == b"9"


def test_it_is_unmounted_whatever_happens(tmp_path: Path) -> None:
    mount = mounted_or_skipped(tmp_path)
    fd = os.open(mount.path / "file", os.O_RDWR | os.O_CREAT)
    with pytest.raises(KeyError), mount:
        raise KeyError
    assert not os.path.ismount(mount.path)
    assert list(mount.path.iterdir()) == []
    with pytest.raises(OSError, match=r"not connected|abort"):
        os.pwrite(fd, b"x", 0)
    with contextlib.suppress(OSError):      # closed it is, also where that says that nobody answers
        os.close(fd)
    mount.unmount()


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossy_mount, "what_is_missing", lambda: "there is no such thing")
    with pytest.raises(CannotMount, match="there is no such thing"):
        LossyMount(tmp_path)
    with pytest.raises(pytest.skip.Exception, match="power loss is NOT tested: there is no such thing"):
        mounted_or_skipped(tmp_path, "another")
