"""Images: a whole store on its way to another node. Whatever is not as announced is refused, and changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from fastkv._core.state_hash import hash_of
from fastkv.kv.store import Image, ImageInfo, ImageRefused, StoreMeta
from fastkv.storage import lmdb_image
from fastkv.storage.lmdb_image import pending_install
from fastkv.storage.lmdb_pages import Survey
from fastkv.storage.sync import SyncFailed
from tests.storage.stores import Opened


def numbered(count: int, version: int = 0) -> dict[bytes, bytes | None]:
    return {b"key %06d" % number: b"%d of %d" % (version, number) * 9 for number in range(count)}



META = StoreMeta(700, 3, 90, 400, hash_of(numbered(400).items()), b"members")


def image_of(opened: Opened) -> Image:
    answers: list[tuple[Image | None, BaseException | None]] = []
    opened.store.image(lambda image, error: answers.append((image, error)))
    if not answers:
        opened.run_one()
    ((image, error),) = answers
    assert error is None
    assert image is not None
    return image


def whole(image: Image) -> bytes:
    return image.read(0, image.info.nbytes + 1)


def finish(opened: Opened, info: ImageInfo, content: bytes) -> BaseException | None:
    """Take an image in, in pieces; how it ended."""
    incoming = opened.store.receive(info)
    while incoming.offset < len(content):
        incoming.write(content[incoming.offset : incoming.offset + 10_000])
    outcome: list[BaseException | None] = []
    incoming.finish(outcome.append)
    opened.run_one()
    return outcome[0]


@pytest.fixture
def sent(tmp_path: Path) -> tuple[ImageInfo, bytes]:
    """An image of another node, of 400 keys."""
    with Opened(tmp_path / "sender" / "store", node_id="node-2") as sender:
        assert sender.checkpoint(numbered(400), META) is None
        image = image_of(sender)
        content = whole(image)
        image.close()
        return image.info, content


def receiver(tmp_path: Path) -> Opened:
    opened = Opened(tmp_path / "receiver" / "store")
    if opened.store.meta.applied_index == 0:
        opened.write({b"old": b"value"}, 5)
    return opened


def test_an_image_brings_the_whole_state(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    assert (info.applied_index, info.applied_term, info.nbytes) == (700, 3, len(content))
    with receiver(tmp_path) as opened:
        assert finish(opened, info, content) is None
        assert opened.contents() == {b"old": b"value"}          # nothing changes before the installation
        assert (tmp_path / "receiver" / "store.ready").exists()
        assert opened.store.install() == META
        assert opened.contents() == numbered(400)
        opened.write({b"new": b"value"}, 701)
    with receiver(tmp_path) as opened:                          # it is this node's own store now
        assert opened.contents() == {**numbered(400), b"new": b"value"}
    assert sorted(path.name for path in (tmp_path / "receiver").iterdir()) == ["store"]


def test_an_image_is_of_one_checkpoint_and_does_not_stop_the_next(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.checkpoint(numbered(5000), dataclasses.replace(META, applied_index=1))
        answers: list[tuple[Image | None, BaseException | None]] = []
        opened.store.image(lambda image, error: answers.append((image, error)))
        opened.start(numbered(5000, 1), dataclasses.replace(META, applied_index=2))
        opened.run_one()
        opened.run_one()
        ((image, _),) = answers
        assert image is not None
        assert image.info.applied_index in (1, 2)
        newer = image_of(opened)
        assert newer.info.applied_index == 2
        assert whole(image)                                     # still readable
        again = image_of(opened)
        assert again.info == newer.info
        for each in (image, newer, again):
            each.close()
        assert len(list((tmp_path / "snapshots").iterdir())) == 1


def test_what_is_copied_is_what_was_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that ends between the two is not in the image."""
    with Opened(tmp_path / "store") as opened:
        opened.checkpoint(numbered(400), META)
        before = opened.contents()
        verify = lmdb_image.verify

        def then_write(path: Path, **how: Any) -> Survey:
            found = verify(path, **how)
            if path.name == "data.mdb":
                with opened.store._environment.begin(write=True) as transaction:
                    transaction.put(b"unseen", b"value", db=opened.store.data)
            return found

        monkeypatch.setattr(lmdb_image, "verify", then_write)
        image = image_of(opened)
        assert opened.contents() == {**before, b"unseen": b"value"}
        assert b"unseen" not in whole(image)
        image.close()


