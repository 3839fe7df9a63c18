"""Writes through a node: when they are acknowledged, and what is said when they are not."""

from __future__ import annotations

import struct

import pytest

from fastkv._core.codes import FrameFlag, Kind, Opcode, Status
from fastkv._core.entry import BatchBuilder, encode_command
from fastkv._core.frames import FrameReader
from fastkv.kv.state import StateMachine
from fastkv.kv.store import StoreFull
from fastkv.log_types import Segment
from fastkv.raft import FOLLOWER, LEADER, Message
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT
from fastkv.wire.peer import decode_forward, encode_forward
from tests.node.conftest import Bench

RESULT = struct.Struct("<HBBIQ")


def test_a_single_node_acknowledges_after_its_sync(single: Bench) -> None:
    single.lead()
    answer = single.put(b"a")
    single.node.pump()
    assert answer == [], "not on the disk yet"
    single.sync()
    assert answer == [(Status.OK, FrameFlag.CREATED, 1, b"")]


def test_nobody_waits_once_the_last_write_is_answered(single: Bench) -> None:
    """A clean stop waits for whoever still waits: the last write of a quiet node is not to hold it up."""
    single.lead()
    answer = single.put(b"a")
    single.node.pump()
    assert single.node.busy
    single.sync()
    assert answer
    assert not single.node.busy


def test_a_leader_needs_a_majority_on_disk(three: Bench) -> None:
    three.lead()
    answer = three.put(b"a")
    three.node.pump()
    appends = [message for message in three.wire.messages() if message.kind == APPEND]
    assert sorted(message.to for message in appends) == ["node-2", "node-3"], "sent before the own disk has it"
    three.sync()
    assert answer == [], "one of three"
    three.hear(Message(APPEND_REPLY, "node-3", "node-1", 1, index=2))
    assert answer == [(Status.OK, FrameFlag.CREATED, 1, b"")]


def test_two_fast_followers_commit_before_a_slow_leader_disk(three: Bench) -> None:
    three.lead()
    answer = three.put(b"a")
    three.node.pump()
    for follower in ("node-2", "node-3"):
        three.hear(Message(APPEND_REPLY, follower, "node-1", 1, index=2))
    assert answer == [(Status.OK, FrameFlag.CREATED, 1, b"")]
    assert three.log.durable_ticket < three.log.submitted_ticket


def test_requests_of_a_turn_are_one_batch(three: Bench) -> None:
    three.lead()
    for number in range(50):
        three.put(b"k%d" % number)
    three.node.pump()
    (first, second) = [message for message in three.wire.messages() if message.kind == APPEND]
    assert [segment.batch.count for segment in first.segments] == [50]
    assert first.segments == second.segments


def test_a_lost_leadership_leaves_the_outcome_unknown(three: Bench) -> None:
    three.lead()
    answer = three.put(b"a")
    three.node.pump()
    three.hear(Message(HEARTBEAT, "node-3", "node-1", 2))
    assert three.node.raft.role == FOLLOWER
    assert [status for status, *_ in answer] == [Status.OUTCOME_UNKNOWN]


def test_a_leader_without_a_quorum_does_not_keep_clients_waiting(three: Bench) -> None:
    three.lead()
    answer = three.put(b"a")
    three.ticks(45)
    assert three.node.raft.role != LEADER
    assert [status for status, *_ in answer] == [Status.OUTCOME_UNKNOWN]


def test_without_a_leader_a_write_is_not_done(three: Bench) -> None:
    answer = three.put(b"a")
    three.node.pump()
    assert answer == []
    three.ticks(31)
    assert [status for status, *_ in answer] == [Status.NO_LEADER]
    assert three.log.submitted_ticket == 0 or three.node.raft.log.last_index == 0


def test_a_write_that_waits_is_proposed_once_there_is_a_leader(three: Bench) -> None:
    answer = three.put(b"a")
    three.node.pump()
    three.lead()
    assert three.node.raft.log.last_index == 2
    three.sync()
    three.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=2))
    assert answer == [(Status.OK, FrameFlag.CREATED, 1, b"")]


def forwarded(bench: Bench) -> tuple[int, int]:
    """(forward id, commands) of the one FORWARD that was sent to node-2."""
    ((to, (_, _, forward_id, body)),) = bench.wire.take(Opcode.FORWARD)
    assert to == "node-2"
    return forward_id, decode_forward(body).count


