"""The checker itself: known good and known bad histories, and a comparison with brute force."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.reference import linearizability as plain
from tests.sim.linearizability import FOREVER, UNSEEN, Operation, State, Verdict, check, check_key


def op(f: str, called: int, returned: int, **more: object) -> Operation:
    return Operation(client="c", key="k", f=f, called=called, returned=returned, **more)  # type: ignore[arg-type]


def put(value: str, called: int, returned: int, revision: int) -> Operation:
    return op("put", called, returned, argument=value, outcome=True, revision=revision)


def get(value: str | None, called: int, returned: int, revision: int) -> Operation:
    return op("get", called, returned, outcome=value, revision=revision)


GOOD = {
    "empty": [],
    "sequential": [put("a", 0, 1, 1), get("a", 2, 3, 1)],
    "concurrent read sees either": [put("a", 0, 10, 1), get(None, 1, 2, 0), get("a", 3, 4, 1)],
    "lost answer, seen later": [
        op("put", 0, FOREVER, argument="a"),
        get(None, 1, 2, 0),
        get("a", 3, 4, 1),
    ],
    "lost answer, never seen": [op("put", 0, FOREVER, argument="a"), get(None, 1, 2, 0)],
    "cas refused": [put("a", 0, 1, 4), op("cas", 2, 3, argument="b", expected=2, outcome=False, revision=4)],
    "cas done": [put("a", 0, 1, 4), op("cas", 2, 3, argument="b", expected=4, outcome=True, revision=5)],
    "delete": [put("a", 0, 1, 1), op("delete", 2, 3, outcome=True), get(None, 4, 5, 0)],
    "open cas that could not be done": [
        put("a", 0, 1, 4),
        op("cas", 2, FOREVER, argument="b", expected=2),
        get("a", 5, 6, 4),
    ],
}

BAD = {
    "stale read": [put("a", 0, 1, 1), put("b", 2, 3, 2), get("a", 4, 5, 1)],
    "read from nowhere": [get("a", 0, 1, 1)],
    "lost update": [put("a", 0, 1, 1), get(None, 2, 3, 0)],
    "value goes back": [put("a", 0, 10, 1), get("a", 1, 2, 1), get(None, 3, 4, 0)],
    "two cas on one revision": [
        put("a", 0, 1, 1),
        op("cas", 2, 5, argument="b", expected=1, outcome=True, revision=2),
        op("cas", 2, 5, argument="c", expected=1, outcome=True, revision=3),
    ],
    "revision goes back": [put("a", 0, 1, 5), put("b", 2, 3, 4)],
    "delete of nothing": [op("delete", 0, 1, outcome=True)],
    "applied twice": [put("a", 0, 1, 1), get("a", 2, 3, 2)],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories_pass(name: str) -> None:
    assert check(GOOD[name])[0] is Verdict.LINEARIZABLE


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_caught(name: str) -> None:
    assert check(BAD[name]) == (Verdict.VIOLATION, "k")


def test_out_of_steps_is_not_a_pass() -> None:
    history = [put(str(i), 0, 1000, i + 1) for i in range(12)] + [get("nothing", 1001, 1002, 99)]
    assert check(history, max_steps=5)[0] is Verdict.UNKNOWN


def brute_force(ops: list[Operation]) -> bool:
    """Try every order of every subset that contains all answered operations."""
    closed = [o for o in ops if o.returned != FOREVER]
    open_ones = [o for o in ops if o.returned == FOREVER and o.f != "get"]
    for count in range(len(open_ones) + 1):
        for extra in itertools.combinations(open_ones, count):
            for order in itertools.permutations([*closed, *extra]):
                if any(b.returned < a.called for i, a in enumerate(order) for b in order[i + 1 :]):
                    continue
                if follows(order):
                    return True
    return False


def follows(order: Iterable[Operation]) -> bool:
    """Whether the model allows that order, and revisions grow in it, also while the key is missing."""
    state = plain.State()
    newest = 0
    for o in order:
        after = plain.step(state, o)
        if after is None:
            return False
        wrote = o.f != "get" and o.returned != FOREVER and o.outcome is True
        learned = []            # revisions, in the order in which they were given
        if state.revision == UNSEEN and (o.f == "get" or (o.f == "cas" and o.outcome is False)):
            learned = [o.revision]
        elif state.revision == UNSEEN and o.f == "cas" and after != state:
            learned = [o.expected]
        for revision in learned + [o.revision] * wrote:
            if revision <= newest:
                return False
            newest = revision
        state = after
    return True


class Register:
    """A register that is really linearizable, and clients that overlap and lose answers: where histories come from."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.value: str | None = None
        self.revision = self.newest = 0
        self.known = [0]

    def history(self, length: int, *, lost: float) -> list[Operation]:
        ops, now = [], 0
        for number in range(length):
            now += self.rng.randint(1, 6)
            ops.append(self.operation(now, f"v{number}", lost=self.rng.random() < lost))
        return ops

    def operation(self, now: int, value: str, *, lost: bool) -> Operation:
        """One that takes effect now, or, with a lost answer, perhaps never."""
        f = self.rng.choice(["get", "get", "put", "cas", "delete"])
        called = now - self.rng.randint(0, 12)
        returned = FOREVER if lost else now + self.rng.randint(0, 12)
        expected = self.rng.choice(self.known[-3:]) if f == "cas" else 0
        done, revision, outcome = self.effect(f, value, expected, happens=not lost or self.rng.random() < 0.5)
        self.known.append(self.revision)
        if lost:
            return op(f, called, FOREVER, argument=value, expected=expected)
        if f == "get":
            return get(outcome, called, returned, revision)
        return op(f, called, returned, argument=value, expected=expected, outcome=done, revision=revision)

    def effect(self, f: str, value: str, expected: int, *, happens: bool) -> tuple[bool, int, str | None]:
        if f == "get" or not happens:
            return True, self.revision, self.value
        if f == "delete" and self.value is None:
            return False, 0, None
        if f == "cas" and self.revision != expected:
            return False, self.revision, None
        self.newest += self.rng.randint(1, 2)       # other keys' writes have revisions too
        self.value, self.revision = (None, 0) if f == "delete" else (value, self.newest)
        return True, self.newest, None


