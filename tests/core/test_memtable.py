"""The memtable: order, records, what snapshots still see, and how much memory it takes."""

from __future__ import annotations

import itertools
import random
import struct
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkv._core.memtable import Memtable
from tests.reference.memtable import RECORD_HEADER_BYTES
from tests.reference.memtable import Memtable as Twin

short_keys = st.binary(min_size=1, max_size=3)
prefixed_keys = st.builds(
    lambda prefix, rest: (prefix + rest)[:511],
    st.sampled_from([b"shared/", b"shared/pre", b"\0" * 7, b"\0" * 8, b"\0" * 9, b"\xff" * 8, b"k" * 509]),
    st.text("\0ab", max_size=3).map(str.encode),
)
long_keys = st.builds(lambda byte, size: byte * size, st.sampled_from([b"\0", b"a", b"\xff"]), st.integers(1, 511))
keys = short_keys | prefixed_keys | long_keys
values = st.none() | st.binary(max_size=40)


def record(value: bytes | None) -> bytes | None:
    return None if value is None else bytes(RECORD_HEADER_BYTES) + value


def filled(*named: bytes) -> Memtable:
    table = Memtable()
    for revision, key in enumerate(named, 1):
        table.write(key, record(b"v"), revision)
    return table


@settings(deadline=None)
@given(st.lists(st.tuples(keys, values), max_size=120), keys)
def test_holds_the_newest_records_in_order(writes: list[tuple[bytes, bytes | None]], other: bytes) -> None:
    table, twin = Memtable(), Twin()
    for revision, (key, value) in enumerate(writes, 1):
        table.write(key, record(value), revision)
        twin.write(key, record(value), revision)
    assert list(table.items()) == twin.items()
    assert (len(table), table.count) == (len(twin), len(twin))
    for key in [other, *twin.writes]:
        assert table.read(key) == twin.read(key)


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
@pytest.mark.parametrize("width", [4, 12])
def test_many_keys_in_any_order_of_arrival(order: str, width: int) -> None:
    """Enough for three levels of nodes; twelve digits make the first eight bytes all the same."""
    named = [b"%0*d" % (width, number) for number in range(0, 9000, 2)]
    if order != "ascending":
        named.reverse()
    if order == "shuffled":
        random.Random(7).shuffle(named)
    table = filled(*named)
    assert [key for key, _ in table.items()] == sorted(named)
    assert all(table.read(key)[0] for key in named)
    assert not any(table.read(b"%0*d" % (width, number))[0] for number in range(1, 9000, 2))


@pytest.mark.parametrize("alphabet", [b"\0a\xff", b"\0", b"ab"])
def test_keys_that_are_hard_to_tell_apart(alphabet: bytes) -> None:
    """Long shared beginnings, keys that begin other keys, zeros where a short key is padded."""
    drawn = random.Random(7)
    families = [bytes(drawn.choices(alphabet, k=drawn.randrange(1, 40))) for _ in range(12)]
    named = list({
        drawn.choice(families) + bytes(drawn.choices(alphabet, k=drawn.randrange(14))) for _ in range(8_000)
    })
    drawn.shuffle(named)
    table = filled(*named)
    assert [key for key, _ in table.items()] == sorted(named)
    assert all(table.read(key)[0] for key in named)


@pytest.mark.parametrize("seed", range(25))
def test_declared_snapshots_go_on_seeing_what_they_saw(seed: int) -> None:
    rng = random.Random(seed)
    table, twin = Memtable(), Twin()
    snapshots: list[int] = []
    named = [bytes(rng.choices(b"ab\0", k=rng.randint(1, 10))) for _ in range(12)]
    for revision in range(1, 250):
        key = rng.choice(named)
        value = None if rng.random() < 0.25 else bytes(rng.randint(0, 60))
        table.write(key, record(value), revision, max(snapshots, default=0))
        twin.write(key, record(value), revision)
        dice = rng.random()
        if dice < 0.1:
            snapshots.append(revision)
        elif dice < 0.18 and snapshots:
            snapshots.remove(rng.choice(snapshots))
        for snapshot in snapshots:
            assert [table.read(key, snapshot) for key in named] == [twin.read(key, snapshot) for key in named]
    assert list(table.items()) == twin.items()


