"""Is a history linearizable? A verdict for each key, and one over all of them.

Linearizability is local (Herlihy and Wing 1990, theorem 1): a history is linearizable when the history of each key is.
So keys are checked apart (`wing_gong`). What that cannot see, because revisions are the whole cluster's, is looked at
by itself (`revisions`).

Values may be written more than once: answered writes are told apart by their revisions. Where several open writes of
one key wrote the same value and one of them is a cas, or an open put or cas meets an incr, they cannot be told apart,
and the verdict is UNKNOWN, never a pass. Clients that write no value twice never meet that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastkv.chaos.operations import Operation
from fastkv.chaos.revisions import contradiction
from fastkv.chaos.wing_gong import Ambiguous, Search, Verdict, check_key, steps_for

__all__ = ["KeyResult", "Result", "Verdict", "by_key", "check", "check_key"]


@dataclass(frozen=True, slots=True)
class KeyResult:
    """Of one key."""

    verdict: Verdict
    operations: int
    reason: str = ""
    """Why it is UNKNOWN, in words."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of a history."""

    keys: dict[str, KeyResult] = field(default_factory=dict)
    contradiction: tuple[Operation, Operation] | None = None
    """Two operations whose revisions cannot both be, where no single key shows a violation."""

    @property
    def verdict(self) -> Verdict:
        """A violation outweighs what is unknown, and that outweighs the rest."""
        verdicts = {result.verdict for result in self.keys.values()}
        if Verdict.VIOLATION in verdicts or self.contradiction is not None:
            return Verdict.VIOLATION
        return Verdict.UNKNOWN if Verdict.UNKNOWN in verdicts else Verdict.LINEARIZABLE

    @property
    def key(self) -> str | None:
        """The first key that decided it; None where none did by itself."""
        for key, result in self.keys.items():
            if result.verdict is self.verdict is not Verdict.LINEARIZABLE:
                return key
        return None


def check(history: Iterable[Operation], *, max_steps: int | None = None) -> Result:
    """The verdict on a history. `max_steps` bounds the search of each key; by default it grows with its length."""
    history = list(history)
    keys = {key: _checked(ops, max_steps) for key, ops in sorted(by_key(history).items())}
    if any(result.verdict is Verdict.VIOLATION for result in keys.values()):
        return Result(keys)
    return Result(keys, contradiction(history))


def by_key(history: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The operations of each key."""
    keys: dict[str, list[Operation]] = defaultdict(list)
    for op in history:
        keys[op.key].append(op)
    return dict(keys)


def _checked(ops: list[Operation], max_steps: int | None) -> KeyResult:
    steps = steps_for(len(ops)) if max_steps is None else max_steps
    try:
        verdict = Search(ops).run(steps)
    except Ambiguous as reason:
        return KeyResult(Verdict.UNKNOWN, len(ops), str(reason))
    return KeyResult(verdict, len(ops), f"no answer in {steps} steps" if verdict is Verdict.UNKNOWN else "")
