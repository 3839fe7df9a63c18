"""Node: inbox → raft → persist → send → apply → reply. Synchronous, never blocks, no sockets.

Whatever happens (a peer's frame, a client's request, a tick, a durable ticket) changes state and asks for a pump; one
`pump` a turn of the loop then carries out what Raft decided:

1. requests of the turn become one proposal, one forwarded batch, or one question for a read index;
2. Raft's `Ready` is carried out in the order that safety needs: hard state and entries go to the log store, messages
   that may overlap the disk leave at once, those that may not are *held* until the ticket of that write is durable;
3. committed entries are applied, and their answers routed to whoever waits;
4. confirmed reads are served, and every sink and link is flushed once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import orjson

from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Opcode, Status
from fastkv._core.entry import EntryBatch
from fastkv._core.frames import encode_frame
from fastkv._core.ingress import Ingress
from fastkv._core.replies import Outbox, Waiters
from fastkv.kv.state import StateMachine
from fastkv.log_types import Segment
from fastkv.node.ports import NodeSettings, PeerStatus, Transport
from fastkv.node.reads import Reads
from fastkv.node.writes import (
    Answer,
    ForwardedBatch,
    Forwards,
    Proposal,
    Proposals,
    RemoteAnswer,
    WaitingBatch,
)
from fastkv.raft import LEADER, Message, NotLeader, Overloaded, Raft, Ready
from fastkv.raft.messages import APPEND, HEARTBEAT
from fastkv.storage.interfaces import LogStore
from fastkv.wire.peer import decode_append, decode_forward, decode_raft, encode_forward, encode_message


class Node:
    """One member of the cluster.

    `wake` is called when a pump is wanted; whoever runs the node calls `pump` once soon after. All times are ticks,
    counted by `tick`.
    """

    def __init__(
        self,
        settings: NodeSettings,
        raft: Raft,
        machine: StateMachine,
        log: LogStore,
        transport: Transport,
        wake: Callable[[], None],
        *,
        value_limit_bytes: int,
        open_limit_bytes: int,
    ) -> None:
        self.settings = settings
        self.raft = raft
        self.machine = machine
        self.log = log
        self.transport = transport
        self.outbox = Outbox()
        self.ingress = Ingress(
            machine.table, wake, value_limit_bytes=value_limit_bytes, open_limit_bytes=open_limit_bytes
        )
        self.now = 0
        self.peers: dict[str, PeerStatus] = {}
        self.leader_changes = 0
        self.proposals_failed = 0
        self._wake = wake
        self._proposals = Proposals()
        self._forwards = Forwards()
        self._waiting: deque[WaitingBatch] = deque()
        self._waiting_bytes = 0
        self._reads = Reads(raft.read, retry_ticks=settings.read_retry_ticks)
        self._held: deque[tuple[int, list[Message], int, int]] = deque()
        self._last_ticket = log.durable_ticket
        self._results = WriteBuffer()
        self._leader_heard = 0
        self._status_due = 0
        self._told: tuple[object, ...] = ()

    # -- what happens to a node --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of time has passed."""
        self.now += 1
        self.raft.tick()
        self.log.poll()
        self.machine.tick()
        self._expire()
        self._trim_log()
        self._refuse_where_full()
        if self.now >= self._status_due:
            self._tell_status()
        self._wake()

    def durable(self) -> None:
        """The log store has made more durable: release what waited for it."""
        self._release()
        self._wake()

    def peer_frame(self, node_id: str, opcode: int, code: int, request_id: int, body: bytes) -> None:
        """A frame from a peer. ValueError for bytes that are not of the protocol: close the link."""
        if opcode == Opcode.APPEND:
            self._heard_append(decode_append(node_id, self.settings.node_id, body, Message))
        elif opcode == Opcode.RAFT:
            message = decode_raft(node_id, self.settings.node_id, body, Message)
            self._note_leader(message)
            self.raft.step(message)
        elif opcode == Opcode.FORWARD:
            self._take_forward(node_id, request_id, decode_forward(body))
        elif opcode == Opcode.FORWARD_REPLY:
            self._forward_answered(node_id, request_id, code, body)
        elif opcode == Opcode.PEER_STATUS:
            self._take_status(node_id, body)
        else:
            raise ValueError(f"a peer has no business with opcode {opcode:#x}")
        self._wake()

    def peer_lost(self, node_id: str) -> None:
        """The link to a peer broke: what was sent on it may or may not have arrived."""
        self.raft.unreachable(node_id)
        self._forwards.fail_where(lambda forwarded: forwarded.leader == node_id)
        self._wake()

    def peer_linked(self, node_id: str) -> None:
        """The link to a peer is up: tell it at once who we are."""
        self._told = ()
        self._status_due = self.now
        self._wake()

    def stop(self) -> None:
        """Answer everybody who still waits: nothing further will be done here."""
        self.ingress.refuse_writes = self.ingress.refuse_reads = Status.SHUTTING_DOWN
        self._take_requests()
        self._proposals.fail_all(self.raft.applied_index, Status.OUTCOME_UNKNOWN)
        self._forwards.fail_where(lambda forwarded: True)
        while self._waiting:
            self._waiting.popleft().waiters.fail(Status.SHUTTING_DOWN)
        self._reads.fail_all(Status.SHUTTING_DOWN)
        unasked = self.ingress.take_reads()
        if unasked is not None:
            unasked.fail(Status.SHUTTING_DOWN)
        self.outbox.flush()
        self.transport.flush()

    # -- the turn ----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out everything that has been asked for and decided since the last turn."""
        self.ingress.asleep()
        self._take_requests()
        self._start_reads()
        raft = self.raft
        while raft.has_ready():
            self._carry_out(raft.take_ready())
            self._reads.serve(self.machine.table, raft.applied_index)
            self._start_reads()
        if self.machine.checkpoint_due and raft.durable_index >= raft.applied_index:
            # Only then: the store must never be ahead of this node's own log.
            self.machine.start_checkpoint()
        self.ingress.applied_index = raft.applied_index
        self.ingress.age_ms = self._age_ms()
        if self._told and self._status()[:2] != self._told[:2]:
            self._tell_status()         # role or term changed
        self.outbox.flush()
        self.transport.flush()

    def _carry_out(self, ready: Ready) -> None:
        """The order of this function is the safety argument of design section "Raft": see `raft.ready`."""
        segments = ready.segments
        if ready.hard_state is not None or segments:
            self._last_ticket = self.log.append(ready.hard_state, segments)
        self._send(ready.send_now)
        if ready.send_after_persist or segments:
            index, term = (segments[-1].last_index, segments[-1].term) if segments else (0, 0)
            self._held.append((self._last_ticket, ready.send_after_persist, index, term))
            self._release()
        for segment in ready.committed:
            self._apply(segment)
        if ready.committed:
            self.raft.applied(ready.committed[-1].last_index)
        for state in ready.reads:
            self._reads.confirmed(state.context, state.index)
        for context in ready.reads_failed:
            self._reads.failed(context)
        if ready.leadership is not None:
            self._leadership_changed()

    def _release(self) -> None:
        held = self._held
        durable = self.log.durable_ticket
        while held and held[0][0] <= durable:
            _, messages, index, term = held.popleft()
            if index:
                self.raft.persisted(index, term)
            self._send(messages)

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self.transport.send(message.to, encode_message(message))

    # -- writes ------------------------------------------------------------------------------------------------------

    def _take_requests(self) -> None:
        taken = self.ingress.take_writes()
        if taken is not None:
            now, settings = self.now, self.settings
            self._place(
                WaitingBatch(*taken, now + settings.leader_wait_ticks, now + settings.request_timeout_ticks)
            )

    def _place(self, waiting: WaitingBatch) -> None:
        """Propose the batch here, forward it to the leader, or keep it until there is one."""
        leader = self.raft.leader
        if self.raft.role == LEADER:
            self._propose(waiting.batch, waiting.waiters, waiting.deadline)
        elif self._waiting_bytes + self._forwards.nbytes + waiting.batch.nbytes > self.settings.waiting_limit_bytes:
            waiting.waiters.fail(Status.OVERLOADED)
        elif not leader or not self._forward(leader, waiting):
            self._waiting.append(waiting)
            self._waiting_bytes += waiting.batch.nbytes

    def _propose(self, batch: EntryBatch, answer: Answer | Waiters, deadline: int) -> None:
        try:
            first, term = self.raft.propose(batch)
        except NotLeader:
            answer.fail(Status.NOT_LEADER)
        except Overloaded:
            self.proposals_failed += batch.count
            answer.fail(Status.OVERLOADED)
        else:
            self._proposals.add(Proposal(first, first + batch.count - 1, term, answer, deadline))

    def _forward(self, leader: str, waiting: WaitingBatch) -> bool:
        forward_id = self._forwards.next_id()
        if not self.transport.send(leader, encode_forward(forward_id, waiting.batch)):
            return False
        self._forwards.add(
            forward_id,
            ForwardedBatch(waiting.batch, waiting.waiters, leader, waiting.leader_deadline, waiting.deadline),
        )
        return True

    def _take_forward(self, node_id: str, forward_id: int, batch: EntryBatch) -> None:
        answer = RemoteAnswer(node_id, forward_id, self._answer_forward, missing=batch.count)
        if self.ingress.refuse_writes != Status.OK:
            answer.fail(self.ingress.refuse_writes)
        else:
            self._propose(batch, answer, self.now + self.settings.request_timeout_ticks)

    def _answer_forward(self, node_id: str, forward_id: int, status: int, results: bytes) -> None:
        self.transport.send(node_id, encode_frame(Opcode.FORWARD_REPLY, 0, status, forward_id, results))

    def _forward_answered(self, node_id: str, forward_id: int, status: int, results: bytes) -> None:
        forwarded = self._forwards.take(forward_id, node_id, len(results) if status == Status.OK else None)
        if forwarded is None:
            return
        if status == Status.OK:
            Forwards.deliver(forwarded, results)
        elif status == Status.NOT_LEADER:
            # Refused before it was appended, so provably not done: try whoever leads now, within the same deadlines.
            self._waiting.append(
                WaitingBatch(forwarded.batch, forwarded.waiters, forwarded.leader_deadline, forwarded.deadline)
            )
            self._waiting_bytes += forwarded.batch.nbytes
        else:
            forwarded.waiters.fail(status)

    def _apply(self, segment: Segment) -> None:
        """Apply a committed run of entries, and route the results of those that somebody here waits for."""
        index, last = segment.first_index, segment.last_index
        while index <= last:
            proposal = self._proposals.next_from(index)
            if proposal is None or proposal.first_index > last:
                self.machine.apply(segment, index, last, None)
                return
            if index < proposal.first_index:
                self.machine.apply(segment, index, proposal.first_index - 1, None)
                index = proposal.first_index
            stop = min(last, proposal.last_index)
            self.machine.apply(segment, index, stop, self._results)
            proposal.answer.deliver(self._results.take(), index - proposal.first_index)
            index = stop + 1

    # -- reads -------------------------------------------------------------------------------------------------------

    def _start_reads(self) -> None:
        if not self._reads.busy:
            batch = self.ingress.take_reads()
            if batch is not None:
                settings = self.settings
                self._reads.start(batch, self.now, settings.leader_wait_ticks, settings.request_timeout_ticks)

    # -- leadership, time and the log --------------------------------------------------------------------------------

    def _leadership_changed(self) -> None:
        raft = self.raft
        self.leader_changes += 1
        if raft.role != LEADER:
            self._proposals.fail_all(raft.applied_index, Status.OUTCOME_UNKNOWN)
        if raft.leader:
            self._forwards.fail_where(lambda forwarded: forwarded.leader != raft.leader)
            self._place_waiting()

    def _place_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        for batch in waiting:
            self._place(batch)

    def _expire(self) -> None:
        now = self.now
        self._proposals.expire(now, self.raft.applied_index)
        self._forwards.fail_where(lambda forwarded: forwarded.deadline <= now)
        self._reads.expire(now, has_leader=bool(self.raft.leader))
        if self._waiting:
            for waiting in self._waiting:
                if now >= min(waiting.leader_deadline, waiting.deadline):
                    waiting.waiters.fail(Status.NO_LEADER)
            self._waiting = deque(w for w in self._waiting if now < min(w.leader_deadline, w.deadline))
            self._place_waiting()       # a link to the leader may have come up since

    def _trim_log(self) -> None:
        """Cut what no node needs any more, and keep the rest of the log in memory within its budget."""
        raft = self.raft
        self.log.compact(min(self.machine.durable_applied_index, raft.low_water))
        base_index = self.log.first_index - 1
        if raft.log.base_index < base_index:
            raft.log.cut(base_index, self.log.term_at(base_index))
        if raft.log.nbytes_in_memory > self.settings.log_memory_bytes:
            raft.log.evict(raft.applied_index)

    def _refuse_where_full(self) -> None:
        """A full disk refuses writes clearly; reads go on, and writes resume once there is room again."""
        full = self.machine.over_limit or not self.log.has_room(self.ingress_limit_bytes)
        if self.ingress.refuse_writes in (Status.OK, Status.NO_SPACE):
            self.ingress.refuse_writes = Status.NO_SPACE if full else Status.OK

    @property
    def proposals_pending(self) -> int:
        """Batches that are neither applied nor given up."""
        return len(self._proposals) + len(self._forwards) + len(self._waiting)

    @property
    def ingress_limit_bytes(self) -> int:
        """The largest batch that one turn can propose."""
        return self.ingress.open_limit_bytes

    def _heard_append(self, message: Message) -> None:
        if message.segments and not self.log.has_room(sum(segment.nbytes for segment in message.segments)):
            return      # not acknowledged, so the leader sends it again; its heartbeats still count as contact
        self._note_leader(message)
        self.raft.step(message)

    def _note_leader(self, message: Message) -> None:
        if message.kind in (APPEND, HEARTBEAT) and message.term >= self.raft.term:
            self._leader_heard = self.now

    def _age_ms(self) -> int:
        """How old the local state may be: the time since this node last heard from a leader; 0 on the leader."""
        return 0 if self.raft.role == LEADER else int((self.now - self._leader_heard) * self.settings.tick_ms)

    # -- what nodes tell each other ----------------------------------------------------------------------------------

    def _status(self) -> tuple[object, ...]:
        raft = self.raft
        return (raft.role, raft.term, raft.commit_index, raft.applied_index, raft.leader)

    def _tell_status(self) -> None:
        role, term, commit, applied, leader = self._told = self._status()
        self._status_due = self.now + self.settings.status_ticks
        body = orjson.dumps(
            {
                "role": role,
                "term": term,
                "commit": commit,
                "applied": applied,
                "leader": leader,
                "raft": self.settings.raft_address,
                "http": self.settings.http_address,
            }
        )
        frame = encode_frame(Opcode.PEER_STATUS, 0, 0, 0, body)
        for peer in self.settings.peers:
            self.transport.send(peer, frame)

    def _take_status(self, node_id: str, body: bytes) -> None:
        try:
            said = orjson.loads(body)
            status = PeerStatus(
                int(said["role"]),
                int(said["term"]),
                int(said["commit"]),
                int(said["applied"]),
                str(said["leader"]),
                str(said["raft"]),
                str(said["http"]),
                self.now,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a peer status: {error!r}") from error
        self.peers[node_id] = status

    def peer_status(self, node_id: str) -> PeerStatus | None:
        """What a peer last said of itself, or None when it has not been heard from lately."""
        status = self.peers.get(node_id)
        if status is None or self.now - status.heard_tick > self.settings.status_expiry_ticks:
            return None
        return status
