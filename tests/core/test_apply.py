"""The apply loop and its snapshots: compiled and reference agree, whatever is rotated, flushed or held meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv._core.apply import CorruptEntry, Table
from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, EntryBatch, encode_command, encode_session
from fastkv._core.snapshot import TableSnapshot
from fastkv.storage.memory_store import MemoryView
from tests.core.strategies import idempotency_keys, sessions, u64
from tests.reference.state_machine import Snapshot, State

Entries = list[tuple[int, bytes]]
keys = st.sampled_from([b"a", b"ab", b"ab\0", b"ab\0\0\0\0\0\0", b"ab\0\0\0\0\0\0\0", b"b", b"\0", b"\xff" * 511])


@st.composite
def commands(draw: st.DrawFn) -> tuple[int, bytes]:
    kind = draw(st.sampled_from([Kind.ENTRY_PUT, Kind.ENTRY_PUT, Kind.ENTRY_DELETE]))
    return kind, encode_command(
        kind,
        draw(keys),
        draw(st.binary(max_size=12)) if kind == Kind.ENTRY_PUT else b"",
        compare=draw(st.none() | st.none() | st.integers(0, 12) | u64),
        lease=draw(st.none() | u64),
        session=draw(st.none() | once),
    )


# Sessions that there are, or were; and others.
once = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 6) | st.integers(1000, 1050)),
    st.tuples(st.just(2**63 + 1), st.integers(0, 3)),
    sessions,
    idempotency_keys,
)
opened_sessions = st.builds(lambda limit: (int(Kind.ENTRY_SESSION), encode_session(limit)), st.integers(1, 4))
other_entries = st.tuples(
    st.sampled_from([Kind.NOOP, Kind.ENTRY_CONFIG, Kind.ENTRY_LEASE, Kind.ENTRY_TXN, 200]),
    st.binary(max_size=9),
)
entry_lists = st.lists(commands() | commands() | opened_sessions | other_entries, min_size=1, max_size=30)


def batch_of(entries: Entries) -> EntryBatch:
    builder = BatchBuilder()
    for kind, body in entries:
        builder.append(kind, body)
    return builder.take()


def put(key: bytes, value: bytes = b"", compare: int | None = None) -> tuple[int, bytes]:
    return Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key, value, compare=compare)


def delete(key: bytes, compare: int | None = None) -> tuple[int, bytes]:
    return Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, key, compare=compare)


def apply(table: Table, entries: Entries, first_index: int = 1) -> bytes:
    results = WriteBuffer()
    table.apply(batch_of(entries), 0, len(entries), first_index, results)
    return results.take()


class Stored:
    """A table over a store that is a dictionary, beside its twin."""

    def __init__(self) -> None:
        self.store: dict[bytes, bytes] = {}
        self.table = Table(self.store.get)
        self.twin = State()

    def apply(self, entries: Entries) -> None:
        first_index = self.twin.applied_index + 1
        assert apply(self.table, entries, first_index) == self.twin.apply(entries)
        self.check()

    def check(self) -> None:
        assert (self.table.revision, self.table.key_count) == (self.twin.revision, len(self.twin.records))
        assert self.table.state_hash == self.twin.state_hash

    def flush(self) -> None:
        frozen = self.table.rotate()
        self.write(frozen.items())
        self.table.flushed()

    def write(self, items: Iterator[tuple[bytes, bytes | None]]) -> None:
        for key, record in items:
            if record is None:
                self.store.pop(key, None)
            else:
                self.store[key] = record

    def snapshot(self) -> tuple[TableSnapshot, Snapshot]:
        return self.table.snapshot(MemoryView(self.store)), self.twin.snapshot()


# -- commands --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(entry_lists)
def test_results_and_records_are_the_twins(entries: Entries) -> None:
    stored = Stored()
    stored.apply(entries)
    for key in stored.twin.records:
        assert stored.table.get(key) == stored.twin.get(key)
    with stored.snapshot()[0] as snapshot:
        assert list(snapshot.items()) == [(key, record.encode()) for key, record in stored.twin.snapshot().items()]


@settings(deadline=None, max_examples=40)
@given(entry_lists)
def test_a_batch_may_be_split_at_every_point(entries: Entries) -> None:
    batch = batch_of(entries)
    expected = State().apply(entries)
    for middle in range(len(entries) + 1):
        table, results = Table({}.get), WriteBuffer()
        table.apply(batch, 0, middle, 1, results)
        table.apply(batch, middle, len(entries), middle + 1, results)
        assert results.take() == expected


@settings(deadline=None, max_examples=40)
@given(entry_lists)
def test_nobody_has_to_ask_for_results(entries: Entries) -> None:
    asked, silent = Table({}.get), Table({}.get)
    apply(asked, entries)
    silent.apply(batch_of(entries), 0, len(entries), 1)
    with asked.snapshot(MemoryView({})) as one, silent.snapshot(MemoryView({})) as other:
        assert list(one.items()) == list(other.items())
    assert (asked.revision, asked.state_hash) == (silent.revision, silent.state_hash)


def test_conditional_writes() -> None:
    stored = Stored()
    stored.apply([put(b"k", b"1", compare=0), put(b"k", b"2", compare=0), put(b"k", b"3", compare=1)])
    assert stored.table.get(b"k") == stored.twin.get(b"k")
    assert stored.table.revision == 2
    stored.apply([delete(b"k", compare=1), delete(b"k", compare=2), delete(b"k", compare=0), put(b"k", b"", compare=2)])
    assert stored.table.get(b"k") is None
    assert stored.table.revision == 3


def test_a_key_made_anew_begins_anew() -> None:
    stored = Stored()
    stored.apply([put(b"k", b"1"), put(b"k", b"2"), delete(b"k"), put(b"k", b"3")])
    record = stored.twin.records[b"k"]
    assert (record.mod_revision, record.create_revision, record.version) == (4, 4, 1)
    assert stored.table.get(b"k") == record.encode()


@pytest.mark.parametrize("kind", [Kind.ENTRY_PUT, Kind.ENTRY_DELETE])
@pytest.mark.parametrize(
    "body", [b"", b"\0\0\0\0", b"\1\0\0\1k", b"\1\0\x08\0k", b"\2\0\0\0k", b"\0\2\0\0" + bytes(512)]
)
def test_a_damaged_entry_stops_the_node(kind: int, body: bytes) -> None:
    table, results = Table({}.get), WriteBuffer()
    with pytest.raises(CorruptEntry, match=f"entry 8, of kind {kind} and {len(body)} bytes") as raised:
        table.apply(batch_of([put(b"a"), (kind, body), put(b"b")]), 0, 3, 7, results)
    assert isinstance(raised.value, AssertionError)
    assert table.get(b"b") is None
    assert table.revision == 1


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 3), (2, 1), (3, 3)])
def test_entries_that_a_batch_does_not_have(start: int, stop: int) -> None:
    with pytest.raises(IndexError, match=f"no entries {start} to {stop} in a batch of 2"):
        Table({}.get).apply(batch_of([put(b"a"), put(b"b")]), start, stop, 1)


def test_an_error_of_the_store_is_not_taken_for_absence() -> None:
    def broken(key: bytes) -> bytes | None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        apply(Table(broken), [put(b"a")])
    with pytest.raises(OSError, match="Input/output"):
        Table(broken).get(b"a")


def test_the_start_is_where_the_store_was() -> None:
    twin = State()
    twin.apply([put(b"a"), put(b"b"), put(b"a", b"2")])
    store = {key: record.encode() for key, record in twin.records.items()}
    table = Table(store.get, twin.revision, len(store), twin.state_hash)
    entries = [put(b"a", b"3"), delete(b"b"), delete(b"b"), put(b"c", compare=0)]
    assert apply(table, entries) == twin.apply(entries)
    assert (table.revision, table.key_count, table.state_hash) == (twin.revision, 2, twin.state_hash)


# -- generations -----------------------------------------------------------------------------------------------------


def test_generations_follow_each_other() -> None:
    stored = Stored()
    stored.apply([put(b"k", b"1"), put(b"gone"), put(b"kept")])
    assert (stored.table.active_count, stored.table.is_flushing) == (3, False)
    frozen = stored.table.rotate()
    assert (len(frozen), stored.table.active_count, stored.table.is_flushing) == (3, 0, True)
    stored.apply([put(b"k", b"2"), delete(b"gone")])
    assert [key for key, _ in frozen.items()] == [b"gone", b"k", b"kept"]  # frozen is frozen
    assert stored.table.get(b"kept") == stored.twin.get(b"kept")
    stored.write(frozen.items())
    stored.table.flushed()
    assert [stored.table.get(key) for key in (b"k", b"gone", b"kept")] == [
        stored.twin.get(b"k"), None, stored.twin.get(b"kept")
    ]  # fmt: skip
    stored.flush()
    assert stored.store == {key: record.encode() for key, record in stored.twin.records.items()}


def test_what_was_flushed_is_served_from_memory_until_the_next_time() -> None:
    asked: list[bytes] = []
    store: dict[bytes, bytes] = {}

    def store_get(key: bytes) -> bytes | None:
        asked.append(key)
        return store.get(key)

    table = Table(store_get)
    apply(table, [put(b"k"), delete(b"k"), put(b"l")])
    assert asked == [b"k", b"l"]
    table.rotate()
    table.flushed()
    assert table.get(b"k") is None
    assert table.get(b"l") is not None
    assert asked == [b"k", b"l"]
    table.rotate()
    table.flushed()
    assert table.get(b"l") is None  # this store was never written to
    assert asked == [b"k", b"l", b"l"]


def test_one_checkpoint_at_a_time() -> None:
    table = Table({}.get)
    with pytest.raises(AssertionError, match="no checkpoint"):
        table.flushed()
    table.rotate()
    with pytest.raises(AssertionError, match="one checkpoint"):
        table.rotate()


def test_memory_is_bounded_while_the_same_keys_are_written_and_snapshots_come_and_go() -> None:
    stored = Stored()
    named = [b"key-%d" % number for number in range(50)]
    peak = 0
    for turn in range(40):
        snapshot, _ = stored.snapshot()
        apply(stored.table, [put(key, bytes(100)) for key in named])
        apply(stored.table, [put(key, bytes(100)) for key in named])  # in place: the snapshot has what it needs
        snapshot.close()
        if turn == 1:
            peak = stored.table.active_bytes
    # A snapshot a turn keeps one older record alive a turn, and no more than that.
    assert stored.table.active_bytes <= peak * 20
    before = stored.table.active_bytes
    for _ in range(10):
        apply(stored.table, [put(key, bytes(100)) for key in named])
    assert stored.table.active_bytes == before


# -- snapshots -------------------------------------------------------------------------------------------------------

Bounds = tuple[bytes, bytes]


def pages(
    scan: TableSnapshot | Snapshot, bounds: Bounds, sizes: list[tuple[int, int]], reverse: bool, keys_only: bool
) -> list[bytes]:
    """Every page of a listing, gone on with as a cursor does."""
    start, end = bounds
    found: list[bytes] = []
    while True:
        limit, limit_bytes = sizes[len(found) % len(sizes)]
        page, count, last, more = scan.scan(start, end, limit, limit_bytes, reverse, keys_only)
        assert count <= limit
        found.append(page)
        if not more:
            return found
        assert count > 0
        if reverse:
            end = last
        else:
            start = last + b"\0"


def random_key(rng: random.Random) -> bytes:
    prefix = rng.choice([b"", b"", b"shared-prefix/", b"\0" * 8])
    return prefix + bytes(rng.choices(b"ab\0", k=rng.randint(1, 3)))


def random_entry(rng: random.Random, twin: State) -> tuple[int, bytes]:
    key = random_key(rng)
    held = twin.records.get(key)
    compare = rng.choice([None, None, None, 0, held.mod_revision if held else 5])
    if rng.random() < 0.3:
        return delete(key, compare)
    return put(key, bytes(rng.randint(0, 30)), compare)


@pytest.mark.parametrize("seed", range(60))
def test_snapshots_are_copies(seed: int) -> None:
    """Random work; now and then snapshots are opened, read page by page, and closed, and checkpoints come and go."""
    rng = random.Random(seed)
    stored = Stored()
    held: list[tuple[TableSnapshot, Snapshot]] = []
    frozen: list[tuple[bytes, bytes | None]] | None = None
    for _ in range(150):
        dice = rng.random()
        if dice < 0.45:
            stored.apply([random_entry(rng, stored.twin) for _ in range(rng.randint(1, 6))])
        elif dice < 0.55 and frozen is None:
            frozen = list(stored.table.rotate().items())
        elif dice < 0.6 and frozen is not None:
            stored.write(iter(frozen))  # written, but the table has not been told yet
        elif dice < 0.65 and frozen is not None:
            stored.write(iter(frozen))
            stored.table.flushed()
            frozen = None
        elif dice < 0.75:
            held.append(stored.snapshot())
        elif dice < 0.8 and held:
            held.pop(rng.randrange(len(held)))[0].close()
        elif held:
            bounds = (rng.choice([b"", random_key(rng)]), rng.choice([b"", random_key(rng)]))
            sizes = [(rng.randint(1, 5), rng.choice([0, 0, 1, 120])) for _ in range(3)]
            reverse, keys_only = rng.random() < 0.5, rng.random() < 0.2
            snapshot, twin = rng.choice(held)
            assert pages(snapshot, bounds, sizes, reverse, keys_only) == pages(twin, bounds, sizes, reverse, keys_only)
        key = random_key(rng)
        assert stored.table.get(key) == stored.twin.get(key)
    for snapshot, twin in held:
        assert list(snapshot.items()) == [(key, record.encode()) for key, record in twin.items()]
        snapshot.close()


def test_closing_lets_go_once() -> None:
    class View(MemoryView):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    view = View({})
    table = Table({}.get)
    with table.snapshot(view) as snapshot:
        assert snapshot.is_open
    snapshot.close()
    assert not snapshot.is_open
    assert view.closed == 1


def test_snapshots_of_one_revision_are_closed_one_by_one() -> None:
    stored = Stored()
    stored.apply([put(b"k", b"old")])
    first, twin = stored.snapshot()
    second, _ = stored.snapshot()
    second.close()
    stored.apply([put(b"k", b"new")])
    assert first.scan(b"", b"", 10, 0) == twin.scan(b"", b"", 10, 0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bounds", [(b"b", b"a"), (b"b", b"b"), (b"c", b"d"), (b"zz", b"")])
def test_an_empty_range(bounds: Bounds, reverse: bool) -> None:
    stored = Stored()
    stored.apply([put(b"a"), put(b"b")])
    stored.flush()
    stored.apply([put(b"a", b"2"), put(b"bb")])
    with stored.snapshot()[0] as snapshot:
        assert snapshot.scan(*bounds, 10, 0, reverse) == (b"", 0, b"", False)


def test_a_page_ends_with_the_item_that_fills_it() -> None:
    stored = Stored()
    stored.apply([put(b"%d" % number, bytes(59)) for number in range(5)])  # 100 bytes an item
    with stored.snapshot()[0] as snapshot:
        assert [snapshot.scan(b"", b"", 10, limit_bytes)[1] for limit_bytes in (1, 100, 101, 200, 499, 500, 0)] == [
            1, 1, 2, 2, 5, 5, 5
        ]  # fmt: skip
        assert snapshot.scan(b"", b"", 5, 0)[3] is False  # full, but nothing is left: the last page
        assert snapshot.scan(b"", b"", 4, 0)[3] is True


def test_deleted_keys_make_no_page() -> None:
    stored = Stored()
    stored.apply([put(b"a"), put(b"b"), put(b"c")])
    stored.flush()
    stored.apply([delete(b"b"), delete(b"c")])
    with stored.snapshot()[0] as snapshot:
        page, count, last, more = snapshot.scan(b"", b"", 1, 0)
        assert (len(page), count, last, more) == (8 + 32 + 1, 1, b"a", False)
