"""Reads through a node, checkpoints, and what nodes tell each other."""

from __future__ import annotations

import orjson
import pytest

from fastkv._core.codes import Consistency, FrameFlag, Opcode, Status
from fastkv._core.entry import BatchBuilder, encode_command
from fastkv.log_types import Segment
from fastkv.node.age import UNKNOWN_AGE_MS
from fastkv.raft import Message
from fastkv.raft.messages import APPEND, HEARTBEAT, HEARTBEAT_REPLY, READ_INDEX, READ_INDEX_REPLY
from tests.node.conftest import RECORD, Bench


def write(bench: Bench, key: bytes, value: bytes) -> None:
    bench.put(key, value)
    bench.node.pump()
    bench.sync()


def test_a_single_node_reads_at_once(single: Bench) -> None:
    single.lead()
    write(single, b"a", b"1")
    answer, missing = single.get(b"a"), single.get(b"b")
    single.node.pump()
    assert answer == [(Status.OK, 0, 0, RECORD.pack(1, 1, 1, 0) + b"1")]
    assert missing == [(Status.KEY_NOT_FOUND, 0, 0, b"")]


def heartbeats(bench: Bench) -> list[Message]:
    return [message for message in bench.wire.messages() if message.kind == HEARTBEAT]


def test_a_leader_confirms_a_turn_s_reads_with_one_round(three: Bench) -> None:
    three.lead()
    answers = [three.get(b"a") for _ in range(10)]
    three.node.pump()
    sent = heartbeats(three)
    assert sorted(message.to for message in sent) == ["node-2", "node-3"]
    assert answers == [[] for _ in range(10)]
    three.hear(Message(HEARTBEAT_REPLY, "node-3", "node-1", 1, context=sent[0].context))
    assert [answer[0][0] for answer in answers] == [Status.KEY_NOT_FOUND] * 10


def test_a_read_that_comes_during_a_round_waits_for_the_next(three: Bench) -> None:
    three.lead()
    first = three.get(b"a")
    three.node.pump()
    (round_one, _) = heartbeats(three)
    second = three.get(b"a")
    three.node.pump()
    assert heartbeats(three) == []
    three.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", 1, context=round_one.context))
    assert len(first) == 1
    assert second == [], "that round began before it was asked"
    (round_two, _) = heartbeats(three)
    assert round_two.context > round_one.context
    three.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", 1, context=round_two.context))
    assert len(second) == 1


def test_a_follower_asks_the_leader_and_waits_until_it_has_applied(three: Bench) -> None:
    three.follow()
    answer = three.get(b"a")
    three.node.pump()
    (question,) = three.wire.messages()
    assert (question.kind, question.to) == (READ_INDEX, "node-2")
    builder = BatchBuilder()
    builder.append(1, encode_command(1, b"a", b"1"))
    three.hear(Message(READ_INDEX_REPLY, "node-2", "node-1", 1, index=1, commit=1, context=question.context))
    assert answer == [], "confirmed, but not applied here"
    three.hear(Message(APPEND, "node-2", "node-1", 1, commit=1, segments=[Segment(1, 1, builder.take())]))
    assert answer == [(Status.OK, 0, 0, RECORD.pack(1, 1, 1, 0) + b"1")]


def questions(bench: Bench, ticks: int) -> list[Message]:
    """What is asked of the leader within so many ticks, in all of which it is heard from."""
    asked = [message for message in bench.wire.messages() if message.kind == READ_INDEX]
    for _ in range(ticks):
        bench.follow()
        bench.ticks(1)
        asked += [message for message in bench.wire.messages() if message.kind == READ_INDEX]
    return asked


def confirm(bench: Bench, question: Message) -> None:
    bench.hear(Message(READ_INDEX_REPLY, "node-2", "node-1", 1, index=0, context=question.context))


def test_a_lost_question_is_put_again_under_a_fresh_context(three: Bench) -> None:
    three.follow()
    answer = three.get(b"a")
    three.node.pump()
    lost, again = questions(three, 25)
    assert again.context > lost.context
    confirm(three, again)
    assert [status for status, *_ in answer] == [Status.KEY_NOT_FOUND]


def test_an_answer_that_takes_longer_than_the_time_between_two_tries_ends_the_read(three: Bench) -> None:
    three.follow()
    answer = three.get(b"a")
    three.node.pump()
    first, *others = questions(three, 80)
    assert len(others) >= 3
    assert answer == []
    confirm(three, first)
    assert [status for status, *_ in answer] == [Status.KEY_NOT_FOUND]
    for late in others:
        confirm(three, late)
    assert len(answer) == 1


def test_an_answer_to_an_earlier_question_serves_no_later_one(three: Bench) -> None:
    three.follow()
    first = three.get(b"a")
    three.node.pump()
    asked = questions(three, 45)
    confirm(three, asked[0])
    assert len(first) == 1
    later = three.get(b"a")
    three.node.pump()
    (question,) = questions(three, 1)
    for late in asked[1:]:
        confirm(three, late)
    assert later == [], "that was asked for before this read came"
    confirm(three, question)
    assert len(later) == 1


