"""Ongaro's thesis, chapter 4: changes of members that are refused, each with its reason, and with nothing left of them.

A change must not cost the cluster its majority, must not meet another one (4.1), must not count on members that lag
(4.2.1); and a configuration names each member, and each address, once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from fastkv.raft import (
    LEADER,
    AddMember,
    ChangeRefused,
    Member,
    Membership,
    NoteDisk,
    NotLeader,
    Overloaded,
    Promote,
    RaiseVersion,
    Readdress,
    Remove,
    Transferring,
)
from fastkv.raft.membership import MEMBERS_LIMIT, REMEMBERED_DISKS, Change, plan
from fastkv.raft.messages import HEARTBEAT_REPLY
from tests.raft.alone import Alone
from tests.raft.harness import batch, members
from tests.raft.thesis import all_acknowledge, config_batch, leader, state_of, voters


def refused(member: Alone, change: Change, why: str, error: type[Exception] = ChangeRefused) -> None:
    before = state_of(member.raft)
    with pytest.raises(error, match=why):
        member.raft.change(change)
    assert state_of(member.raft) == before
    assert not member.raft.has_ready()


# -- by what the change is ---------------------------------------------------------------------------------------------


def well_known() -> Alone:
    """Leader a, of voters a, b and c with their addresses and disks, and learner d, all of it committed."""
    member = leader()
    everybody = tuple(Member(name, f"{name}:1", f"{name}:2", disk) for disk, name in enumerate("abcd", 1))
    member.raft.propose(config_batch(Membership(everybody, ("a", "b", "c"))))
    member.act()
    all_acknowledge(member)
    return member


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Promote("x"), "there is no member 'x'"),
        (Remove("x"), "there is no member 'x'"),
        (Readdress("x", raft="x:1"), "there is no member 'x'"),
        (NoteDisk("x", 9), "there is no member 'x'"),
        (AddMember(Member("")), "a member has an id"),
        (AddMember(Member("b", "x:1", "x:2")), "there is a member 'b' already"),
        (AddMember(Member("d", promote=True)), "there is a member 'd' already"),
        (AddMember(Member("x", replaces="y")), "there is no voter 'y' to replace"),
        (AddMember(Member("x", replaces="d")), "there is no voter 'd' to replace"),
        (AddMember(Member("x", "b:1", "x:2")), "b has the address b:1 already"),
        (AddMember(Member("x", "x:1", "d:2")), "d has the address d:2 already"),
        (Readdress("b", raft="c:1"), "c has the address c:1 already"),
        (Readdress("b", http="a:2"), "a has the address a:2 already"),
        (Promote("b"), "b is a voter already"),
        (NoteDisk("b", 9), "b is already known by its disk 0x2"),
        (NoteDisk("b", 2), "b is already known by its disk 0x2"),
        (RaiseVersion(1), "the cluster speaks version 1 of the protocol already"),
    ],
    ids=str,
)
def test_4_1_a_change_that_makes_no_sense(change: Change, why: str) -> None:
    refused(well_known(), change, why)


def test_4_1_the_only_voter_stays() -> None:
    member = leader("")
    refused(member, Remove("a"), "a is the only voter")
    member.raft.change(AddMember(Member("b")))
    member.act()
    all_acknowledge(member)
    refused(member, Remove("a"), "a is the only voter")


def test_4_1_a_member_may_keep_its_own_address() -> None:
    member = well_known()
    before = member.raft.membership
    member.raft.change(Readdress("b", raft="b:1", http="b:2"))
    assert member.raft.membership == before


def test_4_1_there_are_not_more_members_than_the_limit() -> None:
    full = members(*(f"m{number:02}" for number in range(MEMBERS_LIMIT)))
    with pytest.raises(ChangeRefused, match="at most 64 members"):
        plan(full, AddMember(Member("x")))
    room = plan(full, Remove("m00")).final()
    assert len(plan(room, AddMember(Member("x"))).members) == MEMBERS_LIMIT


def test_4_1_of_former_members_the_newest_disks_are_remembered() -> None:
    now = members("a")
    for disk in range(1, REMEMBERED_DISKS + 3):
        now = plan(plan(now, AddMember(Member("x", disk=disk))), Remove("x"))
    assert now.removed == tuple(range(3, REMEMBERED_DISKS + 3))
    now = plan(plan(now, AddMember(Member("x"))), Remove("x"))
    assert len(now.removed) == REMEMBERED_DISKS, "a disk that was never known is none"


@pytest.mark.parametrize(
    "change", [AddMember(Member("x")), Promote("d"), Remove("b"), Readdress("b", raft="x:1"), NoteDisk("b", 9)], ids=str
)
def test_4_3_nothing_follows_from_a_joint_configuration_but_its_end(change: Change) -> None:
    with pytest.raises(ChangeRefused, match="another change of members is under way"):
        plan(voters("ab", "abc", learners="d"), change)


# -- by when it is asked for -------------------------------------------------------------------------------------------

CHANGES = [AddMember(Member("x")), Promote("d"), Remove("b"), Remove("a"), Readdress("b", raft="x:1"), NoteDisk("b", 9)]
each_change = pytest.mark.parametrize("change", CHANGES, ids=str)


def with_learner() -> Alone:
    """Leader a of three, and learner d, that has caught up."""
    member = leader()
    member.raft.change(AddMember(Member("d")))
    member.act()
    all_acknowledge(member)
    return member


def follower() -> Alone:
    member = Alone(1)
    member.hear_leader("b", 1)
    return member


def candidate() -> Alone:
    member = Alone(1, pre_vote=False)
    member.campaign()
    return member


def learner() -> Alone:
    member = Alone(1)
    member.disk.membership = voters("bc", learners="a")
    member.start()
    member.act()
    return member


@each_change
@pytest.mark.parametrize("who", [follower, candidate, learner])
def test_4_1_only_the_leader_begins_a_change(who: Callable[[], Alone], change: Change) -> None:
    refused(who(), change, "^b$" if who is follower else "^$", NotLeader)


@each_change
def test_4_1_not_before_the_leader_has_committed_an_entry_of_its_term(change: Change) -> None:
    member = Alone(1, commit=1, pre_vote=False)
    member.disk.membership = voters("abc", learners="d")
    member.start()
    member.lead()
    refused(member, change, "nothing of its term is committed yet")


@each_change
@pytest.mark.parametrize("first", [AddMember(Member("y")), Promote("d"), Remove("c"), Remove("a")], ids=str)
def test_4_1_not_while_another_one_is_under_way(first: Change, change: Change) -> None:
    member = with_learner()
    member.raft.change(first)
    member.act()
    refused(member, change, "another change of members is under way")
    if member.raft.membership.outgoing:
        for peer in "bcd":
            member.acknowledge(peer, 3)
        assert member.raft.commit_index == 3
        refused(member, change, "another change of members is under way")


@each_change
def test_3_10_not_while_leadership_is_handed_over(change: Change) -> None:
    member = with_learner()
    member.raft.transfer("c")
    member.act()
    refused(member, change, "leadership is being transferred to c")


def test_4_2_1_a_learner_that_lags_is_not_promoted() -> None:
    member = leader()
    member.raft.change(AddMember(Member("d")))
    member.act()
    for index in (1, 2):
        member.acknowledge("b", index)
        member.acknowledge("c", index)
    refused(member, Promote("d"), "d lags")                 # never heard from
    member.acknowledge("d", 0)
    refused(member, Promote("d"), "d lags")                 # has nothing
    for _ in range(2):
        member.propose("x")
        for peer, index in (("b", member.raft.log.last_index), ("c", member.raft.log.last_index), ("d", 1)):
            member.acknowledge(peer, index)
        member.tick(member.raft.config.election_ticks)
    refused(member, Promote("d"), "d lags")                 # has what was the log two election timeouts ago
    member.acknowledge("d", 3)
    member.raft.unreachable("d")
    member.act()
    refused(member, Promote("d"), "d lags")                 # has enough, and the link is broken
    member.acknowledge("d", 3)
    assert member.raft.change(Promote("d")) == 5


# -- by who is there ---------------------------------------------------------------------------------------------------


def where_only_these_are_there(there: set[str], names: str, *, asked: bool) -> tuple[Alone, int | None]:
    """Leader a, and since when it asks. By default an election timeout counts; `asked`: one tick."""
    member = leader(names[1:], check_quorum=False)
    member.tick(30)
    if asked:
        for peer in names[1:]:
            member.hear(HEARTBEAT_REPLY, peer, 1)
        member.tick()
    for peer in sorted(there):
        member.hear(HEARTBEAT_REPLY, peer, 1)
    return member, member.raft.ticks if asked else None


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
@pytest.mark.parametrize("asked", [False, True])
def test_4_2_no_change_leaves_the_decision_to_members_that_are_not_there(names: str, asked: bool) -> None:
    """For every set of members that were heard from: a change needs both its majorities among them."""
    outcomes = set()
    for there in (set(s) for n in range(len(names)) for s in itertools.combinations(names[1:], n)):
        for change in [AddMember(Member("x")), Readdress("b", raft="b:9"), *map(Remove, names)]:
            member, since = where_only_these_are_there(there, names, asked=asked)
            planned = plan(member.raft.membership, change)
            halves = [set(half) for half in (planned.voters, planned.outgoing) if half]
            allowed = all(2 * len({"a", *there} & half) > len(half) for half in halves)
            outcomes.add(allowed)
            if allowed:
                assert member.raft.change(change, since) == 2
                continue
            before = state_of(member.raft)
            with pytest.raises(ChangeRefused, match="the cluster would lose its quorum"):
                member.raft.change(change, since)
            assert state_of(member.raft) == before
    assert outcomes == {False, True}


def test_4_2_a_refusal_says_who_is_there() -> None:
    member = leader("bcd", check_quorum=False)
    member.tick(30)
    member.hear(HEARTBEAT_REPLY, "b", 1)
    refused(member, Remove("a"), "of the voters b, c, d only b can be reached")
    member.tick(30)
    refused(member, Remove("a"), "of the voters b, c, d only nobody can be reached")


def test_4_2_1_a_promotion_that_is_refused_is_tried_again() -> None:
    """Learner d has all of the log when its round ends, and that meets another change; then d and c fall silent."""
    member = leader()
    raft = member.raft
    raft.change(AddMember(Member("d", promote=True)))
    all_acknowledge(member)
    member.tick(10)
    for peer in "bd":
        member.hear(HEARTBEAT_REPLY, peer, 1)
    raft.change(Readdress("b", raft="b:1"))
    member.tick(10)
    assert raft.membership.voters == ("a", "b", "c"), "one change at a time"
    member.tick(10)
    member.acknowledge("b", 3)
    assert raft.commit_index == 3
    before = raft.membership
    member.tick(10)
    assert (raft.ticks, raft.membership, raft.log.last_index) == (40, before, 3), "it would have left two of four"
    member.acknowledge("b", 3)
    member.acknowledge("d", 3)
    member.tick(20)
    assert raft.membership.voters == ("a", "b", "c", "d")


# -- proposals ---------------------------------------------------------------------------------------------------------


def test_3_10_a_proposal_that_is_refused_leaves_nothing_behind() -> None:
    transferring = with_learner()
    transferring.raft.transfer("b")
    transferring.act()
    overloaded = leader(max_uncommitted_bytes=1)
    overloaded.propose("x")
    for member, error in [
        (transferring, Transferring), (overloaded, Overloaded), (follower(), NotLeader), (candidate(), NotLeader),
        (learner(), NotLeader),
    ]:
        before = state_of(member.raft)
        with pytest.raises(error):
            member.raft.propose(batch("y"))
        assert state_of(member.raft) == before
    overloaded.acknowledge("b", 2)
    assert overloaded.raft.role == LEADER
    assert overloaded.raft.propose(batch("y")) == (3, 1)
