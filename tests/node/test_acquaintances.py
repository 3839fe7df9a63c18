"""Who may link to a node: a member is its disk."""

from __future__ import annotations

import orjson

from fastkv._core.codes import Opcode, Status
from fastkv.node.acquaintances import Acquaintances
from fastkv.raft import PRE_CANDIDATE, Member, Membership, Message, NoteDisk
from fastkv.raft.messages import HEARTBEAT, PRE_VOTE, PRE_VOTE_REPLY, VOTE
from tests.node.conftest import Bench

BOTH = Membership.of([Member("a", disk=1), Member("b", disk=2), Member("c")])


def test_members_and_strangers_are_let_in() -> None:
    a = Acquaintances("a", 1)
    assert a.hello("b", 2, "there:1", BOTH, BOTH) == (Status.OK, "")
    assert a.hello("d", 9, "there:2", BOTH, BOTH) == (Status.OK, "")
    assert a.addresses == {"b": "there:1", "d": "there:2"}


def test_another_disk_is_another_node() -> None:
    a = Acquaintances("a", 1)
    status, text = a.hello("b", 7, "there:1", BOTH, BOTH)
    assert status == Status.WRONG_DISK
    assert "remove the member (b) and add it anew" in text
    assert a.addresses == {}


def test_nobody_else_has_our_id() -> None:
    status, text = Acquaintances("a", 1).hello("a", 1, "there:1", BOTH, BOTH)
    assert status == Status.WRONG_DISK
    assert "is the id of this node" in text


def test_who_was_removed_is_told_so_once_that_is_committed() -> None:
    a = Acquaintances("a", 1)
    after = BOTH.joint(["a", "c"]).final()
    assert a.hello("b", 2, "there:1", after, BOTH)[0] == Status.OK
    assert a.hello("b", 2, "there:1", after, after)[0] == Status.REMOVED
    assert a.hello("b", 3, "there:1", after, after)[0] == Status.OK      # a new machine, of the same name


def test_a_disk_is_noted_when_its_member_is_met() -> None:
    a = Acquaintances("a", 1)
    assert a.to_note(BOTH) is None
    a.hello("c", 3, "there:3", BOTH, BOTH)
    assert a.to_note(BOTH) == NoteDisk("c", 3)


def test_the_leader_notes_disks_in_the_log(three: Bench) -> None:
    three.lead()
    raft = three.node.raft
    raft.membership = raft.membership.with_member(Member("node-2"))
    assert three.node.hear_hello("node-2", 22, "there:2") == (Status.OK, "")
    three.ticks(1)
    found = raft.membership.get("node-2")
    assert found is not None
    assert found.disk == 22
    assert three.addresses["node-2"] == ("there:2",)


UNMET = Membership.of([Member("a", "here:1", disk=1), Member("b", "there:1")])


def test_one_at_another_address_is_doubtful_until_it_is_known_by_its_disk_or_in_its_place() -> None:
    a = Acquaintances("a", 1)
    assert a.hello("b", 2, "elsewhere:1", UNMET, UNMET) == (Status.OK, "")
    assert (a.doubtful(UNMET), a.impostors(UNMET), a.to_note(UNMET)) == ({"b"}, set(), None)
    for told in (Member("b", "elsewhere:1"), Member("b", "there:1", disk=2), Member("b")):
        assert a.doubtful(UNMET.with_member(told)) == set()
    assert a.impostors(UNMET.with_member(Member("b", "there:1", disk=3))) == {"b"}


def test_one_who_was_met_in_its_place_may_move_and_nobody_else_takes_its_name() -> None:
    a = Acquaintances("a", 1)
    assert a.hello("b", 2, "there:1", UNMET, UNMET) == (Status.OK, "")
    assert a.hello("b", 2, "elsewhere:1", UNMET, UNMET) == (Status.OK, "")
    assert (a.doubtful(UNMET), a.to_note(UNMET)) == (set(), NoteDisk("b", 2))
    status, text = a.hello("b", 3, "elsewhere:2", UNMET, UNMET)
    assert status == Status.WRONG_ADDRESS
    assert "two nodes use this id" in text
    assert a.addresses == {"b": "elsewhere:1"}


def test_one_who_may_have_moved_is_followed_and_does_not_count(three: Bench) -> None:
    raft = three.node.raft
    raft.membership = raft.membership.with_member(Member("node-2", "there:2"))
    assert three.node.hear_hello("node-2", 22, "elsewhere:2") == (Status.OK, "")
    assert three.addresses["node-2"] == ("elsewhere:2", "there:2")
    assert "if it has moved" in three.node.doubts[0].lower()
    for kind in (PRE_VOTE, VOTE):
        three.hear(Message(kind, "node-2", "node-1", 7, index=9, log_term=6))
    assert (raft.term, raft.vote, three.wire.messages()) == (0, "", [])
    raft.campaign()
    three.node.pump()
    three.hear(Message(PRE_VOTE_REPLY, "node-2", "node-1", 1))
    assert raft.role == PRE_CANDIDATE
    three.hear(Message(HEARTBEAT, "node-2", "node-1", 3))
    assert (raft.term, raft.leader) == (3, "node-2")
    raft.membership = raft.membership.with_member(Member("node-2", "elsewhere:2"))
    three.node._members.changed()
    assert three.node.doubts == []
    three.hear(Message(HEARTBEAT, "node-2", "node-1", 4))
    assert raft.term == 4


