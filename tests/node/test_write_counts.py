"""How many writes are under way, and how many were given up: what the metrics show, counted in writes."""

from __future__ import annotations

from fastkv._core.codes import Opcode, Status
from fastkv.raft import Message
from fastkv.raft.messages import APPEND_REPLY, HEARTBEAT
from tests.node.conftest import Bench


def counts(bench: Bench) -> tuple[int, int]:
    return bench.node.proposals_pending, bench.node.proposals_failed


def test_writes_are_pending_until_they_are_applied(three: Bench) -> None:
    three.lead()
    assert counts(three) == (0, 0)
    for key in (b"a", b"b", b"c"):
        three.put(key)
    three.node.pump()
    assert counts(three) == (3, 0)
    three.sync()
    three.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=3))
    assert counts(three) == (1, 0), "the no-op of the term, a and b are committed"
    three.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=4))
    assert counts(three) == (0, 0)


def test_what_is_lost_with_a_leadership_failed(three: Bench) -> None:
    three.lead()
    for key in (b"a", b"b"):
        three.put(key)
    three.node.pump()
    three.hear(Message(HEARTBEAT, "node-3", "node-1", 2))
    assert counts(three) == (0, 2)


def test_what_waits_for_a_leader_is_pending_and_fails_without_one(three: Bench) -> None:
    three.put(b"a")
    three.node.pump()
    assert counts(three) == (1, 0)
    three.ticks(31)
    assert counts(three) == (0, 1)


def test_what_was_forwarded_is_pending_and_fails_with_the_link(three: Bench) -> None:
    three.follow()
    three.put(b"a")
    three.put(b"b")
    three.node.pump()
    assert counts(three) == (2, 0)
    three.node.peer_lost("node-2")
    assert counts(three) == (0, 2)


def test_what_nobody_answers_in_time_failed(three: Bench) -> None:
    three.follow()
    three.put(b"a")
    three.node.pump()
    for _ in range(101):
        three.follow()
        three.ticks(1)
    assert counts(three) == (0, 1)


def test_what_the_leader_refuses_failed(three: Bench) -> None:
    three.follow()
    three.put(b"a")
    three.node.pump()
    ((_, (_, _, forward_id, _)),) = three.wire.take(Opcode.FORWARD)
    three.node.peer_frame("node-2", Opcode.FORWARD_REPLY, Status.NO_SPACE, forward_id, b"")
    assert counts(three) == (0, 1)


def test_an_overload_fails_what_it_refuses() -> None:
    bench = Bench(("node-1", "node-2", "node-3"), max_uncommitted_bytes=300)
    bench.lead()
    bench.put(b"a", b"x" * 90)
    bench.node.pump()
    for number in range(4):
        bench.put(b"b%d" % number, b"x" * 90)
    bench.node.pump()
    assert counts(bench) == (1, 4)
