"""A member whose state was set aside, with its log whole: what it promised stands, and it waits for a snapshot."""

from __future__ import annotations

import random

import pytest

from fastkv.log_types import HardState
from fastkv.raft import FOLLOWER, Membership, Message, Raft, RaftConfig, RaftLog
from fastkv.raft.messages import (
    APPEND,
    APPEND_REPLY,
    HEARTBEAT,
    PRE_VOTE,
    PRE_VOTE_REPLY,
    TIMEOUT_NOW,
    VOTE,
    VOTE_REPLY,
)
from fastkv.raft.types import InvariantBroken
from tests.raft.alone import entry
from tests.raft.harness import Disk, members

BASE, LAST, TERM = 5, 8, 2


def lost(membership: Membership | None = None, *, vote: str = "", awaits_snapshot: bool = True) -> Raft:
    """Member a, whose log has the entries 6 to 8 behind what was cut, and whose state is gone."""
    segments = [entry(index, TERM) for index in range(BASE + 1, LAST + 1)]
    raft = Raft(
        RaftConfig("a"),
        HardState(TERM, vote, LAST - 1),
        RaftLog(BASE, TERM, segments, Disk(HardState())),
        random.Random(1),
        membership=members("a", "b", "c") if membership is None else membership,
        awaits_snapshot=awaits_snapshot,
    )
    raft.since_leader = raft.config.election_ticks
    return raft


def heartbeat(raft: Raft, *, index: int = LAST, commit: int = LAST) -> None:
    raft.step(Message(HEARTBEAT, "b", "a", TERM, index=index, commit=commit))


def test_without_leave_such_a_member_does_not_start() -> None:
    with pytest.raises(InvariantBroken):
        lost(awaits_snapshot=False)


@pytest.mark.parametrize("membership", [members("a", "b", "c"), Membership()], ids=["known", "not known"])
def test_its_vote_counts_and_is_remembered(membership: Membership) -> None:
    raft = lost(membership)
    raft.step(Message(PRE_VOTE, "b", "a", TERM + 1, index=LAST, log_term=TERM))
    assert [(m.kind, m.reject) for m in raft.take_ready().send_now] == [(PRE_VOTE_REPLY, False)]
    raft.step(Message(VOTE, "b", "a", TERM + 1, index=LAST, log_term=TERM))
    ready = raft.take_ready()
    assert ready.hard_state is not None
    assert (ready.hard_state.term, ready.hard_state.vote) == (TERM + 1, "b")
    assert [(m.kind, m.reject) for m in ready.send_after_persist] == [(VOTE_REPLY, False)]


def test_a_vote_that_it_gave_is_not_given_again() -> None:
    raft = lost(vote="c")
    raft.step(Message(VOTE, "b", "a", TERM, index=LAST, log_term=TERM))
    assert [m.reject for m in raft.take_ready().send_after_persist] == [True]


def test_a_log_that_lacks_what_it_acknowledged_does_not_get_its_vote() -> None:
    raft = lost()
    raft.step(Message(VOTE, "b", "a", TERM + 1, index=LAST - 1, log_term=TERM))
    assert [m.reject for m in raft.take_ready().send_after_persist] == [True]


def test_it_acknowledges_and_applies_nothing() -> None:
    raft = lost()
    heartbeat(raft)
    ready = raft.take_ready()
    assert ready.committed == []
    assert ready.snapshot_wanted == BASE
    append = Message(APPEND, "b", "a", TERM, index=LAST, log_term=TERM, commit=LAST, segments=[entry(LAST + 1, TERM)])
    raft.step(append)
    ready = raft.take_ready()
    assert [segment.first_index for segment in ready.segments] == [LAST + 1]
    assert [(m.kind, m.index, m.reject) for m in ready.send_after_persist] == [(APPEND_REPLY, LAST + 1, False)]
    assert ready.committed == []
    raft.persisted(LAST + 1, TERM)
    assert not raft.has_ready()
    assert raft.applied_index == 0


def test_it_never_campaigns() -> None:
    raft = lost()
    for _ in range(20 * raft.config.election_ticks):
        raft.tick()
    heartbeat(raft)
    raft.step(Message(TIMEOUT_NOW, "b", "a", TERM))
    raft.campaign()
    assert raft.role == FOLLOWER
    assert raft.term == TERM
    assert all(message.kind != PRE_VOTE for message in raft.take_ready().send_now)


@pytest.mark.parametrize("index", [BASE, BASE + 2, LAST])
def test_with_a_snapshot_within_its_log_it_goes_on_behind_it(index: int) -> None:
    raft = lost()
    heartbeat(raft)
    raft.take_ready()
    raft.restored(index, TERM, members("a", "b", "c"), log_kept=True)
    committed = raft.take_ready().committed
    assert [segment.first_index for segment in committed] == list(range(index + 1, LAST + 1))
    assert raft.restoring == 0
    heartbeat(raft)
    assert raft.take_ready().snapshot_wanted == 0


def test_with_a_snapshot_beyond_its_log_it_goes_on_there() -> None:
    raft = lost()
    heartbeat(raft)
    raft.take_ready()
    raft.restored(20, TERM, members("a", "b", "c"), log_kept=False)
    assert (raft.applied_index, raft.log.base_index, raft.log.last_index) == (20, 20, 20)
    raft.tick()
    assert raft.restoring == 0


def test_a_state_that_is_there_is_not_waited_for() -> None:
    """The leave alone changes nothing."""
    raft = Raft(
        RaftConfig("a"), HardState(TERM, "", BASE), RaftLog(BASE, TERM, [], Disk(HardState())), random.Random(1),
        membership=members("a", "b", "c"), applied=BASE, awaits_snapshot=True,
    )
    assert raft.restoring == 0
