"""The checker itself: known good and known bad histories, and a comparison with brute force."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.sim.linearizability import FOREVER, Operation, State, Verdict, check, step


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
    assert check(history, max_steps=50)[0] is Verdict.UNKNOWN


def brute_force(ops: list[Operation]) -> bool:
    """Try every order of every subset that contains all answered operations."""
    closed = [o for o in ops if o.returned != FOREVER]
    open_ones = [o for o in ops if o.returned == FOREVER and o.f != "get"]
    for count in range(len(open_ones) + 1):
        for extra in itertools.combinations(open_ones, count):
            for order in itertools.permutations([*closed, *extra]):
                if any(b.returned < a.called for i, a in enumerate(order) for b in order[i + 1 :]):
                    continue
                state: State | None = State()
                for o in order:
                    state = step(state, o)
                    if state is None:
                        break
                if state is not None:
                    return True
    return False


def random_history(rng: random.Random) -> list[Operation]:
    """Random outcomes that are often almost right, so that both verdicts come up."""
    ops = []
    for _ in range(rng.randint(1, 5)):
        called = rng.randrange(20)
        returned = FOREVER if rng.random() < 0.2 else called + rng.randint(0, 10)
        f = rng.choice(["get", "put", "cas", "delete"])
        revision = rng.randint(1, 4)
        if f == "get":
            value = rng.choice([None, "a", "b"])
            ops.append(get(value, called, returned, revision if value else 0))
        elif f == "put":
            ops.append(put(rng.choice("ab"), called, returned, revision))
        elif f == "cas":
            outcome = rng.random() < 0.5
            ops.append(
                op(
                    "cas",
                    called,
                    returned,
                    argument="b",
                    expected=rng.randint(0, 3),
                    outcome=outcome,
                    revision=revision,
                )
            )
        else:
            ops.append(op("delete", called, returned, outcome=rng.random() < 0.5))
    return ops


def test_agrees_with_brute_force() -> None:
    rng = random.Random(20)
    verdicts = set()
    for _ in range(1500):
        history = random_history(rng)
        expected = Verdict.LINEARIZABLE if brute_force(history) else Verdict.VIOLATION
        assert check(history)[0] is expected, history
        verdicts.add(expected)
    assert verdicts == {Verdict.LINEARIZABLE, Verdict.VIOLATION}
