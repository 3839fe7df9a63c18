"""Changes of members and of leadership, asked for on any node."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.node.admin import change_of
from fastkv.raft import AddMember, Member, Message, Promote, Readdress, Remove
from fastkv.raft.messages import APPEND_REPLY, HEARTBEAT_REPLY, TIMEOUT_NOW
from tests.node.conftest import Bench

Answers = list[tuple[int, dict[str, Any]]]
ADD = {"do": "add", "id": "node-4", "raft": "there:4", "http": "there:84", "vote": False}


def ask(bench: Bench, request: dict[str, Any]) -> Answers:
    answers: Answers = []
    bench.node.admin(request, lambda status, answer: answers.append((status, answer)))
    bench.node.pump()
    return answers


def begin(bench: Bench, request: dict[str, Any], *, alive: tuple[str, ...] = ("node-2", "node-3")) -> Answers:
    """Ask, and let the two heartbeats pass in which the members show that they are there."""
    answers = ask(bench, request)
    raft = bench.node.raft
    for _ in range(2 * raft.config.heartbeat_ticks):
        for peer in alive:
            bench.hear(Message(HEARTBEAT_REPLY, peer, "node-1", raft.term))
        bench.ticks(1)
    return answers


def commit(bench: Bench) -> None:
    """The node's disk and the two followers have everything."""
    bench.sync()
    for peer in ("node-2", "node-3"):
        bench.hear(Message(APPEND_REPLY, peer, "node-1", bench.node.raft.term, index=bench.node.raft.log.last_index))


def roles(answer: dict[str, Any]) -> dict[str, str]:
    return {member["id"]: member["role"] for member in answer["members"]}


def test_a_change_is_answered_once_it_is_committed(three: Bench) -> None:
    three.lead()
    answers = begin(three, ADD)
    three.sync()
    assert answers == []
    assert three.addresses["node-4"] == ("there:4",)     # in force at once
    commit(three)
    ((status, answer),) = answers
    assert status == Status.OK
    assert roles(answer) == {"node-1": "voter", "node-2": "voter", "node-3": "voter", "node-4": "learner"}
    assert [m["is_leader"] for m in answer["members"]] == [True, False, False, False]


def test_a_change_of_voters_is_answered_after_its_second_half(three: Bench) -> None:
    three.lead()
    answers = begin(three, {"do": "remove", "id": "node-3"})
    commit(three)
    assert answers == []
    assert roles({"members": three.node.members()}) == {"node-1": "voter", "node-2": "voter"}
    commit(three)
    assert [status for status, _ in answers] == [Status.OK]
    assert "node-3" not in three.addresses


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"do": "add", "id": "node-2", "raft": "x:1"}, "there is a member 'node-2' already"),
        ({"do": "add", "id": "node-9", "raft": "x:1", "replaces": "node-8"}, "no voter 'node-8' to replace"),
        ({"do": "promote", "id": "node-2"}, "node-2 is a voter already"),
        ({"do": "promote", "id": "node-9"}, "no member 'node-9'"),
        ({"do": "remove", "id": "node-9"}, "no member 'node-9'"),
        ({"do": "transfer", "to": "node-1"}, "node-1 leads already"),
        ({"do": "transfer", "to": "node-9"}, "no member 'node-9'"),
    ],
)
def test_what_makes_no_sense_is_refused(three: Bench, request_: dict[str, Any], text: str) -> None:
    three.lead()
    before = three.node.raft.membership
    ((status, answer),) = ask(three, request_)
    assert status == Status.CHANGE_REFUSED
    assert text in answer["error"]
    assert three.node.raft.membership == before
    assert not three.node.raft.transferee


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"do": "dance"},
        {"do": "add"},
        {"do": "add", "id": "x"},
        {"do": "add", "id": "x/y", "raft": "h:1"},
        {"do": "add", "id": "x", "raft": "banana"},
        {"do": "add", "id": "x", "raft": "h:0"},
        {"do": "add", "id": "x", "raft": "h:1", "http": "\u0084"},
        {"do": "update", "id": "x", "raft": "h:70000"},
        {"do": "update", "id": "x"},
        {"do": "remove", "id": 7},
        {"do": "transfer", "to": 1},
    ],
)
def test_a_request_that_is_none_is_refused(three: Bench, request_: dict[str, Any]) -> None:
    three.lead()
    assert [status for status, _ in ask(three, request_)] == [Status.INVALID_REQUEST]


def test_one_change_at_a_time(three: Bench) -> None:
    three.lead()
    begin(three, ADD)
    ((status, answer),) = begin(three, {"do": "remove", "id": "node-3"})
    assert (status, answer) == (Status.CHANGE_REFUSED, {"error": "another change of members is under way"})


def test_a_change_that_would_lose_the_quorum_is_refused(three: Bench) -> None:
    three.lead()
    three.ticks(1)          # node-3 was heard from a moment ago, and never again
    ((status, answer),) = begin(three, {"do": "remove", "id": "node-2"}, alive=("node-2",))
    assert status == Status.CHANGE_REFUSED
    assert "would lose its quorum: of the voters node-1, node-3 only node-1 can be reached" in answer["error"]