@pytest.mark.parametrize(("number", "kind"), [(errno.EIO, SyncFailed), (errno.ENOSPC, lmdb.Error)])
def test_a_disk_that_fails_under_a_copy_is_told_from_a_full_one(
    tmp_path: Path, number: int, kind: type[Exception]
) -> None:
    """LMDB passes on the system's text only; the first ends the node, the second passes."""

    class Failing:
        def copyfd(self, fd: int, **how: Any) -> None:
            raise lmdb.Error(f"mdb_env_copyfd3: {os.strerror(number)}")

    with pytest.raises(kind):
        lmdb_image._copy(Failing(), None, tmp_path / "copy")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda content: content[:-1], "bytes, and"),
        (lambda content: content + b"x", "bytes, and"),
        (lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:], "checksum is wrong"),
        (lambda content: content[4096:8192] + content[:4096] + content[8192:], "checksum is wrong"),
    ],
    ids=["cut", "longer", "altered", "swapped"],
)
def test_what_is_not_as_announced_is_refused(
    tmp_path: Path, sent: tuple[ImageInfo, bytes], change: Callable[[bytes], bytes], says: str
) -> None:
    info, content = sent
    with receiver(tmp_path) as opened:
        error = finish(opened, info, change(content))
        assert isinstance(error, ImageRefused)
        assert says in str(error)
        assert not (tmp_path / "receiver" / "store.ready").exists()
        assert not (tmp_path / "receiver" / "store.part").exists()
        assert opened.contents() == {b"old": b"value"}
        assert finish(opened, info, content) is None            # and the next one is welcome


