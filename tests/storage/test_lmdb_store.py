"""The durable store: what it says of itself, what views see, and that data and applied index move together."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from fastkv._core.state_hash import hash_of
from fastkv.errors import StorageError, WrongDirectory
from fastkv.kv.store import Changes, ImageInfo, StoreFull, StoreMeta
from fastkv.storage import lmdb_store
from fastkv.storage.lmdb_image import LmdbImage
from fastkv.storage.lmdb_store import META_KEY
from tests.storage.stores import MAP_BYTES, Items, Opened


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opened]:
    with Opened(tmp_path) as made:
        yield made


def raw(path: Path, work: Callable[[lmdb.Transaction[bytes], object], object]) -> None:
    """Change the meta database behind the store's back."""
    environment = lmdb.open(str(path), max_dbs=4, map_size=MAP_BYTES)
    meta = environment.open_db(b"meta")
    with environment.begin(db=meta, write=True) as transaction:
        work(transaction, meta)
    environment.close()


# -- opening ---------------------------------------------------------------------------------------------------------


def test_a_new_store_is_empty(opened: Opened) -> None:
    assert opened.store.meta == StoreMeta()
    assert opened.store.get(b"k") is None
    assert opened.contents() == {}


def test_what_was_written_is_there_after_opening_again(tmp_path: Path) -> None:
    state_hash = hash_of([(b"a", b"1"), (b"b", b"2")])
    meta = StoreMeta(applied_index=9, applied_term=3, revision=7, key_count=2, state_hash=state_hash)
    with Opened(tmp_path) as opened:
        assert opened.checkpoint({b"a": b"1", b"b": b"2"}, meta) is None
        assert (opened.store.meta, opened.store.get(b"a")) == (meta, b"1")
        assert opened.store.bytes_on_disk > 0
    with Opened(tmp_path) as opened:
        assert (opened.store.meta, opened.contents()) == (meta, {b"a": b"1", b"b": b"2"})
        assert opened.checkpoint({b"a": None, b"nothing": None, b"c": b"3"}, StoreMeta(10, 3, 8, 2)) is None
    with Opened(tmp_path) as opened:
        assert opened.contents() == {b"b": b"2", b"c": b"3"}


def test_a_store_may_be_opened_before_its_first_checkpoint(tmp_path: Path) -> None:
    Opened(tmp_path).store.close()
    with Opened(tmp_path) as opened:
        assert opened.store.meta == StoreMeta()


