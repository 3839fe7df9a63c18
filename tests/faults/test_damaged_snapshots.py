"""A store that is damaged, or was altered, is neither handed on nor taken in: nobody gets what was never written."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lmdb
import pytest
from xxhash import xxh3_64_intdigest

from fastkv._core.codes import Status
from fastkv._core.frames import FrameReader
from fastkv._core.state_hash import hash_of
from fastkv.errors import DamagedStore
from fastkv.kv.store import Image, ImageInfo, ImageRefused, StoreMeta
from fastkv.node.audit import Audit
from fastkv.node.snapshots import ImageServer
from fastkv.storage.lmdb_format import NAMED_DATABASES, UNCHECKED_FORMAT, decode_meta, encode_meta
from fastkv.storage.lmdb_image import KIND, pending_install
from fastkv.storage.lmdb_pages import EVERYTHING, survey
from fastkv.wire.peer import SnapshotAsk, encode_snapshot_ask
from tests.node.test_image_fetch import settings
from tests.storage.stores import Opened

PAGE = 4096
RECORDS = {b"key %05d" % n: b"value %d " % n * (1000 if n % 50 == 0 else 20) for n in range(600)}
KEYS: dict[bytes, bytes | None] = {**RECORDS}
META = StoreMeta(70, 3, 600, len(RECORDS), hash_of(RECORDS.items()))


def damage(path: Path) -> None:
    """Another byte in each page but for the first two, as a disk may give them back."""
    data = bytearray(path.read_bytes())
    for at in range(2 * PAGE + 3000, len(data), PAGE):
        data[at] ^= 4
    with path.open("r+b") as file:      # in place: others have it mapped
        file.write(data)


def alter(path: Path, *, subdir: bool = True) -> None:
    """Another value, written by LMDB itself: every page is whole, and the content is not what was written."""
    with lmdb.open(str(path), subdir=subdir, max_dbs=NAMED_DATABASES, map_size=1 << 26, lock=False) as environment:
        data = environment.open_db(b"data", create=False)
        with environment.begin(write=True, db=data) as transaction:
            transaction.put(b"key 00007", transaction.get(b"key 00007")[:-1] + b"?")


def image_of(opened: Opened) -> tuple[Image | None, BaseException | None]:
    answers: list[tuple[Image | None, BaseException | None]] = []
    opened.store.image(lambda image, error: answers.append((image, error)))
    if not answers:
        opened.run_one()
    return answers[0]


@pytest.fixture
def full(tmp_path: Path) -> Opened:
    opened = Opened(tmp_path / "one" / "store")
    assert opened.checkpoint(KEYS, META) is None
    return opened


def test_a_store_that_is_damaged_while_it_is_open_is_not_handed_on(full: Opened, tmp_path: Path) -> None:
    with full:
        damage(tmp_path / "one" / "store" / "data.mdb")
        image, error = image_of(full)
        assert image is None
        assert isinstance(error, DamagedStore)
        assert not list((tmp_path / "one").glob("snapshots/*.image"))


def test_its_node_serves_nothing_from_then_on(full: Opened, tmp_path: Path) -> None:
    sent: list[bytes] = []
    audit = Audit("node-1", patience_ticks=10)
    with full:

        def send(to: str, frame: bytes) -> bool:
            sent.append(frame)
            return True

        server = ImageServer(full.store, send, settings(), audit.accuse)
        damage(tmp_path / "one" / "store" / "data.mdb")
        ((*_, body),) = FrameReader(1 << 20).feed(encode_snapshot_ask(SnapshotAsk(1, 0, 0, 0, 1000)))
        server.asked("node-2", body)
        full.run_one()
        assert "data.mdb is damaged" in audit.alarm
        ((_, _, code, _, _),) = FrameReader(1 << 20).feed(sent[0])
        assert code == Status.KEY_NOT_FOUND, "it has none to give"
        server.close()


def test_an_altered_store_is_not_believed(full: Opened, tmp_path: Path) -> None:
    full.store.close()
    alter(tmp_path / "one" / "store")
    with pytest.raises(DamagedStore, match="the content has the hash"):
        Opened(tmp_path / "one" / "store")


def test_an_altered_meta_record_is_not_believed(full: Opened, tmp_path: Path) -> None:
    """One that says another applied index would have entries applied twice, or never."""
    full.store.close()
    file = tmp_path / "one" / "store" / "data.mdb"
    data = file.read_bytes()
    wanted = (70).to_bytes(8, "little") + (3).to_bytes(8, "little") + (600).to_bytes(8, "little")
    assert wanted in data
    file.write_bytes(data.replace(wanted, (69).to_bytes(8, "little") + wanted[8:]))
    with pytest.raises(DamagedStore, match="wrong checksum"):
        Opened(tmp_path / "one" / "store")


def received(opened: Opened, info: ImageInfo, content: bytes) -> BaseException | None:
    incoming = opened.store.receive(info)
    incoming.write(content)
    outcome: list[BaseException | None] = []
    incoming.finish(outcome.append)
    opened.run_one()
    return outcome[0]


@pytest.mark.parametrize("how", ["damaged", "altered"])
def test_a_snapshot_of_a_store_that_is_not_whole_is_not_taken_in(full: Opened, tmp_path: Path, how: str) -> None:
    """Its checksum is right: it was made of a damaged store, by a node that has not noticed."""
    with full:
        image, _ = image_of(full)
        assert image is not None
        file = tmp_path / "image"
        file.write_bytes(image.read(0, image.info.nbytes))
        image.close()
    damage(file) if how == "damaged" else alter(file, subdir=False)
    content = file.read_bytes()
    info = ImageInfo(70, 3, len(content), xxh3_64_intdigest(content), KIND)
    with Opened(tmp_path / "two" / "store") as opened:
        error = received(opened, info, content)
        assert isinstance(error, ImageRefused)
        assert "is damaged" in str(error)
        assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["store"]


def test_a_snapshot_that_was_ready_and_is_damaged_is_not_installed(full: Opened, tmp_path: Path) -> None:
    with full:
        image, _ = image_of(full)
        assert image is not None
        content = image.read(0, image.info.nbytes)
        with Opened(tmp_path / "two" / "store") as opened:
            assert received(opened, image.info, content) is None
        image.close()
    assert pending_install(tmp_path / "two" / "store") == (70, 3)
    damage(tmp_path / "two" / "store.ready" / "data.mdb")
    with pytest.raises(DamagedStore):
        pending_install(tmp_path / "two" / "store")


def test_a_store_longer_than_what_is_verified_is_looked_at_all_the_same(full: Opened, tmp_path: Path) -> None:
    """Its content is not, but its pages are: LMDB must never follow one that leads nowhere."""
    full.store.close()
    file = tmp_path / "one" / "store" / "data.mdb"
    assert not survey(file, content_limit_bytes=0).content_checked
    assert survey(file, content_limit_bytes=EVERYTHING).content_checked
    data = bytearray(file.read_bytes())
    for leaf in (at for at in range(2 * PAGE, len(data), PAGE) if data[at + 10] == 2):
        data[leaf + 17] ^= 0x40         # where the leaf's first node is
    file.write_bytes(data)
    assert survey(file, content_limit_bytes=0).damages


def test_the_store_of_the_format_before_is_read(tmp_path: Path) -> None:
    stored = encode_meta(dataclasses.replace(META, membership=b"members"))
    old = UNCHECKED_FORMAT.to_bytes(4, "little") + stored[4:-8]
    assert decode_meta(old, tmp_path) == dataclasses.replace(META, membership=b"members")
