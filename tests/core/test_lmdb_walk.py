"""Walking LMDB's pages: the same as the readable twin, on trees that LMDB has written, whole and damaged."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from fastkv._core.lmdb_walk import TEXTS, PageWalk
from fastkv._core.state_hash import hash_of
from fastkv.storage.lmdb_pages import NO_PAGE, MetaPage, Tree, read_metas
from tests.reference import lmdb_pages as reference

PAGE = 4096


def written(path: Path, seed: int) -> Path:
    """A store's file after some transactions that put and delete: several levels, overflow pages, free pages."""
    rng = random.Random(seed)
    with lmdb.open(str(path), map_size=1 << 26, max_dbs=4, sync=False) as environment:
        data = environment.open_db(b"data")
        for _ in range(4):
            with environment.begin(write=True, db=data) as transaction:
                for _ in range(rng.randrange(50, 300)):
                    key = b"%05d" % rng.randrange(2000) * rng.randrange(1, 60)
                    if rng.random() < 0.3:
                        transaction.delete(key)
                    else:
                        transaction.put(key, rng.randbytes(rng.choice([0, 7, 90, 600, 600, 5000])))
    return path / "data.mdb"


@contextmanager
def walked(file: Path, window_bytes: int = 0) -> Iterator[tuple[PageWalk, MetaPage]]:
    fd = os.open(file, os.O_RDONLY)
    try:
        nbytes = os.fstat(fd).st_size
        metas = [meta for meta in read_metas(fd, nbytes) if isinstance(meta, MetaPage)]
        walk = PageWalk(fd, PAGE, -(-nbytes // PAGE), window_bytes=window_bytes)
        yield walk, max(metas, key=lambda meta: meta.transaction)
    finally:
        os.close(fd)


def data_tree(walk: PageWalk, meta: MetaPage) -> Tree:
    items: list[tuple[bytes, int, bytes]] = []
    walk.walk(meta.main.root, meta.main.depth, items=items)
    (_, _, stored), *_ = (item for item in items if item[0] == b"data")
    return Tree._make(struct.unpack("<IHHQQQQQ", stored))


WINDOWS = pytest.mark.parametrize("window_bytes", [0, PAGE, 3 * PAGE, 1 << 20])


@WINDOWS
@pytest.mark.parametrize("seed", range(6))
def test_a_walk_is_the_twins(tmp_path: Path, seed: int, window_bytes: int) -> None:
    file = written(tmp_path, seed)
    content = file.read_bytes()
    with walked(file, window_bytes) as (walk, meta):
        tree = data_tree(walk, meta)
        items: list[tuple[bytes, int, bytes]] = []
        found = walk.walk(tree.root, tree.depth, content=True, items=items)
        twin = reference.walk(content, PAGE, tree.root, tree.depth)
        assert found == (twin.branches, twin.leaves, twin.overflows, len(twin.entries), twin.digest)
        assert found[:4] == (tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries)
        assert items == twin.entries
        assert all(walk.is_used(page) for page in twin.used)
        if meta.free.root != NO_PAGE:
            lists: list[tuple[bytes, int, bytes]] = []
            walk.walk(meta.free.root, meta.free.depth, numbers=True, items=lists)
            assert lists == reference.walk(content, PAGE, meta.free.root, meta.free.depth, numbers=True).entries
        assert walk.damages() == []


def damaged(content: bytes, pages: list[int], rng: random.Random) -> bytes:
    """One page of the tree is another than what was written."""
    data = bytearray(content)
    at = rng.choice(pages) * PAGE
    kind = rng.randrange(5)
    if kind == 0:
        data[at + rng.randrange(PAGE)] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data[at + rng.randrange(40)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at : at + PAGE] = rng.randbytes(PAGE)
    elif kind == 3:
        other = rng.choice(pages) * PAGE
        data[at : at + PAGE] = data[other : other + PAGE]
    else:
        del data[at + rng.randrange(PAGE) :]
    return bytes(data)


@WINDOWS
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_tree_is_judged_as_the_twin_judges_it(tmp_path: Path, seed: int, window_bytes: int) -> None:
    """Also where the damage is such that it shows in nothing but the content."""
    file = written(tmp_path, seed)
    content = file.read_bytes()
    with walked(file) as (walk, meta):
        tree = data_tree(walk, meta)
    pages = sorted(reference.walk(content, PAGE, tree.root, tree.depth).used)
    rng = random.Random(seed)
    outcomes = set()
    for number in range(80):
        changed = damaged(content, pages, rng)
        file.write_bytes(changed)
        twin: reference.Tree | None
        try:
            twin = reference.walk(changed, PAGE, tree.root, tree.depth)
        except reference.Broken:
            twin = None
        with walked(file, window_bytes) as (walk, _):
            found = walk.walk(tree.root, tree.depth, content=True)
            assert bool(walk.damages()) == (twin is None), (number, walk.damages())
            assert walk.damage_count >= len(walk.damages())
        if twin is not None:
            assert found[4] == hash_of((key, value) for key, _, value in twin.entries)
        outcomes.add(twin is None)
    assert outcomes == {True, False}


def test_a_page_that_is_used_twice(tmp_path: Path) -> None:
    file = written(tmp_path, 1)
    with walked(file) as (walk, meta):
        tree = data_tree(walk, meta)
        assert walk.mark(0)
        assert not walk.mark(0)
        assert not walk.mark(1 << 40)
        walk.walk(tree.root, tree.depth)
        used = walk.used_count
        walk.walk(tree.root, tree.depth)
        assert walk.damages() == [(tree.root, "is used twice")]
        assert walk.used_count == used


@pytest.mark.parametrize("depth", [0, 33, 1000])
def test_a_depth_that_no_tree_has(tmp_path: Path, depth: int) -> None:
    with walked(written(tmp_path, 1)) as (walk, _):
        assert walk.walk(2, depth) == (0, 0, 0, 0, 0)
        assert walk.damages() == [(2, "is at another depth than the tree has")]


def test_more_damages_than_are_kept_are_counted(tmp_path: Path) -> None:
    with walked(written(tmp_path, 1)) as (walk, _):
        for _ in range(100):
            walk.walk(1 << 50, 1)
        assert (walk.damage_count, len(walk.damages())) == (100, 64)
        assert walk.damages()[0] == (1 << 50, TEXTS[0])


def test_a_window_has_whole_pages() -> None:
    with pytest.raises(ValueError, match="no whole number of pages"):
        PageWalk(0, PAGE, 1, window_bytes=PAGE + 1)
