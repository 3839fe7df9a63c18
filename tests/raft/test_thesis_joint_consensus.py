"""Ongaro's thesis, 4.3: while the voters change, every decision needs a majority of the old ones and one of the new.

Who decides is held against that definition, for every set of members that agree, and with them 4.2.1: learners decide
nothing; 4.2.2: a leader that is no voter does not count itself. Each test is named for what the thesis says.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from fastkv.raft import FOLLOWER, LEADER, AddMember, Member, Membership, Message, Promote, Remove
from fastkv.raft.membership import Change
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT_REPLY, VOTE_REPLY
from fastkv.raft.quorum import WON, tally
from tests.raft.alone import Alone, of_kind
from tests.raft.harness import Cluster, batch, members
from tests.raft.thesis import all_acknowledge, config_batch, leader, says, voters

CONFIGURATIONS = {
    "abc": voters("abc"),
    "abc with learners": voters("abc", learners="de"),
    "ab with a learner": voters("ab", learners="c"),
    "not itself": voters("bcd", learners="a"),
    "add one": voters("abcd", "abc"),
    "remove one": voters("abc", "abcd"),
    "remove the leader": voters("bcd", "abcd"),
    "replace one": voters("abd", "abc", learners="e"),
    "replace the leader": voters("bcd", "abc"),
    "begin to grow": voters("ab", "a"),
    "shrink to the leader": voters("a", "ab"),
    "shrink to another": voters("b", "ab"),
    "replace two of three": voters("ade", "abc"),
    "replace all": voters("bcd", "a", learners="e"),
    "from one to five": voters("abcde", "a"),
    "from five to two": voters("ab", "abcde"),
}
each_configuration = pytest.mark.parametrize("now", CONFIGURATIONS.values(), ids=CONFIGURATIONS)


def agree(now: Membership, yes: set[str]) -> bool:
    """The definition: more than half of each set of voters."""
    return all(2 * len(yes & set(half)) > len(half) for half in (now.voters, now.outgoing) if half)


def subsets(of: tuple[str, ...]) -> Iterator[set[str]]:
    for count in range(len(of) + 1):
        for chosen in itertools.combinations(of, count):
            yield set(chosen)


def leader_under(now: Membership, **settings: int | bool) -> Alone:
    """Member a leads. An entry of its term is committed; the one behind it says `now`, and nobody has that yet."""
    old = now.outgoing or now.voters
    member = Alone(others="".join(name for name in old if name != "a"), pre_vote=False, **settings)
    member.lead_safely()
    member.raft.propose(config_batch(now))
    member.others = now.peers_of("a")
    assert member.raft.membership == now
    return member


def candidate_under(now: Membership) -> Alone:
    """Member a campaigns in term 2. Its log ends with an entry that says `now`, and that is not committed."""
    member = Alone(1, pre_vote=False)
    member.disk.write_record(says(2, 1, now))
    member.start()
    member.raft.campaign()
    member.act()
    return member


# -- 4.3: decisions need both majorities -------------------------------------------------------------------------------


@each_configuration
def test_4_3_an_election(now: Membership) -> None:
    for yes in subsets(now.peers_of("a")):
        member = candidate_under(now)
        for voter in sorted(yes):
            member.hear(VOTE_REPLY, voter, 2)
        assert (member.raft.role == LEADER) == agree(now, {"a", *yes}), yes


@each_configuration
def test_4_3_an_election_is_lost_only_without_any_hope(now: Membership) -> None:
    for no in subsets(now.peers_of("a")):
        member = candidate_under(now)
        for voter in sorted(no):
            member.hear(VOTE_REPLY, voter, 2, reject=True)
        hope = agree(now, {"a", *now.peers_of("a")} - no)
        assert (member.raft.role == FOLLOWER) == (not hope), no


@each_configuration
def test_4_3_committing_an_entry(now: Membership) -> None:
    """The leader's own disk counts as one of them, where it is a voter, and only once it has the entry."""
    for yes in subsets(("a", *now.peers_of("a"))):
        member = leader_under(now)
        member.decide()
        if "a" in yes:
            member.sync()
        for holder in sorted(yes - {"a"}):
            member.raft.step(Message(APPEND_REPLY, holder, "a", 1, index=2))
        assert member.raft.commit_index == (2 if agree(now, yes) else 1), yes