def test_a_new_stores_name_is_durable_before_anything_counts_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB syncs its file; after a power cut a file without a name in its directory would be gone all the same."""
    synced: list[tuple[Path, bool]] = []
    fsync = os.fsync

    def watched(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        synced.append((path, (tmp_path / "store" / "data.mdb").exists()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", watched)
    with Opened(tmp_path / "store"):
        assert (tmp_path / "store", True) in synced


@pytest.mark.parametrize(("cluster", "node_id"), [("c", "node-2"), ("other", "node-1"), ("c\0node", "1")])
def test_another_nodes_store_is_refused(tmp_path: Path, cluster: str, node_id: str) -> None:
    Opened(tmp_path).store.close()
    with pytest.raises(WrongDirectory, match="belongs to node 'node-1' of cluster 'c'") as refused:
        Opened(tmp_path, cluster=cluster, node_id=node_id)
    Opened(tmp_path).store.close()  # the refusal has let go of it
    assert refused.traceback  # though somebody still looks at the error


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    Opened(tmp_path).store.close()
    raw(tmp_path, lambda transaction, _: transaction.put(META_KEY, struct.pack("<IIQQQQ", 1, 0, 1, 1, 1, 1)))
    with pytest.raises(StorageError, match=r"has format 1; this version of fastkv reads format 3"):
        Opened(tmp_path)


@pytest.mark.parametrize("stored", [b"", b"\2\0\0\0"])
def test_a_meta_record_of_another_length_is_refused(tmp_path: Path, stored: bytes) -> None:
    Opened(tmp_path).store.close()
    raw(tmp_path, lambda transaction, _: transaction.put(META_KEY, stored))
    with pytest.raises(StorageError, match=f"a meta record of {len(stored)} bytes"):
        Opened(tmp_path)


def test_a_store_that_does_not_say_how_far_it_goes_is_refused(tmp_path: Path) -> None:
    Opened(tmp_path).store.close()
    raw(tmp_path, lambda transaction, _: transaction.delete(META_KEY))
    with pytest.raises(StorageError, match="does not say how far it goes"):
        Opened(tmp_path)


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes(bytes(range(256)) * 64)
    with pytest.raises(StorageError, match="at byte 0 there is no meta page"):
        Opened(tmp_path)


# -- ranges and views ------------------------------------------------------------------------------------------------

NAMED = [b"\0", b"a", b"ab", b"b", b"c\0", b"d" * 511]


@pytest.mark.parametrize("reverse", [False, True])
def test_every_range_is_the_models(opened: Opened, reverse: bool) -> None:
    opened.write({key: b"v" + key for key in NAMED}, 1)
    bounds = [b"", *NAMED, b"\0\0", b"aa", b"c", b"d", b"d" * 512, b"d" * 600, b"e", b"\xff" * 511]
    view = opened.store.view()
    for start in bounds:
        for end in bounds:
            expected = sorted((k for k in NAMED if k >= start and (not end or k < end)), reverse=reverse)
            assert [key for key, _ in view.range(start, end, reverse)] == expected, (start, end)
    assert next(iter(view.range(b"b", b"", False))) == (b"b", b"vb")
    view.close()


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "end"), [(b"", b""), (b"a", b""), (b"", b"z"), (b"a", b"z")])
def test_an_empty_store_has_empty_ranges(opened: Opened, start: bytes, end: bytes, reverse: bool) -> None:
    view = opened.store.view()
    assert list(view.range(start, end, reverse)) == []
    view.close()


def test_a_view_is_pinned_over_checkpoints(opened: Opened) -> None:
    opened.write({b"a": b"1", b"b": b"1"}, 1)
    view = opened.store.view()
    half = view.range(b"", b"", False)
    assert next(half) == (b"a", b"1")
    for applied_index in range(2, 8):
        opened.write({b"a": None, b"b": b"%d" % applied_index, b"c%d" % applied_index: b""}, applied_index)
    assert list(half) == [(b"b", b"1")]
    assert list(view.range(b"", b"", True)) == [(b"b", b"1"), (b"a", b"1")]
    view.close()
    assert opened.store.get(b"b") == b"7"
    assert len(opened.contents()) == 7


def test_reading_shows_the_last_checkpoint_until_the_next_is_announced(opened: Opened) -> None:
    opened.write({b"a": b"1"}, 1)
    outcome = opened.start({b"a": b"2"}, StoreMeta(2))
    callback, arguments = opened.posted.get(timeout=60)  # it is durable; the loop has not been told
    assert (opened.store.get(b"a"), opened.store.meta.applied_index, outcome) == (b"1", 1, [])
    callback(*arguments)
    assert (opened.store.get(b"a"), opened.store.meta.applied_index, outcome) == (b"2", 2, [None])


def test_closing_a_view_twice_is_harmless(opened: Opened) -> None:
    view = opened.store.view()
    view.close()
    view.close()
    with pytest.raises(AssertionError, match="the view is closed"):
        next(view.range(b"", b"", False))


def test_there_is_room_for_every_snapshot_and_one_more(tmp_path: Path) -> None:
    with Opened(tmp_path, snapshots=100) as opened:
        views = [opened.store.view() for _ in range(101)]
        opened.write({b"a": b"1"}, 1)
        for view in views:
            assert list(view.range(b"", b"", False)) == []
            view.close()


# -- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError("no memory"), OSError(5, "Input/output error")])
def test_whatever_goes_wrong_is_reported_and_changes_nothing(opened: Opened, error: Exception) -> None:
    opened.write({b"a": b"1"}, 1)

    def items() -> Iterator[tuple[bytes, bytes | None]]:
        yield b"a", b"2"
        raise error

    outcome: list[BaseException | None] = []
    opened.store.checkpoint(Changes(items), StoreMeta(2), outcome.append)
    opened.run_one()
    assert outcome == [error]
    assert (opened.contents(), opened.store.meta.applied_index) == ({b"a": b"1"}, 1)
    assert len(opened.checkpoint_seconds) == 1      # only the one that came about
    opened.write({b"a": b"3"}, 3)
    assert opened.contents() == {b"a": b"3"}
    assert len(opened.checkpoint_seconds) == 2
    assert all(0 < took_s < 60 for took_s in opened.checkpoint_seconds)


def test_closing_finishes_the_checkpoint_under_way(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    outcome = opened.start({b"%d" % number: bytes(1000) for number in range(2000)}, StoreMeta(5))
    opened.store.close()
    opened.run_one()  # what the thread had posted arrives late, and is harmless
    assert outcome == []
    with Opened(tmp_path) as again:
        assert (again.store.meta.applied_index, len(again.contents())) == (5, 2000)


def test_a_full_map_grows_and_the_next_try_succeeds(tmp_path: Path) -> None:
    changes: Items = {b"%04d" % number: bytes(1000) for number in range(1000)}
    with Opened(tmp_path, map_bytes=1 << 17) as opened:
        opened.write({b"kept": b"1"}, 1)
        tries = 0
        while (error := opened.checkpoint(changes, StoreMeta(2))) is not None:
            assert isinstance(error, StoreFull)
            assert "map is full" in str(error)
            assert (opened.contents(), opened.store.meta.applied_index) == ({b"kept": b"1"}, 1)
            tries += 1
        assert 1 <= tries <= 6
        assert opened.contents() == {**changes, b"kept": b"1"}
    with Opened(tmp_path, map_bytes=1 << 17) as again:  # smaller than what is there by now
        assert again.contents() == {**changes, b"kept": b"1"}
        while (error := again.checkpoint({b"kept": b"2"}, StoreMeta(3))) is not None:
            assert "map is full" in str(error)
        assert again.contents()[b"kept"] == b"2"


def test_the_map_does_not_grow_under_an_open_view(tmp_path: Path) -> None:
    changes: Items = {b"%04d" % number: bytes(1000) for number in range(80)}
    with Opened(tmp_path, map_bytes=1 << 17) as opened:
        opened.write({b"kept": b"1"}, 1)
        view = opened.store.view()
        assert "map is full" in str(opened.checkpoint(changes, StoreMeta(2)))
        for _ in range(2):
            error = opened.checkpoint(changes, StoreMeta(2))
            assert isinstance(error, StoreFull)
            assert "listings hold it open" in str(error)
        assert list(view.range(b"", b"", False)) == [(b"kept", b"1")]
        assert opened.store.get(b"kept") == b"1"
        view.close()
        while (error := opened.checkpoint(changes, StoreMeta(2))) is not None:
            assert "map is full" in str(error)
        assert opened.contents() == {**changes, b"kept": b"1"}


def test_the_map_does_not_grow_under_an_image_that_is_being_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB's copy reads the map, on a thread: it would be unmapped under it."""
    begun, go_on = threading.Event(), threading.Event()
    make_image = lmdb_store.make_image

    def slowly(environment: lmdb.Environment, directory: Path) -> tuple[Path, ImageInfo]:
        begun.set()
        assert go_on.wait(60)
        return make_image(environment, directory)

    monkeypatch.setattr(lmdb_store, "make_image", slowly)
    changes: Items = {b"%04d" % number: bytes(1000) for number in range(80)}
    with Opened(tmp_path / "store", map_bytes=1 << 17) as opened:
        opened.write({b"kept": b"1"}, 1)
        images: list[LmdbImage | None] = []
        opened.store.image(lambda image, error: images.append(image))
        assert begun.wait(60)
        assert "map is full" in str(opened.checkpoint(changes, StoreMeta(2)))
        error = opened.checkpoint(changes, StoreMeta(2))
        assert isinstance(error, StoreFull)
        assert "no snapshot is being made" in str(error)
        go_on.set()
        opened.run_one()
        (image,) = images
        assert image is not None
        image.close()
        while (error := opened.checkpoint(changes, StoreMeta(2))) is not None:
            assert "map is full" in str(error)
        assert opened.contents() == {**changes, b"kept": b"1"}


@pytest.mark.parametrize("urgent", [False, True])
def test_a_checkpoint_rests_between_bursts_unless_it_is_urgent(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    rests: list[float] = []
    clock = iter(range(1 << 20))        # each look at it is a second later
    monkeypatch.setattr(lmdb_store.time, "sleep", rests.append)
    monkeypatch.setattr(lmdb_store.time, "monotonic", lambda: float(next(clock)))
    before = {b"key-%06d" % number: b"old" for number in range(1000)}
    opened.write(before, 1)
    rests.clear()
    changes = [(key, None if number % 3 == 0 else b"new") for number, key in enumerate(before)]
    outcome: list[BaseException | None] = []
    opened.store.checkpoint(Changes(lambda: changes, urgent=lambda: urgent), StoreMeta(2), outcome.append)
    opened.run_one()
    assert outcome == [None]
    assert opened.contents() == {key: record for key, record in changes if record is not None}
    assert len(rests) == (0 if urgent else -(-1000 // lmdb_store.BURST_ITEMS))
