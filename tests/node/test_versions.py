"""When a cluster goes on to a newer version of the protocol: once every member says that it speaks it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastkv._core.codes import Opcode, Status
from fastkv.errors import NewerVersion
from fastkv.node.versions import check_speaks
from fastkv.raft import Member, Membership, Message, RaiseVersion
from fastkv.raft.messages import APPEND_REPLY
from tests.node.conftest import Bench

STATUS: dict[str, Any] = {
    "role": 0, "term": 1, "commit": 0, "applied": 0, "leader": "", "raft": "", "http": "", "hashes": [], "disks": {},
}  # fmt: skip


def hear_status(bench: Bench, node_id: str, **said: object) -> None:
    """A node tells what it is; one of the former release says nothing of versions."""
    bench.node.peer_frame(node_id, Opcode.PEER_STATUS, 0, 0, orjson.dumps({**STATUS, **said}))


def acknowledge(bench: Bench) -> None:
    """Everybody has the whole log."""
    for follower in bench.node.raft.peers:
        bench.hear(Message(APPEND_REPLY, follower, "node-1", 1, index=bench.node.raft.log.last_index))
    bench.sync()


@pytest.fixture
def leader() -> Bench:
    bench = Bench(("node-1", "node-2", "node-3"), protocol_version=2)
    bench.lead()
    return bench


def test_raised_once_all_members_speak_it(leader: Bench) -> None:
    hear_status(leader, "node-2", protocol=2, release="0.2.0")
    leader.ticks(1)
    assert leader.node.versions.in_force == 1, "node-3 was not heard from"
    hear_status(leader, "node-3", protocol=2, release="0.2.0")
    leader.ticks(1)
    assert (leader.node.versions.in_force, leader.node.versions.cluster) == (2, 1), "not committed yet"
    acknowledge(leader)
    assert leader.node.versions.cluster == 2
    assert Membership.decode(leader.machine.membership).version == 2, "it goes with the state, into store and snapshots"
    index = leader.node.raft.log.last_index
    leader.ticks(5)
    assert leader.node.raft.log.last_index == index, "once"


def test_not_raised_while_a_member_is_of_the_former_release(leader: Bench) -> None:
    hear_status(leader, "node-2", protocol=2)
    hear_status(leader, "node-3")
    leader.ticks(3)
    assert leader.node.versions.in_force == 1


def test_not_raised_while_this_node_is_held_back() -> None:
    bench = Bench(("node-1", "node-2", "node-3"), protocol_version=1)
    bench.lead()
    for other in ("node-2", "node-3"):
        hear_status(bench, other, protocol=2)
    bench.ticks(3)
    assert bench.node.versions.in_force == 1


def test_not_raised_beyond_what_this_node_speaks(leader: Bench) -> None:
    for other in ("node-2", "node-3"):
        hear_status(leader, other, protocol=3)
    leader.ticks(1)
    assert leader.node.versions.in_force == 2


def test_not_raised_on_what_a_member_said_long_ago(leader: Bench) -> None:
    hear_status(leader, "node-2", protocol=2)
    leader.ticks(31)        # status_expiry_ticks is 30
    hear_status(leader, "node-3", protocol=2)
    leader.ticks(1)
    assert leader.node.versions.in_force == 1


def test_a_learner_counts_too(leader: Bench) -> None:
    raft = leader.node.raft
    raft.membership = raft.membership.with_member(Member("node-4", "x:1", disk=9))
    for other in ("node-2", "node-3"):
        hear_status(leader, other, protocol=2)
    leader.ticks(1)
    assert leader.node.versions.in_force == 1


def test_not_raised_into_the_way_of_a_change_that_is_asked_for(leader: Bench) -> None:
    answers: list[int] = []
    addition = {"do": "add", "id": "node-4", "raft": "h:1", "vote": False}
    leader.node.admin(addition, lambda status, answer: answers.append(status))
    for other in ("node-2", "node-3"):
        hear_status(leader, other, protocol=2)
    leader.ticks(1)
    assert leader.node.versions.in_force == 1
    for other in ("node-2", "node-3"):
        leader.hear(Message(APPEND_REPLY, other, "node-1", 1, index=1))
    while leader.node.raft.membership.get("node-4") is None:
        leader.ticks(1)
    acknowledge(leader)
    assert answers == [Status.OK]
    for other in ("node-2", "node-3", "node-4"):
        hear_status(leader, other, protocol=2)
    leader.ticks(1)
    assert leader.node.versions.in_force == 2


def test_a_single_node_needs_nobody() -> None:
    bench = Bench(("node-1",), protocol_version=2)
    bench.lead()
    bench.ticks(1)
    bench.sync()
    assert bench.node.versions.cluster == 2


def test_a_node_tells_what_it_speaks(leader: Bench) -> None:
    leader.ticks(11)
    said = [orjson.loads(body) for _, (_, _, _, body) in leader.wire.take(Opcode.PEER_STATUS)]
    assert said
    assert all(status["protocol"] == 2 and status["release"] for status in said)


def test_a_node_stops_where_its_cluster_goes_beyond_what_it_speaks(leader: Bench) -> None:
    for other in ("node-2", "node-3"):
        hear_status(leader, other, protocol=3)
    leader.node.raft.change(RaiseVersion(3))        # as by a leader of a later release
    leader.node.pump()
    with pytest.raises(NewerVersion, match="a cluster that speaks version 3 of the protocol, and this node"):
        acknowledge(leader)


def test_nor_does_it_start_there() -> None:
    check_speaks(Membership(version=2), 2, "data/node-1")
    with pytest.raises(NewerVersion, match=r"^data/node-1 is of a cluster that speaks version 3 .* up to 2: start it"):
        check_speaks(Membership(version=3), 2, "data/node-1")
