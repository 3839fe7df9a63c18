"""Reads by lease: without a round while it holds, and never when it may not."""

from __future__ import annotations

import pytest

from fastkv._core.codes import Consistency, Opcode, Status
from fastkv.raft import Message
from fastkv.raft.messages import APPEND_REPLY, HEARTBEAT, HEARTBEAT_REPLY, READ_INDEX
from tests.node.conftest import Bench

LEASE_NS = 1000


@pytest.fixture
def leased() -> Bench:
    bench = Bench(("node-1", "node-2", "node-3"), lease_ns=LEASE_NS)
    bench.lead()
    return bench


def renew(bench: Bench, at_ns: int) -> None:
    """A round of heartbeats leaves at `at_ns`, and node-2 answers it."""
    bench.clock_ns = at_ns
    bench.ticks(5)
    context = max(m.context for m in bench.wire.messages() if m.kind == HEARTBEAT)
    bench.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", bench.node.raft.term, context=context))
    bench.wire.sent.clear()


def rounds(bench: Bench) -> int:
    return sum(message.kind == HEARTBEAT for message in bench.wire.messages())


def test_while_the_lease_holds_a_read_needs_no_round(leased: Bench) -> None:
    renew(leased, 5000)
    leased.clock_ns = 5000 + LEASE_NS - 1
    answers = leased.get(b"k")
    leased.node.pump()
    assert [answer[0] for answer in answers] == [Status.KEY_NOT_FOUND]
    assert rounds(leased) == 0


def test_when_it_has_run_out_a_read_takes_a_round(leased: Bench) -> None:
    renew(leased, 5000)
    leased.clock_ns = 5000 + LEASE_NS       # a paused process: no tick has passed
    answers = leased.get(b"k")
    leased.node.pump()
    assert answers == []
    assert rounds(leased) == 2


def test_it_counts_from_when_the_round_was_sent(leased: Bench) -> None:
    leased.clock_ns = 5000
    leased.ticks(5)
    context = max(m.context for m in leased.wire.messages() if m.kind == HEARTBEAT)
    leased.clock_ns = 5000 + LEASE_NS
    leased.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", leased.node.raft.term, context=context))
    assert not leased.node.raft.lease_holds(leased.clock_ns)


def test_a_transfer_gives_it_up_for_the_whole_term(leased: Bench) -> None:
    renew(leased, 5000)
    leased.node.raft.transfer("node-2")
    assert not leased.node.raft.lease_holds(5001)
    for _ in range(20):
        leased.ticks(1)
        leased.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", leased.node.raft.term))
    assert not leased.node.raft.transferee      # it did not come about, and the word to campaign may still be under way
    renew(leased, 9000)
    assert not leased.node.raft.lease_holds(9001)


def test_a_new_leader_has_none_before_a_commit_of_its_term() -> None:
    bench = Bench(("node-1", "node-2", "node-3"), lease_ns=LEASE_NS)
    bench.lead(acknowledged=False)
    renew(bench, 5000)
    assert not bench.node.raft.lease_holds(5001)
    bench.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=1))
    assert bench.node.raft.lease_holds(5001)


def test_who_was_deposed_has_none(leased: Bench) -> None:
    renew(leased, 5000)
    leased.follow("node-2", leased.node.raft.term + 1)
    assert not leased.node.raft.lease_holds(5001)


@pytest.fixture
def careful() -> Bench:
    """A leader that has a lease, and uses it only for reads that ask for it."""
    bench = Bench(("node-1", "node-2", "node-3"), lease_ns=LEASE_NS, lease_reads=False)
    bench.lead()
    return bench


def test_without_the_setting_reads_take_rounds_but_for_those_that_ask_for_a_lease(careful: Bench) -> None:
    renew(careful, 5000)
    linearizable, leased = careful.get(b"k"), careful.get(b"k", Consistency.LEASE_READ)
    careful.node.pump()
    assert linearizable == []
    assert [answer[0] for answer in leased] == [Status.KEY_NOT_FOUND]
    assert rounds(careful) == 2
    assert careful.wire.take(Opcode.FORWARD) == []


def test_reads_that_ask_for_a_lease_share_the_round_where_there_is_none(careful: Bench) -> None:
    careful.clock_ns = 5000
    answers = [careful.get(b"k"), careful.get(b"k", Consistency.LEASE_READ)]
    careful.node.pump()
    assert answers == [[], []]
    (context,) = {m.context for m in careful.wire.messages() if m.kind == HEARTBEAT}
    careful.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", careful.node.raft.term, context=context))
    assert [answer[0] for answer, in answers] == [Status.KEY_NOT_FOUND] * 2


def test_a_lease_answers_also_while_a_round_is_under_way(careful: Bench) -> None:
    renew(careful, 5000)
    first = careful.get(b"k")
    careful.node.pump()
    leased = careful.get(b"k", Consistency.LEASE_READ)
    careful.node.pump()
    assert (first, len(leased)) == ([], 1)


def test_a_follower_asks_the_leader_for_them_as_well(three: Bench) -> None:
    three.follow("node-2")
    assert three.get(b"k", Consistency.LEASE_READ) == []
    three.node.pump()
    assert [m.to for m in three.wire.messages() if m.kind == READ_INDEX] == ["node-2"]