@each_configuration
def test_4_3_confirming_a_read_and_a_lease(now: Membership) -> None:
    for yes in subsets(now.peers_of("a")):
        member = leader_under(now, lease_ns=100)
        member.act()
        member.raft.now_ns = 1000
        member.raft.read(7)
        said = member.act()
        for peer in sorted(yes):
            member.hear(HEARTBEAT_REPLY, peer, 1, context=said[-1].context if said else 0)
        assert bool(member.reads) == agree(now, {"a", *yes}), yes
        assert member.raft.lease_holds(1099) == agree(now, {"a", *yes}), yes


@each_configuration
def test_4_3_leading_on(now: Membership) -> None:
    """Check-quorum: the leader goes on leading where enough have been heard from within an election timeout."""
    for yes in subsets(now.peers_of("a")):
        member = leader_under(now)
        member.tick(19)
        for peer in now.peers_of("a"):
            member.hear(HEARTBEAT_REPLY, peer, 1)
        member.tick(10)
        for peer in sorted(yes):
            member.hear(HEARTBEAT_REPLY, peer, 1)
        member.tick(10)
        assert member.raft.role == LEADER
        member.tick()
        assert (member.raft.role == LEADER) == agree(now, {"a", *yes}), yes


@each_configuration
def test_4_3_at_no_moment_of_a_change_can_two_sets_of_members_decide_apart(now: Membership) -> None:
    """Two that decide share a member, under one configuration and under one and the next."""
    everybody = tuple(member.node_id for member in now.members)
    stages = [Membership(now.members, now.outgoing), now, now.final()] if now.outgoing else [now]
    for one, other in [*zip(stages, stages, strict=True), *itertools.pairwise(stages)]:
        deciding = [
            [yes for yes in subsets(everybody) if tally(stage.voters, dict.fromkeys(yes, True), stage.outgoing) == WON]
            for stage in (one, other)
        ]
        assert deciding[0]
        assert all(a & b for a in deciding[0] for b in deciding[1])


# -- 4.3: how a change goes on by itself -------------------------------------------------------------------------------

CHANGES: dict[str, tuple[Change, Membership, Membership]] = {
    "promote": (Promote("d"), voters("abcd", "abc"), members(*"abcd")),
    "remove": (Remove("c"), voters("ab", "abc", learners="d"), voters("ab", learners="d")),
    "remove the leader": (Remove("a"), voters("bc", "abc", learners="d"), voters("bc", learners="d")),
}
each_change = pytest.mark.parametrize("which", CHANGES)


@each_change
def test_4_3_once_the_joint_entry_is_committed_the_leader_appends_the_new_configuration(which: str) -> None:
    change, joint, new = CHANGES[which]
    member = leader()
    member.raft.change(AddMember(Member("d")))
    all_acknowledge(member)
    assert member.raft.change(change) == 3
    member.act()
    assert member.raft.membership == joint
    old_and_new = [peer for peer in joint.peers_of("a") if joint.votes(peer)]
    said = member.acknowledge(old_and_new[0], 3)
    if which == "remove the leader":
        assert member.raft.commit_index == 2
        said = member.acknowledge(old_and_new[1], 3)
    elif which == "promote":
        assert member.raft.commit_index == 2, "two of three, and two of four"
        said = member.acknowledge("d", 3)
    assert (member.raft.membership, member.raft.commit_index, member.raft.log.last_index) == (new, 3, 4)
    sent = [m for m in of_kind(said, APPEND) if m.index == 3]
    assert {m.to for m in sent} <= set(new.peers_of("a"))
    assert {m.segments[0].batch.config for m in sent} == {new.encode()}


@each_change
def test_4_3_it_goes_on_only_when_the_joint_entry_itself_is_committed(which: str) -> None:
    change, joint, _ = CHANGES[which]
    member = leader()
    member.raft.change(AddMember(Member("d")))
    all_acknowledge(member)
    member.propose("x")
    member.raft.change(change)
    member.act()
    for peer in "bcd":
        member.acknowledge(peer, 3)
    assert (member.raft.membership, member.raft.commit_index, member.raft.log.last_index) == (joint, 3, 4)


