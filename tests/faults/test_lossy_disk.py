"""The rules of the lossy disk: what is synced is there, what is not may be gone, and nothing else ever happens."""

from __future__ import annotations

import errno
import random

import pytest

from tests.faults.lossy_disk import SECTOR_BYTES, Loss, LossyDisk

EVERY_LOSS = pytest.mark.parametrize("loss", list(Loss))


def put(disk: LossyDisk, path: str, content: bytes) -> int:
    """A new file, nothing of it synced."""
    number = disk.create(path, 0o644)
    disk.file(number).write(0, content)
    return number


def names(disk: LossyDisk, path: str = "/") -> set[str]:
    return set(disk.directory(disk.find(path)).names)


def sync_root(disk: LossyDisk) -> None:
    disk.sync(disk.find("/"))


@EVERY_LOSS
def test_what_is_synced_with_its_name_is_there(loss: Loss) -> None:
    for seed in range(50):
        disk = LossyDisk()
        disk.sync(put(disk, "/a", b"content" * 1000))
        sync_root(disk)
        disk.cut(loss, seed)
        assert bytes(disk.file(disk.find("/a")).data) == b"content" * 1000


def test_a_synced_file_without_a_synced_name_is_gone() -> None:
    disk = LossyDisk()
    disk.sync(put(disk, "/a", b"content"))
    disk.cut(Loss.ALL, 0)
    with pytest.raises(OSError, match="No such file") as raised:
        disk.find("/a")
    assert raised.value.errno == errno.ENOENT


def test_a_synced_name_without_a_synced_file_is_empty() -> None:
    disk = LossyDisk()
    put(disk, "/a", b"content")
    sync_root(disk)
    disk.cut(Loss.ALL, 0)
    assert bytes(disk.file(disk.find("/a")).data) == b""


@pytest.mark.parametrize("loss", [Loss.MOMENT, Loss.SECTORS])
def test_an_unsynced_name_is_kept_by_some_seeds_and_lost_by_others(loss: Loss) -> None:
    kept = 0
    for seed in range(100):
        disk = LossyDisk()
        disk.sync(put(disk, "/a", b"content"))
        disk.cut(loss, seed)
        kept += names(disk) == {"a"}
    assert 20 < kept < 80


def test_renames_and_removals_are_undone_until_the_directory_is_synced() -> None:
    disk = LossyDisk()
    disk.sync(put(disk, "/old", b"1"))
    disk.sync(put(disk, "/gone", b"2"))
    sync_root(disk)
    disk.rename("/old", "/new")
    disk.remove("/gone")
    assert names(disk) == {"new"}
    disk.cut(Loss.ALL, 0)
    assert names(disk) == {"old", "gone"}
    disk.rename("/old", "/new")
    disk.remove("/gone")
    sync_root(disk)
    disk.cut(Loss.ALL, 0)
    assert names(disk) == {"new"}
    assert bytes(disk.file(disk.find("/new")).data) == b"1"


@EVERY_LOSS
def test_a_rename_is_one_change(loss: Loss) -> None:
    """The new name stands for the old content or the new, and is never missing."""
    seen = set()
    for seed in range(100):
        disk = LossyDisk()
        disk.sync(put(disk, "/a", b"old"))
        disk.sync(put(disk, "/a.tmp", b"new"))
        sync_root(disk)
        disk.rename("/a.tmp", "/a")
        disk.cut(loss, seed)
        seen.add((bytes(disk.file(disk.find("/a")).data), "a.tmp" in names(disk)))
    before, after = (b"old", True), (b"new", False)
    assert seen == ({before} if loss is Loss.ALL else {before, after})


def test_what_is_under_a_lost_directory_is_lost_with_it() -> None:
    disk = LossyDisk()
    directory = disk.mkdir("/d", 0o755)
    disk.sync(put(disk, "/d/a", b"content"))
    disk.sync(directory)
    disk.cut(Loss.ALL, 0)
    assert names(disk) == set()
    assert len(disk.nodes) == 1


