"""Ongaro's thesis, 3.10: leadership is handed over to a server that has the whole log, and that need not wait.

Each test is named for what the thesis says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from fastkv.raft import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    AddMember,
    ChangeRefused,
    Member,
    NotLeader,
    Promote,
    Transferring,
)
from fastkv.raft.messages import HEARTBEAT_REPLY, TIMEOUT_NOW, TRANSFERRED, VOTE, VOTE_REPLY
from tests.raft.alone import Alone, of_kind
from tests.raft.harness import Cluster, batch
from tests.raft.thesis import all_acknowledge, config_batch, leader, state_of, voters


def refuses_proposals(member: Alone, target: str) -> None:
    before = state_of(member.raft)
    with pytest.raises(Transferring, match=f"^{target}$"):
        member.raft.propose(batch("x"))
    assert state_of(member.raft) == before


# -- the leader --------------------------------------------------------------------------------------------------------


def test_3_10_the_leader_takes_no_proposals_while_it_hands_over() -> None:
    member = leader()
    assert member.raft.transfer("b") == "b"
    member.act()
    for _ in range(19):
        refuses_proposals(member, "b")
        member.tick()


@pytest.mark.parametrize("outstanding", range(4))
def test_3_10_it_waits_until_the_target_has_the_whole_log(outstanding: int) -> None:
    member = leader()
    for _ in range(outstanding):
        member.propose("x")
    member.raft.transfer("b")
    said = member.act()
    for index in range(2, outstanding + 2):
        assert of_kind(said, TIMEOUT_NOW) == []
        member.acknowledge("c", index)
        said = member.acknowledge("b", index)
    assert {(m.to, m.term) for m in of_kind(said, TIMEOUT_NOW)} == {("b", 1)}


def test_3_10_it_waits_too_until_all_is_committed_so_that_the_clients_hear_of_it() -> None:
    member = leader("bcde")
    member.propose("x")
    member.raft.transfer("b")
    assert of_kind(member.act(), TIMEOUT_NOW) == []
    assert of_kind(member.acknowledge("b", 2), TIMEOUT_NOW) == [], "the target has it, and no majority"
    assert {m.to for m in of_kind(member.acknowledge("c", 2), TIMEOUT_NOW)} == {"b"}
    assert member.applied[-1].last_index == 2


def test_3_10_the_word_is_said_again_with_every_heartbeat_as_it_may_be_lost() -> None:
    member = leader()
    member.raft.transfer("b")
    assert [m.to for m in of_kind(member.act(), TIMEOUT_NOW)] == ["b"]
    assert [len(of_kind(member.tick(), TIMEOUT_NOW)) for _ in range(25)] == [*3 * [0, 0, 0, 0, 1], *10 * [0]]


def test_3_10_if_the_transfer_does_not_come_about_within_an_election_timeout_the_leader_goes_on() -> None:
    member = leader()
    member.raft.transfer("b")
    member.tick(19)
    refuses_proposals(member, "b")
    member.tick()
    assert member.raft.propose(batch("x")) == (2, 1)
    assert member.raft.role == LEADER
    member.act()
    all_acknowledge(member)
    assert member.raft.transfer("c") == "c", "and may try again"


def test_3_10_and_it_may_still_be_deposed_by_a_target_that_heard_of_it_late() -> None:
    member = leader()
    member.raft.transfer("b")
    member.tick(20)
    [answer] = member.hear(VOTE, "b", 2, index=1, log_term=1, context=TRANSFERRED)
    assert (answer.reject, member.raft.role, member.raft.term) == (False, FOLLOWER, 2)


def test_3_10_a_leader_that_is_elected_anew_has_forgotten_whom_it_was_handing_over_to() -> None:
    member = leader()
    member.raft.transfer("b")
    member.hear_leader("b", 2)
    member.tick(20)
    member.lead()
    assert member.raft.propose(batch("x")) == (3, 3)


def test_3_10_reads_go_on_meanwhile() -> None:
    member = leader()
    member.raft.transfer("b")
    member.act()
    member.raft.read(1)
    [*_, heartbeat] = member.act()
    member.hear(HEARTBEAT_REPLY, "c", 1, context=heartbeat.context)
    assert [(r.context, r.index) for r in member.reads] == [(1, 1)]


@pytest.mark.parametrize("end", ["given up", "lost"])
def test_3_10_the_lease_is_given_up_for_the_rest_of_the_term(end: str) -> None:
    """What leases rest on does not hold off the target's request for votes, also when it comes late."""
    member = leader(lease_ns=1000)
    raft = member.raft
    said = member.tick(5)
    member.hear(HEARTBEAT_REPLY, "b", 1, context=said[-1].context)
    assert raft.lease_holds(999)
    raft.transfer("b")
    assert not raft.lease_holds(1)
    member.act()
    for _ in range(8):
        said = member.tick(5)
        for peer in "bc":
            member.hear(HEARTBEAT_REPLY, peer, 1, context=said[-1].context)
        assert not raft.lease_holds(1)
    assert raft.transferee == ""
    if end == "lost":
        member.hear_leader("b", 2)
        member.tick(20)
        member.lead()
        all_acknowledge(member)
        said = member.tick(5)
        member.hear(HEARTBEAT_REPLY, "b", 3, context=said[-1].context)
        assert raft.lease_holds(999), "another term of office"


