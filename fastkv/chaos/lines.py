"""Operations as lines for a person: when, who, what was asked, what was answered, by whom."""

from __future__ import annotations

from collections.abc import Sequence

from fastkv.chaos.operations import Operation
from fastkv.chaos.window import SOMETHING, Window
from fastkv.chaos.wing_gong import MISSING, State

NS_PER_MS = 1_000_000


def window_lines(window: Window, *, begin: int = 0, per_ms: int = NS_PER_MS) -> list[str]:
    """A window of one key, with what may have been there before it."""
    before = " or ".join(_state(state) for state in window.starts)
    return [f"before: {before}", *operation_lines(window.operations, begin=begin, per_ms=per_ms)]


def operation_lines(ops: Sequence[Operation], *, begin: int = 0, per_ms: int = NS_PER_MS) -> list[str]:
    """One line each, in columns. Times are milliseconds since `begin`."""
    rows = [
        (
            f"{(op.called - begin) / per_ms:,.3f}",
            "…" if op.open else f"{(op.returned - begin) / per_ms:,.3f}",
            op.client,
            f"{asked(op)} -> {answered(op)}",
            _whence(op),
        )
        for op in ops
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    return [
        f"{start:>{widths[0]}} .. {end:>{widths[1]}} ms  {client:<{widths[2]}}  {what:<{widths[3]}}  {whence}".rstrip()
        for start, end, client, what, whence in rows
    ]


def asked(op: Operation) -> str:
    """What a client wanted."""
    return {
        "get": "get",
        "put": f"put {op.argument!r}",
        "cas": f"cas {op.argument!r} if at {op.expected}",
        "del": "del",
        "incr": f"incr {op.argument}",
    }[op.f]


def answered(op: Operation) -> str:
    """What it was told."""
    if op.failed:
        return "not done"
    if op.open:
        return "unknown"
    if op.outcome is None:
        said = "no key"
    elif isinstance(op.outcome, bool):
        said = "done" if op.outcome else "refused"
    else:
        said = repr(op.outcome)
    return f"{said} (revision {op.revision})" if op.revision > 0 else said


def _whence(op: Operation) -> str:
    term = "" if op.term is None else f"term {op.term}"
    return ", ".join(filter(None, (op.node, term)))


def _state(state: State) -> str:
    if state == MISSING:
        return "no key"
    value = "any value" if state.value == SOMETHING.value else repr(state.value)
    return f"{value} (revision {state.revision})" if state.revision > 0 else f"{value}"
