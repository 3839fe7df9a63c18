"""Handing leadership over (thesis 3.10): to a follower that has the whole log, which then need not wait for a timeout.

The leader takes no proposals while it waits for the follower to catch up; if leadership has not moved within an
election timeout, it goes on leading. Its lease is given up first, and for the rest of its term: the follower's request
for votes passes the stickiness that leases build on, also when it arrives late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import leader
from fastkv.raft.membership import ChangeRefused
from fastkv.raft.messages import TIMEOUT_NOW, Message
from fastkv.raft.progress import REPLICATE
from fastkv.raft.types import LEADER, NotLeader

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft


def begin(raft: Raft, to: str) -> str:
    """Hand over to `to`, or to whoever has most of the log; the one chosen. NotLeader, or ChangeRefused."""
    if raft.role != LEADER:
        raise NotLeader(raft.leader)
    if raft.transferee:
        raise ChangeRefused(f"leadership is being transferred to {raft.transferee} already")
    if to == raft.node_id:
        raise ChangeRefused(f"{to} leads already")
    if to and raft.membership.get(to) is None:
        raise ChangeRefused(f"there is no member {to!r}")
    if to and to not in raft.membership.voters:
        raise ChangeRefused(f"{to} has no vote")
    chosen = to or best(raft)
    if not chosen:
        raise ChangeRefused("there is no other voter that can be reached and has caught up")
    if not leader.is_active(raft, chosen):
        raise ChangeRefused(f"{chosen} cannot be reached")
    if not leader.caught_up(raft, chosen):
        raise ChangeRefused(f"{chosen} lags: it has not caught up with the log yet")
    raft.transferee = chosen
    raft.transfer_elapsed = 0
    raft.lease.give_up()
    go_on(raft)
    return chosen


def best(raft: Raft) -> str:
    """The voter that can be reached and has most of the log; empty where there is none that keeps up."""
    able = [
        (raft.progress[voter].match, voter)
        for voter in raft.membership.voters
        if voter != raft.node_id and leader.is_active(raft, voter) and raft.progress[voter].state == REPLICATE
    ]
    return max(able)[1] if able else ""


def go_on(raft: Raft) -> None:
    """Something was acknowledged or committed: the follower may have all of it now, and the clients their answers."""
    target = raft.transferee
    if target and raft.progress[target].match == raft.log.last_index == raft.commit_index:
        _timeout_now(raft, target)


def tick(raft: Raft) -> None:
    """The word to the follower may be lost; and a transfer that does not come about is given up."""
    if not raft.transferee:
        return
    raft.transfer_elapsed += 1
    if raft.transfer_elapsed >= raft.config.election_ticks:
        raft.transferee = ""
        if not raft.membership.votes(raft.node_id):
            raft.become_follower(raft.term, "")     # it was to leave in any case
    elif raft.transfer_elapsed % raft.config.heartbeat_ticks == 0:
        go_on(raft)


def leave(raft: Raft) -> None:
    """This leader has no vote any more: somebody who has one shall lead (thesis 4.2.2, and 3.10 to lose no time)."""
    if raft.transferee:
        return
    raft.lease.give_up()
    raft.transferee, raft.transfer_elapsed = best(raft), 0
    if not raft.transferee:
        raft.become_follower(raft.term, "")
    go_on(raft)


def hand_over(raft: Raft) -> None:
    """Leave at once, and have somebody else campaign at once."""
    raft.lease.give_up()
    target = best(raft)
    if target:
        _timeout_now(raft, target)
    raft.become_follower(raft.term, "")


def _timeout_now(raft: Raft, target: str) -> None:
    raft.send(Message(TIMEOUT_NOW, raft.node_id, target, raft.term))
