"""The cluster has one revision, which grows with each write to any key: what answers say of it, over all keys.

A write that returned before another one was called has the lower revision, whatever their keys are; no two writes have
the same; and what a read has seen was written before whatever is called after it. This is more than each key's history
can say: two leaders at once that serve different keys show here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from fastkv.chaos.operations import Operation


def contradiction(history: Iterable[Operation]) -> tuple[Operation, Operation] | None:
    """Two operations whose revisions cannot both be, in the order of their calls; None where there are none."""
    answered = (op for op in history if not op.failed and not op.open)
    told = [op for op in answered if op.revision > 0 and (op.f != "del" or op.outcome is True)]
    return _given_twice(told) or _goes_back(told)


def _writes(op: Operation) -> bool:
    return op.f != "get" and op.outcome is not False


def _given_twice(told: list[Operation]) -> tuple[Operation, Operation] | None:
    """One revision of two writes, or of two keys."""
    owners: dict[int, Operation] = {}
    for op in sorted(told, key=lambda op: not _writes(op)):
        owner = owners.setdefault(op.revision, op)
        if owner is not op and (owner.key != op.key or _writes(op)):
            first, second = sorted((owner, op), key=lambda op: op.called)
            return first, second
    return None


def _goes_back(told: list[Operation]) -> tuple[Operation, Operation] | None:
    """A write that was called after another operation had returned with the same or a higher revision."""
    returned: list[tuple[int, int]] = []
    newest: Operation | None = None
    for number, op in enumerate(told := sorted(told, key=lambda op: op.called)):
        while returned and returned[0][0] < op.called:
            over = told[heapq.heappop(returned)[1]]
            if newest is None or over.revision > newest.revision:
                newest = over
        if newest is not None and _writes(op) and op.revision <= newest.revision:
            return newest, op
        heapq.heappush(returned, (op.returned, number))
    return None
