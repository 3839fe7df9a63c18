"""Followers: what a leader's messages do to the log (thesis 3.5, paper 5.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.log_types import Segment
from fastkv.raft.messages import APPEND_REPLY, HEARTBEAT_REPLY, Message
from fastkv.raft.types import FOLLOWER, LEADER, LEARNER, InvariantBroken

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft


def follow(raft: Raft, message: Message) -> None:
    """The sender leads this term."""
    if raft.role == LEADER:
        raise InvariantBroken(f"{message.frm} and {raft.node_id} both lead term {raft.term}")
    if raft.role not in (FOLLOWER, LEARNER) or raft.leader != message.frm:
        raft.become_follower(raft.term, message.frm)
    raft.elapsed = raft.since_leader = 0
    raft.low_water = max(raft.low_water, message.low_water)
    if raft.restoring:
        raft.snapshot_wanted = raft.restoring


def heard_append(raft: Raft, message: Message) -> None:
    """AppendEntries: append what is new, replace what conflicts, and acknowledge once it is durable."""
    follow(raft, message)
    log = raft.log
    if message.index < log.base_index:
        # A late message about entries that are long committed and cut here; they match (leader completeness).
        acknowledge(raft, message.frm, raft.commit_index)
        return
    if not log.matches(message.index, message.log_term):
        hint_index, hint_term = log.last_not_above(message.index, message.log_term)
        raft.send_once_durable(
            Message(
                APPEND_REPLY,
                raft.node_id,
                message.frm,
                raft.term,
                index=message.index,
                reject=True,
                hint_index=hint_index,
                hint_term=hint_term,
            )
        )
        return
    for segment in message.segments:
        _take(raft, segment)
    verified = message.segments[-1].last_index if message.segments else message.index
    raft.verified_index = max(raft.verified_index, verified)
    # min(leader's commit, last verified entry): what lies behind may be another leader's (paper figure 2).
    raft.commit_to(min(message.commit, raft.verified_index))
    acknowledge(raft, message.frm, verified)


def _take(raft: Raft, segment: Segment) -> None:
    """Append what the log does not have; a shorter or older message never shortens it."""
    log = raft.log
    index = max(segment.first_index, log.base_index + 1)       # what is cut here was committed, so it is equal
    shared = min(segment.last_index, log.last_index)
    if index <= shared:
        # The entry before is equal, and terms never fall: what is equal too are the entries up to the last of this term
        # (Log Matching, thesis figure 3.2), or none if there is no such entry here.
        same, term = log.last_not_above(shared, segment.term)
        if term == segment.term:
            index = max(index, same + 1)
        if index <= shared:
            raft.cut_conflict(index)    # "delete the existing entry and all that follow it" (paper figure 2)
    if index <= segment.last_index:
        raft.store(segment.slice(index, segment.last_index))


def acknowledge(raft: Raft, to: str, index: int) -> None:
    """Tell the leader, once it is true, that everything up to `index` is durable here and equal to its own."""
    raft.send_once_durable(Message(APPEND_REPLY, raft.node_id, to, raft.term, index=index))


def heard_heartbeat(raft: Raft, message: Message) -> None:
    """The leader is there. The answer says so at once: it promises nothing about the disk."""
    follow(raft, message)
    # What we acknowledged in this term matches, also where we have forgotten that since, in a restart.
    raft.verified_index = max(raft.verified_index, message.index)
    raft.commit_to(min(message.commit, raft.verified_index))
    raft.send(
        Message(
            HEARTBEAT_REPLY,
            raft.node_id,
            message.frm,
            raft.term,
            index=raft.log.last_index,
            context=message.context,
        )
    )


def heard_read_index_reply(raft: Raft, message: Message) -> None:
    """The leader confirms a read of ours. It also says what is committed, so that the read need not wait for it."""
    if raft.leader == message.frm:
        raft.commit_to(min(message.commit, raft.verified_index))
        raft.reads.confirmed_by_leader(message.context, message.index)


def heard_timeout_now(raft: Raft, message: Message) -> None:
    """The leader hands over to us: campaign at once, with leave to disturb (thesis 3.10)."""
    if raft.leader == message.frm:
        raft.campaign(transferred=True)
