"""Files that are written and read past the page cache: the same bytes, whatever the file system can do."""

from __future__ import annotations

import errno
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastkv.storage import past_cache
from fastkv.storage.past_cache import PIECE_BYTES, PieceWriter, open_for_reading

IN_MEMORY = Path("/dev/shm")        # a file system that has nothing but the cache


def written(path: Path, content: bytes, step: int) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    writer = PieceWriter(fd)
    try:
        for start in range(0, len(content), step):
            writer.write(content[start : start + step])
        writer.flush()
        assert writer.nbytes == len(content)
    finally:
        writer.close()
        os.close(fd)


def is_cached(path: Path) -> bool:
    """Whether the file's first bytes can be read without the disk. To be asked once: it has the kernel read ahead."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize("nbytes", [0, 1, 4095, 4096, PIECE_BYTES, PIECE_BYTES + 4096, 3 * PIECE_BYTES + 4097])
@pytest.mark.parametrize("step", [1000, 4096, PIECE_BYTES + 1, 10 * PIECE_BYTES])
def test_what_is_written_is_there(tmp_path: Path, nbytes: int, step: int) -> None:
    content = random.Random(nbytes).randbytes(nbytes)
    written(tmp_path / "file", content, max(step, nbytes // 1000))
    assert (tmp_path / "file").read_bytes() == content


def test_it_goes_on_behind_a_flush(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    writer = PieceWriter(fd)
    parts = [b"a" * 4096, b"b" * 100, b"c" * 9000]
    for part in parts:
        writer.write(part)
        writer.flush()
    writer.close()
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)


def test_neither_side_leaves_anything_in_the_cache(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(2 * PIECE_BYTES)
    once, read, cached = (tmp_path / name for name in ("once", "read", "cached"))
    for path in (once, read, cached):
        written(path, content, 100_000)
    fd = open_for_reading(read)
    with past_cache.mmap.mmap(-1, 4096) as piece:
        assert os.preadv(fd, [piece], PIECE_BYTES) == 4096
        assert piece[:] == content[PIECE_BYTES : PIECE_BYTES + 4096]
    os.close(fd)
    assert cached.read_bytes() == content       # the difference can be told
    assert (is_cached(once), is_cached(read), is_cached(cached)) == (False, False, True)


@contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch, call: str) -> Iterator[None]:
    """A file system that does without O_DIRECT, and says so when it is asked for (`fcntl`), or used."""
    real = getattr(past_cache.fcntl if call == "fcntl" else os, call)

    def refuse(fd: int, *arguments: Any) -> Any:
        if call == "fcntl" and arguments[0] == past_cache.fcntl.F_SETFL and arguments[1] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not here")
        if call != "fcntl" and past_cache.fcntl.fcntl(fd, past_cache.fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "not here")
        return real(fd, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(past_cache.fcntl if call == "fcntl" else os, call, refuse)
        yield


@pytest.mark.parametrize("calls", [("fcntl", "fcntl"), ("pwrite", "preadv")])
def test_a_file_system_without_it_is_written_and_synced_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, str]
) -> None:
    content = random.Random(2).randbytes(3 * PIECE_BYTES)
    syncs: list[int] = []
    monkeypatch.setattr(past_cache, "sync_file", lambda fd, data_only: syncs.append(os.fstat(fd).st_size))
    with refusing(monkeypatch, calls[0]):
        written(tmp_path / "file", content, 70_000)
    assert syncs == [PIECE_BYTES, 2 * PIECE_BYTES, 3 * PIECE_BYTES]
    assert (tmp_path / "file").read_bytes() == content
    with refusing(monkeypatch, calls[1]):
        fd = open_for_reading(tmp_path / "file")
        assert os.pread(fd, 10, 7) == content[7:17]     # unaligned: it is not O_DIRECT
        os.close(fd)


@pytest.mark.skipif(not IN_MEMORY.is_dir(), reason="no file system in memory")
def test_a_file_system_in_memory() -> None:
    path = IN_MEMORY / f"fastkv-test-{os.getpid()}"
    content = random.Random(3).randbytes(PIECE_BYTES + 12_345)
    try:
        written(path, content, 70_000)
        os.close(open_for_reading(path))
        assert path.read_bytes() == content
    finally:
        path.unlink(missing_ok=True)


def test_a_disk_that_is_full_is_said(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    writer = PieceWriter(fd)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PIECE_BYTES, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            writer.write(bytes(4 * PIECE_BYTES))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        writer.close()
        os.close(fd)
