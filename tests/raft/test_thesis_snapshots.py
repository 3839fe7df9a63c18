"""Ongaro's thesis, chapter 5: a follower's log begins with a snapshot, that says who the members are (5.1), and a later
one takes the place of the log (5.3, figure 5.3). Each test is named for what the thesis says.

Here consensus moves no snapshot: it says who needs one, and is told when it is on the disk. The leader's side is in
`test_thesis_cut_logs`.
"""

from __future__ import annotations

import itertools
import random

import pytest

from fastkv.log_types import HardState
from fastkv.raft import (
    CANDIDATE,
    FOLLOWER,
    LEARNER,
    InvariantBroken,
    Membership,
    Message,
    Raft,
    RaftConfig,
    RaftLog,
)
from fastkv.raft.messages import (
    APPEND,
    APPEND_REPLY,
    SNAPSHOT,
    VOTE,
)
from tests.raft.alone import Alone, entry, same
from tests.raft.harness import Cluster, Disk, batch, log_of, members, membership_at
from tests.raft.thesis import leader, says, state_of, voters

LOGS = [log for size in range(5) for log in itertools.combinations_with_replacement((1, 2, 3), size)]


def install(member: Alone, index: int, term: int, membership: Membership) -> bool:
    """A snapshot takes the place of the log, or of its beginning, on the disk; Raft is not told yet."""
    kept = member.raft.log.matches(index, term)
    member.disk.install(index, term, membership, log_kept=kept)
    member.disk.segments = [s for s in member.disk.segments if s.last_index > index]
    return kept


def restore(member: Alone, index: int, term: int, membership: Membership | None = None) -> list[Message]:
    """It installs a snapshot; what it says to that."""
    membership = membership or members(*"abc")
    kept = install(member, index, term, membership)
    member.raft.restored(index, term, membership, log_kept=kept)
    return member.act()


# -- 5.3: the follower -------------------------------------------------------------------------------------------------


def test_5_3_a_follower_that_is_told_wants_a_snapshot_that_is_as_new() -> None:
    member = Alone(1, 1, commit=1)
    member.act()
    member.raft.step(Message(SNAPSHOT, "b", "a", 1, index=5, log_term=1))
    ready = member.raft.take_ready()
    assert (ready.snapshot_wanted, ready.send_now, ready.send_after_persist) == (5, [], [])
    assert (member.raft.leader, member.raft.commit_index) == ("b", 1)


@pytest.mark.parametrize("index", range(4))
def test_5_3_a_stale_word_of_a_snapshot_is_answered_with_what_is_committed_and_changes_nothing(index: int) -> None:
    member = Alone(1, 1, 1, 1, commit=3)
    member.hear_leader("b", 1)
    before = state_of(member.raft)
    [answer] = member.hear(SNAPSHOT, "b", 1, index=index, log_term=1)
    assert (answer.kind, answer.to) == (APPEND_REPLY, "b")
    assert same(answer, index=3)
    assert state_of(member.raft) == before


def test_5_3_said_twice_it_changes_nothing_more() -> None:
    member = Alone(1)
    seen = []
    for _ in range(3):
        member.raft.step(Message(SNAPSHOT, "b", "a", 1, index=5, log_term=1))
        while member.raft.has_ready():
            seen.append(member.raft.take_ready().snapshot_wanted)
        seen.append(state_of(member.raft))
    assert seen == [5, seen[1]] * 3


@pytest.mark.parametrize("own", LOGS, ids=str)
def test_5_3_a_log_that_has_the_snapshot_s_last_entry_keeps_what_follows_and_any_other_is_discarded_whole(
    own: tuple[int, ...],
) -> None:
    """Against figure 5.3, for all logs, commit indexes and snapshots; and a restart finds the same."""
    for commit, index, term in itertools.product(range(len(own) + 1), range(1, 6), range(1, 4)):
        if index > commit and commit and term < own[commit - 1]:
            continue                    # no cluster commits such entries
        member = Alone(*own, term=3, commit=commit)
        kept = index <= len(own) and own[index - 1] == term
        if index <= commit and not kept:
            with pytest.raises(InvariantBroken, match="is not of this log"):
                member.raft.restored(index, term, members(*"abc"), log_kept=False)
            continue
        restore(member, index, term)
        for _ in range(2):
            raft = member.raft
            assert (raft.log.base_index, raft.log.base_term) == (index, term)
            assert member.terms == list(own[index:] if kept else ())
            assert (raft.log.last_index, raft.log.durable_index) == 2 * (len(own) if kept else index,)
            assert raft.log.last_term == (own[-1] if kept else term)
            assert (raft.commit_index, raft.applied_index) == (max(commit, index), max(commit if kept else 0, index))
            member.start()
            member.act()


