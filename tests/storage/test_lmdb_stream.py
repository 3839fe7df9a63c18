"""Streams: the store as of one checkpoint, sent into a socket. They give way to the store, and say so."""

from __future__ import annotations

import os
import random
from pathlib import Path

import lmdb
import pytest

from fastkv.errors import DamagedStore
from fastkv.kv.store import StoreFull, StoreMeta
from fastkv.storage import lmdb_store, lmdb_stream
from fastkv.storage.lmdb_stream import StreamEnded
from tests.storage.logs import patch
from tests.storage.stores import Items, Opened
from tests.storage.streams import Taker, begin, take_all
from tests.storage.test_images import image_of, numbered, whole

LARGE: Items = {b"%06d" % number: random.Random(number).randbytes(1000) for number in range(4000)}
"""More than a socket holds."""


def wait_for_end(opened: Opened, taker: Taker) -> BaseException | None:
    while not taker.ends:
        opened.run_one()
    (error,) = taker.ends
    return error


def test_a_stream_is_the_image(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 7)
        image = image_of(opened)
        stream = begin(opened)
        assert take_all(opened, stream) == whole(image)
        assert (stream.info.applied_index, stream.info.applied_term) == (7, 1)
        assert stream.info.checksum == opened.store.meta.state_hash
        assert stream.info.kind == image.info.kind
        image.close()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_announced_comes(tmp_path: Path, seed: int) -> None:
    """Whatever the store has been through: free pages, large values, empty trees."""
    rng = random.Random(seed)
    with Opened(tmp_path / "store") as opened:
        for index in range(1, rng.randrange(2, 8)):
            changes: Items = {}
            for _ in range(rng.randrange(1, 300)):
                key = b"%04d" % rng.randrange(1000)
                changes[key] = None if rng.random() < 0.4 else rng.randbytes(rng.choice([0, 90, 600, 5000, 20_000]))
            opened.write(changes, index)
            stream = begin(opened)
            assert len(take_all(opened, stream)) == stream.info.nbytes


def test_a_stream_is_of_one_checkpoint_and_does_not_stop_the_next(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        image = image_of(opened)
        taker = Taker(begin(opened))
        first = taker.take(5000)
        for index in (2, 3):
            opened.write(dict.fromkeys(LARGE, b"%d" % index), index)
        assert first + taker.take(image.info.nbytes - 5000) == whole(image)
        assert wait_for_end(opened, taker) is None
        image.close()
        taker.socket.close()


def test_the_store_ends_it_where_its_map_has_to_grow(tmp_path: Path) -> None:
    with Opened(tmp_path / "store", map_bytes=6 << 20) as opened:
        opened.write(LARGE, 1)
        taker = Taker(begin(opened))
        taker.take(100)                         # and then no more
        more: Items = {b"more %06d" % number: bytes(1000) for number in range(4000)}
        outcomes = []
        while (error := opened.checkpoint(more, StoreMeta(2))) is not None:
            assert isinstance(error, StoreFull)
            outcomes.append(str(error))
        assert "map is full" in outcomes[0]
        assert isinstance(wait_for_end(opened, taker), StreamEnded)
        assert len(taker.take(1 << 30)) < len(LARGE) * 1000         # what the socket held, and the end
        taker.socket.close()
        assert opened.contents() == {**LARGE, **more}


def test_the_store_ends_it_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps old pages from being written again, and the failed transaction from its end."""
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        taker = Taker(begin(opened))

        def no_room(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patched:
            patched.setattr(lmdb_store, "write_in_bursts", no_room)
            assert isinstance(opened.checkpoint({b"k": b"v"}, StoreMeta(2)), StoreFull)
        assert isinstance(wait_for_end(opened, taker), StreamEnded)
        taker.socket.close()
        opened.write({b"k": b"v"}, 2)


def test_one_that_is_begun_where_the_map_has_to_grow_is_ended_too(tmp_path: Path) -> None:
    with Opened(tmp_path / "store", map_bytes=6 << 20) as opened:
        opened.write(LARGE, 1)
        more: Items = {b"more %06d" % number: bytes(1000) for number in range(4000)}
        assert "map is full" in str(opened.checkpoint(more, StoreMeta(2)))
        answers: list[BaseException | None] = []
        opened.store.stream(lambda stream, error: answers.append(error))
        assert "no snapshot is being made" in str(opened.checkpoint(more, StoreMeta(2)))
        while not answers:
            opened.run_one()
        (error,) = answers
        assert error is None or isinstance(error, StreamEnded)      # it may have come so far already
        while (refused := opened.checkpoint(more, StoreMeta(2))) is not None:
            assert isinstance(refused, StoreFull)


@pytest.mark.parametrize("taken", [None, 0, 1000, 2_000_000])
def test_closing_it_ends_its_thread_and_keeps_nothing_open(tmp_path: Path, taken: int | None) -> None:
    """Whether it was sent to nobody, or not all of it was taken."""
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        before = len(os.listdir("/proc/self/fd"))
        stream = begin(opened)
        ends: list[BaseException | None] = []
        stream.on_end = ends.append
        taker = None if taken is None else Taker(stream)
        if taker is not None:
            ends = taker.ends
            assert len(taker.take(taken or 0)) == taken
        stream.close("enough")
        stream.close("really")
        stream.join()
        assert not stream.is_reading
        opened.run_one()
        assert isinstance(ends[0], StreamEnded)
        assert str(ends[0]) == "enough"
        if taker is not None:
            taker.socket.close()
        assert len(os.listdir("/proc/self/fd")) == before
        assert len(take_all(opened, begin(opened))) > 2_000_000        # another one begins anew


def test_a_taker_that_goes_ends_it(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)
        taker = Taker(stream)
        taker.take(1000)
        taker.socket.close()
        error = wait_for_end(opened, taker)
        assert isinstance(error, lmdb.Error)
        stream.join()


def test_one_that_nobody_takes_is_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_stream, "IDLE_S", 0.05)
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)
        ends: list[BaseException | None] = []
        stream.on_end = ends.append
        stream.join()
        opened.run_one()
        assert "nobody has taken it" in str(ends[0])
        late = Taker(stream)                    # whoever comes now finds the end, and no bytes
        stream.close("too late")
        assert late.take(1) == b""
        late.socket.close()


def test_closing_the_store_ends_it(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)
        taker = Taker(stream)
        opened.store.stream(lambda stream, error: None)         # and one of which nobody heard yet
    assert not stream.is_reading
    while not taker.ends:
        opened.run_one()
    assert str(taker.ends[0]) == "the store is closed"
    taker.socket.close()


def test_a_store_that_is_not_whole_is_not_sent(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(numbered(400), 1)
        data = tmp_path / "store" / "data.mdb"
        value = numbered(400)[b"key 000200"]
        assert value is not None
        patch(data, data.read_bytes().rindex(value), b"!")
        answers: list[BaseException | None] = []
        opened.store.stream(lambda stream, error: answers.append(error))
        opened.run_one()
        assert isinstance(answers[0], DamagedStore)
