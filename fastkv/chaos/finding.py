"""What kind of violation a window shows, where that can be proved from it: stale read, lost write, duplicate apply, …

The verdict does not depend on it. What has several explanations is given the name that they share.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from fastkv.chaos.operations import Operation
from fastkv.chaos.window import Window
from fastkv.chaos.wing_gong import text


class Kind(enum.Enum):
    """The names of violations."""

    STALE_READ = "stale read"
    LOST_WRITE = "lost acknowledged write"
    STALE_OR_LOST = "stale read or lost write"
    DIRTY_READ = "dirty read"
    LOST_UPDATE = "lost update"
    DUPLICATE_APPLY = "duplicate apply"
    FROM_NOWHERE = "value from nowhere"
    FAILED_BUT_DONE = "failed write was done"
    REVISIONS = "contradicting revisions"
    OTHER = "not linearizable"


class Finding(NamedTuple):
    """A kind of violation, and what shows it."""

    kind: Kind
    reason: str


def find(window: Window, history: Iterable[Operation]) -> Finding:
    """What a window of a key shows; `history` is the whole of that key's."""
    ops = sorted(history, key=lambda op: op.called)
    shown = sorted(window.operations, key=lambda op: op.called)
    for look in (_values, _counters, _updates, _revisions, _older_state):
        for finding in look(shown, ops):
            return finding
    return Finding(Kind.OTHER, "no order of these operations explains their answers")


def contradicting(first: Operation, second: Operation) -> Finding:
    """What `revisions.contradiction` has found."""
    if first.revision == second.revision:
        return Finding(Kind.REVISIONS, f"revision {first.revision} was given twice")
    return Finding(
        Kind.REVISIONS,
        f"revision {first.revision} was there before the second operation was called, which got {second.revision}",
    )


def writers(value: object, history: Iterable[Operation]) -> list[Operation]:
    """The puts and cas that wrote a value, or tried to."""
    return [op for op in history if op.f in ("put", "cas") and op.outcome is not False and text(op.argument) == value]


# -- what each look is for ---------------------------------------------------------------------------------------------


def _values(shown: Sequence[Operation], ops: Sequence[Operation]) -> Iterator[Finding]:
    """A value was read that cannot have been there, or not at that revision."""
    if any(op.f == "incr" for op in ops):
        return
    seen: dict[str, int] = {}
    for op in shown:
        value = text(op.outcome)
        if op.f != "get" or value is None:
            continue
        wrote = [writer for writer in writers(value, ops) if writer.called <= op.returned]
        done = [writer for writer in wrote if not writer.failed]
        if not wrote:
            yield Finding(Kind.FROM_NOWHERE, f"nobody had written {value!r} when it was read")
        elif not done:
            yield Finding(Kind.FAILED_BUT_DONE, f"the write of {value!r} had been answered as not done, and was read")
        elif not any(writer.open or writer.revision == op.revision for writer in done):
            told = " and ".join(str(writer.revision) for writer in done)
            yield Finding(Kind.DUPLICATE_APPLY, f"{value!r} was written at revision {told}, and read at {op.revision}")
        elif len(done) == 1 and seen.setdefault(value, op.revision) != op.revision:
            yield Finding(
                Kind.DUPLICATE_APPLY, f"{value!r}, written once, was read at revisions {seen[value]} and {op.revision}"
            )


def _counters(shown: Sequence[Operation], ops: Sequence[Operation]) -> Iterator[Finding]:
    """A counter counts more than was asked for."""
    if any(op.f in ("put", "cas") for op in ops):
        return
    increments = [op for op in ops if op.f == "incr" and not op.failed]
    for op in shown:
        count = text(op.outcome)
        if op.f not in ("get", "incr") or count is None or not count.isdecimal():
            continue
        asked = sum(
            max(other.argument, 0)
            for other in increments
            if other.called <= op.returned and isinstance(other.argument, int)
        )
        if increments and int(count) > asked:
            yield Finding(Kind.DUPLICATE_APPLY, f"it counts {count}, and {asked} had been asked for at most")


def _updates(shown: Sequence[Operation], ops: Sequence[Operation]) -> Iterator[Finding]:
    """A write built on a state that was no longer there."""
    accepted = [op for op in shown if op.f == "cas" and op.outcome is True]
    for op in accepted:
        for other in shown:
            if other is op or other.open:
                continue
            if other in accepted and other.expected == op.expected != 0:
                yield Finding(Kind.LOST_UPDATE, f"two cas were accepted at revision {op.expected}")
            elif other.returned < op.called and op.expected < other.revision < op.revision:
                yield Finding(
                    Kind.LOST_UPDATE, f"a cas was accepted at revision {op.expected}, after {other.revision} was there"
                )
    deleted = any(op.f == "del" for op in ops)
    for first, second in pairwise([op for op in shown if op.f == "incr" and not deleted]):
        if first.outcome == second.outcome and first.argument == second.argument:
            yield Finding(Kind.LOST_UPDATE, f"two increments came to {first.outcome}: one is lost")


def _revisions(shown: Sequence[Operation], ops: Sequence[Operation]) -> Iterator[Finding]:
    """A write got a revision that was there already."""
    for second in shown:
        if second.open or second.f == "get" or second.outcome is False or second.revision < 0:
            continue
        for first in shown[: shown.index(second)]:
            wrote = first.f != "get" and first.outcome is not False
            if first.open or first.revision < second.revision:
                continue
            if first.returned < second.called or (wrote and first.revision == second.revision):
                # Whoever gave it again did not know of the write that had it.
                lost = first.returned < second.called and wrote
                kind = Kind.LOST_WRITE if lost else Kind.REVISIONS
                yield Finding(kind, f"revision {second.revision} was given when {first.revision} was there already")


def _older_state(shown: Sequence[Operation], ops: Sequence[Operation]) -> Iterator[Finding]:
    """Somebody was shown a state from before what others had been told."""
    for late in shown:
        if late.open or (late.f != "get" and late.outcome is not False):
            continue
        for early in shown:
            if early.open or early.returned >= late.called or early.revision <= max(late.revision, 0):
                continue
            if early.f == "del" and early.outcome is True and late.revision == 0:
                continue
            yield _older(early, late, ops)


def _older(early: Operation, late: Operation, ops: Sequence[Operation]) -> Finding:
    """`late` was shown less than `early`, which had returned before."""
    there = f"revision {early.revision} was there, and a later {late.f} was shown "
    there += f"revision {late.revision}" if late.revision > 0 else "that there is no key"
    after = [op for op in ops if op.called > late.returned and not op.open and not op.failed and op.revision >= 0]
    if any(_shows(op) == early.revision for op in after):
        return Finding(Kind.STALE_READ, f"{there}; {early.revision} was seen again afterwards")
    acknowledged = _acknowledged(early.revision, ops)
    if after and all(_shows(op) < early.revision for op in after):
        if acknowledged:
            return Finding(Kind.LOST_WRITE, f"{there}; nobody has seen {early.revision} again")
        return Finding(Kind.DIRTY_READ, f"{there}; nobody has seen {early.revision} again, nor was it acknowledged")
    return Finding(Kind.STALE_OR_LOST, there)


def _shows(op: Operation) -> int:
    """The revision that the key had when an answered operation took effect; of a write, as far as that says."""
    return op.expected if op.f == "cas" and op.outcome is True else op.revision


def _acknowledged(revision: int, ops: Iterable[Operation]) -> bool:
    return any(
        op.revision == revision and op.f != "get" and op.outcome is not False and not op.open and not op.failed
        for op in ops
    )