def spoil(rng: random.Random, history: list[Operation]) -> list[Operation]:
    """Change one thing that somebody saw, or when."""
    spoiled = [replace(o) for o in history]
    victim = rng.choice(spoiled)
    change = rng.randrange(4)
    if change == 0 and victim.returned != FOREVER:
        victim.revision = max(0, victim.revision + rng.choice([-2, -1, 1, 2]))
    elif change == 1 and victim.f == "get":
        other = rng.choice(spoiled)
        victim.outcome, victim.revision = (other.argument, other.revision) if other.outcome is True else (None, 0)
    elif change == 2 and victim.returned != FOREVER and victim.f in ("cas", "delete"):
        victim.outcome = not victim.outcome
    elif victim.returned != FOREVER:
        shift = rng.randint(-30, 30)
        victim.called, victim.returned = victim.called + shift, victim.returned + shift
    return spoiled


def test_agrees_with_brute_force() -> None:
    rng = random.Random(20)
    verdicts: Counter[Verdict] = Counter()
    for _ in range(2500):
        history = Register(rng).history(rng.randint(2, 6), lost=0.3)
        if rng.random() < 0.85:
            history = spoil(rng, history)
        expected = Verdict.LINEARIZABLE if brute_force(history) else Verdict.VIOLATION
        assert check(history)[0] is expected, history
        verdicts[expected] += 1
    assert min(verdicts.values()) > 400, verdicts


def test_agrees_with_the_search_that_knows_nothing_of_revisions() -> None:
    """On longer histories. What revisions say beyond the plain model makes some more of them wrong, and none right."""
    rng = random.Random(21)
    verdicts: Counter[tuple[Verdict, Verdict]] = Counter()
    for _ in range(600):
        history = Register(rng).history(rng.randint(10, 40), lost=0.15)
        if rng.random() < 0.7:
            history = spoil(rng, history)
        verdicts[plain.check_key(history, max_steps=200_000), check(history)[0]] += 1
    good, bad = Verdict.LINEARIZABLE, Verdict.VIOLATION
    assert verdicts[good, good] > 100
    assert verdicts[bad, bad] > 100
    assert verdicts[bad, good] == 0
    assert verdicts[good, bad] < 60, verdicts


def test_a_long_history_with_many_open_ends_takes_few_steps() -> None:
    history = Register(random.Random(22)).history(1000, lost=0.4)
    assert check(history, max_steps=3000)[0] is Verdict.LINEARIZABLE


def test_from_a_state_in_the_middle() -> None:
    assert check_key([get("a", 0, 1, 7)], start=State("a", 7)) is Verdict.LINEARIZABLE
    assert check_key([get("a", 0, 1, 7)], start=State("a", 8)) is Verdict.VIOLATION
