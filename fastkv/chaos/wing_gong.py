"""Is the history of one key linearizable? Wing and Gong's search with Lowe's memo, guided by what revisions say.

The model of a key is a register with a revision: `State(value, revision)`, where a missing key is `(None, 0)`. A
counter is a register whose value is decimal text. Revisions only grow, so most of the order of writes is known, and the
search has few choices:

* What changes nothing (a read, a refused cas) and fits the present state is taken at once: it fits in any order where
  it comes later, too.
* Writes are taken in the order of their revisions. A revision that somebody saw and no answered write has is that of a
  write with an open outcome; where its value was seen too, of one that wrote that value.
* What is left are open writes that nobody saw. They may have happened at any time after their call, or never. One is
  taken only where something shows that there was one: a key that is there, or gone, with no other reason, a counter
  that has another value. Those that write nothing that was seen are as good as each other (only, an open cas can be
  taken at its revision alone, and so comes first): there is a choice of *when*, not of *which*.

An operation that may be next was called before the first return of those that are left, so it is under way at that
moment: no more of them than there are clients. So a step costs as much in a long history as in a short one.

`tests/reference/linearizability.py` is the same without guidance; tests hold the two together, and against brute force.
"""

from __future__ import annotations

import enum
import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from fastkv.chaos.operations import UNSEEN, Operation

SOMEBODY = -1
"""Stands for one of the open writes, in the order of writes."""
ANY_VALUE = None


