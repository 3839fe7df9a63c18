"""Candidates and voters: thesis 3.4 (elections), 3.6.1 (who may win), 9.6 (pre-vote), 4.2.3 (stickiness)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import leader, quorum
from fastkv.raft.messages import (
    APPEND,
    HEARTBEAT,
    HEARTBEAT_REPLY,
    PRE_VOTE,
    PRE_VOTE_REPLY,
    SNAPSHOT,
    TIMEOUT_NOW,
    TRANSFERRED,
    VOTE,
    VOTE_REPLY,
    Message,
)
from fastkv.raft.types import CANDIDATE, LEADER, PRE_CANDIDATE

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft

FROM_LEADER = (APPEND, HEARTBEAT, SNAPSHOT, TIMEOUT_NOW)


def campaign(raft: Raft, *, pre_vote: bool, transferred: bool = False) -> None:
    """Ask the others for their votes, or first whether they would give them (thesis 9.6).

    A pre-candidate changes neither its term nor anybody else's, so a member that was cut off does not disturb the
    others when it comes back with a log that cannot win. Who was asked to campaign by the leader needs no leave.
    """
    raft.become_follower(raft.term, "")
    if pre_vote:
        raft.role, kind, term = PRE_CANDIDATE, PRE_VOTE, raft.term + 1
    else:
        raft.role, kind = CANDIDATE, VOTE
        raft.term = term = raft.term + 1
        raft.vote = raft.node_id
    raft.votes = {raft.node_id: True}
    # Our own vote must not be forgotten once anybody has been asked (thesis 3.8): not before the disk has it.
    send = raft.send if pre_vote else raft.send_once_durable
    context = TRANSFERRED if transferred else 0
    index, log_term = raft.log.last_index, raft.log.last_term
    for peer in raft.peers:
        if raft.membership.votes(peer):
            send(Message(kind, raft.node_id, peer, term, index=index, log_term=log_term, context=context))
    _count(raft)


def heard_newer_term(raft: Raft, message: Message) -> bool:
    """The sender is in a later term. Whether the message is to be handled."""
    kind = message.kind
    transferred = kind == VOTE and message.context == TRANSFERRED
    if kind in (PRE_VOTE, VOTE) and _has_leader(raft) and not transferred:
        # Leader stickiness (thesis 4.2.3): who hears a leader neither votes nor moves to a later term.
        return False
    if kind == PRE_VOTE or (kind == PRE_VOTE_REPLY and not message.reject):
        return True         # a pre-vote speaks of a term that nobody has entered yet
    raft.become_follower(message.term, message.frm if kind in FROM_LEADER else "")
    return True


def heard_older_term(raft: Raft, message: Message) -> None:
    """The sender is in an earlier term: tell it ours, so that it gives up what it leads or campaigns for."""
    if message.kind == PRE_VOTE:
        raft.send(Message(PRE_VOTE_REPLY, raft.node_id, message.frm, raft.term, reject=True))
    elif message.kind == VOTE:
        raft.send_once_durable(Message(VOTE_REPLY, raft.node_id, message.frm, raft.term, reject=True))
    elif message.kind in FROM_LEADER:
        raft.send(Message(HEARTBEAT_REPLY, raft.node_id, message.frm, raft.term))


def _has_leader(raft: Raft) -> bool:
    """Whether this node leads, or heard from a leader within the smallest election timeout."""
    if not raft.config.check_quorum:
        return False
    return raft.role == LEADER or raft.since_leader < raft.config.election_ticks


def heard_vote_request(raft: Raft, message: Message) -> None:
    """Vote, at most once a term, for a candidate whose log has everything that may be committed (thesis 3.6.1).

    Not while this node waits to be told of any cluster: nobody can rightly count on its vote, and somebody who has lost
    his disk might. One that has only lost the state that its log goes on from does count.
    """
    if not raft.membership.members and not raft.restoring:
        return
    up_to_date = raft.log.is_up_to_date(message.index, message.log_term)
    if message.kind == PRE_VOTE:
        # Would we vote, if it campaigned in that term? An answer binds nobody and needs no disk. Stickiness towards a
        # leader of our own term is checked here; `Raft.step` has checked it for requests of later terms.
        grant = up_to_date and message.term > raft.term
        term = message.term if grant else raft.term
        raft.send(Message(PRE_VOTE_REPLY, raft.node_id, message.frm, term, reject=not grant))
        return
    free = raft.vote == message.frm or (raft.vote == "" and raft.leader == "")
    grant = free and up_to_date and raft.role != LEADER
    if grant:
        raft.vote = message.frm
        raft.elapsed = 0        # give the one we voted for time to win
    raft.send_once_durable(Message(VOTE_REPLY, raft.node_id, message.frm, raft.term, reject=not grant))


def heard_vote_reply(raft: Raft, message: Message) -> None:
    """Count a vote for the campaign under way; each voter counts once, and only for that campaign's kind."""
    expected = {PRE_CANDIDATE: PRE_VOTE_REPLY, CANDIDATE: VOTE_REPLY}.get(raft.role)
    if message.kind != expected:
        return
    if message.kind == PRE_VOTE_REPLY and not message.reject and message.term != raft.term + 1:
        return                  # granted for an earlier campaign
    raft.votes.setdefault(message.frm, not message.reject)
    _count(raft)


def _count(raft: Raft) -> None:
    outcome = quorum.tally(raft.membership.voters, raft.votes, raft.membership.outgoing)
    if outcome == quorum.LOST:
        raft.become_follower(raft.term, "")
    elif outcome == quorum.WON:
        if raft.role == PRE_CANDIDATE:
            campaign(raft, pre_vote=False)
        else:
            leader.take_office(raft)