def test_a_leader_whose_followers_are_that_far_away_ends_its_reads(three: Bench) -> None:
    three.lead()
    answer = three.get(b"a")
    three.node.pump()
    rounds: list[Message] = []
    for _ in range(60):
        rounds += heartbeats(three)
        three.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", 1, context=0))     # one that left long ago
        three.ticks(1)
    assert answer == []
    three.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", 1, context=rounds[0].context))
    assert [status for status, *_ in answer] == [Status.KEY_NOT_FOUND]


def test_without_a_leader_a_read_is_not_served(three: Bench) -> None:
    answer = three.get(b"a")
    three.ticks(31)
    assert [status for status, *_ in answer] == [Status.NO_LEADER]


def test_a_leader_that_is_cut_off_serves_no_read(three: Bench) -> None:
    three.lead()
    answer = three.get(b"a")
    three.ticks(101)
    assert answer
    assert answer[0][0] in (Status.NO_LEADER, Status.TIMEOUT)


def age_ms(bench: Bench) -> int:
    """What a stale read is told, before the node runs."""
    answer = bench.get(b"a", Consistency.STALE_READ)
    bench.node.outbox.flush()
    ((_, flags, _, payload),) = answer
    assert flags == FrameFlag.STALE
    assert int.from_bytes(payload[:8], "little") == bench.node.raft.applied_index
    return int.from_bytes(payload[8:12], "little")


def test_a_stale_read_is_answered_at_once_with_its_age(three: Bench) -> None:
    assert age_ms(three) == UNKNOWN_AGE_MS
    three.follow()
    three.clock_ns += 50_000_000
    three.ticks(10)
    assert age_ms(three) == 50
    three.follow()
    three.node.pump()
    assert age_ms(three) == 0


def test_after_a_pause_a_stale_read_is_told_of_it_before_and_after_the_node_has_run(three: Bench) -> None:
    three.follow()
    three.clock_ns += 3_600_000_000_000         # hardly a tick has passed: a suspended machine
    assert age_ms(three) == 3_600_000
    three.follow()                              # it was sent before, and has waited in the socket
    three.ticks(1)
    assert age_ms(three) == 3_600_000
    three.follow()
    three.node.pump()
    assert age_ms(three) == 0


def test_a_leader_that_slept_is_as_old_as_what_it_last_heard_of_a_majority() -> None:
    bench = Bench(("node-1", "node-2", "node-3"), lease_ns=80_000_000)
    bench.lead()
    bench.ticks(5)
    context = max(message.context for message in heartbeats(bench))
    bench.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", 1, context=context))
    bench.clock_ns += 70_000_000
    bench.node.pump()
    assert age_ms(bench) == 0, "nobody else can lead"
    bench.clock_ns += 3_600_000_000_000
    assert age_ms(bench) == 3_600_000
    bench.node.pump()
    assert age_ms(bench) == 3_600_070


def test_no_checkpoint_of_what_the_own_log_may_lose(three: Bench) -> None:
    """The store must never be ahead of the node's own log: a crash would leave a hole between them."""
    three.follow()
    builder = BatchBuilder()
    builder.append(1, encode_command(1, b"a", b"1"))
    three.hear(Message(APPEND, "node-2", "node-1", 1, commit=1, segments=[Segment(1, 1, builder.take())]))
    assert three.machine.applied_index == 1, "committed by the others, applied here"
    for _ in range(60):
        three.follow()
        three.ticks(1)
    assert three.machine.checkpoint_due
    assert not three.store.pending
    three.sync()
    assert three.store.pending
    three.store.complete()
    assert three.machine.durable_applied_index == 1


def test_the_log_is_cut_where_no_member_needs_it(single: Bench) -> None:
    single.lead()
    for number in range(5):
        write(single, b"k%d" % number, b"v")
    single.ticks(51)
    single.store.complete()
    single.ticks(6)
    assert single.log.first_index == 7
    assert single.node.raft.log.base_index == 6
    write(single, b"more", b"v")
    assert single.machine.key_count == 6


def test_peers_are_told_the_state_and_believed_for_a_while(three: Bench) -> None:
    three.ticks(1)
    told = three.wire.take(Opcode.PEER_STATUS)
    assert sorted(to for to, _ in told) == ["node-2", "node-3"]
    said = orjson.loads(told[0][1][3])
    assert (said["role"], said["term"]) == (0, 0)
    assert three.node.peer_status("node-2") is None
    body = orjson.dumps({**said, "role": 3, "term": 4})
    three.node.peer_frame("node-2", Opcode.PEER_STATUS, 0, 0, body)
    status = three.node.peer_status("node-2")
    assert status is not None
    assert (status.role, status.term) == (3, 4)
    three.ticks(31)
    assert three.node.peer_status("node-2") is None, "not heard from since"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"role": "x"}', b"\xff"])
def test_a_status_that_is_none_is_refused(three: Bench, body: bytes) -> None:
    with pytest.raises(ValueError, match="status"):
        three.node.peer_frame("node-2", Opcode.PEER_STATUS, 0, 0, body)


@pytest.mark.parametrize("opcode", [Opcode.GET, Opcode.HELLO, 0x7F])
def test_a_peer_cannot_say_what_only_clients_say(three: Bench, opcode: int) -> None:
    with pytest.raises(ValueError, match="opcode"):
        three.node.peer_frame("node-2", opcode, 0, 0, b"")