@pytest.mark.parametrize("index", range(1, 4))
def test_5_3_a_snapshot_that_is_older_than_the_state_stops_the_node(index: int) -> None:
    member = Alone(1, 1, 1, commit=3)
    member.act()
    with pytest.raises(InvariantBroken, match=f"a snapshot of entry {index} goes back from 3"):
        member.raft.restored(index, 1, members(*"abc"), log_kept=True)


def test_5_3_a_leader_restores_none() -> None:
    with pytest.raises(InvariantBroken, match="a leader needs no snapshot"):
        leader().raft.restored(9, 1, members(*"abc"), log_kept=False)


def test_5_3_the_leader_hears_how_far_the_snapshot_reaches() -> None:
    member = Alone(1)
    member.hear_leader("b", 1)
    [answer] = restore(member, 7, 1)
    assert (answer.kind, answer.to, answer.term) == (APPEND_REPLY, "b", 1)
    assert same(answer, index=7)
    [answer] = member.hear_append("b", 1, 7, 1, 1, commit=8)
    assert same(answer, index=8)
    assert [s.first_index for s in member.applied] == [8]
    silent = Alone(1)
    assert restore(silent, 7, 1) == [], "no leader is known"


def test_5_3_a_snapshot_of_a_later_term_than_the_own_brings_that_term() -> None:
    member = Alone(1, vote="a")
    member.hear_leader("b", 1)
    assert restore(member, 7, 4) == []
    assert (member.raft.term, member.raft.vote, member.raft.leader) == (4, "", "")
    assert member.disk.hard_state[:2] == (4, "")


def test_5_3_what_was_on_its_way_to_the_disk_of_a_discarded_log_makes_nothing_durable() -> None:
    member = Alone(1)
    member.raft.step(Message(APPEND, "b", "a", 2, index=1, log_term=1, segments=[entry(i, 2) for i in range(2, 9)]))
    member.decide()
    member.raft.restored(5, 3, members(*"abc"), log_kept=False)
    member.raft.persisted(8, 2)
    assert (member.raft.log.durable_index, member.raft.log.last_index) == (5, 5)
    hasty = Alone(1)
    hasty.raft.step(Message(APPEND, "b", "a", 2, index=1, log_term=1, segments=[entry(2, 2)]))
    with pytest.raises(InvariantBroken, match="never handed out"):
        hasty.raft.restored(5, 3, members(*"abc"), log_kept=False)


def test_5_3_what_the_snapshot_covers_is_durable_though_the_own_write_of_it_has_not_ended() -> None:
    member = Alone(1)
    member.raft.step(Message(APPEND, "b", "a", 1, index=1, log_term=1, segments=[entry(i, 1) for i in range(2, 9)]))
    member.decide()
    member.raft.restored(5, 1, members(*"abc"), log_kept=True)
    assert (member.raft.log.durable_index, member.raft.log.last_index, member.terms) == (5, 8, [1, 1, 1])
    member.raft.persisted(8, 1)
    assert member.raft.log.durable_index == 8


@pytest.mark.parametrize("index", range(8))
def test_5_3_late_entries_from_before_the_snapshot_are_acknowledged_and_not_taken(index: int) -> None:
    member = Alone(1)
    member.hear_leader("b", 1)
    restore(member, 5, 1)
    member.hear_append("b", 1, 5, 1, 1)
    before = state_of(member.raft)
    [answer] = member.hear_append("b", 1, index, 1, *[1] * (7 - index))
    if index < 5:
        assert same(answer, index=5)
        assert state_of(member.raft) == before
    elif index <= 6:
        assert same(answer, index=7)
        assert member.terms == [1, 1]
    else:
        assert same(answer, index=7, reject=True, hint_index=6, hint_term=1)


def test_5_3_it_votes_by_the_snapshot_s_last_entry() -> None:
    for index, log_term in itertools.product(range(5, 10), range(1, 6)):
        member = Alone(1)
        restore(member, 7, 3)
        [answer] = member.hear(VOTE, "b", 6, index=index, log_term=log_term)
        assert answer.reject == ((log_term, index) < (3, 7))


# -- 5.1: what the snapshot says of the members ------------------------------------------------------------------------


@pytest.mark.parametrize("which", [w for n in range(4) for w in itertools.combinations(range(1, 5), n)], ids=str)
def test_5_1_the_configuration_is_the_snapshot_s_or_what_the_log_behind_it_says(which: tuple[int, ...]) -> None:
    """For logs of four entries, those of them `which` say who the members are."""
    found = {index: voters("abc" + "defg"[:index]) for index in which}
    log = [says(i, 1, found[i]) if i in which else entry(i, 1) for i in range(1, 5)]
    for index, term in itertools.product(range(1, 7), (1, 2)):
        member = Alone(term=1)
        member.hear(APPEND, "b", 1, segments=log)
        snapshot = voters("abz")
        restore(member, index, term, snapshot)
        behind = [m for at, m in found.items() if at > index and term == 1]
        expected = behind[-1] if behind else snapshot
        assert member.raft.membership == expected
        assert member.raft.peers == expected.peers_of("a")
        if term == 1 and index < 4:
            member.hear_append("c", 3, index, 1, 3)
            assert member.raft.membership == snapshot, "and where that is truncated, the snapshot's again"


