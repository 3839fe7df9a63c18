"""Listings: pages, and the snapshots that hold them together."""

from __future__ import annotations

import bisect
import random
from typing import Any

import pytest

from fastkv.errors import CursorExpired
from fastkv.kv.snapshots import decode_cursor, encode_cursor
from fastkv.kv.state import Page
from tests.kv.machine import FIRST_SNAPSHOT_ID, Harness, delete, keys_of, put

LETTERS = [bytes([letter]) for letter in b"abcdefgh"]


@pytest.fixture
def harness() -> Harness:
    """Eight keys, half of them in the store."""
    made = Harness()
    made.fill(*LETTERS[::2])
    made.checkpoint()
    made.fill(*LETTERS[1::2])
    return made


def listing(harness: Harness, **question: Any) -> list[Page]:
    """All pages."""
    pages = [harness.scan(**question)]
    while pages[-1].cursor:
        pages.append(harness.scan(**{**question, "cursor": pages[-1].cursor}))
    return pages


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 4, 8, 9])
def test_pages_make_up_the_whole(harness: Harness, limit: int, reverse: bool) -> None:
    pages = listing(harness, limit=limit, reverse=reverse)
    assert [key for page in pages for key in keys_of(page)] == sorted(LETTERS, reverse=reverse)
    assert [page.count for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 1 <= pages[-1].count <= limit
    assert {page.revision for page in pages} == {8}
    assert len(harness.machine.held) == 0  # a finished listing holds nothing


@pytest.mark.parametrize("reverse", [False, True])
def test_pages_within_bounds(harness: Harness, reverse: bool) -> None:
    pages = listing(harness, start=b"b", end=b"g", limit=2, reverse=reverse)
    assert [key for page in pages for key in keys_of(page)] == sorted(LETTERS[1:6], reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "end"), [(b"d", b"c"), (b"c", b"c"), (b"x", b""), (b"x", b"z")])
def test_an_empty_range_is_an_empty_page(harness: Harness, start: bytes, end: bytes, reverse: bool) -> None:
    assert harness.scan(start=start, end=end, reverse=reverse) == Page(8, 0, b"", b"")
    assert len(harness.machine.held) == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_a_listing_may_begin_anywhere(reverse: bool) -> None:
    """Between keys that share long beginnings, and are enough for three levels of the memtable's tree."""
    drawn = random.Random(7)
    families = [bytes(drawn.choices(b"\0a\xff", k=drawn.randrange(1, 30))) for _ in range(12)]

    def draw() -> bytes:
        return drawn.choice(families) + bytes(drawn.choices(b"\0a\xff", k=drawn.randrange(12)))

    harness = Harness()
    named = sorted({draw() for _ in range(5_000)})
    harness.fill(*drawn.sample(named, len(named)))
    for probe in [b"\0", b"\xff" * 40, *(draw() for _ in range(1_000))]:
        at = bisect.bisect_left(named, probe)
        expected = named[max(at - 1, 0):at] if reverse else named[at:at + 1]
        bounds = {"end": probe} if reverse else {"start": probe}
        assert keys_of(harness.scan(limit=1, reverse=reverse, **bounds)) == expected


def test_the_servers_limits_hold_whatever_is_asked_for(harness: Harness) -> None:
    assert harness.scan(max_items=3, limit=5).count == 3
    assert harness.scan(max_items=3).count == 3
    assert harness.scan(max_items=5, limit=3).count == 3
    item_bytes = len(harness.scan(limit=1).items)
    assert harness.scan(max_bytes=2 * item_bytes).count == 2
    assert harness.scan(max_bytes=2 * item_bytes, limit_bytes=3 * item_bytes).count == 2
    assert harness.scan(max_bytes=3 * item_bytes, limit_bytes=2 * item_bytes).count == 2
    assert harness.scan(max_bytes=1).count == 1  # a page is never empty while there is something


def test_keys_only(harness: Harness) -> None:
    page = harness.scan(keys_only=True)
    assert keys_of(page) == LETTERS
    assert len(page.items) == 8 * (8 + 32 + 1)


