"""Data that a newer release has written is refused, whichever of its files says so, and nothing of it is changed."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from click.testing import CliRunner
from xxhash import xxh3_64_intdigest

from fastkv.cli.check import check, repair
from fastkv.cli.inspect.raft import raft
from fastkv.errors import DamagedLog, DamagedStore, NewerVersion, StorageError
from fastkv.kv.store import ImageInfo, ImageRefused
from fastkv.storage import identity, lmdb_format, lmdb_pages, wal_format, wal_seal
from fastkv.storage.check import check as look
from fastkv.storage.directory import DataDirectory
from fastkv.storage.formats import refuse_newer
from fastkv.storage.lmdb_image import Incoming, read_meta
from fastkv.storage.wal_recovery import scan
from fastkv.version import __version__
from tests.fixtures.release import unpack

CLUSTER, NODE = "test-single", "node-1"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A stopped node's directory."""
    unpack("stopped", tmp_path)
    return tmp_path / NODE


def checked(body: bytes) -> bytes:
    """Those bytes and their checksum."""
    return body + xxh3_64_intdigest(body).to_bytes(8, "little")


def overwrite(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


# -- what a newer release would have written, each with its checksum ---------------------------------------------------


def newer_identity(data: Path) -> Path:
    path = data / identity.IDENTITY_FILE
    said = {**json.loads(path.read_bytes()), "format": 2, "something": "new"}
    del said["checksum"]
    digest = xxh3_64_intdigest(json.dumps(said, sort_keys=True).encode())
    path.write_text(json.dumps({**said, "checksum": f"{digest:016x}"}))
    return path


def newer_segment(data: Path) -> Path:
    path = min((data / "wal").glob("*.wal"))
    header = bytearray(path.read_bytes()[: wal_format.SEGMENT_HEADER_BYTES])
    header[8:12] = (2).to_bytes(4, "little")
    overwrite(path, 0, checked(bytes(header[:-8])))
    return path


def newer_seal(data: Path) -> Path:
    path = data / "wal" / wal_seal.FILE
    stored = path.read_bytes()
    path.write_bytes(checked(b"fkvseal2" + stored[8:24]))
    return path


def put_meta(store: Path, *, whole: bool = True) -> None:
    """A meta record of the next format, in a store's file."""
    with lmdb.open(str(store), subdir=False, lock=False, max_dbs=4, map_size=1 << 20) as environment:
        records = environment.open_db(b"meta", create=False)
        with environment.begin(db=records, write=True) as transaction:
            stored = transaction.get(lmdb_format.META_KEY)
            assert stored is not None
            body = (lmdb_format.FORMAT + 1).to_bytes(4, "little") + stored[4:-8] + b"something new"
            transaction.put(lmdb_format.META_KEY, checked(body) if whole else body)


def newer_store(data: Path) -> Path:
    path = data / "store" / lmdb_format.DATA_FILE
    put_meta(path)
    return path


def newer_snapshot(data: Path) -> Path:
    """One that was fetched, and is ready to be installed."""
    path = data / "store.ready" / lmdb_format.DATA_FILE
    path.parent.mkdir()
    path.write_bytes((data / "store" / lmdb_format.DATA_FILE).read_bytes())
    put_meta(path)
    return path


def newer_image(data: Path) -> Path:
    """One that was made for others."""
    path = data / "snapshots" / "0000000000000001-0000000000000001.image"
    path.parent.mkdir()
    path.write_bytes((data / "store" / lmdb_format.DATA_FILE).read_bytes())
    put_meta(path)
    return path


def newer_lmdb(data: Path) -> Path:
    """LMDB 1.0 keeps magic and version behind a longer page header."""
    path = data / "store" / lmdb_format.DATA_FILE
    for page in (0, os.sysconf("SC_PAGE_SIZE")):
        overwrite(path, page, bytes(24) + (0xBEEFC0DE).to_bytes(4, "little") + (2).to_bytes(4, "little"))
    return path


KINDS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "identity": (newer_identity, "format 2, and this release (fastkv {}) knows those up to 1"),
    "segment": (newer_segment, "format 2, and this release (fastkv {}) knows those up to 1"),
    "seal": (newer_seal, "format 2, and this release (fastkv {}) knows those up to 1"),
    "store": (newer_store, "format 4, and this release (fastkv {}) knows those up to 3"),
    "snapshot": (newer_snapshot, "format 4, and this release (fastkv {}) knows those up to 3"),
    "image": (newer_image, "format 4, and this release (fastkv {}) knows those up to 3"),
    "LMDB": (newer_lmdb, "LMDB's format 2, and this release (fastkv {}) knows those up to 1"),
}
kinds = pytest.mark.parametrize(("make", "says"), KINDS.values(), ids=KINDS.keys())


