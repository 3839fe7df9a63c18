"""Backup files: whole under their name or not there at all, and whatever was done to one since is noticed."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from fastkv._core.state_hash import hash_of
from fastkv.errors import BackupExists, BadBackup, NoSpace
from fastkv.kv.store import ImageInfo, StoreMeta
from fastkv.storage.backup_file import (
    TRAILER_BYTES,
    Backup,
    BackupWriter,
    encode_trailer,
    read_backup,
    verify_backup,
)
from tests.storage.logs import patch
from tests.storage.stores import Opened
from tests.storage.streams import begin, take_all
from tests.storage.test_images import numbered

MADE_AT = "2026-11-27T19:30:00Z"
KEYS = numbered(2000)
META = StoreMeta(700, 3, 90, len(KEYS), hash_of(KEYS.items()), b"")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageInfo, bytes]:
    """What a node sends."""
    with Opened(tmp_path_factory.mktemp("node") / "store", cluster="shop", node_id="node-2") as node:
        assert node.checkpoint(KEYS, META) is None
        stream = begin(node)
        content = take_all(node, stream)
        return stream.info, content


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sent: tuple[ImageInfo, bytes]) -> bytes:
    """A whole file."""
    path, _ = save(tmp_path_factory.mktemp("made"), *sent)
    return path.read_bytes()


def fill(writer: BackupWriter, content: bytes) -> None:
    """As a download does: into the writer's own memory."""
    while content:
        room = writer.room()[:10_000]
        some, content = content[: len(room)], content[len(room) :]
        room[: len(some)] = some
        writer.filled(len(some))


def save(directory: Path, info: ImageInfo, content: bytes, name: str = "b") -> tuple[Path, Backup]:
    writer = BackupWriter(directory, info)
    try:
        fill(writer, content)
        return writer.finish(MADE_AT, lambda backup: directory / name)
    finally:
        writer.abort()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_backup_says_what_it_is(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    path, backup = save(tmp_path, info, content)
    assert backup == read_backup(path) == verify_backup(path)
    assert (backup.cluster, backup.node, backup.index, backup.term) == ("shop", "node-2", 700, 3)
    assert (backup.revision, backup.keys, backup.state_hash) == (90, 2000, f"{META.state_hash:016x}")
    assert (backup.made_at, backup.file_bytes) == (MADE_AT, path.stat().st_size)
    assert path.read_bytes()[:-TRAILER_BYTES] == content
    assert names(tmp_path) == ["b"]


@pytest.mark.parametrize("left", [0, 1, TRAILER_BYTES - 1, TRAILER_BYTES, TRAILER_BYTES + 1, 100_000, -4096, -1])
def test_a_file_that_was_cut_is_none(tmp_path: Path, made: bytes, left: int) -> None:
    path = tmp_path / "cut"
    path.write_bytes(made[:left] if left >= 0 else made[: len(made) + left])
    with pytest.raises(BadBackup):
        verify_backup(path)


def test_a_file_with_more_behind_it_is_none(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "longer"
    for behind in (b"\0", bytes(4096), made):
        path.write_bytes(made + behind)
        if behind == made:          # its end is a whole description, of a file that is shorter
            with pytest.raises(BadBackup, match=r"has \d+ bytes, and"):
                read_backup(path)
        with pytest.raises(BadBackup):
            verify_backup(path)


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "flipped"
    path.write_bytes(made)
    step = len(made) // 61
    for offset in [*range(0, len(made), step), len(made) - TRAILER_BYTES, len(made) - 2000, len(made) - 1]:
        patch(path, offset, bytes([made[offset] ^ 0x10]))
        with pytest.raises(BadBackup):
            verify_backup(path)
        patch(path, offset, made[offset : offset + 1])
    verify_backup(path)


@pytest.mark.parametrize(
    "changed", [{"revision": 91}, {"index": 701}, {"cluster": "till"}, {"keys": 3}, {"node": "node-1"}]
)
def test_a_description_of_another_state_is_not_believed(
    tmp_path: Path, made: bytes, changed: dict[str, object]
) -> None:
    path = tmp_path / "lies"
    path.write_bytes(made)
    backup = replace(read_backup(path), **changed)      # type: ignore[arg-type]
    path.write_bytes(made[:-TRAILER_BYTES] + encode_trailer(backup))
    with pytest.raises(BadBackup, match="not what it says"):
        verify_backup(path)


def test_another_format_is_named(tmp_path: Path, made: bytes) -> None:
    path = tmp_path / "later"
    path.write_bytes(made)
    page = bytearray(encode_trailer(read_backup(path)))
    page[8:12] = (2).to_bytes(4, "little")
    page[-8:] = xxh3_64_intdigest(bytes(page[:-8])).to_bytes(8, "little")
    path.write_bytes(made[:-TRAILER_BYTES] + page)
    with pytest.raises(BadBackup, match="format 2"):
        read_backup(path)


def test_no_other_file_is_overwritten(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(BackupExists, match="left as it is"):
        save(tmp_path, *sent)
    assert (tmp_path / "b").read_text() == "mine"
    assert names(tmp_path) == ["b"]


def test_what_did_not_arrive_whole_is_not_kept(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    for wrong in (content[:-1], content + b"\0", b""):
        with pytest.raises(BadBackup, match="bytes were received, and"):
            save(tmp_path, info, wrong)
    for announced in (replace(info, applied_index=701), replace(info, applied_term=2), replace(info, checksum=1)):
        with pytest.raises(BadBackup, match="not the snapshot that was announced"):
            save(tmp_path, announced, content)
    with pytest.raises(BadBackup, match="kind 'other'"):
        save(tmp_path, replace(info, kind="other"), content)
    assert names(tmp_path) == []


def test_a_store_that_is_not_whole_is_not_kept(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    """The node's checksum is of what it has sent, which may have been altered before."""
    info, content = sent
    at = content.index(b"0 of 1500")
    altered = content[:at] + b"7" + content[at + 1 :]
    with pytest.raises(BadBackup, match="not whole"):
        save(tmp_path, replace(info, checksum=xxh3_64_intdigest(altered)), altered)
    assert names(tmp_path) == []


@contextmanager
def files_no_longer_than(nbytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("behind_image", [-1000, 1000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, sent: tuple[ImageInfo, bytes], behind_image: int) -> None:
    info, content = sent
    with files_no_longer_than(info.nbytes + behind_image), pytest.raises(NoSpace, match="nothing was kept"):
        save(tmp_path, info, content)
    assert names(tmp_path) == []


def test_what_a_killed_backup_left_goes_with_the_next(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    killed = tmp_path / ".0123.fkvpart"
    killed.write_bytes(b"half")
    under_way = BackupWriter(tmp_path, info)
    fill(under_way, content)
    save(tmp_path, info, content, "other")
    assert not killed.exists()
    under_way.finish(MADE_AT, lambda backup: tmp_path / "first")       # one that is under way is left alone
    assert names(tmp_path) == ["first", "other"]


def test_the_description_is_readable_by_others(tmp_path: Path, made: bytes) -> None:
    page = made[-TRAILER_BYTES:]
    nbytes = int.from_bytes(page[12:16], "little")
    assert page[:8] == b"fkvback1"
    assert json.loads(page[16 : 16 + nbytes])["cluster"] == "shop"
