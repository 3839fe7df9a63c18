"""A leader that is not fit to lead hands over: a stalled disk, a clean stop."""

from __future__ import annotations

import orjson

from fastkv._core.codes import Opcode, Status
from fastkv.raft import FOLLOWER, LEADER, Message
from fastkv.raft.messages import APPEND_REPLY, HEARTBEAT_REPLY, TIMEOUT_NOW
from tests.node.conftest import Bench


def hear_from_both(bench: Bench, *, index: int) -> None:
    for peer in ("node-2", "node-3"):
        bench.hear(Message(APPEND_REPLY, peer, "node-1", bench.node.raft.term, index=index))


def told_to_campaign(bench: Bench) -> list[str]:
    """Whom the node has told to campaign."""
    return [message.to for message in bench.wire.messages() if message.kind == TIMEOUT_NOW]


def alive(bench: Bench, ticks: int) -> None:
    """Time passes in which both followers answer heartbeats."""
    for _ in range(ticks):
        bench.ticks(1)
        for peer in ("node-2", "node-3"):
            bench.hear(Message(HEARTBEAT_REPLY, peer, "node-1", bench.node.raft.term, index=1))


def test_a_leader_whose_disk_is_silent_hands_over(three: Bench) -> None:
    three.lead()
    three.put(b"k")
    three.node.pump()
    alive(three, 19)
    assert three.node.raft.role == LEADER
    hear_from_both(three, index=2)      # two other disks have it
    alive(three, 2)
    assert told_to_campaign(three)[:1] == ["node-3"]


def test_a_leader_whose_disk_is_silent_and_that_cannot_hand_over_steps_down(three: Bench) -> None:
    three.lead()
    answers = three.put(b"k")
    three.node.pump()
    hear_from_both(three, index=2)
    assert [answer[0] for answer in answers] == [Status.OK]
    alive(three, 45)                    # whoever was told to campaign has not heard of it
    assert three.node.raft.role == FOLLOWER
    three.ticks(100)
    assert three.node.raft.role == FOLLOWER       # and does not campaign on that disk
    three.sync()
    three.ticks(100)
    assert three.node.raft.role != FOLLOWER


def test_a_leader_whose_disk_is_no_slower_than_the_others_goes_on_leading(three: Bench) -> None:
    three.lead()
    answers = three.put(b"k")
    three.node.pump()
    alive(three, 50)                    # they are there, and have not got it on their disks either
    assert told_to_campaign(three) == []
    assert three.node.raft.role == LEADER
    three.sync()
    hear_from_both(three, index=2)
    assert [answer[0] for answer in answers] == [Status.OK]
    assert three.node.raft.role == LEADER


def test_a_drained_leader_hands_over_and_keeps_writes_for_the_next(three: Bench) -> None:
    three.lead()
    done: list[bool] = []
    three.node.drain(lambda: done.append(True))
    alive(three, 1)
    assert told_to_campaign(three) == ["node-3"]
    answers = three.put(b"k")
    three.node.pump()
    assert answers == []
    assert done == []
    three.follow("node-3", three.node.raft.term + 1)
    assert three.node.raft.leader == "node-3"
    three.ticks(1)
    assert done == [True]
    assert answers == []        # forwarded: the new leader has it now
    assert three.node.busy


def test_a_drained_follower_is_done_at_once(three: Bench) -> None:
    three.follow()
    done: list[bool] = []
    three.node.drain(lambda: done.append(True))
    three.ticks(1)
    assert done == [True]


def test_a_single_node_is_drained_soon(single: Bench) -> None:
    single.lead()
    done: list[bool] = []
    single.node.drain(lambda: done.append(True))
    single.ticks(10)
    assert done == [True]


# -- a full disk -------------------------------------------------------------------------------------------------------


def says(bench: Bench, peer: str, *, room: bool) -> None:
    """A peer's status arrives."""
    said = {
        "role": FOLLOWER, "term": 1, "commit": 1, "applied": 1, "leader": "node-1", "raft": "h:1", "http": "h:2",
        "hashes": [], "disks": {}, "room": room,
    }  # fmt: skip
    bench.node.peer_frame(peer, Opcode.PEER_STATUS, 0, 0, orjson.dumps(said))


def test_a_leader_whose_disk_is_full_hands_over_to_somebody_who_has_room(three: Bench) -> None:
    three.lead()
    three.disk.full = True
    says(three, "node-2", room=True)
    says(three, "node-3", room=False)
    alive(three, 2)
    assert told_to_campaign(three)[:1] == ["node-2"]


def test_a_leader_goes_on_leading_where_all_disks_are_full(three: Bench) -> None:
    three.lead()
    three.disk.full = True
    for _ in range(10):
        says(three, "node-2", room=False)
        says(three, "node-3", room=False)
        alive(three, 10)
    assert told_to_campaign(three) == []
    assert three.node.raft.role == LEADER
    answers = three.put(b"k")
    three.node.pump()
    assert [answer[0] for answer in answers] == [Status.NO_SPACE]


def test_a_full_disk_keeps_nobody_from_campaigning(three: Bench) -> None:
    """The others may lack what is committed: then nobody else can lead."""
    three.follow()
    three.disk.full = True
    three.ticks(100)
    assert three.node.raft.role != FOLLOWER