def test_writes_are_lost_torn_and_kept() -> None:
    outcomes = set()
    for seed in range(200):
        disk = LossyDisk()
        number = put(disk, "/a", b"a" * 4 * SECTOR_BYTES)
        disk.sync(number)
        sync_root(disk)
        disk.file(number).write(100, b"b" * 3 * SECTOR_BYTES)
        disk.cut(Loss.MOMENT, seed)
        content = bytes(disk.file(disk.find("/a")).data)
        written = content.count(b"b")
        assert content == b"a" * 100 + b"b" * written + b"a" * (4 * SECTOR_BYTES - 100 - written)
        outcomes.add(written)
    assert outcomes == {0, 412, 924, 1436, 1536}


def test_sectors_come_back_each_by_itself_and_whole() -> None:
    mixed = 0
    for seed in range(100):
        disk = LossyDisk()
        number = put(disk, "/a", b"0" * 4 * SECTOR_BYTES)
        disk.sync(number)
        sync_root(disk)
        for version in (b"1", b"2"):
            disk.file(number).write(0, version * 4 * SECTOR_BYTES)
        disk.cut(Loss.SECTORS, seed)
        content = bytes(disk.file(disk.find("/a")).data)
        sectors = [content[start : start + SECTOR_BYTES] for start in range(0, len(content), SECTOR_BYTES)]
        assert all(sector in (b"0" * 512, b"1" * 512, b"2" * 512) for sector in sectors)
        mixed += len(set(sectors)) > 1
    assert mixed > 50


@EVERY_LOSS
def test_a_file_is_what_a_plain_one_is_while_the_power_lasts(loss: Loss) -> None:
    """Any writes and cuts: seen as plain bytes; synced, they stay; and afterwards nothing is volatile."""
    for seed in range(100):
        rng = random.Random(seed)
        disk, plain = LossyDisk(), bytearray()
        number = disk.create("/a", 0o644)
        sync_root(disk)
        for _ in range(20):
            if rng.random() < 0.2:
                size = rng.randrange(3000)
                disk.file(number).resize(size)
                plain = plain[:size].ljust(size, b"\0")
            else:
                offset, data = rng.randrange(3000), rng.randbytes(rng.randrange(1, 1500))
                disk.file(number).write(offset, data)
                plain = plain.ljust(offset, b"\0")
                plain[offset : offset + len(data)] = data
            assert disk.file(number).data == plain
        disk.sync(number)
        disk.cut(loss, seed)
        assert disk.file(number).data == plain
        disk.file(number).write(0, b"x" * 700)
        disk.cut(loss, seed)
        once = bytes(disk.file(number).data)
        disk.cut(loss, seed + 1)
        assert bytes(disk.file(number).data) == once, "after a cut there is nothing left to lose"


def test_a_sync_that_lies_keeps_nothing() -> None:
    disk = LossyDisk()
    disk.syncs_lie = True
    disk.sync(put(disk, "/a", b"content"))
    sync_root(disk)
    disk.cut(Loss.ALL, 0)
    assert names(disk) == set()


def test_errors_are_those_of_system_calls() -> None:
    disk = LossyDisk()
    disk.mkdir("/d", 0o755)
    put(disk, "/d/a", b"")
    for wrong, number in (
        (lambda: disk.remove("/d"), errno.ENOTEMPTY),
        (lambda: disk.create("/d", 0o644), errno.EEXIST),
        (lambda: disk.find("/d/a/b"), errno.ENOTDIR),
        (lambda: disk.find("/e"), errno.ENOENT),
        (lambda: disk.file(disk.find("/d")), errno.EISDIR),
    ):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is looked at
            wrong()
        assert raised.value.errno == number


def test_a_file_without_a_name_lives_until_it_is_closed() -> None:
    disk = LossyDisk()
    number = put(disk, "/a", b"content")
    disk.sync(number)
    sync_root(disk)
    disk.remove("/a")
    sync_root(disk)
    disk.collect([number])
    assert bytes(disk.file(number).data) == b"content"
    disk.collect([])
    assert number not in disk.nodes
