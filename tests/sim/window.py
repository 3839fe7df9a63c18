"""The part of a history that cannot be: as few operations as show, by themselves, that it is not linearizable.

Whatever is left out only ever makes a history easier to explain: an operation that is cut off at the end has an open
outcome; where the beginning is cut off, any state that was possible may have been the first; a read is dropped; a write
that was done is taken for one that perhaps was. What is still impossible then is the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from tests.sim.linearizability import FOREVER, MISSING, UNSEEN, Operation, State, Verdict, check_key

MAX_STEPS = 20_000


class Window(NamedTuple):
    """Operations in the order of their calls, and the states that the key may have been in before them."""

    starts: list[State]
    operations: list[Operation]

    def impossible(self) -> bool:
        """Whether no order explains it, from whichever state."""
        return all(
            check_key(self.operations, start=start, max_steps=MAX_STEPS) is Verdict.VIOLATION for start in self.starts
        )


def smallest_window(ops: Iterable[Operation]) -> Window:
    """The window of one key's history, which is not linearizable."""
    whole = sorted(ops, key=lambda op: op.called)
    window = _least(_cut_end(whole))
    return _reduced(_cut_beginning(window))


def _cut_end(ops: Sequence[Operation]) -> Window:
    """Nothing after the first answer with which there is no explanation any more."""
    ends = sorted({op.returned for op in ops if op.returned != FOREVER})
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if Window([MISSING], _until(ops, ends[middle])).impossible():
            high = middle
        else:
            low = middle + 1
    return Window([MISSING], _until(ops, ends[low]))


def _until(ops: Sequence[Operation], end: int) -> list[Operation]:
    return [op if op.returned <= end else _opened(op) for op in ops if op.called <= end]


def _opened(op: Operation) -> Operation:
    return replace(op, returned=FOREVER, outcome=None, revision=UNSEEN)


def _least(window: Window) -> Window:
    return Window(window.starts, [op for op in window.operations if op.f != "get" or op.returned != FOREVER])


def _cut_beginning(window: Window) -> Window:
    """Nothing that was over long before: any of the states that it left behind may have been the first."""
    ops = window.operations
    moments = sorted({op.called for op in ops})
    low, high, best = 0, len(moments) - 1, window
    while low <= high:
        middle = (low + high) // 2
        tried = _since(ops, moments[middle])
        if tried.impossible():
            best, low = tried, middle + 1
        else:
            high = middle - 1
    return best


def _since(ops: Sequence[Operation], begin: int) -> Window:
    kept = [op for op in ops if op.returned >= begin]
    dropped = [op for op in ops if op.returned < begin]
    starts = {MISSING}
    for op in dropped:
        if op.f == "get" and op.outcome is not None:
            starts.add(State(str(op.outcome), op.revision))
        elif op.f in ("put", "cas") and op.outcome:
            starts.add(State(op.argument, op.revision))
    newest = sorted(starts, key=lambda state: state.revision)[-8:]
    return Window([MISSING, *(state for state in newest if state != MISSING)], kept)


def _reduced(window: Window) -> Window:
    """One operation after the other left out, or its outcome left open, where that does not explain the rest."""
    operations = list(window.operations)
    for op in list(operations):
        at = operations.index(op)
        without = operations[:at] + operations[at + 1 :]
        changes_nothing = op.f == "get" or op.outcome is False
        tried = [without] if changes_nothing or op.returned == FOREVER else [without, _with(operations, at)]
        for fewer in tried:
            if Window(window.starts, fewer).impossible() and not _from_nowhere(fewer, window.starts):
                operations = fewer
                break
    return Window(window.starts, operations)


def _with(operations: Sequence[Operation], at: int) -> list[Operation]:
    return [_opened(op) if i == at else op for i, op in enumerate(operations)]


def _from_nowhere(operations: Sequence[Operation], starts: Sequence[State]) -> bool:
    """Whether a value is read that nobody has written: then too much was left out."""
    written = {op.argument for op in operations if op.f in ("put", "cas")} | {state.value for state in starts} | {None}
    return any(op.f == "get" and op.outcome not in written for op in operations)
