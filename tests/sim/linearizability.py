"""Is a history linearizable? Wing and Gong's search with Lowe's memo, guided by what revisions say, bounded in steps.

Linearizability is local (Herlihy and Wing 1990, theorem 1): a history is linearizable when the history of each key is.
So keys are checked apart. A search that runs out of steps answers UNKNOWN, never a pass.

The model of one key is a register with a revision: `State(value, revision)`, where a missing key is `(None, 0)`. Every
write has a value of its own, and revisions only grow. So most of the order is known, and the search has few choices:

* What changes nothing (a read, a refused cas) and fits the present state is taken at once: it fits in any order where
  it comes later, too.
* Writes are taken in the order of their revisions. A write whose answer was lost has the revision that somebody saw.
* What is left are writes with lost answers that nobody saw by their value. They may have happened at any time after
  their call, or never. One is taken only where something shows that there was one: a revision that no other write has,
  a key that is there, or is gone, with no other reason. They are as good as each other (only, an open cas can be taken
  at its revision alone, and so comes first), so that there is a choice of *when*, and not of *which*.

`tests/reference/linearizability.py` is the same without guidance; a test holds the two together.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

UNSEEN = -1
FOREVER = 1 << 62
SOMEBODY = -1
NOBODY = -2


class Verdict(enum.Enum):
    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class Operation:
    """One call and its answer. Times are any increasing numbers; `returned` is FOREVER where the outcome is open.

    `f` is get, put, cas or delete. `argument` is the value written, which no other operation writes; `expected` the
    revision a cas asks for. `outcome`:

    * get: the value, or None; `revision` is its mod revision (0 with None);
    * put: True; `revision` is the new one;
    * cas, delete: True when done, with the new revision, False when refused, with the current one (cas).
    """

    client: str
    key: str
    f: str
    called: int
    returned: int
    argument: str | None = None
    expected: int = 0
    outcome: object = None
    revision: int = UNSEEN


class State(NamedTuple):
    value: str | None = None
    revision: int = 0


MISSING = State()


def check(history: Iterable[Operation], *, max_steps: int = 200_000) -> tuple[Verdict, str]:
    """The verdict over all keys, and the key that decided it."""
    keys: dict[str, list[Operation]] = defaultdict(list)
    for op in history:
        keys[op.key].append(op)
    unknown = ""
    for key in sorted(keys):
        verdict = check_key(keys[key], max_steps=max_steps)
        if verdict is Verdict.VIOLATION:
            return verdict, key
        if verdict is Verdict.UNKNOWN:
            unknown = unknown or key
    return (Verdict.UNKNOWN, unknown) if unknown else (Verdict.LINEARIZABLE, "")


def check_key(ops: Iterable[Operation], *, start: State = MISSING, max_steps: int = 200_000) -> Verdict:
    """Search for an order of one key's operations that respects time and the model, from the state `start` on."""
    return _Search(ops, start).run(max_steps)