def test_4_3_what_only_the_old_majority_was_missing_for_is_committed_with_the_step_to_the_new_one() -> None:
    """Of four, d leaves. Entry 3 is on two disks: enough for three voters, and not for four."""
    member = leader("bcd")
    member.raft.change(Remove("d"))
    member.propose("x")
    member.acknowledge("b", 3)
    assert (member.raft.commit_index, member.raft.membership) == (1, voters("abc", "abcd"))
    member.raft.step(Message(APPEND_REPLY, "c", "a", 1, index=2))
    assert (member.raft.commit_index, member.raft.membership, member.raft.log.last_index) == (3, voters("abc"), 4)


@each_change
def test_4_3_the_next_leader_goes_on_with_a_change_that_it_finds_in_its_log(which: str) -> None:
    """It is one of an earlier term: it is committed together with the new leader's first entry, and then goes on."""
    _, joint, new = CHANGES[which]
    member = Alone(1, pre_vote=False)
    member.disk.membership = voters("abc", learners="d")
    member.disk.write_record(says(2, 1, joint))
    member.start()
    member.others = ("b", "c", "d")
    member.lead()
    assert (member.raft.membership, member.terms) == (joint, [1, 1, 2])
    for peer in "bcd":
        member.acknowledge(peer, 2)
        assert (member.raft.membership, member.raft.commit_index) == (joint, 0), "entry 2 counts for nothing by itself"
    for peer in "bcd":
        member.acknowledge(peer, 3)
    assert (member.raft.membership, member.terms, member.raft.commit_index) == (new, [1, 1, 2, 2], 3)
    for peer in new.peers_of("a"):
        member.acknowledge(peer, 4)
    assert (member.raft.commit_index, member.raft.log.last_index) == (4, 4), "and that is all"


@pytest.mark.parametrize("candidate", "bcd")
@pytest.mark.parametrize("reached", ["", "b", "c", "d", "bc", "bd", "cd", "bcd"])
def test_4_3_a_leader_that_fails_in_the_middle_leaves_the_old_configuration_or_the_new_one(
    reached: str, candidate: str
) -> None:
    """Leader a promotes learner d, and is gone when the joint entry has reached some of the others."""
    cluster = Cluster(*"abc", pre_vote=False, check_quorum=False)
    raft = cluster.elect("a")
    cluster.join("d")
    raft.change(AddMember(Member("d")))
    cluster.calm()
    raft.change(Promote("d"))
    cluster.settle("a")
    cluster.deliver(lambda message: message.to in reached)
    cluster.elect(candidate, without="a")
    heir, now = cluster.rafts[candidate], voters("abcd", "abc")
    behind = candidate not in reached
    willing = set("bcd") - set(reached if behind else "")
    wins = agree(voters("abc") if behind else now, willing) and not (behind and candidate == "d")
    assert (heir.role == LEADER) == wins
    if wins:
        heir.propose(batch("x"))
        cluster.calm(without="a")
        final = voters("abc", learners="d") if behind else members(*"abcd")
        assert {cluster.rafts[name].membership for name in "bcd"} == {final}
        cluster.ticks(candidate, 10)
        cluster.calm()
        assert raft.membership == final, "the old leader too"


def brought(member: Alone, change: Change) -> list[Membership]:
    """The configurations that one change brings into the log."""
    first = member.raft.change(change)
    member.act()
    all_acknowledge(member)
    found = [segment.batch.config for segment in member.raft.log.slice(first, 1 << 20, 100)]
    return [Membership.decode(body) for body in found if body is not None]


@pytest.mark.parametrize("old", ["a", "ab", "abc", "abcd"])
def test_4_3_a_change_of_voters_takes_two_entries_and_any_other_one(old: str) -> None:
    member = leader(old[1:])
    assert brought(member, AddMember(Member("e"))) == [voters(old, learners="e")]
    now = old + "e"
    assert brought(member, Promote("e")) == [voters(now, old), voters(now)]
    for gone in old[1:]:
        before, now = now, now.replace(gone, "")
        assert brought(member, Remove(gone)) == [voters(now, before), voters(now)]
