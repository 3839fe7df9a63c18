"""A failure can be read, repeated and made shorter."""

from __future__ import annotations

import pytest

from tests.sim.bugs import BUGS
from tests.sim.report import report
from tests.sim.shrink import run, shrink


@pytest.mark.slow
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