def test_a_follower_forwards_a_turn_as_one_batch_and_relays_the_results(three: Bench) -> None:
    three.follow()
    first, second = three.put(b"a"), three.put(b"b")
    three.node.pump()
    forward_id, count = forwarded(three)
    assert count == 2
    results = RESULT.pack(Status.OK, FrameFlag.CREATED, 0, 0, 7) + RESULT.pack(Status.OK, 0, 0, 0, 8)
    three.node.peer_frame("node-2", Opcode.FORWARD_REPLY, Status.OK, forward_id, results)
    three.node.pump()
    assert first == [(Status.OK, FrameFlag.CREATED | FrameFlag.FORWARDED, 7, b"")]
    assert second == [(Status.OK, FrameFlag.FORWARDED, 8, b"")]
    three.node.peer_frame("node-2", Opcode.FORWARD_REPLY, Status.OK, forward_id, results)
    three.node.pump()
    assert len(first) == 1, "an answer that comes twice is ignored"


def test_results_that_do_not_fit_are_refused_and_nobody_is_answered(three: Bench) -> None:
    three.follow()
    answer = three.put(b"a")
    three.node.pump()
    forward_id, _ = forwarded(three)
    with pytest.raises(ValueError, match="results"):
        three.node.peer_frame("node-2", Opcode.FORWARD_REPLY, Status.OK, forward_id, b"\0" * 15)
    assert answer == []


def test_only_the_node_that_was_asked_can_answer(three: Bench) -> None:
    three.follow()
    answer = three.put(b"a")
    three.node.pump()
    forward_id, _ = forwarded(three)
    three.node.peer_frame("node-3", Opcode.FORWARD_REPLY, Status.OK, forward_id, RESULT.pack(0, 0, 0, 0, 1))
    three.node.pump()
    assert answer == []


@pytest.mark.parametrize("event", ["link lost", "new leader", "no answer"])
def test_a_forwarded_write_without_an_answer_is_unknown(three: Bench, event: str) -> None:
    three.follow()
    answer = three.put(b"a")
    three.node.pump()
    forwarded(three)
    if event == "link lost":
        three.node.peer_lost("node-2")
    elif event == "new leader":
        three.follow("node-3", term=2)
    else:
        for _ in range(101):
            three.follow()
            three.ticks(1)
    three.node.pump()
    assert [status for status, *_ in answer] == [Status.OUTCOME_UNKNOWN]


def test_a_forward_to_who_leads_no_more_is_given_up_as_soon_as_waiting_for_a_leader_is(three: Bench) -> None:
    """Its links are up, and nothing comes on them: the node must not keep its clients for the whole request timeout."""
    three.follow()
    answer = three.put(b"a")
    three.node.pump()
    forwarded(three)
    settings = three.node.settings
    three.ticks(settings.leader_wait_ticks + 1)
    assert three.node.raft.leader == ""
    assert three.node.now < settings.request_timeout_ticks
    assert [status for status, *_ in answer] == [Status.OUTCOME_UNKNOWN]


def test_a_forward_to_who_still_leads_has_all_its_time(three: Bench) -> None:
    three.follow()
    answer = three.put(b"a")
    three.node.pump()
    forwarded(three)
    for _ in range(three.node.settings.leader_wait_ticks + 10):
        three.ticks(1)
        three.follow()
    assert answer == []


def test_a_refused_forward_is_tried_again(three: Bench) -> None:
    three.follow()
    answer = three.put(b"a")
    three.node.pump()
    forward_id, _ = forwarded(three)
    three.node.peer_frame("node-2", Opcode.FORWARD_REPLY, Status.NOT_LEADER, forward_id, b"")
    three.ticks(1)
    again, _ = forwarded(three)
    assert again != forward_id
    three.node.peer_frame("node-2", Opcode.FORWARD_REPLY, Status.OK, again, RESULT.pack(0, 0, 0, 0, 3))
    three.node.pump()
    assert answer == [(Status.OK, FrameFlag.FORWARDED, 3, b"")]


def test_without_a_link_to_the_leader_a_write_waits_and_is_not_done(three: Bench) -> None:
    three.wire.down = {"node-2"}
    three.follow()
    answer = three.put(b"a")
    for _ in range(31):
        three.follow()
        three.ticks(1)
    assert [status for status, *_ in answer] == [Status.NO_LEADER]


def test_a_leader_answers_a_forwarded_batch_once_it_is_applied(three: Bench) -> None:
    three.lead()
    local = three.put(b"mine")
    three.node.pump()
    builder = BatchBuilder()
    builder.append(Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, b"a", b"1"))
    builder.append(Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, b"nothing"))
    for opcode, _, code, forward_id, body in FrameReader(1 << 20).feed(encode_forward(9, builder.take())):
        three.node.peer_frame("node-3", opcode, code, forward_id, body)
    three.node.pump()
    three.sync()
    # The commit index may fall within the batch: nothing is answered before all of it is applied.
    three.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=3))
    assert local == [(Status.OK, FrameFlag.CREATED, 1, b"")]
    assert three.wire.take(Opcode.FORWARD_REPLY) == []
    three.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=4))
    ((to, (_, code, forward_id, body)),) = three.wire.take(Opcode.FORWARD_REPLY)
    assert (to, code, forward_id) == ("node-3", Status.OK, 9)
    assert [RESULT.unpack_from(body, at)[::4] for at in (0, 16)] == [(Status.OK, 2), (Status.KEY_NOT_FOUND, 2)]


