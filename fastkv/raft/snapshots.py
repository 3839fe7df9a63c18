"""Followers that need what has been cut, and snapshots that take the place of a log (thesis chapter 5).

Consensus moves no snapshot. A leader tells a follower that the log it needs is gone, and from where on there is one;
the follower's node fetches a snapshot, from whichever member has it, puts it on its own disk, and only then says so
with `restored`. So a transfer can break, resume and change its source, and no rule here depends on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import follower
from fastkv.raft.membership import Membership
from fastkv.raft.messages import APPEND_REPLY, SNAPSHOT, Message
from fastkv.raft.types import LEADER, require

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft


def tell_cut(raft: Raft, peer: str) -> None:
    """Leader: entries that `peer` needs are cut; a snapshot at our base or later helps it."""
    raft.send(
        Message(
            SNAPSHOT, raft.node_id, peer, raft.term, index=raft.log.base_index, log_term=raft.log.base_term,
            low_water=raft.low_water,
        )
    )


def heard_snapshot(raft: Raft, message: Message) -> None:
    """Follower: what we ask for has been cut. Late and duplicate ones change nothing: what is committed here stays."""
    follower.follow(raft, message)
    if message.index > raft.commit_index:
        raft.snapshot_wanted = message.index
    else:
        follower.acknowledge(raft, message.frm, raft.commit_index)


def restored(raft: Raft, index: int, term: int, membership: Membership, *, log_kept: bool) -> None:
    """The state machine is at entry `index` now, from a snapshot that is durable.

    "If existing log entry has same index and term as snapshot's last included entry, retain log entries following it";
    otherwise discard the whole log (thesis figure 5.3). Which of the two is for the caller to say: the log on the disk
    has to be treated likewise, and before.
    """
    require(raft.role != LEADER, "a leader needs no snapshot")
    # One from before the first change of members says nothing of them: they are those who founded the cluster.
    membership = membership or raft.history.oldest
    require(index > raft.applied_index, f"a snapshot of entry {index} goes back from {raft.applied_index}")
    if term > raft.term:
        raft.become_follower(term, "")      # it came from a member that has heard of a later leader
    if log_kept:
        raft.log.restore(index, term)
        raft.history.restore(index, membership)
    else:
        require(index > raft.commit_index, f"the snapshot of entry {index} in term {term} is not of this log")
        raft.drop_log()
        raft.log.reset(index, term)
        raft.history = type(raft.history)(index, membership)
    raft.skip_to(index)
    raft.membership_changed()
    if raft.leader:
        raft.send_once_durable(Message(APPEND_REPLY, raft.node_id, raft.leader, raft.term, index=index))
