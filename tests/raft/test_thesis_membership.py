"""Ongaro's thesis, 4.2.1 (new servers catch up first) and 4.2.2 (leaders that are removed). Each test is named for what
the thesis says. Who decides while the members change is in `test_thesis_joint_consensus`, servers that disturb are in
`test_thesis_disruptions`.
"""

from __future__ import annotations

import itertools

import pytest

from fastkv.raft import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    LEARNER,
    AddMember,
    Member,
    Remove,
    Transferring,
)
from fastkv.raft.messages import APPEND, HEARTBEAT_REPLY, TIMEOUT_NOW, VOTE, VOTE_REPLY
from tests.raft.alone import Alone, of_kind
from tests.raft.harness import batch, members
from tests.raft.thesis import all_acknowledge, leader, says, voters

# -- 4.2.1: catching up new servers ------------------------------------------------------------------------------------


PERIODS = [(proposed, answered) for proposed in (0, 2) for answered in ("all", "one behind", "old")]


@pytest.mark.parametrize("first", PERIODS, ids=str)
def test_4_2_1_a_new_server_votes_once_it_has_what_was_the_log_a_round_before(first: tuple[int, str]) -> None:
    """Rounds last an election timeout. The new one keeps up where it has, at the end of a round, all that its beginning
    saw: what is left then takes less than another one.
    """
    promoted_after = {rounds_until_promoted((first, *rest)) for rest in itertools.product(PERIODS, repeat=2)}
    assert promoted_after == ({1} if first[1] == "all" or first == (2, "one behind") else {2, 3, None})


def rounds_until_promoted(periods: tuple[tuple[int, str], ...]) -> int | None:
    member = leader()
    raft = member.raft
    raft.change(AddMember(Member("d", promote=True)))
    member.act()
    member.tick(raft.config.election_ticks)
    ends, has = [raft.log.last_index], 0            # where a round began: the log's end; and what the new one has of it
    for number, (proposed, answered) in enumerate(periods, 1):
        if proposed:
            member.propose(*"xy"[:proposed])
        last = raft.log.last_index
        has = {"all": last, "one behind": max(has, last - 1), "old": has}[answered]
        for peer, index in (("b", last), ("c", last), ("d", has)):
            member.acknowledge(peer, index)
        member.tick(raft.config.election_ticks)
        kept_up = has >= ends[-1]
        assert raft.membership.voters == (("a", "b", "c", "d") if kept_up else ("a", "b", "c"))
        if kept_up:
            assert (raft.membership.outgoing, raft.log.last_index) == (("a", "b", "c"), last + 1)
            return number
        ends.append(last)
    return None


def test_4_2_1_a_server_that_never_answers_is_never_promoted() -> None:
    member = leader()
    member.raft.change(AddMember(Member("d", promote=True)))
    member.act()
    for _ in range(20):
        member.acknowledge("b", member.raft.log.last_index)
        member.acknowledge("c", member.raft.log.last_index)
        member.tick(member.raft.config.election_ticks)
    assert member.raft.membership.voters == ("a", "b", "c")
    assert (member.raft.role, member.raft.log.last_index, member.raft.commit_index) == (LEADER, 2, 2)


def test_4_2_1_one_whose_link_is_broken_is_not_promoted_until_it_answers_again() -> None:
    member = leader()
    member.raft.change(AddMember(Member("d", promote=True)))
    all_acknowledge(member)
    member.tick(5)
    member.raft.unreachable("d")
    member.tick(15)
    assert member.raft.membership.voters == ("a", "b", "c")
    for peer in "bcd":
        member.acknowledge(peer, 2)
    member.tick(20)
    assert member.raft.membership.voters == ("a", "b", "c", "d")


def test_4_2_1_several_new_servers_are_promoted_one_after_another() -> None:
    member = leader()
    for name in "de":
        member.raft.change(AddMember(Member(name, promote=True)))
        all_acknowledge(member)
    seen = []
    for _ in range(4):
        for peer in member.raft.peers:
            member.hear(HEARTBEAT_REPLY, peer, 1)
        member.tick(member.raft.config.election_ticks)
        seen.append((member.raft.membership.voters, member.raft.membership.outgoing))
        all_acknowledge(member)
    assert seen == [(tuple("abcd"), tuple("abc")), (tuple("abcde"), tuple("abcd"))] + 2 * [(tuple("abcde"), ())]


def test_4_2_1_a_new_server_that_replaces_one_takes_its_place_in_the_same_step() -> None:
    member = leader()
    member.raft.change(AddMember(Member("d", promote=True, replaces="c")))
    all_acknowledge(member)
    member.tick(member.raft.config.election_ticks)
    assert (member.raft.membership.voters, member.raft.membership.outgoing) == (("a", "b", "d"), ("a", "b", "c"))
    all_acknowledge(member)
    assert member.raft.membership == members("a", "b", "d")
    assert member.raft.peers == ("b", "d")
    assert [m.to for m in member.propose("x")] == ["b", "d"], "who is gone is sent nothing more"
    assert member.acknowledge("c", 5) == []


