"""Histories: by hand, at random from a register that is linearizable, spoiled; and what brute force says of them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace

from fastkv.chaos.operations import FOREVER, UNSEEN, Operation
from tests.reference import linearizability as plain


def op(f: str, called: int, returned: int, **more: object) -> Operation:
    """An operation on the key k."""
    fields = {"client": f"c{called}", "key": "k", **more}
    return Operation(f=f, called=called, returned=returned, **fields)  # type: ignore[arg-type]


def put(value: str, called: int, returned: int, revision: int, **more: object) -> Operation:
    return op("put", called, returned, argument=value, outcome=True, revision=revision, **more)


def get(value: str | None, called: int, returned: int, revision: int, **more: object) -> Operation:
    return op("get", called, returned, outcome=value, revision=revision, **more)


def cas(value: str, expected: int, called: int, returned: int, revision: int, *, done: bool = True) -> Operation:
    return op("cas", called, returned, argument=value, expected=expected, outcome=done, revision=revision)


def incr(total: int, called: int, returned: int, revision: int, *, by: int = 1) -> Operation:
    return op("incr", called, returned, argument=by, outcome=total, revision=revision)


def unanswered(f: str, called: int, argument: object = None, **more: object) -> Operation:
    return op(f, called, FOREVER, argument=argument, **more)


def brute_force(ops: list[Operation]) -> bool:
    """Try every order of every subset that contains all answered operations."""
    closed = [o for o in ops if not o.open and not o.failed]
    open_ones = [o for o in ops if o.open and o.f != "get"]
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
        wrote = o.f != "get" and not o.open and o.outcome is not False and o.revision != UNSEEN
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

    def __init__(self, rng: random.Random, *, counts: bool = False, values: int = 1 << 30) -> None:
        """`counts`: the writes are increments and deletes. `values`: how many different ones are written."""
        self.rng = rng
        self.functions = ["get", "get", "incr", "incr", "del"] if counts else ["get", "get", "put", "cas", "del"]
        self.values = values
        self.value: str | None = None
        self.revision = self.newest = 0
        self.known = [0]

    def history(self, length: int, *, lost: float) -> list[Operation]:
        ops, now = [], 0
        for number in range(length):
            now += self.rng.randint(1, 6)
            ops.append(self.operation(now, f"v{number % self.values}", lost=self.rng.random() < lost))
        return ops

    def operation(self, now: int, value: str, *, lost: bool) -> Operation:
        """One that takes effect now, or, with a lost answer, perhaps never."""
        f = self.rng.choice(self.functions)
        called = now - self.rng.randint(0, 12)
        returned = FOREVER if lost else now + self.rng.randint(0, 12)
        expected = self.rng.choice(self.known[-3:]) if f == "cas" else 0
        argument = {"get": None, "del": None, "incr": self.rng.randint(1, 2)}.get(f, value)
        outcome, revision = self.effect(f, argument, expected, happens=not lost or self.rng.random() < 0.5)
        self.known.append(self.revision)
        if lost:
            return op(f, called, FOREVER, argument=argument, expected=expected)
        if f == "del" and outcome and self.rng.random() < 0.5:
            revision = UNSEEN
        return op(f, called, returned, argument=argument, expected=expected, outcome=outcome, revision=revision)

    def effect(
        self, f: str, argument: str | int | None, expected: int, *, happens: bool
    ) -> tuple[str | int | bool | None, int]:
        """What is answered, and the revision with it."""
        if f == "get" or not happens:
            return self.value, self.revision
        if f == "del" and self.value is None:
            return False, 0
        if f == "cas" and self.revision != expected:
            return False, self.revision
        self.newest += self.rng.randint(1, 2)       # other keys' writes have revisions too
        self.revision = 0 if f == "del" else self.newest
        if f == "incr":
            assert isinstance(argument, int)
            total = int(self.value or 0) + argument
            self.value = str(total)
            return total, self.newest
        self.value = None if f == "del" else str(argument)
        return True, self.newest


def spoil(rng: random.Random, history: list[Operation]) -> list[Operation]:
    """Change one thing that somebody saw, or when."""
    spoiled = [replace(o) for o in history]
    victim = rng.choice(spoiled)
    change = rng.randrange(4)
    if change == 0 and not victim.open:
        victim.revision = max(0, victim.revision + rng.choice([-2, -1, 1, 2]))
    elif change == 1 and victim.f == "get":
        other = rng.choice(spoiled)
        wrote = other.outcome is True and other.f in ("put", "cas")
        victim.outcome, victim.revision = (other.argument, other.revision) if wrote else (None, 0)
    elif change == 2 and not victim.open and victim.f in ("cas", "del"):
        victim.outcome = not victim.outcome
    elif change == 2 and not victim.open and victim.f == "incr":
        assert isinstance(victim.outcome, int)
        victim.outcome += rng.choice([-1, 1])
    elif not victim.open:
        shift = rng.randint(-30, 30)
        victim.called, victim.returned = victim.called + shift, victim.returned + shift
    return spoiled