def test_3_10_a_target_that_is_still_a_voter_stays_the_target_while_members_change() -> None:
    member = leader()
    member.raft.change(AddMember(Member("d")))
    member.act()
    all_acknowledge(member)
    member.raft.change(Promote("d"))
    member.act()
    member.raft.transfer("b")
    said = all_acknowledge(member)
    assert (member.raft.membership, member.raft.transferee) == (voters("abcd"), "b")
    assert {m.to for m in of_kind(said, TIMEOUT_NOW)} == {"b"}


# -- whom --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has", [*itertools.permutations((2, 3, 4))], ids=str)
def test_3_10_if_nobody_is_named_it_is_the_voter_with_most_of_the_log(has: tuple[int, ...]) -> None:
    member = leader("bcd")
    member.raft.propose(config_batch(voters("abcd", learners="e")))
    for _ in range(3):
        member.propose("x")
    for peer, index in zip("bcde", (*has, 5), strict=True):
        member.acknowledge(peer, index)
    assert member.raft.transfer() == "bcd"[has.index(4)], "never the learner"


def test_3_10_it_is_none_that_is_silent_or_whose_link_is_broken() -> None:
    member = leader("bcd", check_quorum=False)
    member.propose("x")
    for peer, index in (("b", 2), ("c", 2), ("d", 1)):
        member.acknowledge(peer, index)
    member.tick(21)
    for peer in "cd":
        member.hear(HEARTBEAT_REPLY, peer, 1)
    member.raft.unreachable("c")
    assert member.raft.transfer() == "d", "b is silent"


def under_way() -> Alone:
    member = leader()
    member.raft.transfer("c")
    member.act()
    return member


def with_learner() -> Alone:
    member = leader()
    member.raft.change(AddMember(Member("d")))
    member.act()
    all_acknowledge(member)
    return member


def silent() -> Alone:
    member = leader(check_quorum=False)
    member.tick(21)
    member.hear(HEARTBEAT_REPLY, "c", 1)
    return member


def alone() -> Alone:
    member = leader(check_quorum=False)
    member.tick(21)
    return member


def lagging() -> Alone:
    """What b has is as old as two election timeouts, the link to c is broken."""
    member = leader("bcde")
    for _ in range(3):
        member.propose("x")
        for peer in "cde":
            member.acknowledge(peer, member.raft.log.last_index)
        member.acknowledge("b", 1)
        member.tick(20)
    member.raft.unreachable("c")
    member.act()
    return member


@pytest.mark.parametrize(
    ("state", "to", "error", "why"),
    [
        (lambda: Alone(1), "b", NotLeader, "^$"),
        (lambda: Alone(1), "", NotLeader, "^$"),
        (under_way, "b", ChangeRefused, "leadership is being transferred to c already"),
        (under_way, "c", ChangeRefused, "leadership is being transferred to c already"),
        (under_way, "", ChangeRefused, "leadership is being transferred to c already"),
        (leader, "a", ChangeRefused, "a leads already"),
        (leader, "x", ChangeRefused, "there is no member 'x'"),
        (with_learner, "d", ChangeRefused, "d has no vote"),
        (silent, "b", ChangeRefused, "b cannot be reached"),
        (lagging, "b", ChangeRefused, "b lags: it has not caught up"),
        (lagging, "c", ChangeRefused, "c lags: it has not caught up"),
        (alone, "", ChangeRefused, "there is no other voter that can be reached and has caught up"),
        (lambda: leader(""), "", ChangeRefused, "there is no other voter"),
    ],
)
def test_3_10_a_transfer_that_is_refused_changes_nothing(
    state: Callable[[], Alone], to: str, error: type[Exception], why: str
) -> None:
    member = state()
    member.act()
    before = state_of(member.raft)
    with pytest.raises(error, match=why):
        member.raft.transfer(to)
    assert state_of(member.raft) == before
    assert not member.raft.has_ready()


