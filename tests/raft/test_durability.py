"""What counts as this node's copy, while writes are under way that replace one another."""

from __future__ import annotations

import random

import pytest

from fastkv.log_types import HardState, Segment
from fastkv.raft import InvariantBroken, Message, Raft, RaftConfig, RaftLog
from fastkv.raft.messages import APPEND
from tests.raft.harness import Disk, log_of, members, run_of


def follower(*terms: int) -> Raft:
    """Member b of three, with a durable log of these terms."""
    disk = Disk(HardState(max(terms, default=0)), log_of(*terms))
    log = RaftLog(0, 0, disk.segments, disk)
    return Raft(RaftConfig("b"), disk.hard_state, log, random.Random(1), membership=members("a", "b", "c"))


def append(frm: str, term: int, before: tuple[int, int], *segments: Segment, commit: int = 0) -> Message:
    index, log_term = before
    return Message(APPEND, frm, "b", term, index=index, log_term=log_term, commit=commit, segments=list(segments))


def test_a_write_that_a_later_one_replaces_makes_nothing_durable() -> None:
    """The same entry is written, replaced, and written again: the first write's end says nothing of the third."""
    raft = follower(1)
    for frm, term, written in [("a", 2, run_of(2, 2)), ("c", 3, run_of(2, 3)), ("a", 4, run_of(2, 2))]:
        raft.step(append(frm, term, (1, 1), written))
        assert raft.take_ready().segments == [written]
    raft.persisted(2, 2)
    assert raft.log.durable_index == 1
    raft.persisted(2, 3)
    assert raft.log.durable_index == 1
    raft.persisted(2, 2)
    assert raft.log.durable_index == 2


def test_what_was_not_replaced_of_a_write_is_durable() -> None:
    raft = follower(1)
    raft.step(append("a", 2, (1, 1), run_of(2, 2, 4)))
    raft.take_ready()
    raft.step(append("c", 3, (3, 2), run_of(4, 3)))
    raft.take_ready()
    raft.persisted(5, 2)
    assert raft.log.durable_index == 3
    raft.persisted(4, 3)
    assert raft.log.durable_index == 4


def test_writes_end_in_their_order() -> None:
    raft = follower(1)
    with pytest.raises(InvariantBroken, match="the write under way is None"):
        raft.persisted(1, 1)
    raft.step(append("a", 2, (1, 1), run_of(2, 2)))
    raft.take_ready()
    with pytest.raises(InvariantBroken, match="the write under way is entry 2 of term 2"):
        raft.persisted(2, 3)


def test_the_commit_index_on_disk_is_never_ahead_of_the_entries_there() -> None:
    """A crash between the hard state's record and the entries' leaves the old suffix: it must not look committed."""
    raft = follower(1, 2, 2)
    raft.step(append("c", 3, (1, 1), run_of(2, 3), run_of(3, 3), commit=3))
    ready = raft.take_ready()
    assert raft.commit_index == 3
    assert ready.hard_state == HardState(3, "", 1)


def test_a_term_behind_the_log_is_refused() -> None:
    disk = Disk(HardState(1), log_of(1, 2))
    log = RaftLog(0, 0, disk.segments, disk)
    with pytest.raises(InvariantBroken, match="the log ends in term 2"):
        Raft(RaftConfig("b"), disk.hard_state, log, random.Random(1), membership=members("a", "b"))


def test_a_deposed_leader_tells_before_it_applies_another_s_entries() -> None:
    """Whoever waits for its entry 2 must not be given the result of the entry that took its place."""
    raft = follower(1)
    raft.campaign()
    for kind in (2, 4):
        raft.step(Message(kind, "a", "b", raft.term + (kind == 2)))
    led = raft.take_ready()
    assert led.leadership is not None
    assert raft.propose(run_of(3, raft.term).batch) == (3, raft.term)
    raft.take_ready()
    raft.step(append("c", raft.term + 1, (1, 1), run_of(2, raft.term + 1, 2), commit=3))
    first = raft.take_ready()
    assert first.leadership is not None
    assert first.committed == []
    assert [s.term for s in raft.take_ready().committed] == [1, raft.term]
