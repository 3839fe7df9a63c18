"""The labs of MIT 6.5840, part 3B: commands are agreed on, at what cost, and with whom away.

| lab test | here |
|---|---|
| `TestBasicAgree3B` | `test_commands_are_decided_one_after_the_other` |
| `TestRPCBytes3B` | `test_each_command_is_sent_to_each_follower_once` |
| `TestFollowerFailure3B`, `TestLeaderFailure3B` | `test_a_majority_goes_on_and_less_than_that_decides_nothing` |
| `TestFailAgree3B` | `test_a_follower_that_was_away_gets_what_it_has_missed` |
| `TestFailNoAgree3B` | `test_what_no_majority_has_is_decided_anew_once_there_is_one` |
| `TestConcurrentStarts3B` | `test_commands_that_are_submitted_at_once_are_all_decided_in_one_term` |
| `TestRejoin3B` | `test_a_leader_that_was_away_gives_up_what_it_alone_has` |
| `TestBackup3B` | `test_a_leader_backs_up_quickly_over_wrong_entries_of_many_terms` |
| `TestCount3B` | `test_an_election_takes_few_frames`, `test_commands_that_are_submitted_at_once_take_few_frames`, |
| | `test_an_idle_cluster_sends_heartbeats_and_little_else` |
"""

from __future__ import annotations

import math

import pytest

from fastkv._core.codes import Status
from tests.seeds import seeds
from tests.sim.events import MS
from tests.sim.lab import ORDERLY, Lab
from tests.sim.machine import Machine

SEEDS = seeds(10)
STEP_US = 40
"""Shorter than any frame's way: a test that looks so often sees a leader before anybody has heard from it."""


