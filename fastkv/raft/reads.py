"""Linearizable reads without a log entry: ReadIndex (thesis 6.4).

The leader notes its commit index, makes sure that it still leads by one exchange of heartbeats with a majority, and
answers with that index. All reads that arrive before the exchange begins share it: a *round*. Rounds are numbered, a
heartbeat carries the newest number, and an answer to round n confirms every round up to n.

A leader may answer only once it has committed an entry of its own term: before that it does not know what is committed.

Questions and answers between nodes may be lost, and whoever asked will ask again under a fresh context. So what waits
here is bounded: a later question of a node stands for its earlier ones, because an index that is confirmed after them
covers them too.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastkv.raft import leader, quorum
from fastkv.raft.messages import READ_INDEX, READ_INDEX_REPLY, Message
from fastkv.raft.types import LEADER

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft


WAITING_LIMIT = 1024
"""Questions of one kind that may wait for somebody else; those beyond are given back."""


@dataclass(frozen=True, slots=True)
class _Asked:
    round: int
    node_id: str
    context: int
    index: int


class ReadRounds:
    """The reads that wait for a confirmation: on a leader everybody's, on a follower its own."""

    __slots__ = ("_acknowledged", "_confirmed", "_early", "_forwarded", "_raft", "_unsent", "_waiting", "newest_round")

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self.newest_round = 0
        """Every round of heartbeats has a number, in all terms of this member's life."""
        self._confirmed = 0
        self._early: list[tuple[str, int]] = []
        self._unsent: list[tuple[str, int]] = []
        self._waiting: deque[_Asked] = deque()
        self._acknowledged: dict[str, int] = {}
        self._forwarded: deque[int] = deque()

    @property
    def round_due(self) -> bool:
        """Whether reads wait for a round to begin."""
        return bool(self._unsent)

    def ask(self, context: int) -> None:
        """A read of this node's own."""
        raft = self._raft
        if raft.role == LEADER:
            self.ask_for(raft.node_id, context)
        elif raft.leader:
            self._forwarded.append(context)
            if len(self._forwarded) > WAITING_LIMIT:
                raft.fail_reads([self._forwarded.popleft()])
            raft.send(Message(READ_INDEX, raft.node_id, raft.leader, raft.term, context=context))
        else:
            raft.fail_reads([context])

    def ask_for(self, node_id: str, context: int) -> None:
        """Leader: somebody asks for a read index."""
        if self.knows_commit():
            self._unsent.append((node_id, context))
        elif len(self._early) < WAITING_LIMIT:
            self._early.append((node_id, context))
        elif node_id == self._raft.node_id:
            self._raft.fail_reads([context])

    def committed(self) -> None:
        """Leader: the commit index moved, and with it perhaps into the own term."""
        if self._early and self.knows_commit():
            self._unsent += self._early
            self._early = []

    def knows_commit(self) -> bool:
        """Leader: an entry of the own term is committed, and with it everything before (thesis 6.4, step 1)."""
        return self._raft.log.matches(self._raft.commit_index, self._raft.term)

    def start_round(self) -> None:
        """Leader: begin a round for the reads that came since the last one."""
        if self._unsent:
            leader.send_heartbeats(self._raft)

    def begin_round(self) -> int:
        """Leader: a round of heartbeats is about to leave, and the reads before it take part in it; its number."""
        raft = self._raft
        self.newest_round += 1
        raft.lease.round_sent(self.newest_round, raft.now_ns)
        for node_id, context in self._unsent:
            self._waiting.append(_Asked(self.newest_round, node_id, context, raft.commit_index))
        self._unsent = []
        self.acknowledged(raft.node_id, self.newest_round)      # a single voter is its own majority
        return self.newest_round

    def acknowledged(self, node_id: str, round_number: int) -> None:
        """Leader: a member took us for the leader after that round began."""
        if round_number <= self._acknowledged.get(node_id, 0):
            return
        self._acknowledged[node_id] = round_number
        membership = self._raft.membership
        confirmed = quorum.reached(membership.voters, self._acknowledged, membership.outgoing)
        if confirmed > self._confirmed:
            self._confirmed = confirmed
            self._raft.lease.round_confirmed(confirmed)
            self._confirm(confirmed)

    def _confirm(self, round_number: int) -> None:
        raft, waiting = self._raft, self._waiting
        while waiting and waiting[0].round <= round_number:
            asked = waiting.popleft()
            if asked.node_id == raft.node_id:
                raft.answer_read(asked.context, asked.index)
            else:
                raft.send(
                    Message(
                        READ_INDEX_REPLY,
                        raft.node_id,
                        asked.node_id,
                        raft.term,
                        index=asked.index,
                        commit=raft.commit_index,
                        context=asked.context,
                    )
                )

    def confirmed_by_leader(self, context: int, index: int) -> None:
        """Follower: the leader answers a question, and with it those before. One that was given up is ignored."""
        forwarded = self._forwarded
        if context in forwarded:
            asked = None
            while asked != context:
                asked = forwarded.popleft()
                self._raft.answer_read(asked, index)

    def leadership_changed(self) -> None:
        """Whoever was asked does not lead any more: reads of this node fail, the others' nodes will ask anew."""
        own = [asked.context for asked in self._waiting if asked.node_id == self._raft.node_id]
        own += [context for node_id, context in self._unsent + self._early if node_id == self._raft.node_id]
        self._raft.fail_reads(own + list(self._forwarded))
        self._early = []
        self._unsent = []
        self._waiting.clear()
        self._acknowledged = {}
        self._confirmed = self.newest_round
        self._forwarded.clear()