@pytest.mark.parametrize("role", [FOLLOWER, CANDIDATE])
@pytest.mark.parametrize(
    "snapshot",
    [voters("bc"), voters("bc", learners="a"), voters("ab"), voters("bc", "abc")],
    ids=["removed", "learner", "voter", "leaving"],
)
def test_5_1_whoever_is_no_voter_of_the_snapshot_s_configuration_campaigns_no_more(
    snapshot: Membership, role: int
) -> None:
    member = Alone(1, pre_vote=False)
    if role == CANDIDATE:
        member.campaign()
    restore(member, 5, member.raft.term, snapshot)
    assert member.raft.role == (role if snapshot.votes("a") else LEARNER)
    term = member.raft.term
    member.tick(40)
    assert member.raft.term == term + snapshot.votes("a")


@pytest.mark.parametrize("term", [1, 2], ids=["log kept", "log discarded"])
@pytest.mark.parametrize("founders", [voters("abc"), Membership()], ids=["founder", "newcomer"])
def test_5_1_a_snapshot_from_before_the_first_change_leaves_the_founders_in_place(
    founders: Membership, term: int
) -> None:
    member = Alone(term=1)
    member.disk.membership = founders
    member.start()
    log = [entry(1, 1), entry(2, 1), says(3, 1, voters("abcd", "abc"))]
    member.hear(APPEND, "b", 1, segments=log)
    member.raft.restored(2, term, Membership(), log_kept=term == 1)
    assert member.raft.membership == (voters("abcd", "abc") if term == 1 else founders)
    member.hear_append("c", 3, 2, term, 3)
    assert member.raft.membership == founders


def test_5_1_of_what_the_log_says_only_what_is_behind_the_snapshot_counts() -> None:
    disk = Disk(HardState(1), log_of(1, 1, 1, 1))
    said = [(index, voters("ab" + "cdef"[:index]).encode()) for index in range(1, 5)]
    for applied, name in itertools.product(range(5), "ab"):
        raft = Raft(
            RaftConfig(name), disk.hard_state, RaftLog(0, 0, disk.segments, disk), random.Random(1),
            membership=voters("abz"), applied=applied, configurations=said,
        )
        assert membership_at(raft, applied) == voters("abz")
        for index in range(applied + 1, 5):
            assert membership_at(raft, index) == voters("ab" + "cdef"[:index])
        assert raft.membership == membership_at(raft, 4)


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [(1,), (1, 1, 1, 1, 1), (1, 1, 1, 1, 3, 3, 3)], ids=str)
def test_5_3_a_crash_after_the_snapshot_is_on_the_disk_and_before_anybody_was_told(own: tuple[int, ...]) -> None:
    told, crashed = Alone(*own, vote="c"), Alone(*own, vote="c")
    restore(told, 5, 3, voters("abcd"))
    install(crashed, 5, 3, voters("abcd"))
    crashed.start()
    for member in (told, crashed):
        assert (member.raft.term, member.raft.vote) == (3, "c" if own[-1] == 3 else "")
        assert (member.raft.commit_index, member.raft.applied_index) == (5, 5)
        assert member.terms == list(own[5:])
        assert member.raft.membership == voters("abcd")


def test_5_3_a_store_that_is_not_within_the_log_stops_the_node() -> None:
    """Behind its beginning, or ahead of its end: then an installation was not completed, or a log was lost."""
    disk = Disk(HardState(1), log_of(1, 1, 1))
    for base, applied, why in [(2, 1, "the log begins behind 2"), (0, 4, "has applied 4, the log ends at 3")]:
        log = RaftLog(base, base and 1, disk.segments[base:], disk)
        with pytest.raises(InvariantBroken, match=why):
            Raft(RaftConfig("a"), disk.hard_state, log, random.Random(1), membership=members("a"), applied=applied)


def test_5_1_a_start_hands_out_what_is_committed_and_not_in_the_snapshot_in_pieces() -> None:
    cluster = Cluster("a", "b", "c")
    raft = cluster.elect("a")
    for number in range(20):
        raft.propose(batch(f"k{number}"))
        cluster.calm()
    cluster.disks["a"].cut(4, 1)
    cluster.start("a", in_memory=2)
    cluster.readies["a"].clear()
    cluster.settle("a")
    pieces = [ready.committed for ready in cluster.readies["a"] if ready.committed]
    assert len(pieces) > 1
    flat = [index for piece in pieces for s in piece for index in range(s.first_index, s.last_index + 1)]
    assert flat == list(range(5, cluster.rafts["a"].commit_index + 1))