def test_a_wrong_address_is_no_lost_disk(three: Bench) -> None:
    three.node.refused_by("node-2", Status.WRONG_ADDRESS, "another address")
    assert three.node.refusal
    assert three.node.raft.membership.voters == ("node-1", "node-2", "node-3")
    three.node.refused_by("node-2", Status.WRONG_DISK, "another disk")      # our disk is lost, and it knows
    assert not three.node.raft.membership


def test_a_refusal_is_remembered_and_a_removal_told(three: Bench) -> None:
    three.node.refused_by("node-2", Status.WRONG_DISK, "another disk")
    assert three.node.refusal == "node-2 says: another disk"
    assert three.removed == []
    three.node.refused_by("node-2", Status.REMOVED, "gone")
    assert three.removed == ["node-2 says: gone"]
    assert three.node.peer_linked("node-2", 2)
    assert three.node.refusal == ""


def test_whoever_answers_has_to_be_the_member(three: Bench) -> None:
    raft = three.node.raft
    raft.membership = raft.membership.with_member(Member("node-2", disk=22)).with_member(Member("node-3"))
    assert three.node.peer_linked("node-2", 22)
    assert not three.node.peer_linked("node-2", 23)
    assert three.node.peer_linked("node-3", 33)


def test_one_who_was_let_in_before_its_disk_was_known_is_heard_no_longer(three: Bench) -> None:
    raft = three.node.raft
    raft.membership = raft.membership.with_member(Member("node-2"))
    assert three.node.hear_hello("node-2", 23, "there:2") == (Status.OK, "")
    raft.membership = raft.membership.with_member(Member("node-2", raft="there:2", disk=22))
    three.node._members.changed()
    assert three.addresses["node-2"] == ()
    three.node.peer_frame("node-2", 0xFF, 0, 0, b"")        # not even looked at
    assert three.node.hear_hello("node-2", 22, "there:2") == (Status.OK, "")
    assert three.addresses["node-2"] == ("there:2",)


def status(applied: int, **disks: int) -> bytes:
    said = {"role": 0, "term": 1, "commit": applied, "applied": applied, "leader": "", "raft": "", "http": ""}
    return orjson.dumps({**said, "hashes": [], "disks": {name.replace("_", "-"): disk for name, disk in disks.items()}})


def test_whoever_others_vouch_for_is_let_in_and_followed_and_does_not_count(three: Bench) -> None:
    """This node has missed that node-2 was replaced; node-3, who has applied more, has not."""
    raft = three.node.raft
    assert raft.membership.get("node-2") == Member("node-2", disk=2)
    three.node.peer_frame("node-3", Opcode.PEER_STATUS, 0, 0, status(0, node_2=99))
    assert three.node.hear_hello("node-2", 99, "there:2")[0] == Status.WRONG_DISK, "it knows no more than we do"
    assert not three.node.peer_linked("node-2", 99)
    three.node.peer_frame("node-3", Opcode.PEER_STATUS, 0, 0, status(5, node_2=99))
    assert three.node.hear_hello("node-2", 98, "there:2")[0] == Status.WRONG_DISK
    assert three.node.hear_hello("node-2", 99, "there:2") == (Status.OK, "")
    assert three.node.peer_linked("node-2", 99)
    assert three.addresses["node-2"] == ("there:2",)
    three.hear(Message(VOTE, "node-2", "node-1", 7, index=9, log_term=6))
    assert (raft.term, raft.vote) == (0, "")
    three.hear(Message(HEARTBEAT, "node-2", "node-1", 3))
    assert (raft.term, raft.leader) == (3, "node-2")


def test_nobody_vouches_for_himself(three: Bench) -> None:
    three.node.peer_frame("node-2", Opcode.PEER_STATUS, 0, 0, status(5, node_2=99))
    assert three.node.hear_hello("node-2", 99, "there:2")[0] == Status.WRONG_DISK


def without(membership: Membership, gone: str) -> Membership:
    return membership.joint([voter for voter in membership.voters if voter != gone]).final()


def test_a_removed_member_is_forgotten_and_not_who_has_taken_its_name(three: Bench) -> None:
    """node-2 was removed, and another machine added under its name, before this node hears of either from the log."""
    raft = three.node.raft
    three.node._members.committed(raft.membership)
    assert three.node.hear_hello("node-3", 3, "there:3") == (Status.OK, "")
    three.node.peer_frame("node-3", Opcode.PEER_STATUS, 0, 0, status(5, node_2=99))
    assert three.node.hear_hello("node-2", 99, "there:2") == (Status.OK, "")
    for gone in ("node-2", "node-3"):
        raft.membership = without(raft.membership, gone)
        three.node._members.committed(raft.membership)
    assert three.addresses == {"node-2": ("there:2",)}      # the link of the new one is up: it says HELLO only once
    assert three.node.hear_hello("node-3", 33, "elsewhere:3") == (Status.OK, "")
    assert three.node.hear_hello("node-2", 98, "there:2") == (Status.OK, "")


def test_one_whose_disk_nobody_knew_may_have_been_the_new_one(three: Bench) -> None:
    raft = three.node.raft
    raft.membership = raft.membership.with_member(Member("node-2", raft="there:2"))
    three.node._members.committed(raft.membership)
    assert three.node.hear_hello("node-2", 99, "there:2") == (Status.OK, "")
    raft.membership = without(raft.membership, "node-2")
    three.node._members.committed(raft.membership)
    assert three.addresses["node-2"] == ("there:2",)
    assert three.node.hear_hello("node-2", 98, "elsewhere:2") == (Status.OK, "")    # whoever comes under that name