class Verdict(enum.Enum):
    """Of a key, or of a whole history."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNKNOWN = "unknown"
    """The search ran out of steps, or cannot tell writes apart. Never a pass."""


class State(NamedTuple):
    """Of a key. The revision is UNSEEN after a write that nobody was told of."""

    value: str | None = None
    revision: int = 0


MISSING = State()


class Ambiguous(Exception):
    """Open writes cannot be told apart by what they wrote."""


class Write(NamedTuple):
    """The place of a write in the order of revisions."""

    revision: int
    op: int
    """SOMEBODY where it has to be an open one."""
    value: str | None = ANY_VALUE
    """What SOMEBODY has written, where that was seen."""


class Node(NamedTuple):
    """A place in the search: an order for some of the operations has been chosen."""

    called: int
    """So many of the answered operations have been looked at, in the order of their calls."""
    pending: tuple[int, ...]
    """Those of them that have not taken effect."""
    taken: int
    """The open writes that have: a bit set."""
    state: State
    done: int
    """So many of the writes with a place in the order have taken effect."""


def steps_for(operations: int) -> int:
    """How many steps a search of so many operations may take, if nothing else is said."""
    return 100_000 + 20 * operations


def check_key(ops: Iterable[Operation], *, start: State = MISSING, max_steps: int | None = None) -> Verdict:
    """Search for an order of one key's operations that respects time and the model, from the state `start` on.

    Ambiguous where open writes cannot be told apart. ValueError where operations are of several keys.
    """
    search = Search(ops, start)
    return search.run(steps_for(len(search.ops)) if max_steps is None else max_steps)


class Search:
    """The operations of one key, what they say about the order of its writes, and the search for an order."""

    def __init__(self, ops: Iterable[Operation], start: State = MISSING) -> None:
        # A read without an answer says nothing, and what was not done changes nothing.
        self.ops = ops = sorted((o for o in ops if not o.failed and (o.f != "get" or not o.open)), key=_when)
        if len({op.key for op in ops}) > 1:
            raise ValueError("operations of several keys")
        self._start = start
        self._answered = [i for i, op in enumerate(ops) if not op.open]
        self._unordered = {i for i in self._answered if _has_written(ops[i]) and ops[i].revision == UNSEEN}
        """Deletes that were done, at a revision that nobody was told."""
        self._open: dict[str, list[int]] = defaultdict(list)
        for i, op in enumerate(ops):
            if op.open:
                self._open[op.f].append(i)
        self._counter = any(op.f == "incr" for op in ops)
        self._shrinks = any(int(ops[i].argument or 0) < 0 for i in self._open["incr"])
        if self._counter and (self._open["put"] or self._open["cas"]):
            raise Ambiguous("a put or cas of unknown outcome on a counter")
        self._bit = {i: 1 << n for n, i in enumerate(i for found in self._open.values() for i in found)}
        self.writes = self._order()
        self._seen = {write.value for write in self.writes if write.op == SOMEBODY and write.value is not None}

    def _order(self) -> list[Write]:
        """The writes whose revision is known, in its order; with SOMEBODY where it has to be an open one."""
        ops = self.ops
        writing = [i for i in self._answered if _has_written(ops[i]) and i not in self._unordered]
        writes = [Write(ops[i].revision, i) for i in writing]
        values: dict[int, str | None] = {}
        for i in self._answered:
            op = ops[i]
            if op.f == "cas":
                values.setdefault(op.expected if op.outcome else op.revision, ANY_VALUE)
        values |= {op.revision: text(op.outcome) for op in ops if op.f == "get"}
        known = {write.revision for write in writes} | {0, self._start.revision}
        for revision in values.keys() - known:
            # It was an open write. Where that can only have been one cas, there was the revision which that expects.
            value = values[revision]
            could = [i for f in ("put", "cas") for i in self._open[f] if ops[i].argument == value is not None]
            if any(ops[i].f == "cas" for i in could):
                if len(could) > 1:
                    raise Ambiguous(f"several writes of {value!r} with unknown outcomes, one of them a cas")
                values.setdefault(ops[could[0]].expected, ANY_VALUE)
        writes += [Write(revision, SOMEBODY, values[revision]) for revision in values.keys() - known]
        return sorted(writes)

    # -- the search ----------------------------------------------------------------------------------------------------

    def run(self, max_steps: int) -> Verdict:
        """Depth first, which soon finds an order where there are many; and otherwise all orders at once."""
        first = max(self._start.revision, 0)
        if any(a >= b for a, b in pairwise([first, *(write.revision for write in self.writes)])):
            return Verdict.VIOLATION
        verdict = self._deep(min(max_steps, 1000 + 10 * len(self._answered)))
        return self._broad(max_steps) if verdict is Verdict.UNKNOWN else verdict

    def _deep(self, max_steps: int) -> Verdict:
        stack = [Node(0, (), 0, self._start, 0)]
        visited: set[Node] = set()
        while stack:
            node, limit = self._settle(stack.pop())
            if not node.pending:
                return Verdict.LINEARIZABLE
            if node in visited:
                continue
            if len(visited) >= max_steps:
                return Verdict.UNKNOWN
            visited.add(node)
            # What was pushed last is tried first.
            stack += self._choices(node, limit)
        return Verdict.VIOLATION

    def _broad(self, max_steps: int) -> Verdict:
        """Operation by operation; of the orders that come to the same, those that used the fewest open writes.

        Whoever has used up no more of them could go on in every way in which another one can.
        """
        queue: list[tuple[int, int, int, Node, int]] = []
        self._push(queue, Node(0, (), 0, self._start, 0), 0)
        progress = steps = 0
        here: dict[tuple[int, tuple[int, ...], State, int], list[int]] = {}
        while queue:
            level, _, _, node, limit = heapq.heappop(queue)
            if not node.pending:
                return Verdict.LINEARIZABLE
            if level > progress:
                progress, here = level, {}
            others = here.setdefault((node.called, node.pending, node.state, node.done), [])
            if any(taken & node.taken == taken for taken in others):
                continue
            others.append(node.taken)
            if steps == max_steps:
                return Verdict.UNKNOWN
            steps += 1
            for following in self._choices(node, limit):
                self._push(queue, following, steps)
        return Verdict.VIOLATION

    def _push(self, queue: list[tuple[int, int, int, Node, int]], node: Node, step: int) -> None:
        """In the order of answered operations that have taken effect, then of open ones, then of steps."""
        node, limit = self._settle(node)
        level = node.called - len(node.pending)
        heapq.heappush(queue, (level, node.taken.bit_count(), step, node, limit))

    def _settle(self, node: Node) -> tuple[Node, int]:
        """Take all that changes nothing and fits; with it, the first return of what is left.

        What is pending then was called before that, and is all that was. With nothing pending, nothing is left.
        """
        ops, answered = self.ops, self._answered
        called, pending, state = node.called, list(node.pending), node.state
        while True:
            if not pending and called < len(answered):
                pending.append(answered[called])
                called += 1
            limit = min((ops[i].returned for i in pending), default=0)
            while called < len(answered) and ops[answered[called]].called <= limit:
                pending.append(answered[called])
                limit = min(limit, ops[answered[called]].returned)
                called += 1
            left = [i for i in pending if not _fits(ops[i], state)]
            if len(left) == len(pending):
                return Node(called, tuple(pending), node.taken, state, node.done), limit
            pending = left

    def _choices(self, node: Node, limit: int) -> list[Node]:
        """What may happen next, the best last."""
        ops, state, pending = self.ops, node.state, node.pending
        write = self.writes[node.done] if node.done < len(self.writes) else None
        choices: list[Node] = []
        if state.value is not None:
            unordered = [i for i in pending if i in self._unordered]
            if unordered:
                # In the place of another one, also of an open one, which can still be done whenever this one could.
                choices.append(_without(node, min(unordered, key=lambda i: ops[i].returned), MISSING))
            elif self._something_wants_missing(node, limit, write):
                choices += self._deleted(node, limit)
        elif any(ops[i].f == "del" for i in pending):
            choices += self._by_somebody(node, limit, Write(UNSEEN, SOMEBODY), moved=0)
        if write is None:
            return choices
        if write.op == SOMEBODY:
            following = self._by_somebody(node, limit, write, moved=1)
        elif write.op in pending:
            after = _after(ops[write.op], state)
            following = [] if after is None else [_without(node, write.op, after, moved=1)]
        else:
            return choices
        if self._counter and (not following or write.op == SOMEBODY):
            # It may have been another value that was added to.
            choices += self._deleted(node, limit)
            grown = self._by_somebody(node, limit, Write(UNSEEN, SOMEBODY), moved=0)
            choices += [after for after in grown if self._is_on_the_way(after, write)]
        return choices + following

    def _is_on_the_way(self, node: Node, write: Write) -> bool:
        """Whether a counter may still come to what `write` needs: not where it only grows, and is beyond."""
        op = self.ops[write.op]
        wanted = write.value if write.op == SOMEBODY else added(text(op.outcome), -int(op.argument or 0))
        if wanted is None or node.state.value is None or self._shrinks:
            return True
        return int(node.state.value) <= int(wanted)

    def _something_wants_missing(self, node: Node, limit: int, write: Write | None) -> bool:
        wanting = list(node.pending)
        if write is not None and write.op == SOMEBODY:
            wanting += self._available("cas", node.taken, limit)
        return any(_wants_missing(self.ops[i]) for i in wanting)

    def _available(self, f: str, taken: int, limit: int) -> Iterator[int]:
        """Open operations of one kind that may be next, in the order of their calls."""
        for i in self._open[f]:
            if self.ops[i].called > limit:
                return
            if not taken & self._bit[i]:
                yield i

    def _deleted(self, node: Node, limit: int) -> list[Node]:
        """The key is deleted by an open del, if there is one, and if there is a key."""
        if node.state.value is None:
            return []
        return [self._take(node, i, MISSING, 0) for i in self._available("del", node.taken, limit)][:1]

    def _by_somebody(self, node: Node, limit: int, write: Write, moved: int) -> list[Node]:
        """An open write takes effect as `write`: one of each kind of which it may be."""
        ops, state = self.ops, node.state
        found: dict[object, Node] = {}
        for i in self._available("incr", node.taken, limit):
            amount = ops[i].argument
            value = None if amount in found else added(state.value, amount)
            if value is not None and write.value in (ANY_VALUE, value):
                found[amount] = self._take(node, i, State(value, write.revision), moved)
        for f in ("cas", "put"):
            for i in self._available(f, node.taken, limit):
                value = text(ops[i].argument)
                if f == "cas" and ops[i].expected != state.revision:
                    continue
                if write.value == value or (write.value is ANY_VALUE and value not in self._seen):
                    return [*found.values(), self._take(node, i, State(value, write.revision), moved)]
        if write.value is ANY_VALUE:
            found |= self._seen_elsewhere(node, limit, write, moved)
        return list(found.values())

    def _seen_elsewhere(self, node: Node, limit: int, write: Write, moved: int) -> dict[object, Node]:
        """An open put of a value that was seen, but has other puts to explain that: one of each value."""
        found: dict[object, Node] = {}
        for i in self._available("put", node.taken, limit):
            value = text(self.ops[i].argument)
            if value not in found:
                left = sum(self.ops[j].argument == value and not node.taken & self._bit[j] for j in self._open["put"])
                if left > sum(later.value == value for later in self.writes[node.done :]):
                    found[value] = self._take(node, i, State(value, write.revision), moved)
        return found

    def _take(self, node: Node, i: int, state: State, moved: int) -> Node:
        return Node(node.called, node.pending, node.taken | self._bit[i], state, node.done + moved)


def _when(op: Operation) -> int:
    return op.called


def _without(node: Node, i: int, state: State, moved: int = 0) -> Node:
    pending = tuple(j for j in node.pending if j != i)
    return Node(node.called, pending, node.taken, state, node.done + moved)


# -- the model ---------------------------------------------------------------------------------------------------------


def text(value: object) -> str | None:
    """A value as it is stored."""
    return None if value is None else str(value)


def added(value: str | None, amount: object) -> str | None:
    """What incr makes of a value; None where that is no number."""
    assert isinstance(amount, int)
    if value is None:
        return str(amount)
    return str(int(value) + amount) if value.removeprefix("-").isdecimal() else None


def _has_written(op: Operation) -> bool:
    """Of an answered operation: whether it changed the key."""
    return op.f != "get" and op.outcome is not False


def _fits(op: Operation, state: State) -> bool:
    """Whether it changes nothing, and has the outcome that it has in this state."""
    if op.f == "get":
        return op.revision == state.revision and text(op.outcome) == state.value
    if op.outcome is not False:
        return False
    if op.f == "del":
        return state.value is None
    return op.revision == state.revision != op.expected


def _after(op: Operation, state: State) -> State | None:
    """The state after an answered write; None where it cannot have been done in this one."""
    if op.f == "del":
        return MISSING if state.value is not None else None
    if op.f == "incr":
        return State(text(op.outcome), op.revision) if added(state.value, op.argument) == text(op.outcome) else None
    if op.f == "cas" and op.expected != state.revision:
        return None
    return State(text(op.argument), op.revision)


def _wants_missing(op: Operation) -> bool:
    """Whether it fits, or may be done, only where the key is missing."""
    if op.f == "get":
        return op.outcome is None
    if op.f == "del":
        return op.outcome is False
    if op.f == "cas":
        return op.revision == 0 if op.outcome is False else op.expected == 0
    return False