class _Search:
    """The operations of one key, and what they say about the order of its writes. Sets of operations are bit sets."""

    def __init__(self, ops: Iterable[Operation], start: State) -> None:
        # An unanswered read says nothing.
        self.ops = ops = sorted((o for o in ops if o.f != "get" or o.returned != FOREVER), key=lambda o: o.called)
        self.start = start
        self.answered = [i for i, o in enumerate(ops) if o.returned != FOREVER]
        self.by_return = sorted(self.answered, key=lambda i: ops[i].returned)
        values = [o.argument for o in ops if o.f in ("put", "cas")]
        if len(set(values)) < len(values):
            raise ValueError("two operations write the same value")
        seen = {o.outcome: o.revision for o in ops if o.f == "get" and o.outcome is not None}
        writes: list[tuple[int, int]] = []
        self.open: list[int] = []
        """Writes without an answer whose value nobody saw: they may have happened."""
        self.unordered: set[int] = set()
        """Deletes that were done, at a revision that nobody knows."""
        for i, op in enumerate(ops):
            if op.f == "get" or op.outcome is False:
                continue
            if op.returned != FOREVER:
                revision = op.revision
            else:
                revision = seen.get(op.argument, UNSEEN) if op.f != "delete" else UNSEEN
            if revision != UNSEEN:
                writes.append((revision, i))
            elif op.returned == FOREVER:
                self.open.append(i)
            else:
                self.unordered.add(i)
        shown = {o.revision for o in ops if o.f == "get" or (o.f == "cas" and o.outcome is False)}
        shown |= {ops[i].expected for _, i in writes if ops[i].f == "cas"}
        shown -= {revision for revision, _ in writes} | {0, UNSEEN, start.revision}
        self.writes = sorted(writes + [(revision, SOMEBODY) for revision in shown])
        """Revision and operation, in order; SOMEBODY where it has to be an open one."""

    def run(self, max_steps: int) -> Verdict:
        """Depth first: the next write where that is possible, and otherwise an unordered one that is needed."""
        if any(earlier >= later for (earlier, _), (later, _) in pairwise([(self.start.revision, 0), *self.writes])):
            return Verdict.VIOLATION
        everything = sum(1 << i for i in self.answered)
        stack = [(0, self.start, 0, 0, 0)]
        visited = set()
        while stack:
            taken, state, done, first_call, first_return = stack.pop()
            taken, first_call, first_return, candidates = self._settle(taken, state, first_call, first_return)
            if taken & everything == everything:
                return Verdict.LINEARIZABLE
            if (taken, state, done) in visited:
                continue
            visited.add((taken, state, done))
            if len(visited) > max_steps:
                return Verdict.UNKNOWN
            limit = self.ops[self.by_return[first_return]].returned
            # What was pushed last is tried first.
            for op, after, moved in self._choices(taken, state, done, candidates, limit):
                stack.append((taken | 1 << op, after, done + moved, first_call, first_return))
        return Verdict.VIOLATION

    def _settle(self, taken: int, state: State, first_call: int, first_return: int) -> tuple[int, int, int, list[int]]:
        """Take all that changes nothing and fits; with it, the answered ones that were called before the first return.

        `first_call` and `first_return` are places in `answered` and `by_return`: all before them is taken.
        """
        ops, answered, by_return = self.ops, self.answered, self.by_return
        while True:
            while first_return < len(by_return) and taken >> by_return[first_return] & 1:
                first_return += 1
            if first_return == len(by_return):
                return taken, first_call, first_return, []
            limit = ops[by_return[first_return]].returned
            while taken >> answered[first_call] & 1:
                first_call += 1
            candidates: list[int] = []
            before = taken
            for at in range(first_call, len(answered)):
                i = answered[at]
                op = ops[i]
                if op.called > limit:
                    break
                if taken >> i & 1:
                    continue
                if _fits(op, state):
                    taken |= 1 << i
                else:
                    candidates.append(i)
            if taken == before:
                return taken, first_call, first_return, candidates

    def _choices(
        self, taken: int, state: State, done: int, candidates: list[int], limit: int
    ) -> list[tuple[int, State, int]]:
        """What may happen next: operation, state after it, whether it is the next of `writes`. The best comes last."""
        ops = self.ops
        revision, write = self.writes[done] if done < len(self.writes) else (UNSEEN, NOBODY)
        choices: list[tuple[int, State, int]] = []
        if state.value is not None:
            choices += [(i, MISSING, 0) for i in candidates if i in self.unordered]
            wanting = [*candidates, *self._open(taken, limit, "cas")] if write == SOMEBODY else [*candidates, write]
            if any(_wants_missing(ops[i]) for i in wanting if i != NOBODY):
                choices += [(i, MISSING, 0) for i in self._open(taken, limit, "delete")[:1]]
        elif any(ops[i].f == "delete" for i in candidates):
            choices += [(i, State(ops[i].argument, UNSEEN), 0) for i in self._stand_in(taken, limit, state)]
        if write == SOMEBODY:
            choices += [(i, State(ops[i].argument, revision), 1) for i in self._stand_in(taken, limit, state)]
        elif write in candidates or (write != NOBODY and ops[write].returned == FOREVER and ops[write].called <= limit):
            op = ops[write]
            if op.f == "delete":
                choices += [(write, MISSING, 1)] if state.value is not None else []
            elif op.f == "put" or op.expected == state.revision:
                choices.append((write, State(op.argument, revision), 1))
        return choices

    def _open(self, taken: int, limit: int, f: str) -> list[int]:
        """Open operations of one kind that may be next."""
        ops = self.ops
        return [i for i in self.open if ops[i].f == f and ops[i].called <= limit and not taken >> i & 1]

    def _stand_in(self, taken: int, limit: int, state: State) -> list[int]:
        """The open write to take where it has to be one of them, if there is one."""
        fitting = [i for i in self._open(taken, limit, "cas") if self.ops[i].expected == state.revision]
        return (fitting or self._open(taken, limit, "put"))[:1]


def _fits(op: Operation, state: State) -> bool:
    """Whether it changes nothing, and has the outcome that it has in this state."""
    if op.f == "get":
        return op.outcome == state.value and op.revision == state.revision
    if op.outcome is not False:
        return False
    if op.f == "delete":
        return state.value is None
    return op.revision == state.revision != op.expected


def _wants_missing(op: Operation) -> bool:
    """Whether it fits, or may be done, only where the key is missing."""
    if op.f == "get":
        return op.outcome is None
    if op.f == "delete":
        return op.outcome is False
    if op.f == "cas":
        return op.revision == 0 if op.outcome is False else op.expected == 0
    return False
