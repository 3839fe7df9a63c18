"""The labs of MIT 6.5840, part 3A: leaders are elected.

| lab test | here |
|---|---|
| `TestInitialElection3A` | `test_a_leader_is_elected_and_stays_while_nothing_fails` |
| `TestReElection3A` | `test_a_leader_that_is_cut_off_is_replaced_and_does_not_disturb_when_it_is_back`, |
| | `test_without_a_quorum_nobody_leads` |
| `TestManyElections3A` | `test_whichever_minority_is_cut_off_the_others_have_a_leader` |
"""

from __future__ import annotations

import pytest

from tests.seeds import seeds
from tests.sim.lab import Lab

SEEDS = seeds(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_is_elected_and_stays_while_nothing_fails(seed: int) -> None:
    lab = Lab(seed)
    leader = lab.one_leader()
    term = leader.term
    assert term >= 1
    for _ in range(20):
        lab.pass_time(1)
        assert lab.one_leader() is leader
        assert [machine.term for machine in lab.all] == [term] * 3


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_is_cut_off_is_replaced_and_does_not_disturb_when_it_is_back(seed: int) -> None:
    lab = Lab(seed)
    first = lab.one_leader()
    lab.cut(first)
    second = lab.one_leader()
    assert second is not first
    lab.pass_time(4)
    assert not first.leads, "it hears from no quorum, and gives up"
    term = second.term
    lab.join(first)
    lab.pass_time(4)
    assert lab.one_leader() is second
    assert second.term == term


@pytest.mark.parametrize("seed", SEEDS)
def test_without_a_quorum_nobody_leads(seed: int) -> None:
    lab = Lab(seed)
    leader = lab.one_leader()
    alone, last = lab.others(leader)
    lab.cut(leader, alone)
    lab.pass_time(4)
    for _ in range(10):
        lab.pass_time(0.5)
        assert not any(machine.leads for machine in lab.all)
    lab.join(alone)
    assert lab.one_leader() in (alone, last)
    lab.join(leader)
    lab.one_leader()


@pytest.mark.parametrize("seed", SEEDS)
def test_whichever_minority_is_cut_off_the_others_have_a_leader(seed: int) -> None:
    lab = Lab(seed, nodes=7)
    lab.one_leader()
    for _ in range(10):
        away = lab.rng.sample(lab.all, 3)
        lab.cut(*away)
        assert lab.one_leader() not in away
        lab.join(*away)
    lab.one_leader()
    assert len(lab.truth.leaders) > 1, "some of those who were cut off led"