def test_a_follower_refuses_a_forwarded_batch_as_not_done(three: Bench) -> None:
    three.follow()
    builder = BatchBuilder()
    builder.append(1, b"\x01\x00\x00\x00ax")
    for opcode, _, code, forward_id, body in FrameReader(1 << 20).feed(encode_forward(4, builder.take())):
        three.node.peer_frame("node-3", opcode, code, forward_id, body)
    three.node.pump()
    ((_, (_, code, forward_id, _)),) = three.wire.take(Opcode.FORWARD_REPLY)
    assert (code, forward_id) == (Status.NOT_LEADER, 4)
    assert three.node.raft.log.last_index == 0


def test_overload_is_refused_as_not_done() -> None:
    bench = Bench(("node-1", "node-2", "node-3"), max_uncommitted_bytes=300)
    bench.lead()
    accepted = bench.put(b"a", b"x" * 90)
    bench.node.pump()
    refused = [bench.put(b"b%d" % i, b"x" * 90) for i in range(4)]
    bench.node.pump()
    assert accepted == []
    assert {answer[0][0] for answer in refused} == {Status.OVERLOADED}
    bench.sync()
    bench.hear(Message(APPEND_REPLY, "node-2", "node-1", 1, index=2))
    assert accepted[0][0] == Status.OK
    again = bench.put(b"c")
    bench.node.pump()
    assert again == [], "there is room again"


def test_a_full_disk_refuses_writes_serves_reads_and_recovers(single: Bench) -> None:
    single.lead()
    single.put(b"a", b"1")
    single.node.pump()
    single.sync()
    single.disk.full = True
    single.ticks(1)
    refused, read = single.put(b"b"), single.get(b"a")
    single.node.pump()
    assert refused[0][0] == Status.NO_SPACE
    assert read[0][0] == Status.OK
    single.disk.full = False
    single.ticks(1)
    accepted = single.put(b"b")
    single.node.pump()
    single.sync()
    assert accepted[0][0] == Status.OK


def test_a_store_that_cannot_keep_up_is_too_much_load_and_not_a_full_disk(
    single: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    single.lead()
    monkeypatch.setattr(StateMachine, "over_limit", True)
    single.ticks(1)
    refused = single.put(b"a")
    single.node.pump()
    assert refused[0][0] == Status.OVERLOADED
    single.node.machine.checkpoint_error = StoreFull("no room")
    single.ticks(1)
    refused = single.put(b"a")
    single.node.pump()
    assert refused[0][0] == Status.NO_SPACE
    monkeypatch.setattr(StateMachine, "over_limit", False)
    single.ticks(1)
    taken = single.put(b"a")
    single.node.pump()
    single.sync()
    assert taken[0][0] == Status.OK


def test_a_store_without_space_gets_what_the_log_keeps_for_reuse(
    single: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(single.node.log, "shrink", lambda: asked.append(True))
    single.lead()
    single.ticks(2)
    assert not asked
    single.node.machine.checkpoint_error = StoreFull("no room")
    single.ticks(1)
    assert asked


def test_a_follower_with_a_full_disk_acknowledges_nothing(three: Bench) -> None:
    three.follow()
    builder = BatchBuilder()
    builder.append(0, b"")
    append = Message(APPEND, "node-2", "node-1", 1, segments=[Segment(1, 1, builder.take())])
    three.disk.full = True
    three.hear(append)
    assert three.node.raft.log.last_index == 0
    assert three.wire.messages() == []
    three.disk.full = False
    three.hear(append)
    three.sync()
    (reply,) = three.wire.messages()
    assert (reply.kind, reply.index, reply.reject) == (APPEND_REPLY, 1, False)


def test_a_stopping_node_tells_everybody(three: Bench) -> None:
    three.lead()
    proposed = three.put(b"a")
    three.node.pump()
    reading, late = three.get(b"a"), three.put(b"b")
    three.node.stop()
    assert proposed[0][0] == Status.OUTCOME_UNKNOWN
    assert late[0][0] in (Status.SHUTTING_DOWN, Status.OUTCOME_UNKNOWN)
    assert reading[0][0] == Status.SHUTTING_DOWN
    refused = three.put(b"c")
    three.node.outbox.flush()
    assert refused[0][0] == Status.SHUTTING_DOWN
