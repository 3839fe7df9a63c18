"""When a node asks its log to be told of the disk: where something follows from it, and only there."""

from __future__ import annotations

from fastkv._core.codes import FrameFlag, Status
from fastkv.raft import Message
from fastkv.raft.messages import APPEND, APPEND_REPLY
from tests.node.conftest import Bench
from tests.storage.logs import run

CREATED = (Status.OK, FrameFlag.CREATED, 1, b"")


def synced(bench: Bench) -> bool:
    """The disk has everything; whether the node is told of it."""
    bench.log.complete(bench.log.submitted_ticket)
    return bench.log.take_signal()


def told(bench: Bench) -> None:
    """The disk has everything, and the node is told of it."""
    assert synced(bench)
    bench.node.durable()
    bench.node.pump()


def test_a_follower_is_told_and_acknowledges(three: Bench) -> None:
    three.follow()
    three.hear(Message(APPEND, "node-2", "node-1", 1, segments=[run(1, 1, b"a")]))
    assert three.wire.messages() == []
    told(three)
    assert [(message.kind, message.index) for message in three.wire.messages()] == [(APPEND_REPLY, 1)]


def test_a_leader_without_an_answer_is_not_told(three: Bench) -> None:
    three.lead()
    answer = three.put(b"a")
    three.node.pump()
    assert not synced(three), "its disk is one of three"
    three.hear(Message(APPEND_REPLY, "node-3", "node-1", 1, index=2))
    assert answer == [CREATED], "counted when the answer came"


def test_a_leader_behind_a_follower_is_told(three: Bench) -> None:
    three.lead()
    answer = three.put(b"a")
    three.node.pump()
    three.hear(Message(APPEND_REPLY, "node-3", "node-1", 1, index=2))
    assert answer == []
    told(three)
    assert answer == [CREATED]


def test_what_became_durable_in_between_is_not_waited_for(three: Bench) -> None:
    """The disk is done between the turn's first look at it and the question: the node takes another turn at once."""
    three.lead()
    answer = three.put(b"a")
    three.node.pump()
    ask = three.log.notify_at

    def too_late(ticket: int) -> bool:
        three.log.complete(ticket)
        return ask(ticket)

    three.log.notify_at = too_late  # type: ignore[method-assign]
    wakes = three.wakes
    three.hear(Message(APPEND_REPLY, "node-3", "node-1", 1, index=2))
    assert three.wakes > wakes
    three.node.pump()
    assert answer == [CREATED]


def test_a_leader_alone_is_told(single: Bench) -> None:
    single.lead()
    answer = single.put(b"a")
    single.node.pump()
    told(single)
    assert answer == [CREATED]


def test_a_tick_counts_what_nobody_was_told_of(three: Bench) -> None:
    three.lead()
    three.put(b"a")
    three.node.pump()
    assert not synced(three)
    assert three.node.raft.log.durable_index == 1
    three.ticks(1)
    assert three.node.raft.log.durable_index == 2
