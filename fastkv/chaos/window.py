"""The part of a key's history that cannot be: as few operations as show, by themselves, that it is not linearizable.

Whatever is left out only ever makes a history easier to explain, so that what is still impossible then is the reason:

* Nothing is looked at after some answer; what was under way then has an open outcome.
* Nothing is looked at before some moment. The key may have been in any state then, as far as writes from before can
  have left it in; what was under way is a write with an open outcome, or a read that is dropped.
* A read, or what changed nothing, is dropped; a write that was done is taken for one with an open outcome (`hidden`).

Leaving out one more of what is left explains the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from fastkv.chaos.operations import FOREVER, UNSEEN, Operation
from fastkv.chaos.wing_gong import MISSING, Ambiguous, State, Verdict, check_key, text

SOMETHING = State("\0something", UNSEEN)
"""The key is there, with a value and at a revision that nobody was told."""


@dataclass(frozen=True, slots=True)
class Window:
    """Operations in the order of their calls, what else may have been written, and where it may have begun."""

    operations: list[Operation]
    hidden: list[Operation] = field(default_factory=list)
    """Writes with an open outcome; they would be an explanation, and are none."""
    before: list[Operation] = field(default_factory=list)
    """Writes from before its beginning, which may have left anything that they can leave."""

    @property
    def starts(self) -> list[State]:
        """The states that the key may have been in at its beginning; but for those that explain no more than others."""
        return _starts(self.before, self.operations)

    def impossible(self) -> bool:
        """Whether no order explains it, from whichever state."""
        ops = [*self.operations, *self.hidden]
        try:
            return all(check_key(ops, start=start) is Verdict.VIOLATION for start in self.starts)
        except Ambiguous:
            return False

    def without(self, *left_out: Operation) -> Window:
        """The same with less to explain."""
        dropped = {id(op) for op in left_out}
        hidden = [_opened(op) for op in left_out if _may_change(op)]
        kept = [op for op in self.operations if id(op) not in dropped]
        return replace(self, operations=kept, hidden=[*self.hidden, *hidden])


def smallest_window(ops: Iterable[Operation]) -> Window:
    """The window of one key's history, which is not linearizable."""
    whole = [op for op in ops if not op.failed and (_may_change(op) or not op.open)]
    prefix = _cut_end(sorted(whole, key=lambda op: op.called))
    return _reduced(_cut_beginning(prefix))


def _may_change(op: Operation) -> bool:
    return op.f != "get" and op.outcome is not False


def _opened(op: Operation) -> Operation:
    return replace(op, returned=FOREVER, outcome=None, revision=UNSEEN)


def _window(ops: Iterable[Operation], before: Sequence[Operation] = ()) -> Window:
    """What has an open outcome shows nothing by itself."""
    ops = list(ops)
    answered = [op for op in ops if not op.open]
    return Window(answered, [op for op in ops if op.open and op.f != "get"], list(before))


# -- the end -----------------------------------------------------------------------------------------------------------


def _cut_end(ops: Sequence[Operation]) -> list[Operation]:
    """Nothing after the first answer with which there is no explanation any more."""
    ends = sorted({op.returned for op in ops if not op.open})
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if _window(_until(ops, ends[middle])).impossible():
            high = middle
        else:
            low = middle + 1
    return _until(ops, ends[low])


def _until(ops: Sequence[Operation], end: int) -> list[Operation]:
    return [op if op.returned <= end else _opened(op) for op in ops if op.called <= end]


# -- the beginning -----------------------------------------------------------------------------------------------------


def _cut_beginning(ops: Sequence[Operation]) -> Window:
    """Nothing from before the last moment from which on there is no explanation."""
    best = _window(ops)
    if any(op.f == "incr" for op in ops) and any(op.f == "cas" for op in ops):
        return best         # too many values that a counter may have begun with
    moments = sorted({op.called for op in ops})
    low, high = 1, len(moments) - 1
    while low <= high:
        middle = (low + high) // 2
        tried = _since(ops, moments[middle])
        if tried.impossible():
            best, low = tried, middle + 1
        else:
            high = middle - 1
    return best


def _since(ops: Sequence[Operation], begin: int) -> Window:
    before = [op for op in ops if op.called < begin and _may_change(op)]
    kept = [op for op in ops if op.called >= begin]
    under_way = [_opened(op) for op in before if op.returned >= begin]
    return _window([*under_way, *kept], before)


def _starts(before: Sequence[Operation], kept: Sequence[Operation]) -> list[State]:
    starts = [MISSING, SOMETHING] if before else [MISSING]
    written = {op.revision: op for op in kept if not op.open and _may_change(op) and op.revision > 0}
    seen = _seen(kept)
    lowest = min([*written, *seen], default=0)
    # A revision that was seen can be the first state's only if it is the lowest.
    if lowest in seen and lowest not in written:
        starts += [State(value, lowest) for value in seen[lowest] if _may_have_left(before, value, lowest)]
    elif lowest in written and written[lowest].f == "incr" and before:
        sum_, amount = written[lowest].outcome, written[lowest].argument
        assert isinstance(sum_, int)
        assert isinstance(amount, int)
        starts.append(State(str(sum_ - amount), UNSEEN))
    return starts


def _seen(ops: Iterable[Operation]) -> dict[int, set[str | None]]:
    """The revisions that somebody saw, and the values seen with them."""
    seen: dict[int, set[str | None]] = defaultdict(set)
    for op in ops:
        if op.open:
            continue
        if op.f == "get" and op.revision > 0:
            seen[op.revision].add(text(op.outcome))
        elif op.f == "cas" and (revision := op.expected if op.outcome else op.revision) > 0:
            seen[revision] |= set()
    return {revision: values or {SOMETHING.value} for revision, values in seen.items()}


def _may_have_left(before: Sequence[Operation], value: str | None, revision: int) -> bool:
    return any(
        op.f != "del"
        and (op.open or op.revision == revision)
        and (op.f == "incr" or value in (SOMETHING.value, text(op.argument)))
        for op in before
    )


# -- what is between ---------------------------------------------------------------------------------------------------


def _reduced(window: Window) -> Window:
    """As much left out as can be: halves, then quarters, … and at last single operations (Zeller's delta debugging).

    An operation that is needed stays needed when others are left out, so one look at each size is enough.
    """
    size = len(window.operations)
    while size:
        at = 0
        while at < len(window.operations):
            fewer = window.without(*window.operations[at : at + size])
            if fewer.impossible():
                window = fewer
            else:
                at += size
        size //= 2
    return window