def test_leadership_lost_before_the_commit_is_an_unknown_outcome(three: Bench) -> None:
    three.lead()
    answers = begin(three, ADD)
    three.follow("node-2", three.node.raft.term + 1)
    assert [status for status, _ in answers] == [Status.OUTCOME_UNKNOWN]


def test_leadership_lost_before_anything_was_begun_is_no_change(three: Bench) -> None:
    three.lead()
    answers = ask(three, ADD)
    three.follow("node-2", three.node.raft.term + 1)
    three.ticks(2 * three.node.raft.config.heartbeat_ticks)
    assert [status for status, _ in answers] == [Status.NO_LEADER]


def test_a_transfer_is_answered_by_who_leads(three: Bench) -> None:
    three.lead()
    answers = ask(three, {"do": "transfer", "to": "node-2"})
    assert [(m.kind, m.to) for m in three.wire.messages() if m.kind == TIMEOUT_NOW] == [(TIMEOUT_NOW, "node-2")]
    assert answers == []
    three.follow("node-2", three.node.raft.term + 1)
    assert [(status, answer["leader"]) for status, answer in answers] == [(Status.OK, "node-2")]


def test_a_transfer_that_does_not_come_about_is_refused(three: Bench) -> None:
    three.lead()
    answers = ask(three, {"do": "transfer", "to": "node-2"})
    for _ in range(20):
        three.ticks(1)
        three.hear(Message(HEARTBEAT_REPLY, "node-2", "node-1", three.node.raft.term))
    ((status, answer),) = answers
    assert status == Status.CHANGE_REFUSED
    assert "node-1 goes on leading" in answer["error"]


# -- through another node ----------------------------------------------------------------------------------------------


def test_without_a_leader_nothing_is_done(three: Bench) -> None:
    assert [status for status, _ in ask(three, ADD)] == [Status.NO_LEADER]


def test_a_follower_asks_the_leader_and_relays_its_answer(three: Bench) -> None:
    three.follow("node-2")
    answers = ask(three, ADD)
    ((to, (_, _, request_id, body)),) = three.wire.take(Opcode.ADMIN)
    assert (to, orjson.loads(body)) == ("node-2", ADD)
    three.node.peer_frame("node-3", Opcode.ADMIN_REPLY, Status.OK, request_id, b"{}")     # not whom we asked
    assert answers == []
    three.node.peer_frame("node-2", Opcode.ADMIN_REPLY, Status.CHANGE_REFUSED, request_id, b'{"error":"no"}')
    assert answers == [(Status.CHANGE_REFUSED, {"error": "no"})]
    three.node.peer_frame("node-2", Opcode.ADMIN_REPLY, Status.OK, request_id, b"{}")     # once is enough
    assert len(answers) == 1


def test_a_node_that_is_asked_to_be_removed_hears_it_from_whoever_hangs_up_on_it(three: Bench) -> None:
    three.follow("node-2")
    own, other = ask(three, {"do": "remove", "id": "node-1"}), ask(three, {"do": "remove", "id": "node-3"})
    three.node.refused_by("node-2", Status.REMOVED, "node-1 was removed from the cluster")
    three.node.peer_lost("node-2")
    assert [(status, sorted(roles(answer))) for status, answer in own] == [(Status.OK, ["node-2", "node-3"])]
    assert [status for status, _ in other] == [Status.OUTCOME_UNKNOWN]
    assert len(three.removed) == 1


def test_an_answer_that_cannot_come_is_an_unknown_outcome(three: Bench) -> None:
    three.follow("node-2")
    lost, late = ask(three, ADD), ask(three, ADD)
    three.node.peer_lost("node-2")
    assert [status for status, _ in lost + late] == [Status.OUTCOME_UNKNOWN] * 2
    three.follow("node-2")
    late = ask(three, ADD)
    three.ticks(101)
    assert [status for status, _ in late] == [Status.OUTCOME_UNKNOWN]


def test_the_leader_answers_another_node(three: Bench) -> None:
    three.lead()
    (frame,) = FrameReader(1 << 20).feed(encode_frame(Opcode.ADMIN, 0, 0, 7, orjson.dumps({"do": "members"})))
    three.node.peer_frame("node-2", frame[0], frame[2], frame[3], frame[4])
    ((to, (_, status, request_id, body)),) = three.wire.take(Opcode.ADMIN_REPLY)
    assert (to, status, request_id) == ("node-2", Status.OK, 7)
    assert sorted(roles(orjson.loads(body))) == ["node-1", "node-2", "node-3"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"'])
def test_a_frame_that_is_no_request_closes_the_link(three: Bench, body: bytes) -> None:
    three.lead()
    with pytest.raises(ValueError, match=r".+"):
        three.node.peer_frame("node-2", Opcode.ADMIN, 0, 7, body)


def test_requests_and_the_changes_they_ask_for() -> None:
    assert change_of({"do": "add", "id": "d", "raft": "r:1"}) == AddMember(Member("d", "r:1", promote=True))
    assert change_of(ADD) == AddMember(Member("node-4", "there:4", "there:84"))
    assert change_of({"do": "promote", "id": "d"}) == Promote("d")
    assert change_of({"do": "remove", "id": "d"}) == Remove("d")
    assert change_of({"do": "update", "id": "d", "http": "h:1"}) == Readdress("d", "", "h:1")
