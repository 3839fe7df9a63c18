"""The way of a write through a node: proposed here, forwarded to the leader, or kept until there is one.

What is promised to whoever waits stands in `writes`; this file decides where a batch goes, and brings back its results.
"""

from __future__ import annotations

from collections import deque

from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Opcode, Status
from fastkv._core.entry import EntryBatch
from fastkv._core.frames import encode_frame
from fastkv._core.replies import Waiters
from fastkv.kv.state import StateMachine
from fastkv.log_types import Segment
from fastkv.node.ports import NodeSettings, Transport
from fastkv.node.writes import Answer, ForwardedBatch, Forwards, Proposal, Proposals, RemoteAnswer, WaitingBatch
from fastkv.raft import LEADER, NotLeader, Overloaded, Raft, Transferring
from fastkv.wire.peer import encode_forward


class WritePath:
    """Every write that this node has taken and not yet answered."""

    def __init__(self, settings: NodeSettings, raft: Raft, machine: StateMachine, transport: Transport) -> None:
        self._settings = settings
        self._raft = raft
        self._machine = machine
        self._transport = transport
        self._proposals = Proposals()
        self._forwards = Forwards(raft.rng.getrandbits(62))
        self._waiting: deque[WaitingBatch] = deque()
        self._waiting_bytes = 0
        self._results = WriteBuffer()
        self.failed = 0
        """Writes that were refused, or given up without knowing what became of them."""

    def __len__(self) -> int:
        """Batches that are neither applied nor given up."""
        return len(self._proposals) + len(self._forwards) + len(self._waiting)

    @property
    def pending(self) -> int:
        """Writes that are neither applied nor given up."""
        waiting = sum(waiting.batch.count for waiting in self._waiting)
        return self._proposals.entries(self._raft.applied_index) + self._forwards.entries + waiting

    # -- out ---------------------------------------------------------------------------------------------------------

    def take(self, batch: EntryBatch, waiters: Waiters, now: int) -> None:
        """The writes of one turn, from this node's clients."""
        settings = self._settings
        self._place(
            WaitingBatch(batch, waiters, now + settings.leader_wait_ticks, now + settings.request_timeout_ticks)
        )

    def _place(self, waiting: WaitingBatch) -> None:
        """Propose the batch here, forward it to the leader, or keep it until there is one."""
        raft = self._raft
        full = self._waiting_bytes + self._forwards.nbytes + waiting.batch.nbytes > self._settings.waiting_limit_bytes
        if raft.role == LEADER and not raft.transferee:
            self._propose(waiting.batch, waiting.waiters, waiting.deadline)
        elif full:
            self._fail(waiting.batch, waiting.waiters, Status.OVERLOADED)
        elif raft.role == LEADER or not raft.leader or not self._forward(raft.leader, waiting):
            self._keep(waiting)

    def _fail(self, batch: EntryBatch, answer: Answer | Waiters, status: int) -> None:
        self.failed += batch.count
        answer.fail(status)

    def _keep(self, waiting: WaitingBatch) -> None:
        self._waiting.append(waiting)
        self._waiting_bytes += waiting.batch.nbytes

    def _propose(self, batch: EntryBatch, answer: Answer | Waiters, deadline: int) -> None:
        try:
            first, term = self._raft.propose(batch)
        except (NotLeader, Transferring):
            self._fail(batch, answer, Status.NOT_LEADER)
        except Overloaded:
            self._fail(batch, answer, Status.OVERLOADED)
        else:
            self._proposals.add(Proposal(first, first + batch.count - 1, term, answer, deadline))

    def _forward(self, leader: str, waiting: WaitingBatch) -> bool:
        forward_id = self._forwards.next_id()
        if not self._transport.send(leader, encode_forward(forward_id, waiting.batch)):
            return False
        self._forwards.add(
            forward_id,
            ForwardedBatch(waiting.batch, waiting.waiters, leader, waiting.leader_deadline, waiting.deadline),
        )
        return True

    def take_forward(self, node_id: str, forward_id: int, batch: EntryBatch, now: int, refuse: int) -> None:
        """A batch that another node forwards to us as the leader; `refuse` is the status to refuse it with, or OK."""
        answer = RemoteAnswer(node_id, forward_id, self._answer_forward, missing=batch.count)
        if refuse != Status.OK:
            self._fail(batch, answer, refuse)
        else:
            self._propose(batch, answer, now + self._settings.request_timeout_ticks)

    def _answer_forward(self, node_id: str, forward_id: int, status: int, results: bytes) -> None:
        self._transport.send(node_id, encode_frame(Opcode.FORWARD_REPLY, 0, status, forward_id, results))

    # -- back --------------------------------------------------------------------------------------------------------

    def forward_answered(self, node_id: str, forward_id: int, status: int, results: bytes) -> None:
        """The leader's answer to a batch that was forwarded to it."""
        forwarded = self._forwards.take(forward_id, node_id, len(results) if status == Status.OK else None)
        if forwarded is None:
            return
        if status == Status.OK:
            Forwards.deliver(forwarded, results)
        elif status in (Status.NOT_LEADER, Status.SHUTTING_DOWN):
            # Refused before it was appended, so provably not done: try whoever leads next, within the same deadlines.
            self._keep(WaitingBatch(forwarded.batch, forwarded.waiters, forwarded.leader_deadline, forwarded.deadline))
        else:
            self._fail(forwarded.batch, forwarded.waiters, status)

    def apply(self, segment: Segment) -> None:
        """Apply a committed run of entries, and route the results of those that somebody here waits for."""
        index, last = segment.first_index, segment.last_index
        while index <= last:
            proposal = self._proposals.next_from(index)
            if proposal is None or proposal.first_index > last:
                self._machine.apply(segment, index, last, None)
                break
            if index < proposal.first_index:
                self._machine.apply(segment, index, proposal.first_index - 1, None)
                index = proposal.first_index
            stop = min(last, proposal.last_index)
            self._machine.apply(segment, index, stop, self._results)
            proposal.answer.deliver(self._results.take(), index - proposal.first_index)
            index = stop + 1
        self._proposals.next_from(last + 1)     # answered: a stop waits for nobody here any more

    # -- when things change ------------------------------------------------------------------------------------------

    def leadership_changed(self) -> None:
        """Who was to answer may not do so any more; and there may be somebody to send to."""
        raft = self._raft
        if raft.role != LEADER:
            self.failed += self._proposals.fail_all(raft.applied_index, Status.OUTCOME_UNKNOWN)
        if raft.leader:
            self.failed += self._forwards.fail_where(lambda forwarded: forwarded.leader != raft.leader)
            self._place_waiting()

    def peer_lost(self, node_id: str) -> None:
        """The link to a node broke: its answers may not come."""
        self.failed += self._forwards.fail_where(lambda forwarded: forwarded.leader == node_id)

    def _place_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        for batch in waiting:
            self._place(batch)

    def expire(self, now: int) -> None:
        """Called each tick: end what is past its deadline, and try again with what waits."""
        self.failed += self._proposals.expire(now, self._raft.applied_index)
        leader = self._raft.leader
        # Who had it leads no more, as far as is known here: that it answers yet is hoped for as long as for a leader.
        self.failed += self._forwards.fail_where(
            lambda forwarded: forwarded.deadline <= now
            or (forwarded.leader != leader and forwarded.leader_deadline <= now)
        )
        if self._waiting:
            for waiting in self._waiting:
                if now >= min(waiting.leader_deadline, waiting.deadline):
                    self._fail(waiting.batch, waiting.waiters, Status.NO_LEADER)
            self._waiting = deque(w for w in self._waiting if now < min(w.leader_deadline, w.deadline))
            self._waiting_bytes = sum(w.batch.nbytes for w in self._waiting)
            if self._raft.leader:
                self._place_waiting()       # a link to it may have come up since

    def end(self) -> None:
        """The node stops: answer everybody."""
        self._proposals.fail_all(self._raft.applied_index, Status.OUTCOME_UNKNOWN)
        self._forwards.fail_where(lambda forwarded: True)
        while self._waiting:
            self._waiting.popleft().waiters.fail(Status.SHUTTING_DOWN)
