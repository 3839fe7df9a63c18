"""The labs of MIT 6.5840, part 3C: what a node has said it has, it has after a crash.

| lab test | here |
|---|---|
| `TestPersist13C` | `test_agreement_goes_on_after_crashes_of_all_of_the_leader_and_of_a_follower` |
| `TestPersist23C` | `test_agreement_goes_on_while_ever_other_nodes_are_away_and_crash` |
| `TestPersist33C` | `test_a_follower_that_lags_does_not_lead_those_who_crashed` |
| `TestFigure83C` | `test_figure_8_leaders_crash_soon_after_they_append` |
| `TestUnreliableAgree3C` | `test_many_commands_at_once_are_agreed_on_over_an_unreliable_network` |
| `TestFigure8Unreliable3C` | `test_figure_8_leaders_are_cut_off_on_a_network_that_delays_for_long` |
| `TestReliableChurn3C`, `TestUnreliableChurn3C` | `test_what_clients_were_told_is_there_after_crashes_and_partitions` |
"""

from __future__ import annotations

import pytest

from fastkv._core.codes import Status
from tests.seeds import seeds
from tests.sim.lab import UNRELIABLE, Lab, Put
from tests.sim.network import FAIR, Weather

SEEDS = seeds(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_agreement_goes_on_after_crashes_of_all_of_the_leader_and_of_a_follower(seed: int) -> None:
    lab = Lab(seed)
    lab.ready()
    before = lab.agree()
    lab.crash(*lab.all)
    lab.start(*lab.all)
    assert before < lab.agree()
    leader = lab.one_leader()
    lab.crash(leader)
    lab.start(leader)
    before = lab.agree(on=3)
    leader = lab.one_leader()
    lab.crash(leader)
    assert before < lab.agree(on=2)
    lab.start(leader)
    before = lab.agree(on=3)
    follower = lab.others(lab.one_leader())[0]
    lab.crash(follower)
    missed = lab.agree(on=2)
    assert before < missed
    lab.start(follower)
    lab.wait(lambda: follower in lab.appliers(missed[0]), "the follower to catch up")
    lab.agree(on=3)
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_agreement_goes_on_while_ever_other_nodes_are_away_and_crash(seed: int) -> None:
    lab = Lab(seed, nodes=5)
    lab.ready()
    for _ in range(5):
        lab.agree(on=5)
        leader = lab.one_leader()
        followers = lab.others(leader)
        lab.cut(*followers[:2])
        lab.agree(on=3)
        lab.cut(*lab.all)
        lab.crash(*followers[:2])       # they lag, and have to learn before they are of use
        lab.start(*followers[:2])
        lab.join(*followers[:2])
        lab.pass_time(2)
        assert not any(machine.leads for machine in lab.reachable)
        lab.crash(followers[2])         # it has what was decided meanwhile
        lab.start(followers[2])
        lab.join(followers[2])
        lab.agree(on=3)
        lab.join(leader, followers[3])
    lab.agree(on=5)
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_follower_that_lags_does_not_lead_those_who_crashed(seed: int) -> None:
    lab = Lab(seed)
    leader = lab.ready()
    other, behind = lab.others(leader)
    lab.agree(on=3)
    lab.cut(behind)
    [decided] = lab.agree(on=2)
    lab.crash(leader, other)
    lab.join(behind)
    lab.start(leader)
    assert lab.one_leader() is leader, "of the two only this one has what was decided"
    lab.agree(on=2)
    assert behind in lab.appliers(decided)
    lab.start(other)
    lab.agree(on=3)
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_figure_8_leaders_crash_soon_after_they_append(seed: int) -> None:
    """What a deposed leader has stored in some places must neither count as decided nor be lost where it was."""
    lab = Lab(seed, nodes=5)
    lab.ready()
    puts: list[Put] = []
    for _ in range(150):
        puts += [lab.put(machine) for machine in lab.all if machine.leads]
        # Most often before the others have it, or have answered; one time in ten there is enough for all of that.
        lab.pass_time(lab.rng.random() * (1.5 if lab.rng.random() < 0.1 else 0.15))
        lab.crash(*[machine for machine in lab.all if machine.leads and lab.rng.random() < 0.7])
        down = [machine for machine in lab.all if machine.process is None]
        if len(down) > 2:
            lab.start(lab.rng.choice(down))
        lab.pass_time(lab.rng.random())
    lab.start(*lab.all)
    lab.agree(on=5)
    lab.finish()
    assert len(lab.truth.leaders) > 5
    assert all(lab.index(put) for put in puts if put.status == Status.OK)
    assert len(lab.truth.applied) > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_many_commands_at_once_are_agreed_on_over_an_unreliable_network(seed: int) -> None:
    lab = Lab(seed, nodes=5)
    lab.network.weather = UNRELIABLE
    for _ in range(20):
        lab.agree(5, on=1)
    assert lab.network.lost > 50
    lab.network.weather = FAIR
    lab.agree(on=5)
    lab.finish()


@pytest.mark.parametrize("seed", SEEDS)
def test_figure_8_leaders_are_cut_off_on_a_network_that_delays_for_long(seed: int) -> None:
    lab = Lab(seed, nodes=5)
    lab.ready()
    puts: list[Put] = []
    lab.network.weather = UNRELIABLE
    for turn in range(100):
        if turn == 20:      # two frames of three come up to two elections late, in any order
            lab.network.weather = Weather(loss=0.1, slow=0.67, slow_us=2 * lab.plan.election_us)
        leaders = [machine for machine in lab.all if machine.leads]
        puts += [lab.put(machine) for machine in leaders]
        lab.pass_time(lab.rng.random() * (0.5 if lab.rng.random() < 0.1 else 0.1))
        if leaders and lab.rng.random() < 0.5:
            lab.cut(leaders[-1])
        away = [machine for machine in lab.all if machine not in lab.reachable]
        if len(away) > 2:
            lab.join(lab.rng.choice(away))
    lab.join(*lab.all)
    lab.agree(on=5)         # in that weather
    lab.finish()
    assert len(lab.truth.leaders) > 1
    assert all(lab.index(put) for put in puts if put.status == Status.OK)


@pytest.mark.parametrize("weather", [FAIR, UNRELIABLE], ids=["reliable", "unreliable"])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_clients_were_told_is_there_after_crashes_and_partitions(seed: int, weather: Weather) -> None:
    lab = Lab(seed, nodes=5, operations=(("put", 1),))
    lab.ready()
    lab.network.weather = weather
    lab.serve(10)
    for _ in range(40):
        if lab.rng.random() < 0.2:
            lab.cut(lab.rng.choice(lab.all))
        if lab.rng.random() < 0.5:
            back = lab.rng.choice(lab.all)
            lab.start(back)
            lab.join(back)
        if lab.rng.random() < 0.2:
            lab.crash(lab.rng.choice(lab.all))
        lab.pass_time(0.7)      # enough for some elections, not for all
    lab.finish()
    lab.agree(on=5)
    acknowledged = lab.acknowledged()
    assert len(acknowledged) > 10
    assert acknowledged <= {command.value.decode() for command in lab.commands()}
