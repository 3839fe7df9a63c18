"""A failure can be read, repeated and made shorter."""

from __future__ import annotations

import pytest

from tests.sim.bugs import BUGS
from tests.sim.linearizability import FOREVER, Operation
from tests.sim.report import report
from tests.sim.shrink import run, shrink
from tests.sim.window import smallest_window


def operation(f: str, called: int, returned: int, **more: object) -> Operation:
    return Operation(f"c{called}", "k", f, called, returned, **more)  # type: ignore[arg-type]


def test_the_window_is_the_part_that_cannot_be() -> None:
    puts = [operation("put", 10 * i, 10 * i + 5, argument=f"v{i}", outcome=True, revision=i + 1) for i in range(40)]
    stale = operation("get", 251, 253, outcome="v20", revision=21)
    window = smallest_window([*puts, stale])
    assert stale in window.operations
    assert len(window.operations) < 8


def test_a_write_of_unknown_outcome_that_is_seen_and_gone_again_is_in_the_window() -> None:
    lost = operation("put", 0, FOREVER, argument="a")
    seen = operation("get", 5, 6, outcome="a", revision=3)
    gone = operation("get", 7, 8, outcome=None, revision=0)
    later = operation("get", 20, 21, outcome=None, revision=0)
    assert smallest_window([lost, seen, gone, later]).operations == [lost, seen, gone]


@pytest.mark.parametrize(
    ("bug", "says"), [("ack-before-sync", "PRE_VOTE_REPLY term 1"), ("read-at-boot", "what clients saw that cannot be")]
)
def test_a_failure_can_be_read_and_seen_again(bug: str, says: str) -> None:
    with BUGS[bug][1]():
        failure = next(found for seed in range(1, 60) if (found := run(seed, 5, 2000)[1]) is not None)
        shorter = shrink(failure, tries=10)
        told = report(shorter.world, shorter.violation)
        again = run(shorter.world.seed, 5, shorter.operations, shorter.skipped)[1]
    assert again is not None
    assert str(again.violation) == str(shorter.violation)
    assert shorter.operations < 2000
    assert f"seed {shorter.world.seed} at " in told
    assert says in told
    assert f"--seed {shorter.world.seed} --nodes 5 --operations {shorter.operations}" in shorter.command