@pytest.mark.parametrize("seed", SEEDS)
def test_commands_are_decided_one_after_the_other(seed: int) -> None:
    lab = Lab(seed, nodes=5)
    leader = lab.ready()
    assert leader.process is not None
    begin = leader.process.raft.log.last_index
    for index in range(begin + 1, begin + 4):
        assert not lab.appliers(index), "decided before it was submitted"
        assert lab.agree() == [index]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_majority_goes_on_and_less_than_that_decides_nothing(seed: int) -> None:
    lab = Lab(seed)
    leader = lab.ready()
    first, second = lab.rng.sample(lab.all, 2)      # either, or none of them, may lead
    lab.cut(first)
    lab.agree(on=2)
    lab.pass_time(2)
    lab.agree(on=2)
    leader = lab.one_leader()
    lab.cut(first, second)
    puts = [lab.put(machine) for machine in (leader, *lab.all)]
    lab.pass_time(10)
    assert not any(lab.index(put) for put in puts)
    assert all(put.failed for put in puts), "everybody was told so"
    lab.join(second)
    lab.agree(on=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_follower_that_was_away_gets_what_it_has_missed(seed: int) -> None:
    lab = Lab(seed)
    follower = lab.others(lab.ready())[0]
    lab.agree()
    lab.cut(follower)
    missed = [lab.agree(on=2), lab.agree(on=2)]
    lab.pass_time(2)
    missed += [lab.agree(on=2), lab.agree(on=2)]
    assert not any(follower in lab.appliers(index) for (index,) in missed)
    lab.join(follower)
    lab.agree(on=3)
    assert all(follower in lab.appliers(index) for (index,) in missed)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_no_majority_has_is_decided_anew_once_there_is_one(seed: int) -> None:
    lab = Lab(seed, nodes=5)
    leader = lab.ready()
    [last] = lab.agree()
    lab.cut(*lab.others(leader)[:3])
    put = lab.put(leader)
    lab.pass_time(4)
    assert leader.process is not None
    assert leader.process.raft.log.last_index > last, "it was appended"
    assert not lab.index(put)
    assert not lab.appliers(last + 1)
    lab.join(*lab.all)
    lab.agree(5)
    lab.finish()
    assert len(lab.appliers(last + 1)) == 5
    assert lab.index(put) in (0, last + 1), "it has the index that it had, or none"


@pytest.mark.parametrize("seed", SEEDS)
def test_commands_that_are_submitted_at_once_are_all_decided_in_one_term(seed: int) -> None:
    lab = Lab(seed, **ORDERLY)
    leader = lab.ready()
    puts = [lab.put(machine) for _ in range(20) for machine in lab.all]
    lab.wait(lambda: all(put.status is not None for put in puts), "answers")
    assert [put.status for put in puts] == [Status.OK] * len(puts)
    indexes = sorted(lab.index(put) for put in puts)
    assert indexes == list(range(indexes[0], indexes[0] + len(puts)))
    assert {lab.truth.applied[index - 1][0] for index in indexes} == {leader.term}
    lab.wait(lambda: len(lab.appliers(indexes[-1])) == 3, "all to apply them")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_was_away_gives_up_what_it_alone_has(seed: int) -> None:
    lab = Lab(seed)
    first = lab.ready()
    lab.agree()
    lab.cut(first)
    lost = [lab.put(first) for _ in range(3)]
    second = lab.one_leader()
    assert first.process is not None
    assert first.process.raft.log.last_index > len(lab.truth.applied), "the first one has appended them"
    lab.agree(on=2)
    lab.cut(second)
    lab.join(first)
    lab.agree(on=2)
    lab.join(second)
    lab.agree(on=3)
    assert not any(lab.index(put) for put in lost)
    assert [put.status for put in lost] == [Status.OUTCOME_UNKNOWN] * 3


# -- fast backup -------------------------------------------------------------------------------------------------------

ROUNDS = 10
IN_VAIN = 20


def append_in_vain(lab: Lab, pair: list[Machine], voter: Machine) -> None:
    """With that voter's vote one of the pair leads; alone with the other it appends what will not be decided."""
    lab.split([voter, *pair])
    former = max(machine.term for machine in lab.all)

    def elected() -> list[Machine]:
        return [machine for machine in pair if machine.leads and machine.term > former]

    lab.wait(lambda: bool(elected()), "a leader of two", step_us=STEP_US)
    [leader] = elected()
    lab.split(pair)
    for _ in range(IN_VAIN):
        lab.put(leader)

    def both_have_them() -> bool:
        images = [machine.disk.durable for machine in pair]
        return all(image.last_term == leader.term for image in images) and images[0].last_index == images[1].last_index

    lab.wait(both_have_them, "the other one's copy", elections=1)


@pytest.mark.parametrize("seed", seeds(5))
def test_a_leader_backs_up_quickly_over_wrong_entries_of_many_terms(seed: int) -> None:
    """Two pairs have entries of ten terms each, turn by turn, and a fifth node had a vote for all of them, and none."""
    lab = Lab(seed, nodes=5, clock_rates=(1, 1), election_ticks=10, heartbeat_ticks=1, **ORDERLY)
    lab.ready()
    voter, *four = lab.rng.sample(lab.all, 5)
    lab.cut(voter)
    [common] = lab.agree(on=4)       # from now on the voter's log is older than anybody's: it cannot win
    lab.cut(*lab.all)
    lab.pass_time(3)                # and nobody leads
    pairs = four[:2], four[2:]
    for _ in range(ROUNDS):
        for pair in pairs:
            append_in_vain(lab, pair, voter)
    assert all(machine.disk.durable.last_index >= common + ROUNDS * IN_VAIN for machine in four)
    assert len(lab.truth.applied) <= common, "nobody has decided anything of it"
    lab.network.count_anew()
    lab.join(*lab.all)
    lab.agree(50, on=5)
    assert lab.network.refusals
    # One question a term, as both sides skip whole ones; some are asked again, in vain or by another leader.
    assert max(lab.network.refusals.values()) <= 2 * ROUNDS + 4
    lab.finish()


# -- what it costs -----------------------------------------------------------------------------------------------------

COMMANDS = 10
COMMAND_BYTES = 5000
FRAME_BYTES = 200
"""More than any frame has but for commands: headers, a key, a few more entries."""


@pytest.mark.parametrize("seed", SEEDS)
def test_each_command_is_sent_to_each_follower_once(seed: int) -> None:
    lab = Lab(seed, nodes=3, **ORDERLY)
    leader = lab.ready()
    lab.network.count_anew()
    for _ in range(COMMANDS):
        put = lab.put(leader, nbytes=COMMAND_BYTES)
        lab.wait(lambda put=put: len(lab.appliers(lab.index(put))) == 3, "agreement")
    sent = COMMANDS * COMMAND_BYTES * 2
    assert sent < lab.network.nbytes["APPEND"] < sent + FRAME_BYTES * lab.network.frames["APPEND"]
    assert sum(lab.network.nbytes.values()) < 1.5 * sent, "with all that is said besides"


@pytest.mark.parametrize("seed", SEEDS)
def test_an_election_takes_few_frames(seed: int) -> None:
    """Two questions to each of the others, and their answers. Candidates may collide; the labs allow this much."""
    lab = Lab(seed)
    lab.one_leader()
    frames = lab.network.frames
    questions, answers = frames["PreVote"] + frames["Vote"], frames["PreVoteReply"] + frames["VoteReply"]
    assert 2 <= answers <= questions <= 30


@pytest.mark.parametrize("seed", SEEDS)
def test_commands_that_are_submitted_at_once_take_few_frames(seed: int) -> None:
    lab = Lab(seed, **ORDERLY)
    leader = lab.ready()
    lab.network.count_anew()
    puts = [lab.put(leader) for _ in range(COMMANDS)]
    lab.wait(lambda: all(len(lab.appliers(lab.index(put))) == 3 for put in puts), "agreement")
    frames = lab.network.frames
    # One for all of them; a second may ask whether it has arrived, or bring the word that they are decided.
    assert 2 <= frames["APPEND"] <= 2 * 2
    assert frames["AppendReply"] <= 2 * 2


@pytest.mark.parametrize("seed", SEEDS)
def test_an_idle_cluster_sends_heartbeats_and_little_else(seed: int) -> None:
    lab = Lab(seed)
    lab.ready()
    lab.network.count_anew()
    lab.events.run(lab.events.now + 1000 * MS)
    plan, frames = lab.plan, lab.network.frames
    ticks = math.ceil(1000 * MS / plan.tick_us * plan.clock_rates[1]) + 1
    beats = 2 * (ticks // plan.heartbeat_ticks + 1)
    assert 0 < frames["Heartbeat"] <= beats
    assert frames["HeartbeatReply"] <= beats
    # What nodes say of themselves, and the leader's question whether what it sent last has arrived.
    assert frames["PEER_STATUS"] <= 6 * (ticks // plan.ticks(5) + 1)
    assert sum(frames.values()) <= frames["Heartbeat"] + frames["HeartbeatReply"] + frames["PEER_STATUS"] + 8
