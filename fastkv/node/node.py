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

from collections.abc import Callable
from typing import Any

from fastkv._core.codes import Opcode, Status
from fastkv._core.ingress import Ingress
from fastkv._core.replies import Outbox
from fastkv.kv.state import StateMachine
from fastkv.kv.store import ImageInfo, Store, StoreFull
from fastkv.node.admin import Admin, DeliverAdmin, Request
from fastkv.node.age import UNKNOWN_AGE_MS, Age
from fastkv.node.fitness import Fitness
from fastkv.node.gossip import Gossip
from fastkv.node.installation import Installation
from fastkv.node.members import Members
from fastkv.node.persistence import Persistence
from fastkv.node.ports import Addresses, NodeSettings, PeerStatus, Transport
from fastkv.node.reads import Reads
from fastkv.node.snapshots import ImageFetch, ImageServer
from fastkv.node.versions import Versions
from fastkv.node.write_path import WritePath
from fastkv.raft import Membership, Message, Raft, Ready
from fastkv.raft.messages import APPEND, COUNTED, HEARTBEAT
from fastkv.storage.interfaces import LogStore
from fastkv.wire.peer import decode_append, decode_forward, decode_raft, encode_message


class Node:
    """One member of the cluster.

    `wake` is called when a pump is wanted; whoever runs the node calls `pump` once soon after. All times are ticks,
    counted by `tick`, but for leases and ages, which need `clock`: monotonic nanoseconds that also count while the
    process is paused or the machine suspended. `on_members` is told who is to be reached, and where; `on_removed` that
    this node is a member no more; `on_disowned` that it is none of the founders, whatever its configuration says, and
    has to remember that. `report` is what the other nodes are to be told of this one beside consensus.
    """

    def __init__(
        self,
        settings: NodeSettings,
        raft: Raft,
        machine: StateMachine,
        store: Store,
        log: LogStore,
        transport: Transport,
        wake: Callable[[], None],
        *,
        clock: Callable[[], int],
        on_members: Callable[[Addresses], None] = lambda addresses: None,
        on_removed: Callable[[str], None] = lambda text: None,
        on_disowned: Callable[[], None] = lambda: None,
        report: Callable[[], dict[str, Any]] = dict,
        value_limit_bytes: int,
        open_limit_bytes: int,
    ) -> None:
        self.settings, self.raft = settings, raft
        self.machine = machine
        self.log = log
        self.transport = transport
        self.outbox = Outbox()
        self.ingress = Ingress(
            machine.table, wake, value_limit_bytes=value_limit_bytes, open_limit_bytes=open_limit_bytes
        )
        self.ingress.clock, self.ingress.applied_index, self.ingress.age_ms = clock, raft.applied_index, UNKNOWN_AGE_MS
        self.now = self.snapshots_installed = 0
        self._clock, self._on_removed, self._wake = clock, on_removed, wake
        self._writes = WritePath(settings, raft, machine, transport)
        self._reads = Reads(
            raft.read, retry_ticks=settings.read_retry_ticks, first_context=raft.rng.getrandbits(62)
        )
        self._admin = Admin(settings, raft, transport)
        self._gossip = Gossip(settings, transport, machine.table.hash_points, lambda: self._members.disks, report)
        self._members = Members(
            settings, raft, Membership.decode(machine.membership), on_members, self._removed, on_disowned,
            lambda *who: self._gossip.vouches(*who, beyond=raft.commit_index),
        )
        self.versions = Versions(settings, raft, self._gossip, self._members)
        self._images = ImageServer(store, transport.send, settings, self._gossip.audit.accuse)
        self._fetch = ImageFetch(store, transport.send, settings, self._fetched)
        self._fitness = Fitness(raft)
        self._installation = Installation(
            raft, machine, log, keep_bytes=settings.snapshot_log_bytes, on_installed=self._installed
        )
        self._persistence = Persistence(raft, log, self._send)
        self._last_ticket = log.durable_ticket
        self._age = Age(raft)
        if raft.restoring:
            self._gossip.audit.accuse("the state was set aside by a repair, and a snapshot is not here yet")
            self._refuse_where_due()

    # -- what happens to a node --------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of time has passed."""
        self.now += 1
        raft = self.raft
        raft.now_ns = self._clock()
        if not self._installation.restarting:
            raft.tick()
        self.log.poll()
        self._persistence.release()
        self.machine.tick()
        self._writes.expire(self.now)
        self._reads.expire(self.now, has_leader=bool(raft.leader))
        self._admin.expire(self.now)
        self._images.tick()
        self._fetch.tick()
        self._fitness.judge(self.now, self._persistence.waits(self.now), alarm=bool(self.alarm))
        self._installation.trim()
        if raft.log.nbytes_in_memory > self.settings.log_memory_bytes:
            raft.log.evict(raft.applied_index)
        self._refuse_where_due()
        if self.ingress.refuse_writes == Status.NO_SPACE:
            self._fitness.crowded(self.now, self._gossip.with_room(raft.peers, self.now))
        self._members.note_disks()
        if not self._admin.considers:
            self.versions.raise_where_due(self.now)
        self._tell()
        self._wake()

    def durable(self) -> None:
        """The log store has made more durable: release what waited for it."""
        self._persistence.release()
        self._wake()

    def peer_frame(self, node_id: str, opcode: int, code: int, request_id: int, body: bytes) -> None:
        """A frame from a peer. ValueError for bytes that are not of the protocol: close the link."""
        if node_id in self._members.impostors:
            return
        if opcode == Opcode.APPEND:
            self._heard_append(decode_append(node_id, self.settings.node_id, body, Message))
        elif opcode == Opcode.RAFT:
            message = decode_raft(node_id, self.settings.node_id, body, Message)
            if message.kind not in COUNTED or node_id not in self._members.doubtful:
                self._step(message)
        elif opcode == Opcode.FORWARD:
            refuse = self.ingress.refuse_writes
            self._writes.take_forward(node_id, request_id, decode_forward(body), self.now, refuse)
        elif opcode == Opcode.FORWARD_REPLY:
            self._writes.forward_answered(node_id, request_id, code, body)
        elif opcode == Opcode.PEER_STATUS:
            self._gossip.heard(node_id, body, self.now)
        elif opcode == Opcode.SNAPSHOT_ASK:
            if not self.alarm:
                self._images.asked(node_id, body)
        elif opcode == Opcode.SNAPSHOT_CHUNK:
            self._fetch.heard_chunk(node_id, code, body)
        elif opcode == Opcode.ADMIN:
            self._admin.take(node_id, request_id, body, self.now)
        elif opcode == Opcode.ADMIN_REPLY:
            self._admin.answered(node_id, request_id, code, body)
        else:
            raise ValueError(f"a peer has no business with opcode {opcode:#x}")
        self._wake()

    def hear_hello(self, node_id: str, disk: int, address: str) -> tuple[int, str]:
        """A node wants to link to this one: OK, or why not, as a `Status` and a text for whoever runs it."""
        return self._members.hear_hello(node_id, disk, address)

    def refused_by(self, node_id: str, status: int, text: str) -> None:
        """A node does not let this one link to it."""
        self._members.refused_by(node_id, status, text)
        self._wake()

    def _removed(self, text: str) -> None:
        self._admin.removed()
        self._on_removed(text)

    def peer_lost(self, node_id: str) -> None:
        """The link to a peer broke: what was sent on it may or may not have arrived."""
        self.raft.unreachable(node_id)
        self._writes.peer_lost(node_id)
        self._admin.peer_lost(node_id)
        self._fetch.lost(node_id)
        self._wake()

    def peer_linked(self, node_id: str, disk: int) -> bool:
        """The link to a peer is up: tell it at once who we are. False where it is not the member: drop the link."""
        if not self._members.linked(node_id, disk):
            return False
        self._gossip.tell_soon()
        self._wake()
        return True

    def admin(self, request: Request, deliver: DeliverAdmin) -> None:
        """Ask the cluster for other members or another leader; see `admin`. On any node."""
        self._admin.ask(request, deliver, self.now)
        self._wake()

    def members(self) -> list[dict[str, Any]]:
        """The membership in force, as `admin` describes it."""
        return self._admin.members()

    def removed_disks(self) -> tuple[int, ...]:
        """The data directories whose nodes were removed for good: nothing more is to be heard from them."""
        return self._members.applied.removed

    def drain(self, done: Callable[[], None]) -> None:
        """Before a clean stop: hand leadership over, so that nobody waits for a timeout. `done` is called once."""
        self._fitness.drain(done, self.now)

    def stop(self) -> None:
        """Answer everybody who still waits: nothing further will be done here."""
        self.ingress.refuse_writes = self.ingress.refuse_reads = Status.SHUTTING_DOWN
        self._take_requests()
        self._writes.end()
        self._admin.end()
        self._reads.fail_all(Status.SHUTTING_DOWN)
        unasked = self.ingress.take_reads()
        if unasked is not None:
            unasked.fail(Status.SHUTTING_DOWN)
        while self.outbox.flush():
            continue
        self.transport.flush()

    # -- the turn ----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out everything that has been asked for and decided since the last turn."""
        self.ingress.asleep()
        raft = self.raft
        raft.now_ns = self._clock()
        self._persistence.release()
        if bool(self.alarm) != (self.ingress.refuse_reads == Status.CORRUPT_STATE):
            self._refuse_where_due()        # nothing from a state in doubt, and nothing refused once it is not
        self._take_requests()
        self._start_reads()
        while raft.has_ready():
            self._carry_out(raft.take_ready())
            self._reads.serve(self.machine.table, raft.applied_index)
            self._start_reads()
        self._serve_by_lease()
        if self._installation.busy:
            self._installation.go_on()
        elif self.machine.checkpoint_due and raft.log.durable_index >= raft.applied_index:
            # Only then: the store must never be ahead of this node's own log.
            self.machine.start_checkpoint()
        self.ingress.applied_index = raft.applied_index
        self.ingress.age_ms, self.ingress.aged_ns = self._age.ms(), raft.now_ns
        self._admin.progressed()
        self._tell()
        go_on = self._persistence.listen()
        if self.outbox.flush() or go_on:
            self._wake()
        self.transport.flush()

    def _carry_out(self, ready: Ready) -> None:
        """The order of this function is the safety argument of design section "Raft": see `raft.ready`."""
        segments = ready.segments
        if ready.membership is not None:
            self._members.changed()
        if ready.hard_state is not None or segments:
            self._last_ticket = self.log.append(ready.hard_state, segments)
        self._send(ready.send_now)
        if ready.send_after_persist or segments:
            self._persistence.hold(self._last_ticket, ready.send_after_persist, segments, self.now)
            self._persistence.release()
        for segment in ready.committed:
            self._writes.apply(segment)
            if segment.batch.config is not None:
                self._members.committed(Membership.decode(self.machine.membership))
        if ready.committed:
            self.raft.applied(ready.committed[-1].last_index)
        for state in ready.reads:
            self._reads.confirmed(state.context, state.index)
        for context in ready.reads_failed:
            self._reads.failed(context)
        if ready.leadership is not None:
            self._writes.leadership_changed()
        if ready.snapshot_wanted and not self._installation.busy:
            others = [peer for peer in self.raft.peers if peer != self.raft.leader]
            self._fetch.want(ready.snapshot_wanted, self.raft.leader, others)

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            self.transport.send(message.to, encode_message(message))

    def _step(self, message: Message) -> None:
        if message.kind in (APPEND, HEARTBEAT) and message.term >= self.raft.term:
            self._age.heard()
        if not self._installation.restarting:
            self.raft.step(message)

    def _heard_append(self, message: Message) -> None:
        if message.segments and not self.log.has_room(sum(segment.nbytes for segment in message.segments)):
            return      # not acknowledged, so the leader sends it again; its heartbeats still count as contact
        self._step(message)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _take_requests(self) -> None:
        taken = self.ingress.take_writes()
        if taken is not None:
            self._writes.take(*taken, self.now)

    def _start_reads(self) -> None:
        """Ask for a read index, for the reads that are not to be served by a lease."""
        if not self.ingress.reads_waiting or self._reads.busy:
            return
        settings = self.settings
        if not self.raft.lease_holds(self._clock()):
            batch = self.ingress.take_reads()
        elif settings.lease_reads:
            return
        else:
            batch = self.ingress.take_unleased_reads()
        if batch is not None:
            self._reads.start(batch, self.now, settings.leader_wait_ticks, settings.request_timeout_ticks)

    def _serve_by_lease(self) -> None:
        """Reads of this turn without a round, while nobody else can lead: those that ask for it, or all by the setting.

        The lease is looked at after everything decided in this turn has been applied, and nothing changes the state
        until the reads are served: a pause of the process in between does no harm (thesis 6.4.1).
        """
        raft, ingress = self.raft, self.ingress
        if not ingress.reads_waiting:
            return
        if raft.lease_holds(self._clock()) and raft.applied_index >= raft.commit_index:
            batch = ingress.take_reads() if self.settings.lease_reads else ingress.take_lease_reads()
            if batch is not None:
                batch.serve(self.machine.table)

    def _refuse_where_due(self) -> None:
        """A full disk, or one that is too slow, refuses writes clearly until it is not; a state that differs all."""
        ingress, machine = self.ingress, self.machine
        if ingress.refuse_writes == Status.SHUTTING_DOWN:
            return
        store_full = isinstance(machine.checkpoint_error, StoreFull)
        if store_full:
            self.log.shrink()
        full = (machine.over_limit and store_full) or not self.log.has_room(self.ingress.open_limit_bytes)
        behind = Status.OVERLOADED if machine.over_limit else Status.OK
        ingress.refuse_reads = Status.CORRUPT_STATE if self.alarm else Status.OK
        ingress.refuse_writes = ingress.refuse_reads or (Status.NO_SPACE if full else behind)

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def _fetched(self, image: ImageInfo) -> None:
        self._installation.fetched(image)
        self._wake()

    def _installed(self) -> None:
        """Log, store and Raft are at a snapshot."""
        self.snapshots_installed += 1
        self._gossip.audit.forget()
        self._members.committed(Membership.decode(self.machine.membership))
        self._wake()

    def distrust(self, why: str) -> None:
        """The store has turned out not to be whole: serve nothing until a snapshot takes its place."""
        self._gossip.audit.accuse(why)
        self._wake()

    # -- what others may know ----------------------------------------------------------------------------------------

    @property
    def alarm(self) -> str:
        """Why this node serves nothing: its state differs from the others'. Empty when all is well."""
        return self._gossip.audit.alarm

    @property
    def refusal(self) -> str:
        """Why others do not let this node in; empty while it has a leader."""
        return "" if self.raft.leader else self._members.refusal

    @property
    def doubts(self) -> list[str]:
        """Of which members this node does not know whether they are the members, and what to do about it."""
        return self._members.doubts

    @property
    def snapshot_bytes(self) -> tuple[int, int]:
        """Bytes of snapshots that were sent, and that were fetched."""
        return self._images.sent_bytes, self._fetch.received_bytes

    @property
    def fetch_problem(self) -> str:
        """What went wrong last with the snapshot that is being fetched; empty when nothing did."""
        return self._fetch.problem if self._fetch.active else ""

    @property
    def fetch_progress(self) -> dict[str, int] | None:
        """Of the snapshot that is being fetched: bytes that are here, and bytes in all. None while there is none."""
        here, total = self._fetch.progress
        return {"bytes": here, "total_bytes": total} if self._fetch.active else None

    @property
    def suspects(self) -> dict[str, int]:
        """Nodes whose state differs from the most, and the index where it showed."""
        return self._gossip.audit.suspects

    @property
    def busy(self) -> bool:
        """Whether anybody waits for this node's answer."""
        return bool(len(self._writes) or self._reads.waiting)

    @property
    def proposals_pending(self) -> int:
        """Writes that are neither applied nor given up."""
        return self._writes.pending

    @property
    def proposals_failed(self) -> int:
        """Writes that were refused, or given up without knowing what became of them."""
        return self._writes.failed

    def peer_status(self, node_id: str) -> PeerStatus | None:
        """What a peer said of itself lately, or None."""
        return self._gossip.status_of(node_id, self.now)

    def _tell(self) -> None:
        raft = self.raft
        if not self._gossip.is_due(raft.role, raft.term, self.now):
            return
        self._gossip.tell(
            raft.peers, raft.role, raft.term, raft.commit_index, raft.applied_index, raft.leader,
            self.ingress.refuse_writes != Status.NO_SPACE, self.now,
        )  # fmt: skip
