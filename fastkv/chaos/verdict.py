"""The verdict on a history, in words: linearizable or not, what kind of violation, and the smallest part to show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastkv.chaos import finding
from fastkv.chaos.finding import Finding
from fastkv.chaos.linearizability import Result, Verdict, check
from fastkv.chaos.lines import operation_lines, window_lines
from fastkv.chaos.operations import Operation
from fastkv.chaos.window import Window, smallest_window
from fastkv.chaos.wing_gong import text


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. Counts are operations."""

    verdict: Verdict
    operations: int
    answered: int
    failed: int
    """Certainly not done; they are no part of the order."""
    open: int
    """Nobody knows whether they were done."""
    keys: int
    key: str | None = None
    """The key that decided it, where it was one."""
    finding: Finding | None = None
    reason: str = ""
    window_lines: list[str] = field(default_factory=list)
    """The smallest part of the history that cannot be, a line an operation."""

    @property
    def linearizable(self) -> bool:
        """Only where that was shown: what is not known is no pass."""
        return self.verdict is Verdict.LINEARIZABLE

    def lines(self) -> list[str]:
        """All of it, for a person."""
        counts = f"{self.operations:,} operations on {self.keys:,} keys: {self.answered:,} answered, "
        counts += f"{self.failed:,} not done, {self.open:,} of unknown outcome"
        where = "" if self.key is None else f" on key {self.key!r}"
        if self.linearizable:
            return [counts, "linearizable: yes"]
        if self.verdict is Verdict.UNKNOWN:
            return [counts, f"linearizable: not known, which is no pass{where}: {self.reason}"]
        assert self.finding is not None
        told = [f"linearizable: NO: {self.finding.kind.value}{where}: {self.reason}"]
        return [counts, *told, *(f"  {line}" for line in self.window_lines)]


def judge(history: Sequence[Operation], *, max_steps: int | None = None) -> Report:
    """Check a history, and explain a violation."""
    result = check(history, max_steps=max_steps)
    answered = sum(not op.open and not op.failed for op in history)
    failed = sum(op.failed for op in history)
    counts = (len(history), answered, failed, len(history) - answered - failed, len(result.keys))
    if result.verdict is Verdict.LINEARIZABLE:
        return Report(result.verdict, *counts)
    if result.verdict is Verdict.UNKNOWN:
        assert result.key is not None
        return Report(result.verdict, *counts, result.key, None, result.keys[result.key].reason)
    begin = min(op.called for op in history)
    found, lines = _explained(history, result, begin)
    return Report(result.verdict, *counts, result.key, found, found.reason, lines)


def _explained(history: Sequence[Operation], result: Result, begin: int) -> tuple[Finding, list[str]]:
    if result.contradiction is not None:
        shown = [f"key {op.key!r}: {line}" for op, line in zip(
            result.contradiction, operation_lines(result.contradiction, begin=begin), strict=True)]  # fmt: skip
        return finding.contradicting(*result.contradiction), shown
    ops = [op for op in history if op.key == result.key]
    window = smallest_window(ops)
    found = finding.find(window, ops)
    return found, [*window_lines(window, begin=begin), *_written_before(window, ops, begin)]


def _written_before(window: Window, ops: Sequence[Operation], begin: int) -> list[str]:
    """Who wrote what the window's reads saw, where that is not in the window itself."""
    shown = {(op.client, op.called) for op in window.operations}
    read = {text(op.outcome) for op in window.operations if op.f == "get"} - {None}
    wrote = [op for value in sorted(filter(None, read)) for op in finding.writers(value, ops)]
    wrote = [op for op in wrote if (op.client, op.called) not in shown]
    return ["what was read was written by:", *operation_lines(wrote, begin=begin)] if wrote else []
