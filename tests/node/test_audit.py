"""Nodes whose states differ: the majority is right, and where there is none nobody serves."""

from __future__ import annotations

from fastkv._core.codes import Consistency, Status
from fastkv.node.audit import REMEMBERED_INDEXES, Audit
from tests.node.conftest import Bench


def audit() -> Audit:
    return Audit("a", patience_ticks=100)


def test_equal_states_raise_nothing() -> None:
    a = audit()
    for node in "abc":
        a.heard(node, [(64, 1), (128, 2)])
    a.judge(0)
    assert (a.alarm, a.suspects) == ("", {})


def test_whoever_is_against_the_majority_is_suspect_and_not_oneself() -> None:
    a = audit()
    a.heard("a", [(64, 1), (128, 2)])
    a.heard("b", [(64, 1), (128, 2)])
    a.heard("c", [(64, 1), (128, 7)])
    a.judge(0)
    assert (a.alarm, a.suspects) == ("", {"c": 128})


def test_a_node_against_the_majority_raises_an_alarm_at_once() -> None:
    a = audit()
    a.heard("a", [(128, 7)])
    a.heard("b", [(128, 2)])
    a.heard("c", [(128, 2)])
    a.judge(0)
    assert "this node's state at entry 128 differs from that of 2 other nodes" in a.alarm


def test_without_a_majority_there_is_time_for_the_others_to_speak() -> None:
    a = audit()
    a.heard("a", [(64, 1)])
    a.heard("b", [(64, 2)])
    a.judge(0)
    a.judge(99)
    assert a.alarm == ""
    a.heard("c", [(64, 1)])
    a.judge(99)
    a.judge(500)
    assert (a.alarm, a.suspects) == ("", {"b": 64})


def test_without_a_majority_nobody_serves_in_the_end() -> None:
    a = audit()
    a.heard("a", [(64, 1)])
    a.heard("b", [(64, 2)])
    a.judge(0)
    a.judge(100)
    assert "no majority" in a.alarm


def test_others_that_disagree_among_themselves_are_not_our_matter() -> None:
    a = audit()
    a.heard("b", [(64, 1)])
    a.heard("c", [(64, 2)])
    a.judge(0)
    a.judge(1000)
    assert a.alarm == ""


def test_a_snapshot_begins_anew() -> None:
    a = audit()
    a.heard("a", [(128, 7)])
    a.heard("b", [(128, 2)])
    a.heard("c", [(128, 2)])
    a.judge(0)
    a.forget()
    a.judge(1)
    assert a.alarm == ""


def test_old_indexes_are_forgotten() -> None:
    a = audit()
    a.heard("a", [(index, 1) for index in range(1000)])
    a.heard("b", [(999, 2)])
    a.heard("c", [(999, 2), (999 - REMEMBERED_INDEXES, 2)])
    a.judge(0)
    assert "entry 999" in a.alarm


def test_a_node_with_an_alarm_serves_nothing_and_does_not_lead(three: Bench) -> None:
    three.lead()
    three.node._gossip.audit.alarm = "this node's state differs"
    read, write = three.get(b"k"), three.put(b"k")
    three.ticks(1)
    assert three.node.raft.transferee
    read, write = three.get(b"k"), three.put(b"k")
    three.node.pump()
    assert [answer[0] for answer in read + write] == [Status.CORRUPT_STATE] * 2


def test_an_alarm_counts_from_the_turn_in_which_it_is_raised_and_to_the_one_in_which_it_ends(single: Bench) -> None:
    single.lead()
    single.put(b"k")
    single.node.pump()
    single.sync()
    single.node.distrust("its store is not whole")
    single.node.pump()
    answer = single.get(b"k")
    single.node.pump()
    assert answer[0][0] == Status.CORRUPT_STATE
    single.node._gossip.audit.forget()          # a snapshot has taken its place
    single.node.pump()
    answer = single.get(b"k", Consistency.STALE_READ)
    single.node.pump()
    assert answer[0][0] == Status.OK