def test_an_older_record_is_kept_just_while_a_snapshot_needs_it() -> None:
    table = filled(b"k")
    table.write(b"k", record(b"w"), 2)
    assert table.read(b"k", 1) == (False, None)  # overwritten in place: nobody was to see it
    table.write(b"k", record(b"x"), 3, newest_snapshot=2)
    assert table.read(b"k", 2) == (True, (2).to_bytes(8, "little") + bytes(24) + b"w")
    table.write(b"k", record(b"y"), 4, newest_snapshot=2)
    assert table.read(b"k", 2)[1] == (2).to_bytes(8, "little") + bytes(24) + b"w"
    assert table.read(b"k", 3)[1] == (2).to_bytes(8, "little") + bytes(24) + b"w"  # 3 was nobody's


def test_overwrites_of_equal_size_take_no_memory() -> None:
    table = filled(*(b"%d" % number for number in range(100)))
    before = table.nbytes
    for revision in range(101, 2000):
        table.write(b"%d" % (revision % 100), record(b"w"), revision)
    assert table.nbytes == before


@pytest.mark.parametrize("snapshot", [0, 50])
def test_overwrites_by_equal_or_smaller_records_are_bounded_whatever_snapshot_is_open(snapshot: int) -> None:
    table = Memtable()
    table.write(b"k", record(bytes(1000)), 1)
    for revision in range(2, 500):
        table.write(b"k", record(bytes(revision % 1001)), revision, min(snapshot, revision - 1))
    assert table.nbytes < 100_000


def test_memory_is_counted_as_it_is_taken() -> None:
    table = Memtable()
    sizes = [table.nbytes]
    for number in range(200):
        table.write(b"key-%d" % number, record(bytes(1000)), number + 1)
        sizes.append(table.nbytes)
    assert all(1032 <= after - before <= 2500 for before, after in itertools.pairwise(sizes))


@pytest.mark.parametrize("value_bytes", [100, 5_000, 70_000, 300_000])
def test_memory_that_is_counted_is_the_memory_that_is_held(value_bytes: int) -> None:
    tracemalloc.start()
    try:
        table = Memtable()
        for number in range(max(20, 2_000_000 // value_bytes)):
            table.write(b"key-%d" % number, record(bytes(value_bytes)), number + 1)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.9 * table.nbytes <= held <= 1.3 * table.nbytes + 300_000


def test_items_outlive_the_name_of_their_table() -> None:
    items = filled(b"b", b"a").items()
    assert [key for key, _ in items] == [b"a", b"b"]
    assert list(items) == []
    assert list(Memtable().items()) == []


@pytest.mark.parametrize(("key", "content"), [(b"", bytes(32)), (b"k", bytes(31)), (b"k", b"")])
def test_nonsense_is_refused(key: bytes, content: bytes) -> None:
    table = Memtable()
    with pytest.raises(ValueError, match="a key has at least one byte, and a record at least its header"):
        table.write(key, content, 1)
    assert len(table) == 0
    assert table.read(b"") == (False, None)


# -- hostile keys ----------------------------------------------------------------------------------------------------


def write_time_s(named: list[bytes]) -> float:
    """Of the processor's time, and the best of three, so that a busy machine does not count."""
    best = float("inf")
    for _ in range(3):
        table = Memtable()
        content = record(b"")
        begin = time.thread_time()
        for revision, key in enumerate(named, 1):
            table.write(key, content, revision)
        best = min(best, time.thread_time() - begin)
        assert len(table) == len(named)
    return best


def test_nobody_can_choose_keys_that_are_slow_to_find() -> None:
    """A multiplication carries a change of the top bit nowhere but to the top bit, whatever the seed: where a hash is
    made of multiplications alone, the next eight bytes can undo it, and each such pair of blocks doubles the keys that
    fall on one place.
    """
    unchanged, changed = bytes(16), struct.pack("<QQ", 1 << 63, 1 << 63 | 1 << 31)
    hostile = [b"".join(blocks) for blocks in itertools.product([unchanged, changed], repeat=13)]
    rng = random.Random(1)
    harmless = sorted(rng.randbytes(len(hostile[0])) for _ in hostile)
    assert write_time_s(sorted(hostile)) < 8 * write_time_s(harmless)
