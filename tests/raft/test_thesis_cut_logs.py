"""Ongaro's thesis, 5.3, from the leader's side: a follower needs entries that the leader has cut.

Each test is named for what the thesis says.
"""

from __future__ import annotations

import pytest

from fastkv.raft import LEADER
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT, HEARTBEAT_REPLY, SNAPSHOT
from fastkv.raft.progress import CUT, REPLICATE
from tests.raft.alone import Alone, of_kind, same
from tests.raft.harness import Cluster, batch
from tests.raft.test_thesis_snapshots import restore
from tests.raft.thesis import leader


def cut(member: Alone, index: int) -> None:
    term = member.raft.log.term(index) or 0
    member.disk.cut(index, term)
    member.raft.log.cut(index, term)


def cut_leader() -> Alone:
    """Leader a has seven entries, of which it has cut five; b has them all, c has one and needs the second."""
    member = leader(check_quorum=False)
    for index in range(2, 8):
        member.propose("x")
        member.acknowledge("b", index)
    cut(member, 5)
    member.raft.unreachable("c")
    return member


# -- what it says ------------------------------------------------------------------------------------------------------


def test_5_3_a_follower_that_needs_what_was_cut_is_told_from_where_on_there_is_a_log() -> None:
    member = cut_leader()
    [told] = member.act()
    assert (told.kind, told.to, told.term) == (SNAPSHOT, "c", 1)
    assert same(told, index=5, log_term=1, low_water=told.low_water)
    assert member.raft.progress["c"].state == CUT


@pytest.mark.parametrize("has", range(1, 7))
def test_5_3_only_one_that_needs_what_was_cut_is_told(has: int) -> None:
    member = cut_leader()
    member.act()
    said = member.acknowledge("c", has)
    if has < 5:
        assert [(m.kind, m.to) for m in said] == [(SNAPSHOT, "c")]
    else:
        assert [(m.kind, m.index, m.segments[-1].last_index) for m in said] == [(APPEND, has, 7)]


def test_5_3_it_is_told_too_where_its_refusal_shows_what_it_lacks() -> None:
    """What was sent ahead is lost; the leader asks with an empty APPEND, and learns of it."""
    member = leader()
    for index in range(2, 8):
        member.propose("x")
        member.acknowledge("b", index)
    cut(member, 5)
    member.tick(5)
    [question] = member.hear(HEARTBEAT_REPLY, "c", 1, index=1)
    assert (question.kind, question.index, question.segments) == (APPEND, 7, [])
    [told] = member.hear(APPEND_REPLY, "c", 1, index=7, reject=True, hint_index=1, hint_term=1)
    assert (told.kind, told.to, told.index) == (SNAPSHOT, "c", 5)


def test_5_3_it_is_sent_heartbeats_and_no_entries_and_told_again_with_every_answer() -> None:
    member = cut_leader()
    member.act()
    for _ in range(10):
        said = member.propose("x") + member.acknowledge("b", member.raft.log.last_index)
        assert [m for m in said if m.to == "c"] == []
        beats = [m for m in member.tick(5) if m.to == "c"]
        assert [m.kind for m in beats] == [HEARTBEAT]
        said = member.hear(HEARTBEAT_REPLY, "c", 1, index=1, context=beats[0].context)
        assert [(m.kind, m.to, m.index) for m in said] == [(SNAPSHOT, "c", 5)]
        assert member.hear(HEARTBEAT_REPLY, "c", 1, index=1, context=beats[0].context) == [], "once an interval"


def test_5_3_its_answers_confirm_reads_and_the_leader_s_quorum_as_those_of_any_other() -> None:
    member = leader()
    member.propose("x", "y")
    member.acknowledge("b", 3)
    cut(member, 3)
    member.raft.unreachable("c")
    for number in range(10):
        member.raft.read(number)
        [*_, beat] = of_kind(member.tick(10), HEARTBEAT)
        member.hear(HEARTBEAT_REPLY, "c", 1, index=1, context=beat.context)
    assert member.raft.role == LEADER
    assert [read.context for read in member.reads] == list(range(10))
    assert member.raft.progress["c"].state == CUT


def test_5_3_once_it_has_restored_a_snapshot_replication_goes_on_from_there() -> None:
    member = cut_leader()
    member.act()
    said = member.acknowledge("c", 6)
    assert [(m.kind, m.to, m.index, m.log_term) for m in said] == [(APPEND, "c", 6, 1)]
    assert member.raft.progress["c"].state == REPLICATE
    assert [(m.to, m.index) for m in member.propose("x")] == [("b", 7), ("c", 7)]


def test_5_3_if_the_log_was_cut_again_meanwhile_it_is_told_again() -> None:
    member = cut_leader()
    member.act()
    cut(member, 7)
    [told] = member.acknowledge("c", 6)
    assert (told.kind, told.index) == (SNAPSHOT, 7)
    assert member.acknowledge("c", 7) == []
    assert [(m.to, m.index) for m in member.propose("x")] == [("b", 7), ("c", 7)]


def test_5_3_the_log_is_kept_for_a_member_that_fetches_a_snapshot_and_is_there() -> None:
    member = cut_leader()
    assert not member.raft.someone_fetches
    member.act()
    assert member.raft.someone_fetches
    member.tick(21)
    assert not member.raft.someone_fetches, "it is gone"
    member.hear(HEARTBEAT_REPLY, "c", 1, index=1)
    assert member.raft.someone_fetches
    member.acknowledge("c", 6)
    assert not member.raft.someone_fetches


def test_5_3_a_leader_whose_log_begins_with_a_snapshot_tells_whoever_has_less() -> None:
    member = Alone(1, pre_vote=False)
    restore(member, 9, 4)
    member.lead()
    assert (member.raft.term, member.raft.log.last_index) == (5, 10)
    [told] = member.hear(APPEND_REPLY, "b", 5, index=9, reject=True, hint_index=8, hint_term=4)
    assert (told.kind, told.to, told.index, told.log_term) == (SNAPSHOT, "b", 9, 4)
    assert member.acknowledge("c", 10) == []


# -- all of it together -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", ["never", "before it fetches", "after it has restored"])
def test_5_3_a_follower_that_was_away_for_long_catches_up_by_two_snapshots_in_quick_succession(crash: str) -> None:
    cluster = Cluster("a", "b", "c", check_quorum=False)
    raft = cluster.elect("a")

    def write_and_cut(count: int) -> None:
        for number in range(count):
            raft.propose(batch(f"k{number}"))
            cluster.calm(without="c")
        cluster.disks["a"].cut(raft.applied_index, 1)
        raft.log.cut(raft.applied_index, 1)

    def wanted() -> int:
        cluster.ticks("a", 5)
        cluster.calm()
        return max(ready.snapshot_wanted for ready in cluster.readies["c"])

    write_and_cut(4)
    assert wanted() == 5
    if crash == "before it fetches":
        cluster.start("c")
        cluster.readies["c"].clear()
        assert wanted() == 5, "it is told again"
    assert cluster.restore("c", "a") == 5
    write_and_cut(3)
    if crash == "after it has restored":
        cluster.start("c")
    assert wanted() == 8
    assert cluster.restore("c", "a") == 8
    raft.propose(batch("z"))
    cluster.calm()
    cluster.ticks("a", 5)
    cluster.calm()
    assert cluster.applied == dict.fromkeys("abc", 9)
    assert [m.log.last_index for m in cluster.rafts.values()] == [9, 9, 9]
