"""Durable before said: what a node's disk really has when a message leaves that promises something about it.

Three messages promise: a request for votes (its sender has voted for itself), a vote, and an acknowledgement of
entries. The simulator looks at the disk itself, not at what the node believes of it. And when a leader moves its commit
index, the entry is on the disks of a majority, or was on a disk that has been lost since; what clients are told rests
on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import LEADER, quorum
from fastkv.raft.messages import APPEND_REPLY, VOTE, VOTE_REPLY
from fastkv.storage.memory_log import LogImage
from fastkv.wire.peer import RAFT_BODY, REJECT
from tests.sim.truth import Violation

if TYPE_CHECKING:
    from tests.sim.process import Process

FRAME_HEADER_BYTES = 16
PROMISING = frozenset({VOTE, VOTE_REPLY, APPEND_REPLY})


def check_frame(process: Process, to: str, frame: bytes) -> None:
    """Raise Violation where a RAFT frame of a `PROMISING` kind says what the sender's disk does not have."""
    kind, flags, _, _, term, index, *_ = RAFT_BODY.unpack_from(frame, FRAME_HEADER_BYTES)
    if flags & REJECT:
        return
    node, image = process.node_id, process.machine.disk.durable
    if kind == APPEND_REPLY:
        _check_acknowledged(process, to, term, index, image)
        return
    vote = node if kind == VOTE else to
    stored = image.hard_state
    if (stored.term, stored.vote) != (term, vote) and stored.term <= term:
        said = "asks for votes" if kind == VOTE else f"votes for {to}"
        raise Violation(
            f"durable before said: {node} {said} in term {term}, and its disk says term {stored.term}, "
            f"vote {stored.vote or 'nobody'!r}"
        )


def _check_acknowledged(process: Process, leader: str, term: int, index: int, image: LogImage) -> None:
    stored = image.hard_state.term
    if stored > term:
        return                      # the leader is deposed; it will not count this
    what = f"durable before said: {process.node_id} acknowledges entry {index} to {leader} in term {term}"
    if stored < term:
        raise Violation(f"{what}, and its disk says term {stored}")
    if index > image.last_index:
        raise Violation(f"{what}, and its disk ends at entry {image.last_index}")
    other = process.world.machines[leader].process if leader in process.world.machines else None
    if other is None or other.raft.term != term or other.raft.role != LEADER:
        return
    log = other.raft.log
    if index > max(image.base_index, log.base_index):
        found, wanted = term_at(image, index), log.term(index)
        if found != wanted:
            raise Violation(f"{what}, and its disk has one of term {found} there, the leader one of {wanted}")


def term_at(image: LogImage, index: int) -> int:
    """The term of an entry that a disk has; most often it is the last one."""
    return image.last_term if index == image.last_index else image.term_at(index)


def has(image: LogImage, index: int, term: int) -> bool:
    """Whether a disk has that entry."""
    return image.base_index >= index or (image.last_index >= index and term_at(image, index) == term)


def check_commit(process: Process, index: int) -> None:
    """A leader's commit index is at `index` now: of its own term, and on the disks of a majority."""
    raft = process.raft
    term = raft.log.term(index)
    if term != raft.term:
        raise Violation(
            f"commit rule: {process.node_id} leads term {raft.term} and counts copies of entry {index} of term {term}"
        )
    holders = {
        node_id: True
        for node_id, machine in process.world.machines.items()
        if any(has(disk.durable, index, term) for disk in machine.disks)
    }
    # In the same turn another membership may have come into force, or an older one have been forgotten.
    in_force = [membership for _, membership in raft.history._entries]
    if all(quorum.tally(members.voters, holders, members.outgoing) != quorum.WON for members in in_force):
        membership = raft.membership
        raise Violation(
            f"durable before said: {process.node_id} commits entry {index} of term {term}, which is on the disks of "
            f"{', '.join(holders) or 'nobody'}, and the voters are {', '.join(membership.voters)}"
            + (f" and {', '.join(membership.outgoing)}" if membership.outgoing else "")
        )