# -- the target --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre_vote", [False, True])
def test_3_10_the_target_campaigns_at_once_without_asking_first_and_with_leave_to_disturb(pre_vote: bool) -> None:
    member = Alone(1, 1, pre_vote=pre_vote)
    member.hear_leader("b", 1)
    said = of_kind(member.hear(TIMEOUT_NOW, "b", 1), VOTE)
    assert (member.raft.role, member.raft.term, member.raft.vote) == (CANDIDATE, 2, "a")
    assert [(m.to, m.term, m.index, m.log_term, m.context) for m in said] == [
        ("b", 2, 2, 1, TRANSFERRED), ("c", 2, 2, 1, TRANSFERRED)
    ]
    assert member.disk.hard_state[:2] == (2, "a"), "its vote is on its disk as any other"


def test_3_10_if_that_campaign_fails_the_next_one_has_no_leave() -> None:
    member = Alone(1, pre_vote=False)
    member.hear_leader("b", 1)
    member.hear(TIMEOUT_NOW, "b", 1)
    said = member.tick(40)
    assert [(m.kind, m.term, m.context) for m in said[:2]] == [(VOTE, 3, 0), (VOTE, 3, 0)]


def test_3_10_only_the_leader_s_word_makes_it_campaign() -> None:
    member = Alone(1)
    before = state_of(member.raft)
    assert member.hear(TIMEOUT_NOW, "b", 1) == []
    assert state_of(member.raft) == before, "no leader is known"
    member.hear_leader("b", 1)
    before = state_of(member.raft)
    assert member.hear(TIMEOUT_NOW, "c", 1) == []
    assert state_of(member.raft) == before


def test_3_10_a_target_whose_disk_is_not_fit_for_a_leader_does_not_campaign() -> None:
    member = Alone(1)
    member.hear_leader("b", 1)
    member.raft.may_lead = False
    assert member.hear(TIMEOUT_NOW, "b", 1) == []
    assert (member.raft.role, member.raft.term) == (FOLLOWER, 1)


@pytest.mark.parametrize("target", "bcde")
def test_3_10_leadership_moves_to_the_target_within_one_election_and_with_the_whole_log(target: str) -> None:
    cluster = Cluster(*"abcde")
    raft = cluster.elect("a")
    raft.propose(batch("x", "y"))
    cluster.calm()
    raft.propose(batch("z"))
    raft.transfer(target)
    cluster.calm()
    heir = cluster.rafts[target]
    assert (heir.role, heir.term, raft.role, raft.leader) == (LEADER, 2, FOLLOWER, target)
    assert {member.term for member in cluster.rafts.values()} == {2}
    assert (heir.log.last_index, heir.commit_index) == (5, 5)
    cluster.ticks(target, 5)
    cluster.calm()
    assert cluster.applied == dict.fromkeys("abcde", 5)


# -- stepping down -----------------------------------------------------------------------------------------------------


def test_3_10_a_leader_that_shuts_down_hands_over_to_the_best_and_waits_for_nothing() -> None:
    member = leader("bcd", lease_ns=1000)
    member.propose("x")
    member.acknowledge("c", 2)
    member.raft.read(1)
    member.raft.step_down()
    said = member.act()
    assert [(m.kind, m.to, m.term) for m in said] == [(TIMEOUT_NOW, "c", 1)]
    assert (member.raft.role, member.raft.term, member.raft.leader) == (FOLLOWER, 1, "")
    assert member.reads_failed == [1]
    assert not member.raft.lease_holds(1)
    with pytest.raises(NotLeader):
        member.raft.propose(batch("y"))


def test_3_10_without_anybody_to_hand_over_to_it_steps_down_all_the_same() -> None:
    member = alone()
    member.raft.step_down()
    assert member.act() == []
    assert member.raft.role == FOLLOWER


@pytest.mark.parametrize("role", [FOLLOWER, CANDIDATE])
def test_3_10_who_does_not_lead_has_nothing_to_hand_over(role: int) -> None:
    member = Alone(1, pre_vote=False)
    if role == CANDIDATE:
        member.campaign()
    before = state_of(member.raft)
    member.raft.step_down()
    assert (member.raft.role, state_of(member.raft)) == (role, before)


def test_3_10_the_heir_wins_though_the_others_have_just_heard_the_old_leader() -> None:
    heir = Alone(1)
    heir.hear_leader("b", 1)
    [vote, _] = of_kind(heir.hear(TIMEOUT_NOW, "b", 1), VOTE)
    other = Alone(1, name="c", others="ab")
    other.hear_leader("b", 1)
    [answer] = other.hear(VOTE, "a", vote.term, index=vote.index, log_term=vote.log_term, context=vote.context)
    assert not answer.reject
    heir.hear(VOTE_REPLY, "c", answer.term)
    assert (heir.raft.role, heir.raft.term) == (LEADER, 2)