def test_4_2_1_a_learner_never_campaigns() -> None:
    member = Alone(1)
    member.disk.membership = voters("bc", learners="a")
    member.start()
    member.hear_leader("b", 1)
    assert member.tick(500) == []
    assert member.hear(TIMEOUT_NOW, "b", 1) == []
    assert (member.raft.role, member.raft.term) == (LEARNER, 1)


# -- 4.2.2: removing the current leader --------------------------------------------------------------------------------


def removed_leader(**settings: int | bool) -> Alone:
    """Leader a of three, whose removal is appended (entry 3, behind the joint entry 2) and not committed."""
    member = leader(**settings)
    member.raft.change(Remove("a"))
    member.act()
    member.acknowledge("b", 2)
    member.acknowledge("c", 2)
    assert (member.raft.membership, member.raft.log.last_index) == (members("b", "c"), 3)
    return member


def test_4_2_2_a_leader_that_is_removed_leads_until_the_change_is_committed_and_then_steps_down() -> None:
    member = removed_leader()
    assert (member.raft.role, member.raft.commit_index) == (LEADER, 2)
    said = member.propose("x")
    assert [(m.kind, m.to) for m in said] == [(APPEND, "b"), (APPEND, "c")], "it manages a cluster that it is not in"
    said = member.acknowledge("b", 4) + member.acknowledge("c", 4)
    assert (member.raft.role, member.raft.commit_index) == (LEADER, 4)
    assert {m.to for m in of_kind(said, TIMEOUT_NOW)} == {"c"}
    with pytest.raises(Transferring):
        member.raft.propose(batch("y"))
    member.hear(VOTE, "c", 2, index=4, log_term=1, context=1)
    assert (member.raft.role, member.raft.term) == (LEARNER, 2)
    assert member.tick(200) == [], "and never campaigns again"


def test_4_2_2_it_has_no_lease_from_when_it_asks_another_one_to_campaign() -> None:
    member = removed_leader(lease_ns=500)
    [*_, beat] = member.tick(5)
    for peer in "bc":
        member.hear(HEARTBEAT_REPLY, peer, 1, context=beat.context)
    assert member.raft.lease_holds(1)
    member.acknowledge("b", 3)
    assert member.raft.lease_holds(1)
    assert of_kind(member.acknowledge("c", 3), TIMEOUT_NOW)
    assert (member.raft.role, member.raft.lease_holds(1)) == (LEADER, False)


def test_4_2_2_it_steps_down_also_when_nobody_takes_over() -> None:
    member = removed_leader()
    member.acknowledge("b", 3)
    member.acknowledge("c", 3)
    member.tick(member.raft.config.election_ticks - 1)
    assert member.raft.role == LEADER
    member.tick()
    assert (member.raft.role, member.raft.leader, member.raft.term) == (LEARNER, "", 1)


@pytest.mark.parametrize("have", [(), "b", "c", "bc"], ids=str)
def test_4_2_2_it_does_not_count_itself_in_majorities(have: str) -> None:
    member = removed_leader()
    assert member.raft.log.durable_index == 3
    for peer in have:
        member.acknowledge(peer, 3)
    assert member.raft.commit_index == (3 if len(have) == 2 else 2)


def test_4_2_2_it_hands_over_to_whoever_it_was_handing_over_to_already() -> None:
    member = leader()
    member.raft.change(Remove("a"))
    member.act()
    assert member.raft.transfer("b") == "b"
    said = all_acknowledge(member)
    assert member.raft.membership == members("b", "c")
    assert {m.to for m in of_kind(said, TIMEOUT_NOW)} == {"b"}, "not c, which is as good"


def test_4_2_2_a_server_that_alone_has_its_own_removal_campaigns_without_a_vote_of_its_own() -> None:
    member = removed_leader()
    member.start()
    assert member.raft.role == FOLLOWER
    said = member.tick(40)
    assert [(m.kind, m.to) for m in said] == [(VOTE, "b"), (VOTE, "c")]
    member.hear(VOTE_REPLY, "b", 2)
    assert member.raft.role == CANDIDATE, "one of two, and its own is none"
    member.hear(VOTE_REPLY, "c", 2)
    assert member.raft.role == LEADER
    said = all_acknowledge(member)
    assert (member.raft.commit_index, member.terms) == (4, [1, 1, 1, 2])
    assert of_kind(said, TIMEOUT_NOW)


def test_4_2_2_a_follower_that_is_removed_campaigns_until_it_knows_that_this_is_committed() -> None:
    member = Alone(1, pre_vote=False)
    removal = says(2, 1, voters("bc", "abc")), says(3, 1, voters("bc"))
    member.hear(APPEND, "b", 1, index=1, log_term=1, commit=2, segments=list(removal))
    assert (member.raft.role, member.raft.commit_index) == (FOLLOWER, 2)
    assert [m.kind for m in member.tick(40)] == [VOTE, VOTE]
    member.hear(APPEND, "b", 2, index=3, log_term=1, commit=3)
    assert member.raft.role == LEARNER
    assert member.tick(200) == []
