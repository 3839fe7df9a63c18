"""Ongaro's thesis, 4.1: a configuration is an entry of the log, and counts from when it is appended.

Each test is named for what the thesis says. What is refused is in `test_thesis_refused_changes`.
"""

from __future__ import annotations

import itertools

import pytest

from fastkv.raft import (
    CANDIDATE,
    FOLLOWER,
    LEARNER,
    AddMember,
    ChangeRefused,
    Member,
    Membership,
    NoteDisk,
    Promote,
    RaiseVersion,
    Readdress,
    Remove,
)
from fastkv.raft.membership import Change, plan
from fastkv.raft.messages import APPEND, APPEND_REPLY, VOTE, VOTE_REPLY
from tests.raft.alone import Alone, entry, same
from tests.raft.thesis import all_acknowledge, leader, says, voters

# -- 4.1: safety -------------------------------------------------------------------------------------------------------


def test_4_1_a_configuration_is_used_by_the_leader_as_soon_as_it_is_appended() -> None:
    member = leader()
    assert member.raft.change(AddMember(Member("d"))) == 2
    assert member.raft.membership.learners == ("d",)
    said = member.act()
    assert [(m.kind, m.to, m.index, m.segments[0].last_index) for m in said] == [
        (APPEND, "b", 1, 2), (APPEND, "c", 1, 2), (APPEND, "d", 1, 2)
    ], "the new one hears of it together with the others"
    assert member.raft.commit_index == 1


def test_4_1_a_configuration_is_used_by_a_follower_as_soon_as_it_is_appended() -> None:
    member = Alone(1, pre_vote=False)
    member.hear(APPEND, "b", 1, index=1, log_term=1, segments=[says(2, 1, voters("abcde", "abc"))])
    assert (member.raft.membership, member.raft.commit_index) == (voters("abcde", "abc"), 0)
    said = member.campaign()
    assert [(m.kind, m.to) for m in said] == [(VOTE, "b"), (VOTE, "c"), (VOTE, "d"), (VOTE, "e")]


CONFIGURATIONS = [voters("abc"), voters("abcd", "abc"), voters("abcd"), voters("bcd", "abcd"), voters("bcd")]


@pytest.mark.parametrize("which", [w for n in range(5) for w in itertools.combinations(range(1, 6), n)], ids=str)
def test_4_1_a_configuration_that_is_truncated_gives_way_to_the_one_before_it(which: tuple[int, ...]) -> None:
    """For logs of five entries, those of them `which` say who the members are, and every place to truncate."""
    log = [says(i, 1, CONFIGURATIONS[which.index(i) + 1]) if i in which else entry(i, 1) for i in range(1, 6)]
    for length in range(6):
        member = Alone(term=1)
        member.hear(APPEND, "b", 1, segments=log)
        assert member.raft.membership == CONFIGURATIONS[len(which)]
        member.hear_append("c", 2, length, min(length, 1), *[2] * (length < 5))
        assert member.terms == [1] * length + [2] * (length < 5)
        there = CONFIGURATIONS[: 1 + sum(index <= length for index in which)]
        assert member.raft.membership == there[-1]
        assert member.raft.peers == there[-1].peers_of("a")
        assert member.raft.role == FOLLOWER, "it had a vote, and nothing that takes it away is committed"
        member.start()
        assert member.raft.membership == there[-1], "a restart reads the same from the log"


def test_4_1_a_vote_that_is_truncated_is_lost() -> None:
    member = Alone(1)
    member.disk.membership = voters("bc", learners="a")
    member.start()
    assert member.raft.role == LEARNER
    member.hear(APPEND, "b", 1, index=1, log_term=1, segments=[says(2, 1, voters("abc", "bc"))])
    assert member.raft.role == FOLLOWER
    member.hear_append("c", 2, 1, 1, 2)
    assert (member.raft.role, member.raft.membership) == (LEARNER, voters("bc", learners="a"))


def test_4_1_a_change_begins_only_after_an_entry_of_the_leader_s_term_is_committed() -> None:
    """Ongaro's correction of 2015: two leaders' changes could otherwise meet that know nothing of each other."""
    member = Alone(1, 1, commit=2, pre_vote=False)
    member.lead()
    assert (member.raft.commit_index, member.raft.log.last_index) == (2, 3)
    with pytest.raises(ChangeRefused, match="nothing of its term is committed yet"):
        member.raft.change(Remove("c"))
    member.acknowledge("b", 2)
    with pytest.raises(ChangeRefused, match="nothing of its term is committed yet"):
        member.raft.change(Remove("c"))
    member.acknowledge("b", 3)
    assert member.raft.change(Remove("c")) == 4


@pytest.mark.parametrize(
    ("change", "entries"),
    [
        (AddMember(Member("e")), [voters("abc", learners="de")]),
        (Promote("d"), [voters("abcd", "abc"), voters("abcd")]),
        (Remove("c"), [voters("ab", "abc", learners="d"), voters("ab", learners="d")]),
        (Remove("d"), [voters("abc")]),
    ],
    ids=str,
)
def test_4_1_the_next_change_begins_only_when_the_one_before_is_committed(
    change: Change, entries: list[Membership]
) -> None:
    member = leader()
    member.raft.change(AddMember(Member("d")))
    all_acknowledge(member)
    first = member.raft.change(change)
    for number, expected in enumerate(entries):
        assert (member.raft.membership, member.raft.log.last_index) == (expected, first + number)
        member.act()
        with pytest.raises(ChangeRefused, match="under way"):
            member.raft.change(Remove("b"))
        for peer in member.raft.peers:
            member.acknowledge(peer, first + number)
    assert (member.raft.membership, member.raft.commit_index) == (entries[-1], first + len(entries) - 1)
    member.raft.change(Remove("b"))


