"""The store in memory keeps its promises as the real one does."""

from __future__ import annotations

import pytest

from fastkv.kv.store import Changes, StoreFull, StoreMeta
from fastkv.storage.memory_store import MemoryStore, StoredState

META = StoreMeta(7, 2, 5, 1)


def checkpoint(store: MemoryStore, changes: dict[bytes, bytes | None], meta: StoreMeta) -> list[BaseException | None]:
    answers: list[BaseException | None] = []
    store.checkpoint(Changes(lambda: changes.items()), meta, answers.append)
    return answers


def test_nothing_is_seen_before_it_is_complete() -> None:
    store = MemoryStore(disk := StoredState())
    answers = checkpoint(store, {b"a": b"1", b"b": None}, META)
    assert (store.pending, store.get(b"a"), store.meta, answers) == (True, None, StoreMeta(), [])
    store.complete()
    assert (store.pending, store.get(b"a"), store.meta, answers) == (False, b"1", META, [None])
    assert MemoryStore(disk).get(b"a") == b"1"


def test_a_failure_changes_nothing() -> None:
    store = MemoryStore(StoredState({b"a": b"1"}))
    answers = checkpoint(store, {b"a": None}, META)
    store.fail(full := StoreFull("no room"))
    assert (store.get(b"a"), store.meta, answers, store.pending) == (b"1", StoreMeta(), [full], False)


def test_a_crash_loses_a_checkpoint_whole() -> None:
    store = MemoryStore(disk := StoredState({b"a": b"1"}))
    answers = checkpoint(store, {b"a": b"2", b"b": b"2"}, META)
    store.close()
    assert (disk.records, disk.meta, answers) == ({b"a": b"1"}, StoreMeta(), [])


def test_one_checkpoint_at_a_time() -> None:
    store = MemoryStore(StoredState())
    checkpoint(store, {}, META)
    with pytest.raises(AssertionError, match="one checkpoint"):
        checkpoint(store, {}, META)


def test_a_view_stays_as_it_was() -> None:
    store = MemoryStore(StoredState({b"a": b"1", b"b": b"1"}))
    view = store.view()
    checkpoint(store, {b"a": None, b"b": b"2", b"c": b"2"}, META)
    store.complete()
    assert list(view.range(b"", b"", False)) == [(b"a", b"1"), (b"b", b"1")]
    view.close()


@pytest.mark.parametrize("reverse", [False, True])
def test_ranges(reverse: bool) -> None:
    records = {bytes([letter]): b"" for letter in b"abcd"}
    view = MemoryStore(StoredState(records)).view()
    for start, end, expected in [(b"", b"", b"abcd"), (b"b", b"d", b"bc"), (b"bb", b"z", b"cd"), (b"c", b"b", b"")]:
        found = b"".join(key for key, _ in view.range(start, end, reverse))
        assert found == (expected[::-1] if reverse else expected)