def test_a_listing_shows_one_state_whatever_happens_meanwhile(harness: Harness) -> None:
    first = harness.scan(limit=3)
    harness.apply(*(delete(key) for key in LETTERS), put(b"aa"), put(b"zz"))
    harness.checkpoint()
    harness.apply(put(b"d", b"anew"))
    second = harness.scan(limit=3, cursor=first.cursor)
    third = harness.scan(limit=3, cursor=second.cursor)
    assert keys_of(first) + keys_of(second) + keys_of(third) == LETTERS
    assert (third.cursor, third.revision) == (b"", first.revision)
    assert keys_of(harness.scan()) == [b"aa", b"d", b"zz"]


def test_the_longest_key_is_no_obstacle_to_a_cursor() -> None:
    harness = Harness()
    long_keys = [b"k" * 511, b"k" * 510 + b"l"]
    harness.fill(*long_keys)
    assert [keys_of(page) for page in listing(harness, limit=1)] == [[key] for key in long_keys]


# -- cursors ---------------------------------------------------------------------------------------------------------


def test_a_cursor_is_forgotten_after_a_while(harness: Harness) -> None:
    cursor = harness.scan(limit=1).cursor
    harness.ticks(4)
    cursor = harness.scan(limit=1, cursor=cursor).cursor  # in time, and good for another while
    harness.ticks(4)
    cursor = harness.scan(limit=1, cursor=cursor).cursor
    harness.ticks(5)
    assert len(harness.machine.held) == 0
    with pytest.raises(CursorExpired, match="no longer kept"):
        harness.scan(limit=1, cursor=cursor)


def test_the_longest_unused_listing_makes_room(harness: Harness) -> None:
    cursors = [harness.scan(limit=1).cursor for _ in range(4)]
    harness.scan(limit=1, cursor=cursors[0])
    harness.scan(limit=1)
    assert len(harness.machine.held) == 4
    with pytest.raises(CursorExpired):
        harness.scan(limit=1, cursor=cursors[1])
    for cursor in (cursors[0], cursors[2], cursors[3]):
        assert keys_of(harness.scan(limit=1, cursor=cursor)) == [b"b"]


def test_a_page_may_be_asked_for_twice(harness: Harness) -> None:
    cursor = harness.scan(limit=2).cursor
    assert (
        keys_of(harness.scan(limit=2, cursor=cursor)) == keys_of(harness.scan(limit=2, cursor=cursor)) == [b"c", b"d"]
    )


@pytest.mark.parametrize(
    "cursor",
    [
        b"x",
        bytes(8),
        FIRST_SNAPSHOT_ID.to_bytes(8, "little"),
        encode_cursor(FIRST_SNAPSHOT_ID + 1, b"a"),
        encode_cursor(FIRST_SNAPSHOT_ID - 1, b"a"),
        encode_cursor(2**64 - 1, b"a"),
    ],
    ids=["garbage", "zeros", "no key", "not given yet", "another node's", "far off"],
)
def test_what_is_no_cursor_of_this_node_has_expired(harness: Harness, cursor: bytes) -> None:
    assert harness.scan(limit=1).cursor == encode_cursor(FIRST_SNAPSHOT_ID, b"a")
    with pytest.raises(CursorExpired):
        harness.scan(limit=1, cursor=cursor)


def test_ids_go_round() -> None:
    harness = Harness()
    harness.machine.held = type(harness.machine.held)(limit=4, ttl_ticks=5, first_id=2**64 - 1)
    harness.fill(b"a", b"b")
    cursors = [harness.scan(limit=1).cursor for _ in range(2)]
    assert [decode_cursor(cursor) for cursor in cursors] == [(2**64 - 1, b"a"), (0, b"a")]
    assert [keys_of(harness.scan(limit=1, cursor=cursor)) for cursor in cursors] == [[b"b"], [b"b"]]


def test_closing_lets_go_of_every_snapshot(harness: Harness) -> None:
    cursor = harness.scan(limit=1).cursor
    harness.scan(limit=1)
    harness.machine.close()
    assert len(harness.machine.held) == 0
    with pytest.raises(CursorExpired):
        harness.scan(limit=1, cursor=cursor)