@pytest.mark.parametrize("own", ["voter", "learner", "not a member"])
def test_4_1_servers_vote_for_candidates_and_take_entries_of_leaders_that_are_in_no_configuration_of_theirs(
    own: str,
) -> None:
    member = Alone(1)
    member.disk.membership = {
        "voter": voters("abc"), "learner": voters("bc", learners="a"), "not a member": voters("bc")
    }[own]
    member.start()
    member.raft.since_leader = 99
    [answer] = member.hear(VOTE, "x", 2, index=1, log_term=1)
    assert (answer.kind, answer.to, answer.reject, member.raft.vote) == (VOTE_REPLY, "x", False, "x")
    [answer] = member.hear_append("x", 2, 1, 1, 2)
    assert (answer.kind, answer.to) == (APPEND_REPLY, "x")
    assert same(answer, index=2)
    assert (member.raft.leader, member.terms) == ("x", [1, 2])


def test_4_1_a_server_that_knows_of_no_configuration_takes_entries_and_gives_no_vote() -> None:
    """It waits to be added, and may be a member's machine whose disk was lost: nobody can rightly count on its vote."""
    member = Alone(others="")
    member.disk.membership = Membership()
    member.start()
    member.raft.since_leader = 99
    assert member.raft.role == LEARNER
    assert member.tick(200) == []
    assert member.hear(VOTE, "b", 1, index=9, log_term=1) == []
    assert member.raft.vote == ""
    member.hear(APPEND, "b", 1, segments=[says(1, 1, voters("bc", learners="a"))])
    assert (member.raft.role, member.raft.leader) == (LEARNER, "b")
    member.hear(APPEND, "b", 1, index=1, log_term=1, segments=[says(2, 1, voters("abc", "bc"))])
    assert member.raft.role == FOLLOWER


def test_4_1_a_founder_whom_the_cluster_does_not_know_waits_to_be_added() -> None:
    member = Alone(pre_vote=False)
    member.campaign()
    assert member.raft.role == CANDIDATE
    member.raft.disown()
    assert member.act() == []
    assert (member.raft.role, member.raft.membership, member.raft.peers) == (LEARNER, Membership(), ())
    assert member.tick(200) == []
    started = Alone(1)
    with pytest.raises(AssertionError, match="a node with a log is a member"):
        started.raft.disown()


A, B, C, D = (Member(name, f"{name}:1", f"{name}:2", disk) for disk, name in enumerate("abcd", 1))


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        (AddMember(Member("e", "e:1", "e:2", 5)), [
            Membership((A, B, C, D, Member("e", "e:1", "e:2", 5)), ("a", "b", "c"))]),
        (Promote("d"), [
            Membership((A, B, C, D), ("a", "b", "c", "d"), ("a", "b", "c")),
            Membership((A, B, C, D), ("a", "b", "c", "d"))]),
        (Remove("b"), [
            Membership((A, B, C, D), ("a", "c"), ("a", "b", "c")),
            Membership((A, C, D), ("a", "c"), (), (2,))]),
        (Remove("d"), [Membership((A, B, C), ("a", "b", "c"), (), (4,))]),
        (Readdress("b", raft="new:1"), [
            Membership((A, Member("b", "new:1", "b:2", 2), C, D), ("a", "b", "c"))]),
        (Readdress("d", http="new:2"), [
            Membership((A, B, C, Member("d", "d:1", "new:2", 4)), ("a", "b", "c"))]),
        (RaiseVersion(2), [Membership((A, B, C, D), ("a", "b", "c"), version=2)]),
    ],
    ids=str,
)  # fmt: skip
def test_4_1_what_each_change_makes_of_a_configuration(change: Change, steps: list[Membership]) -> None:
    now = plan(Membership((A, B, C, D), ("a", "b", "c")), change)
    assert now == steps[0]
    assert Membership.decode(now.encode()) == now, "and it is the same behind a log"
    if now.outgoing:
        assert now.final() == steps[1]


def test_4_1_a_member_is_bound_to_the_disk_with_which_it_was_first_met() -> None:
    member = leader()
    member.raft.change(NoteDisk("b", 77))
    said = member.act()
    assert [(m.kind, m.to) for m in said] == [(APPEND, "b"), (APPEND, "c")]
    all_acknowledge(member)
    assert member.raft.membership == Membership(
        (Member("a"), Member("b", disk=77), Member("c")), ("a", "b", "c")
    )


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"members":[{}],"voters":[],"outgoing":[],"removed":[]}', b"7"])
def test_4_1_an_entry_that_is_no_configuration_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a membership"):
        Membership.decode(body)
    assert (Membership.decode(b""), bool(Membership.decode(b""))) == (Membership(), False)


def test_a_configuration_keeps_its_version_whatever_changes() -> None:
    now = Membership((A, B, C, D), ("a", "b", "c"), version=7)
    for change in (Promote("d"), Remove("b"), Remove("d"), Readdress("b", raft="x:1")):
        after = plan(now, change)
        assert (after.version, after.final().version) == (7, 7)


def test_a_configuration_of_version_1_is_written_as_the_release_did_that_knew_no_other() -> None:
    assert b"version" not in Membership((A,), ("a",)).encode()
    assert b'"version":2' in Membership((A,), ("a",), version=2).encode()
