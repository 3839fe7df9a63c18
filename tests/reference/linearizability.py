"""Is one key's history linearizable? Wing and Gong's search with Lowe's memo, as published: the twin of the guided one.

It knows nothing of what revisions say about the order of writes, and tries every operation that may be next. So it is
slow where many outcomes are open, and there is little in it to be wrong.
"""

from __future__ import annotations

from typing import NamedTuple

from fastkv.chaos.operations import FOREVER, UNSEEN, Operation
from fastkv.chaos.wing_gong import Verdict


class State(NamedTuple):
    value: str | None = None
    revision: int = 0


def step(state: State, op: Operation) -> State | None:
    """The state after `op`, or None where `op` cannot have had its outcome in this state."""
    done = op.returned != FOREVER
    if op.f == "get":
        if op.outcome != state.value or (state.revision != UNSEEN and op.revision != state.revision):
            return None
        return State(state.value, op.revision)
    if op.f == "put":
        return _written(state, op, done)
    if op.f == "cas":
        if not done:
            return _written(state, op, done) if _may_be(state, op.expected) else state
        if op.outcome:
            return _written(state, op, done) if _may_be(state, op.expected) else None
        if op.revision == op.expected or not _may_be(state, op.revision):
            return None
        return State(state.value, op.revision)
    if op.f == "del":
        if not done:
            return State()
        return State() if bool(op.outcome) == (state.value is not None) else None
    if op.f == "incr":
        return _added(state, op, done)
    raise ValueError(f"the model does not know {op.f!r}")


def _may_be(state: State, revision: int) -> bool:
    if state.revision == UNSEEN:
        return revision != 0
    return state.revision == revision


def _added(state: State, op: Operation, done: bool) -> State | None:
    assert isinstance(op.argument, int)
    if not (state.value or "0").removeprefix("-").isdecimal():
        return None if done else state
    total = int(state.value or "0") + op.argument
    if done and op.outcome != total:
        return None
    return _written(state, op, done, str(total))


def _written(state: State, op: Operation, done: bool, value: str | None = None) -> State | None:
    if done and state.revision != UNSEEN and op.revision <= state.revision:
        return None         # revisions only grow
    return State(str(op.argument) if value is None else value, op.revision if done else UNSEEN)


class _Event:
    """A call or a return in a doubly linked list, so that an operation is lifted out and put back in O(1)."""

    __slots__ = ("after", "before", "match", "op")

    def __init__(self, op: int, match: _Event | None) -> None:
        self.op = op
        self.match = match          # a call's return; None on a return
        self.before: _Event | None = None
        self.after: _Event | None = None

    def lift(self) -> None:
        _join(self.before, self.after)
        assert self.match is not None
        _join(self.match.before, self.match.after)

    def put_back(self) -> None:
        assert self.match is not None
        for event in (self.match, self):
            assert event.before is not None
            event.before.after = event
            if event.after is not None:
                event.after.before = event


def _join(before: _Event | None, after: _Event | None) -> None:
    assert before is not None
    before.after = after
    if after is not None:
        after.before = before


def _link(ops: list[Operation]) -> _Event:
    timeline: list[tuple[int, int, int, _Event]] = []
    for number, op in enumerate(ops):
        ended = _Event(number, None)
        # At equal times calls come before returns: such operations count as overlapping.
        timeline.append((op.called, 0, number, _Event(number, ended)))
        timeline.append((op.returned, 1, number, ended))
    timeline.sort(key=lambda item: item[:3])
    head = _Event(-1, None)
    last = head
    for _, _, _, event in timeline:
        last.after, event.before = event, last
        last = event
    return head


def check_key(ops: list[Operation], *, max_steps: int) -> Verdict:
    """Search for an order of one key's operations that respects time and the model."""
    # An unanswered read says nothing.
    ops = [op for op in ops if not op.failed and not (op.f == "get" and op.returned == FOREVER)]
    must = sum(1 for op in ops if op.returned != FOREVER)
    head = _link(ops)
    state, taken, done = State(), 0, 0
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[_Event, State]] = []
    entry = head.after
    for _ in range(max_steps):
        if done == must:
            return Verdict.LINEARIZABLE
        assert entry is not None
        if entry.match is not None:         # a call: try to let it take effect now
            after = step(state, ops[entry.op])
            chosen = taken | (1 << entry.op)
            if after is not None and (chosen, after) not in seen:
                seen.add((chosen, after))
                stack.append((entry, state))
                state, taken = after, chosen
                done += ops[entry.op].returned != FOREVER
                entry.lift()
                entry = head.after
            else:
                entry = entry.after
            continue
        # A return is reached and its operation has not taken effect: go back on the last choice.
        if not stack:
            return Verdict.VIOLATION
        last, state = stack.pop()
        taken &= ~(1 << last.op)
        done -= ops[last.op].returned != FOREVER
        last.put_back()
        entry = last.after
    return Verdict.UNKNOWN
