"""The checker itself: known good histories beside known bad ones, and comparisons with brute force."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from fastkv.chaos.linearizability import Verdict, check, check_key
from fastkv.chaos.operations import UNSEEN, Operation
from fastkv.chaos.wing_gong import State
from tests.chaos.histories import Register, brute_force, cas, get, incr, op, put, spoil, unanswered
from tests.reference import linearizability as plain

GOOD = {
    "empty": [],
    "sequential": [put("a", 0, 1, 1), get("a", 2, 3, 1)],
    "concurrent read sees either": [put("a", 0, 10, 1), get(None, 1, 2, 0), get("a", 3, 4, 1)],
    "lost answer, seen later": [unanswered("put", 0, "a"), get(None, 1, 2, 0), get("a", 3, 4, 1)],
    "lost answer, seen after later writes": [
        unanswered("put", 0, "a"), put("b", 1, 2, 5), get("b", 3, 4, 5), get("a", 50, 51, 9),
    ],
    "lost answer, never seen": [unanswered("put", 0, "a"), get(None, 1, 2, 0)],
    "not done": [op("put", 0, 1, argument="a", failed=True), get(None, 2, 3, 0)],
    "cas refused": [put("a", 0, 1, 4), cas("b", 2, 2, 3, 4, done=False)],
    "cas done": [put("a", 0, 1, 4), cas("b", 4, 2, 3, 5), get("b", 4, 5, 5)],
    "delete": [put("a", 0, 1, 1), op("del", 2, 3, outcome=True), get(None, 4, 5, 0)],
    "delete with a revision": [put("a", 0, 1, 1), op("del", 2, 3, outcome=True, revision=2), put("b", 4, 5, 3)],
    "open cas that could not be done": [put("a", 0, 1, 4), unanswered("cas", 2, "b", expected=2), get("a", 5, 6, 4)],
    "open cas that was refused by another": [
        put("a", 0, 1, 1), unanswered("cas", 2, "b", expected=1), cas("c", 1, 3, 4, 2), get("c", 5, 6, 2),
    ],
    "increments": [incr(1, 0, 1, 1), incr(3, 2, 3, 4, by=2), get("3", 4, 5, 4)],
    "an increment of unknown outcome that counts": [incr(1, 0, 1, 1), unanswered("incr", 2, 1), incr(3, 5, 6, 9)],
    "an increment of unknown outcome that does not": [incr(1, 0, 1, 1), unanswered("incr", 2, 1), incr(2, 5, 6, 9)],
    "a counter that was deleted": [
        incr(1, 0, 1, 1), unanswered("del", 2), incr(1, 5, 6, 3), get("1", 7, 8, 3),
    ],
    "a counter that begins with what was put": [put("7", 0, 1, 1), incr(8, 2, 3, 2)],
    "one value written twice": [put("a", 0, 1, 1), put("a", 2, 3, 2), get("a", 4, 5, 2)],
    "one value, two open writes": [
        unanswered("put", 0, "a"), unanswered("put", 1, "a"), get("a", 2, 3, 1), put("b", 4, 5, 2), get("a", 6, 7, 3),
    ],
    "two reads of two leaders, in time": [put("a", 0, 1, 1), put("b", 2, 9, 2), get("a", 3, 4, 1), get("b", 5, 6, 2)],
}  # fmt: skip

BAD = {
    "stale read": [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1)],
    "read from nowhere": [get("a", 0, 1, 1)],
    "a failed write is seen": [op("put", 0, 1, argument="a", failed=True), get("a", 2, 3, 1)],
    "a read of the future": [get("a", 0, 1, 1), put("a", 2, 3, 1)],
    "lost acknowledged write": [put("a", 0, 1, 1), get(None, 2, 3, 0)],
    "lost update": [put("a", 0, 1, 1), cas("b", 1, 2, 5, 2), cas("c", 1, 2, 5, 3)],
    "a cas at a revision that is over": [put("a", 0, 1, 1), put("b", 2, 3, 2), cas("c", 1, 4, 5, 3)],
    "a cas refused at the revision that it expects": [put("a", 0, 1, 1), cas("b", 1, 2, 3, 1, done=False)],
    "value goes back": [put("a", 0, 10, 1), get("a", 1, 2, 1), get(None, 3, 4, 0)],
    "dirty read of one of two leaders": [
        put("a", 0, 1, 1), unanswered("put", 2, "b"), get("b", 3, 4, 2), get("a", 5, 6, 1),
    ],
    "two leaders give one revision": [put("a", 0, 9, 5), put("b", 0, 9, 5)],
    "revision goes back": [put("a", 0, 1, 5), put("b", 2, 3, 4)],
    "delete of nothing": [op("del", 0, 1, outcome=True)],
    "a put applied twice": [put("a", 0, 1, 1), get("a", 2, 3, 2)],
    "a put applied again over a later one": [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 3)],
    "an open put applied twice": [
        unanswered("put", 0, "a"), get("a", 1, 2, 1), put("b", 3, 4, 2), get("a", 5, 6, 3),
    ],
    "an increment applied twice": [incr(1, 0, 1, 1), get("2", 2, 3, 2)],
    "an increment applied twice, and one after it": [incr(1, 0, 1, 1), incr(3, 2, 3, 3)],
    "a lost increment": [incr(1, 0, 1, 1), incr(1, 2, 3, 2)],
    "a stale counter": [incr(1, 0, 1, 1), incr(2, 2, 3, 2), get("1", 4, 5, 1)],
    "a value with another revision": [put("a", 0, 1, 2), get("a", 2, 3, 1)],
    "one value written twice, read at a third revision": [put("a", 0, 1, 1), put("a", 2, 3, 2), get("a", 4, 5, 3)],
    "one value, two open writes, three revisions": [
        unanswered("put", 0, "a"), unanswered("put", 1, "a"),
        *(o for n in (1, 3, 5) for o in (get("a", 10 * n, 10 * n + 1, n), put(f"{n}", 10 * n + 2, 10 * n + 3, n + 1))),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name: str) -> None:
    assert check(GOOD[name]).verdict is Verdict.LINEARIZABLE
    assert brute_force(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_caught(name: str) -> None:
    result = check(BAD[name])
    assert (result.verdict, result.key) == (Verdict.VIOLATION, "k")
    assert not brute_force(BAD[name])


def test_one_bad_key_among_good_ones_is_named() -> None:
    history = [replace(o, key="good", revision=o.revision + 10) for o in GOOD["sequential"]] + BAD["stale read"]
    result = check(history)
    assert (result.verdict, result.key) == (Verdict.VIOLATION, "k")
    assert result.keys["good"].verdict is Verdict.LINEARIZABLE


# -- what no single key shows ------------------------------------------------------------------------------------------

ACROSS = {
    "one revision of two keys": [put("a", 0, 9, 5), put("b", 0, 9, 5, key="other")],
    "a later write of another key at a lower revision": [put("a", 0, 1, 5), put("b", 2, 3, 4, key="other")],
    "a write after a read that saw a higher revision": [
        unanswered("put", 0, "a"), get("a", 1, 2, 5), put("b", 3, 4, 4, key="other"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ACROSS)
def test_revisions_of_several_keys_contradict_each_other(name: str) -> None:
    result = check(ACROSS[name])
    assert {each.verdict for each in result.keys.values()} == {Verdict.LINEARIZABLE}
    assert (result.verdict, result.key) == (Verdict.VIOLATION, None)
    assert result.contradiction is not None
    assert {o.key for o in result.contradiction} == {"k", "other"}


def test_revisions_of_several_keys_agree() -> None:
    history = [
        put("a", 0, 3, 5), put("b", 2, 4, 4, key="other"), put("c", 5, 6, 7), get("b", 7, 8, 4, key="other"),
    ]  # fmt: skip
    assert check(history).verdict is Verdict.LINEARIZABLE


# -- what is no verdict ------------------------------------------------------------------------------------------------


def test_out_of_steps_is_not_a_pass() -> None:
    history = [put(str(i), 0, 1000, i + 1) for i in range(12)]
    assert check(history).verdict is Verdict.LINEARIZABLE
    result = check(history, max_steps=5)
    assert (result.verdict, result.key) == (Verdict.UNKNOWN, "k")
    assert result.keys["k"].reason == "no answer in 5 steps"


def test_a_violation_outweighs_what_is_unknown() -> None:
    history = [put(str(i), 0, 1000, i + 1) for i in range(12)]
    history += [replace(o, key="j") for o in BAD["read from nowhere"]]
    result = check(history, max_steps=5)
    assert (result.verdict, result.key) == (Verdict.VIOLATION, "j")


@pytest.mark.parametrize(
    "history",
    [
        [unanswered("cas", 0, "a", expected=1), unanswered("put", 0, "a"), get("a", 2, 3, 7)],
        [unanswered("put", 0, "5"), incr(6, 2, 3, 7)],
    ],
)
def test_open_writes_that_cannot_be_told_apart_are_not_a_pass(history: list[Operation]) -> None:
    result = check(history)
    assert result.verdict is Verdict.UNKNOWN
    assert "unknown outcome" in result.keys["k"].reason


# -- random histories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "kind"), [(20, {}), (21, {"values": 2}), (22, {"counts": True})], ids=["register", "few values", "counter"]
)
def test_agrees_with_brute_force(seed: int, kind: dict[str, int]) -> None:
    rng = random.Random(seed)
    verdicts: Counter[Verdict] = Counter()
    for _ in range(1500):
        history = Register(rng, **kind).history(rng.randint(2, 6), lost=0.3)
        if rng.random() < 0.85:
            history = spoil(rng, history)
        expected = Verdict.LINEARIZABLE if brute_force(history) else Verdict.VIOLATION
        found = check(history)
        assert found.verdict in (expected, Verdict.UNKNOWN), history
        assert found.verdict is expected or "unknown outcome" in found.keys["k"].reason, history
        verdicts[found.verdict] += 1
    assert verdicts[Verdict.LINEARIZABLE] > 250, verdicts
    assert verdicts[Verdict.VIOLATION] > 250, verdicts
    assert verdicts[Verdict.UNKNOWN] < 100, verdicts


@pytest.mark.parametrize("counts", [False, True], ids=["register", "counter"])
def test_agrees_with_the_search_that_knows_nothing_of_revisions(counts: bool) -> None:
    """On longer histories. What revisions say beyond the plain model makes some more of them wrong, and none right."""
    rng = random.Random(21)
    verdicts: Counter[tuple[Verdict, Verdict]] = Counter()
    for _ in range(400):
        history = Register(rng, counts=counts).history(rng.randint(10, 40), lost=0.15)
        if rng.random() < 0.7:
            history = spoil(rng, history)
        verdicts[plain.check_key(history, max_steps=200_000), check(history).verdict] += 1
    good, bad = Verdict.LINEARIZABLE, Verdict.VIOLATION
    assert verdicts[good, good] > 60, verdicts
    assert verdicts[bad, bad] > 60, verdicts
    assert verdicts[bad, good] == 0
    assert verdicts[good, bad] < 60, verdicts


@pytest.mark.parametrize("counts", [False, True], ids=["register", "counter"])
def test_a_long_history_with_many_open_ends_takes_few_steps(counts: bool) -> None:
    history = Register(random.Random(22), counts=counts).history(1000, lost=0.4)
    assert check(history, max_steps=5000).verdict is Verdict.LINEARIZABLE


def test_steps_grow_with_the_length_and_not_faster() -> None:
    for length in (2_000, 20_000):
        history = Register(random.Random(23)).history(length, lost=0.02)
        assert check(history, max_steps=length).verdict is Verdict.LINEARIZABLE


def test_a_violation_at_the_very_end_is_found_over_many_open_writes() -> None:
    history = Register(random.Random(23)).history(2_000, lost=0.02)
    end = max(o.called for o in history) + 100
    assert check([*history, get("v1", end, end + 1, 3)]).verdict is Verdict.VIOLATION


def test_from_a_state_in_the_middle() -> None:
    assert check_key([get("a", 0, 1, 7)], start=State("a", 7)) is Verdict.LINEARIZABLE
    assert check_key([get("a", 0, 1, 7)], start=State("a", 8)) is Verdict.VIOLATION
    assert check_key([op("del", 0, 1, outcome=True, revision=3)], start=State("a", UNSEEN)) is Verdict.LINEARIZABLE