def test_another_index_than_announced_is_refused(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    with receiver(tmp_path) as opened:
        error = finish(opened, dataclasses.replace(info, applied_index=701), content)
        assert isinstance(error, ImageRefused)
        assert "ends with entry 700 of term 3, and 701 of term 3 was announced" in str(error)


def test_another_cluster_s_is_refused(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    with Opened(tmp_path / "receiver" / "store", cluster="other") as opened:
        error = finish(opened, info, content)
        assert isinstance(error, ImageRefused)
        assert "is of cluster 'c', and this node belongs to 'other'" in str(error)


def test_older_images_and_other_kinds_are_refused_at_once(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, _ = sent
    with receiver(tmp_path) as opened:
        with pytest.raises(ImageRefused, match="ends with entry 5, this store with 5"):
            opened.store.receive(dataclasses.replace(info, applied_index=5))
        with pytest.raises(ImageRefused, match="kind 'lmdb-7'"):
            opened.store.receive(dataclasses.replace(info, kind="lmdb-7"))


def test_bytes_that_are_no_store_are_refused(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    content = b"no store at all" * 1000
    info = dataclasses.replace(
        sent[0], nbytes=len(content), checksum=lmdb_image.xxh3_64(content).intdigest()
    )
    with receiver(tmp_path) as opened:
        assert "is damaged: at byte 0 there is no meta page" in str(finish(opened, info, content))


def test_it_goes_on_after_a_break_and_after_a_restart(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    for _ in range(3):
        with receiver(tmp_path) as opened:
            incoming = opened.store.receive(info)
            start = incoming.offset
            incoming.write(content[start : start + len(content) // 4])
            incoming.close()
            assert opened.store.receive(info).offset == start + len(content) // 4
    with receiver(tmp_path) as opened:
        assert opened.store.receive(info).offset == 3 * (len(content) // 4)
        assert finish(opened, info, content) is None
    with receiver(tmp_path) as opened:
        assert opened.contents() == numbered(400)


def test_another_image_begins_anew(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    with receiver(tmp_path) as opened:
        opened.store.receive(info).write(content[:5000])
        assert opened.store.receive(dataclasses.replace(info, applied_index=800)).offset == 0


class Crash(Exception):
    """The process ends here."""


LAST_STEP_BEFORE_THE_RENAME = 5


@pytest.mark.parametrize("step", range(1, 15))
def test_a_crash_at_any_step_of_an_installation(
    tmp_path: Path, sent: tuple[ImageInfo, bytes], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Before the rename to `store.ready` the old state is there, and from then on the next start has the new one."""
    info, content = sent
    count, ended = 0, False

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal count, ended
            count += 1
            if count == step:
                ended = True
            if ended:
                raise Crash
            return real(*arguments, **named)

        return call

    opened = receiver(tmp_path)
    incoming = opened.store.receive(info)
    incoming.write(content)
    opened.store._reader.abort()
    opened.store._environment.close()
    with monkeypatch.context() as patched:
        for name in ("rename", "unlink"):
            patched.setattr(Path, name, counted(getattr(Path, name)))
        patched.setattr(lmdb_image, "sync_directory", counted(lmdb_image.sync_directory))
        patched.setattr(lmdb_image, "_make_ours", counted(lmdb_image._make_ours))
        patched.setattr(lmdb_image.shutil, "rmtree", counted(shutil.rmtree))
        with contextlib.suppress(Crash):
            incoming._verify()
            lmdb_image.exchange(tmp_path / "receiver" / "store")
    renamed = pending_install(tmp_path / "receiver" / "store") is not None
    assert ended == (step <= count)
    with receiver(tmp_path) as after:
        new = after.contents() == numbered(400)
        assert new == (after.store.meta == META)
        assert new or after.contents() == {b"old": b"value"}
        assert new or not renamed
        seen = (count, new)
    assert seen[1] == (step > LAST_STEP_BEFORE_THE_RENAME), seen
    assert not (tmp_path / "receiver" / "store.ready").exists()
    assert not (tmp_path / "receiver" / "store.old").exists()


def test_no_room_for_an_image_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Opened(tmp_path / "store") as opened:
        opened.write({b"k": b"v"}, 1)
        monkeypatch.setattr("fastkv.storage.lmdb_store.make_image", full)
        answers: list[tuple[object, BaseException | None]] = []
        opened.store.image(lambda image, error: answers.append((image, error)))
        opened.run_one()
        ((image, error),) = answers
        assert image is None
        assert "no room for a snapshot" in str(error)
        monkeypatch.undo()
        image_of(opened).close()


def test_lmdb_itself_agrees_that_an_image_is_a_store(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    (tmp_path / "copy.mdb").write_bytes(sent[1])
    with lmdb.open(str(tmp_path / "copy.mdb"), subdir=False, readonly=True, lock=False, max_dbs=4) as environment:
        assert environment.stat()["entries"] == 3


def test_an_image_that_the_log_has_overtaken_is_not_installed(tmp_path: Path, sent: tuple[ImageInfo, bytes]) -> None:
    info, content = sent
    with receiver(tmp_path) as opened:
        assert finish(opened, info, content) is None
        opened.write({b"later": b"value"}, 900)                 # from here on the log may be cut behind it
    assert pending_install(tmp_path / "receiver" / "store") is None
    with receiver(tmp_path) as opened:
        assert opened.store.meta.applied_index == 900
    assert sorted(path.name for path in (tmp_path / "receiver").iterdir()) == ["store"]


def test_what_is_left_of_a_snapshot_that_was_half_removed_stops_nobody(tmp_path: Path) -> None:
    """By versions that removed it under its own name."""
    with receiver(tmp_path):
        pass
    (tmp_path / "receiver" / "store.ready").mkdir()
    with receiver(tmp_path) as opened:
        assert opened.contents() == {b"old": b"value"}
    assert not (tmp_path / "receiver" / "store.ready").exists()
