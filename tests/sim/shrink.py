"""A failing run made shorter: fewer operations, and only the faults that it takes.

A run is deterministic, and every fault has random numbers of its own (see `faults`), so each try is a whole new run
with some faults left out. It need not fail in the same way; what is left is a failure all the same, and shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fastkv.chaos.operations import FOREVER
from fastkv.chaos.window import smallest_window
from tests.sim.truth import Violation
from tests.sim.world import World

TRIES = 80


class Failure(NamedTuple):
    """A run that breaks a promise, and how to see it again."""

    world: World
    violation: Violation
    operations: int
    skipped: frozenset[int]

    @property
    def command(self) -> str:
        """What to type."""
        skip = f" --skip {','.join(map(str, sorted(self.skipped)))}" if self.skipped else ""
        nodes = len(self.world.founders.members)
        return f"python -m tests.sim --seed {self.world.seed} --nodes {nodes} --operations {self.operations}{skip}"


def run(
    seed: int, nodes: int, operations: int, skipped: frozenset[int] = frozenset()
) -> tuple[World, Failure | None]:
    """One run, and its failure if it fails."""
    world = World(seed, nodes=nodes, skip_faults=skipped)
    try:
        world.run(operations=operations)
    except Violation as violation:
        return world, Failure(world, violation, operations, skipped)
    return world, None


def shrink(failure: Failure, *, tries: int = TRIES) -> Failure:
    """A failure of the same seed with as few operations and faults as that many more runs find."""
    budget = [tries]
    seed, nodes = failure.world.seed, len(failure.world.founders.members)

    def attempt(operations: int, skipped: frozenset[int]) -> Failure | None:
        budget[0] -= 1
        return run(seed, nodes, operations, skipped)[1] if budget[0] >= 0 else None

    failure = _fewer_operations(failure, attempt)
    failure = _fewer_faults(failure, attempt)
    return _fewer_operations(failure, attempt)


Attempt = Callable[[int, frozenset[int]], Failure | None]


def _fewer_operations(failure: Failure, attempt: Attempt) -> Failure:
    """As many as there had been when it failed, as long as that makes them fewer."""
    while True:
        wanted = min(failure.operations - 1, max(1, _done_by_then(failure)))
        found = attempt(wanted, failure.skipped) if wanted > 0 else None
        if found is None:
            return failure
        failure = found


def _done_by_then(failure: Failure) -> int:
    """How many operations there were when the failure could be seen."""
    history, key = failure.world.history, failure.violation.key
    if not key:
        return failure.world.seen.operations
    window = smallest_window(op for op in history if op.key == key)
    end = max(op.returned for op in window.operations if op.returned != FOREVER)
    return sum(op.called <= end for op in history) + len(failure.world.seen.stale)


def _fewer_faults(failure: Failure, attempt: Attempt) -> Failure:
    """Leave out half of the faults, then quarters, … and at last single ones (Zeller's delta debugging)."""
    size = len(failure.world.faults.struck)
    while size > 1:
        size = (size + 1) // 2
        faults = failure.world.faults.struck
        for at in range(0, len(faults), size):
            found = attempt(failure.operations, failure.skipped | frozenset(faults[at : at + size]))
            failure = found or failure
    return failure