def everything(data: Path) -> dict[str, bytes]:
    """Every file but LOCK, which says who looked at the directory last."""
    files = (path for path in data.rglob("*") if path.is_file() and path.name != "LOCK")
    return {str(path.relative_to(data)): path.read_bytes() for path in files}


@kinds
def test_a_start_a_check_and_a_look_refuse_it(data: Path, make: Callable[[Path], Path], says: str) -> None:
    path = make(data)
    (data / "left.tmp").touch()         # what a start would have tidied up
    before = everything(data)
    text = f"{path} has {says.format(__version__)}: a newer one wrote it. Start the node with the release that wrote it"
    with pytest.raises(NewerVersion) as refused:
        DataDirectory.open(data, cluster=CLUSTER, node_id=NODE)
    assert str(refused.value).startswith(text)
    runner = CliRunner()
    for command, arguments in ((check, []), (repair, ["--yes"]), (raft, ["--data-dir"])):
        done = runner.invoke(command, [*arguments, str(data)])
        assert done.exit_code == 1
        assert text in done.output
        assert done.output.count("\n") == 1, "one line"
    assert everything(data) == before


@pytest.mark.e2e
def test_a_node_does_not_start_with_it(data: Path, tmp_path: Path) -> None:
    path = newer_segment(data)
    before = everything(data)
    config = tmp_path / "cluster.yaml"
    config.write_text(f"cluster: {{name: {CLUSTER}, data_dir: {data.parent}}}\n")
    done = subprocess.run(
        [sys.executable, "-m", "fastkv", "serve", "--config", str(config), "--node-id", NODE],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "critical" in line]
    assert f"{path} has format 2" in line
    assert "Nothing was changed" in line
    assert everything(data) == before


def test_what_this_release_wrote_is_not_newer(data: Path) -> None:
    refuse_newer(data)
    assert lmdb_format.decode_meta(lmdb_pages.stored_meta(data / "store" / lmdb_format.DATA_FILE), data).applied_index


# -- what is damaged is not newer --------------------------------------------------------------------------------------


def flip(path: Path, at: int) -> None:
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 0x02]))


def test_a_version_that_its_checksum_does_not_vouch_for_is_damage(data: Path) -> None:
    segment = min((data / "wal").glob("*.wal"))
    flip(segment, 8)
    refuse_newer(data)
    with pytest.raises(DamagedLog):
        scan(data / "wal", wal_format.log_identity(CLUSTER, NODE))
    flip(segment, 8)
    identity_file = data / identity.IDENTITY_FILE
    whole = identity_file.read_text()
    identity_file.write_text(whole.replace('"format": 1', '"format": 3'))
    with pytest.raises(StorageError, match="is damaged: it is not what was written"):
        DataDirectory.open(data, cluster=CLUSTER, node_id=NODE)
    identity_file.write_text(whole)
    flip(data / "wal" / wal_seal.FILE, 7)
    flip(data / "store" / lmdb_format.DATA_FILE, lmdb_pages.PAGE_HEADER_BYTES + 4)      # of one of LMDB's meta pages
    refuse_newer(data)
    assert {damage.part for damage in look(data).damages} == {"store"}


def test_a_meta_record_that_its_checksum_does_not_vouch_for_is_damage(data: Path) -> None:
    put_meta(data / "store" / lmdb_format.DATA_FILE, whole=False)
    refuse_newer(data)
    with pytest.raises(DamagedStore, match=r"a record cannot be read: .* has format 4"):
        lmdb_pages.verify(data / "store" / lmdb_format.DATA_FILE, content_limit_bytes=0)


# -- a snapshot that comes over the network ----------------------------------------------------------------------------


def test_a_fetched_snapshot_of_a_newer_release_is_refused(data: Path, tmp_path: Path) -> None:
    image = newer_image(data)
    content = image.read_bytes()
    store = tmp_path / "joins" / "store"
    store.mkdir(parents=True)
    info = ImageInfo(1, 1, len(content), xxh3_64_intdigest(content), "lmdb-0.9")
    incoming = Incoming(store, info, cluster=CLUSTER, node_id="node-2", poster=lambda done, error: done(error))
    incoming.write(content)
    with pytest.raises(NewerVersion, match="a newer one wrote it"):
        read_meta(image)
    results: queue.Queue[BaseException | None] = queue.Queue()
    incoming.finish(results.put)
    refused = results.get(timeout=60)
    assert isinstance(refused, ImageRefused)
    assert "has format 4" in str(refused)
    assert not (store.parent / "store.ready").exists()
