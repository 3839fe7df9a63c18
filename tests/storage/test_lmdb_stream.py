"""Streams: the store as of one checkpoint, taken part by part. They give way to the store, and say so."""

from __future__ import annotations

import os
import random
import select
from pathlib import Path

import pytest

from fastkv.errors import DamagedStore, StorageError
from fastkv.kv.store import StoreFull, StoreMeta
from fastkv.storage import lmdb_store
from fastkv.storage.lmdb_stream import PIPE_BYTES, LmdbStream, StreamEnded
from tests.storage.logs import patch
from tests.storage.stores import Items, Opened
from tests.storage.test_images import image_of, numbered, whole

LARGE: Items = {b"%06d" % number: random.Random(number).randbytes(1000) for number in range(4000)}
"""More than the pipe holds."""


def begin(opened: Opened) -> LmdbStream:
    answers: list[tuple[LmdbStream | None, BaseException | None]] = []
    opened.store.stream(lambda stream, error: answers.append((stream, error)))
    opened.run_one()
    ((stream, error),) = answers
    assert error is None
    assert stream is not None
    return stream


def take(stream: LmdbStream, nbytes: int) -> bytes:
    """The next part, waited for as the loop does."""
    while (part := stream.take(nbytes)) is None:
        assert select.select([stream], [], [], 60)[0]
    return part


def take_all(stream: LmdbStream, step: int = 100_000) -> bytes:
    """Everything that was not taken yet."""
    begin_at, parts = stream.offset, []
    while part := take(stream, step):
        parts.append(part)
    assert stream.offset == begin_at + sum(len(part) for part in parts) == stream.info.nbytes
    return b"".join(parts)


@pytest.mark.parametrize("step", [1000, 65_536, 1 << 18, 1 << 30])
def test_a_stream_is_the_image(tmp_path: Path, step: int) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 7)
        image = image_of(opened)
        stream = begin(opened)
        assert take_all(stream, step) == whole(image)
        assert (stream.info.applied_index, stream.info.applied_term) == (7, 1)
        assert stream.info.checksum == opened.store.meta.state_hash
        assert stream.info.kind == image.info.kind
        image.close()
        stream.close()


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
            take_all(stream)
            stream.close()


def test_a_stream_is_of_one_checkpoint_and_does_not_stop_the_next(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        image = image_of(opened)
        stream = begin(opened)
        first = take(stream, 5000)
        for index in (2, 3):
            opened.write(dict.fromkeys(LARGE, b"%d" % index), index)
        assert first + take_all(stream, 70_000) == whole(image)
        image.close()
        stream.close()


def test_the_store_ends_it_where_its_map_has_to_grow(tmp_path: Path) -> None:
    with Opened(tmp_path / "store", map_bytes=6 << 20) as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)
        told: list[bool] = []
        stream.on_close = lambda: told.append(stream.fileno() >= 0)     # so that nobody waits for it any more
        more: Items = {b"more %06d" % number: bytes(1000) for number in range(4000)}
        outcomes = []
        while (error := opened.checkpoint(more, StoreMeta(2))) is not None:
            assert isinstance(error, StoreFull)
            outcomes.append(str(error))
        assert "map is full" in outcomes[0]
        assert told == [True]
        assert stream.fileno() == -1
        with pytest.raises(StreamEnded, match="take it faster"):
            stream.take(100)
        assert opened.contents() == {**LARGE, **more}


def test_the_store_ends_it_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps old pages from being written again, and the failed transaction from its end."""
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)

        def no_room(*_: object) -> None:
            raise OSError(28, os.strerror(28))

        with monkeypatch.context() as patched:
            patched.setattr(lmdb_store, "write_in_bursts", no_room)
            assert isinstance(opened.checkpoint({b"k": b"v"}, StoreMeta(2)), StoreFull)
        with pytest.raises(StreamEnded):
            stream.take(100)
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


@pytest.mark.parametrize("taken", [0, 1000, PIPE_BYTES + 1000])
def test_closing_it_ends_its_thread_and_keeps_nothing_open(tmp_path: Path, taken: int) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        before = len(os.listdir("/proc/self/fd"))
        stream = begin(opened)
        take(stream, taken)
        stream.close()
        stream.close()
        stream.join()
        assert not stream.is_reading
        assert len(os.listdir("/proc/self/fd")) == before
        with pytest.raises(StreamEnded):
            stream.take(1)
        assert len(take_all(begin(opened))) > PIPE_BYTES       # another one begins anew


def test_closing_the_store_ends_it(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)
        opened.store.stream(lambda stream, error: None)         # and one of which nobody heard yet
    assert not stream.is_reading
    with pytest.raises(StreamEnded):
        stream.take(1)


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


def test_a_copy_that_ends_early_is_said(tmp_path: Path) -> None:
    with Opened(tmp_path / "store") as opened:
        opened.write(LARGE, 1)
        stream = begin(opened)
        stream.info = stream.info.__class__(1, 1, stream.info.nbytes + 4096, 0, stream.info.kind)
        with pytest.raises(StorageError, match="ended before byte"):
            take_all(stream)
        stream.close()
