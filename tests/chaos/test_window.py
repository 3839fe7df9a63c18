"""The smallest part of a history that cannot be, and what kind of violation it is."""

from __future__ import annotations

import random

import pytest

from fastkv.chaos.finding import Kind, find
from fastkv.chaos.linearizability import Verdict, check
from fastkv.chaos.lines import window_lines
from fastkv.chaos.operations import Operation
from fastkv.chaos.window import Window, smallest_window
from fastkv.chaos.wing_gong import Ambiguous, check_key
from tests.chaos.histories import Register, cas, get, incr, op, put, spoil, unanswered
from tests.chaos.test_linearizability import BAD

PUTS = [put(f"v{i}", 10 * i, 10 * i + 5, i + 1) for i in range(40)]


def assert_minimal(window: Window) -> None:
    assert window.impossible()
    for each in window.operations:
        assert not window.without(each).impossible(), each


@pytest.mark.parametrize("name", BAD)
def test_no_operation_of_a_window_can_be_left_out(name: str) -> None:
    assert_minimal(smallest_window(BAD[name]))


@pytest.mark.parametrize("counts", [False, True], ids=["register", "counter"])
def test_windows_of_random_histories_are_minimal_and_small(counts: bool) -> None:
    rng = random.Random(31)
    sizes = []
    while len(sizes) < 40:
        history = spoil(rng, Register(rng, counts=counts).history(40, lost=0.1))
        try:
            if check_key(history) is not Verdict.VIOLATION:
                continue
        except Ambiguous:
            continue
        window = smallest_window(history)
        assert_minimal(window)
        sizes.append(len(window.operations))
    assert sorted(sizes)[len(sizes) // 2] <= 5, sizes


def test_a_stale_read_among_many_writes_and_reads() -> None:
    reads = [get(f"v{i}", 10 * i + 6, 10 * i + 7, i + 1) for i in range(40)]
    stale = get("v20", 256, 258, 21)
    window = smallest_window([*PUTS, *reads, stale])
    assert len(window.operations) == 2
    assert stale in window.operations
    assert max(o.revision for o in window.operations) > 21


def test_nothing_from_after_the_violation_is_in_it() -> None:
    later = [get(None, 10_000, 10_001, 0), op("del", 10_010, 10_011, outcome=False)]
    window = smallest_window([*PUTS, get("v3", 301, 302, 4), *later])
    assert max(o.called for o in window.operations) == 301


def test_a_write_of_unknown_outcome_that_is_seen_and_gone_again() -> None:
    lost = unanswered("put", 0, "a")
    seen, gone, later = get("a", 5, 6, 3), get(None, 7, 8, 0), get(None, 20, 21, 0)
    assert smallest_window([lost, seen, gone, later]).operations == [seen, gone]


def test_what_was_under_way_where_a_window_begins_may_have_been_before_or_after() -> None:
    """A slow write overlaps everything; it explains a value that comes back, and cannot be cut away."""
    slow = unanswered("put", 0, "slow")
    fine = [slow, put("a", 1, 2, 1), get("a", 3, 4, 1), get("slow", 5, 6, 9), put("b", 7, 8, 10)]
    assert check(fine).verdict is Verdict.LINEARIZABLE
    window = smallest_window([*fine, get("slow", 9, 10, 9)])
    assert_minimal(window)
    assert [o.revision for o in window.operations] == [10, 9]


# -- the kinds ---------------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Kind, list[Operation]]] = {
    "seen again": (
        Kind.STALE_READ, [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1), get("b", 6, 7, 2)],
    ),
    "a cas on what a read did not see": (
        Kind.STALE_READ, [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1), cas("c", 2, 6, 7, 3)],
    ),
    "never seen again": (
        Kind.LOST_WRITE, [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1), get("a", 6, 7, 1)],
    ),
    "nothing is there any more": (
        Kind.LOST_WRITE, [put("a", 0, 1, 1), get(None, 2, 3, 0), get(None, 4, 5, 0)],
    ),
    "its revision was given again": (Kind.LOST_WRITE, [put("a", 0, 1, 5), put("b", 2, 3, 5), get("b", 4, 5, 5)]),
    "nobody looked again": (
        Kind.STALE_OR_LOST, [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1)],
    ),
    "overwritten before anybody looked": (
        Kind.STALE_OR_LOST, [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1), put("c", 6, 7, 3)],
    ),
    "what was not acknowledged is seen and gone": (
        Kind.DIRTY_READ,
        [put("a", 0, 1, 1), unanswered("put", 2, "b"), get("b", 3, 4, 2), get("a", 5, 6, 1), get("a", 7, 8, 1)],
    ),
    "two cas at one revision": (
        Kind.LOST_UPDATE, [put("a", 0, 1, 1), cas("b", 1, 2, 5, 2), cas("c", 1, 2, 5, 3)],
    ),
    "a cas at a revision that is over": (
        Kind.LOST_UPDATE, [put("a", 0, 1, 1), put("b", 2, 3, 2), cas("c", 1, 4, 5, 3)],
    ),
    "two increments, one sum": (Kind.LOST_UPDATE, [incr(1, 0, 5, 1), incr(1, 2, 6, 2)]),
    "a put at two revisions": (Kind.DUPLICATE_APPLY, [put("a", 0, 1, 1), get("a", 2, 3, 2)]),
    "a put again, over a later one": (
        Kind.DUPLICATE_APPLY, [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 3)],
    ),
    "an open put at two revisions": (
        Kind.DUPLICATE_APPLY, [unanswered("put", 0, "a"), get("a", 1, 2, 1), get("a", 5, 6, 3)],
    ),
    "an increment that counts twice": (Kind.DUPLICATE_APPLY, [incr(1, 0, 1, 1), get("2", 2, 3, 2)]),
    "an open increment that counts twice": (
        Kind.DUPLICATE_APPLY, [incr(1, 0, 1, 1), unanswered("incr", 2, 1), incr(4, 5, 6, 4)],
    ),
    "a value that nobody wrote": (Kind.FROM_NOWHERE, [put("a", 0, 1, 1), get("ghost", 2, 3, 2)]),
    "a value from the future": (Kind.FROM_NOWHERE, [get("a", 0, 1, 1), put("a", 2, 3, 1)]),
    "a write that had failed": (Kind.FAILED_BUT_DONE, [op("put", 0, 1, argument="a", failed=True), get("a", 2, 3, 1)]),
    "one revision, two writes": (Kind.REVISIONS, [put("a", 0, 9, 5), put("b", 0, 9, 5)]),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_violation_is_named_where_the_window_proves_it(name: str) -> None:
    kind, history = KINDS[name]
    assert check(history).verdict is Verdict.VIOLATION
    found = find(smallest_window(history), history)
    assert found.kind is kind, found


def test_a_window_can_be_read() -> None:
    stale = [
        put("a", 0, 1_000_000, 1, client="c1", node="node-1", term=2),
        put("b", 2_000_000, 3_000_000, 2, client="c1", node="node-1", term=2),
        get("a", 4_000_000, 4_500_000, 1, client="c2", node="node-3"),
    ]
    assert window_lines(smallest_window(stale)) == [
        "before: no key or any value or 'a' (revision 1)",
        "2.000 .. 3.000 ms  c1  put 'b' -> done (revision 2)  node-1, term 2",
        "4.000 .. 4.500 ms  c2  get -> 'a' (revision 1)       node-3",
    ]
