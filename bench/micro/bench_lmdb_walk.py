"""Looking at a store before it is believed: what a start adds for each key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from bench.micro.data import KEYS, Applied
from bench.micro.measure import Measure
from fastkv._core.lmdb_walk import PageWalk
from fastkv.storage.lmdb_pages import MetaPage, read_metas
from fastkv.storage.memory_store import MemoryView

PAGE_BYTES = 4096


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The open file of a store with every key in its only tree."""
    directory: Path = tmp_path_factory.mktemp("store")
    with (
        Applied().table.snapshot(MemoryView({})) as snapshot,
        lmdb.open(str(directory), map_size=1 << 28) as store,
        store.begin(write=True) as transaction,
        transaction.cursor() as cursor,
    ):
        cursor.putmulti(snapshot.items(), append=True)
    fd = os.open(directory / "data.mdb", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("window_bytes", [0, 1 << 20], ids=["paged", "windowed"])
@pytest.mark.parametrize("content", [False, True], ids=["pages", "content"])
def bench_walk(measure: Measure, file: int, content: bool, window_bytes: int) -> None:
    """All pages of the tree, one by one or many at a time; with the content, the digest of each record as well."""
    nbytes = os.fstat(file).st_size
    newest = max((meta for meta in read_metas(file, nbytes) if isinstance(meta, MetaPage)), key=lambda m: m.transaction)

    def walk() -> int:
        walked = PageWalk(file, PAGE_BYTES, -(-nbytes // PAGE_BYTES), window_bytes=window_bytes)
        walked.walk(newest.main.root, newest.main.depth, content=content)
        return walked.damage_count

    assert measure.repeat(walk, operations=KEYS) == 0
