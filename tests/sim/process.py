"""One life of a node: production consensus, state machine and node, and the loop that a server would turn around them.

What a crash ends and a restart begins anew. While it is paused (SIGSTOP, a machine that swaps), time goes on, frames
and requests queue up, and all of it is handled in a burst when it resumes; its clock has jumped then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastkv._core.codes import Opcode
from fastkv._core.frames import FrameReader
from fastkv._core.replies import CallbackSink
from fastkv.kv.state import StateMachine
from fastkv.log_types import HardState, Segment
from fastkv.node import Node, NodeSettings
from fastkv.raft import LEADER, Member, Membership, Raft, RaftConfig, RaftLog
from fastkv.storage.memory_log import MemoryDisk, MemoryLogStore
from fastkv.storage.memory_store import MemoryStore
from tests.sim.clients import Deliver
from tests.sim.events import MS
from tests.sim.promises import FRAME_HEADER_BYTES, PROMISING, check_commit, check_frame
from tests.sim.truth import Truth, Violation

if TYPE_CHECKING:
    from tests.sim.machine import Machine

TICKS_A_HEARTBEAT = 5
"""As many ticks as a follower makes up for after a pause; those of the server's loop."""


class DiskFailed(OSError):
    """The simulated disk has failed: the process has to end, and nothing may be said after it."""


class ObservedMachine(StateMachine):
    """The production state machine; what it applies is told to the truth."""

    def observe(self, node: str, truth: Truth) -> None:
        self._node, self._truth = node, truth

    def apply(self, segment: Segment, first: int, last: int, results: Any) -> None:
        self._truth.applies(self._node, segment, first, last)
        super().apply(segment, first, last, results)


class ObservedLog(MemoryLogStore):
    """The log store; what is appended to it is told to the truth."""

    def __init__(self, disk: MemoryDisk, node: str, truth: Truth, *, keep_above: int) -> None:
        super().__init__(disk, keep_above=keep_above)
        self._node, self._truth = node, truth

    def append(self, hard_state: HardState | None, segments: Sequence[Segment]) -> int:
        image, index, term = self._image, self._image.last_index, self._image.last_term
        for segment in segments:
            if segment.first_index != index + 1:
                term = image.term_at(segment.first_index - 1)
            self._truth.wrote(self._node, segment, term)
            index, term = segment.last_index, segment.term
        return super().append(hard_state, segments)


class Process:
    """The loop of one process. `alive` until the machine crashes."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.world = machine.world
        self.node_id = machine.node_id
        self.alive = True
        self.paused = False
        self._missed: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._reader = FrameReader(1 << 26)
        self._turn_due = False
        self._syncing = False
        self._finishing = False
        self._committed = 0
        self._last_tick_ns = machine.now_ns()
        self._build()

    def _build(self) -> None:
        world, plan, rng = self.world, self.world.plan, self.world.events.rng
        self.store = MemoryStore(self.machine.stored)
        self.state = ObservedMachine(
            self.store,
            memtable_bytes=1 << 19,         # two chunks of an arena; it is the log's length that asks for checkpoints
            checkpoint_log_bytes=plan.checkpoint_log_bytes,
            checkpoint_age_ticks=plan.checkpoint_age_ticks,
            retry_ticks=plan.ticks(1),
            snapshots=4,
            snapshot_ttl_ticks=1000,
            first_snapshot_id=rng.getrandbits(64),
        )
        self.state.observe(self.node_id, world.truth)
        self.log = ObservedLog(
            self.machine.disk, self.node_id, world.truth, keep_above=self.state.applied_index
        )
        recovered = self.log.recovered
        self.raft = Raft(
            RaftConfig(
                node_id=self.node_id,
                election_ticks=plan.election_ticks,
                heartbeat_ticks=plan.heartbeat_ticks,
                max_append_bytes=plan.max_append_bytes,
                max_append_entries=plan.max_append_entries,
                max_inflight_bytes=plan.max_inflight_bytes,
                max_uncommitted_bytes=plan.max_uncommitted_bytes,
            ),
            recovered.hard_state,
            RaftLog(recovered.base_index, recovered.base_term, recovered.segments, self.log),
            rng,
            membership=Membership.of(Member(node_id) for node_id in world.machines),
            applied=self.state.applied_index,
        )
        self.node = Node(
            NodeSettings(
                node_id=self.node_id,
                disk=0,
                tick_ms=plan.tick_us / MS,
                request_timeout_ticks=plan.ticks(4),
                leader_wait_ticks=plan.ticks(2),
                read_retry_ticks=plan.ticks(1),
                status_ticks=plan.ticks(5),
                status_expiry_ticks=plan.ticks(15),
                waiting_limit_bytes=plan.waiting_limit_bytes,
                log_memory_bytes=plan.log_memory_bytes,
            ),
            self.raft,
            self.state,
            self.log,
            self,
            self._wake,
            clock=self.machine.now_ns,
            value_limit_bytes=1 << 20,
            open_limit_bytes=1 << 16,
        )
        self._committed = self.raft.commit_index
        self._sink = CallbackSink(self.node.outbox, _raise)

    def start(self) -> None:
        """On the network, and ticking."""
        self.world.network.plug_in(self.node_id, self)
        self._tick_later()

    # -- what happens to it --------------------------------------------------------------------------------------------

    def hear(self, sender: str, frame: bytes) -> None:
        """A frame arrives."""
        if self.paused:
            self._missed.append((self.hear, (sender, frame)))
            return
        for opcode, _, code, request_id, body in self._reader.feed(frame):
            self.node.peer_frame(sender, opcode, code, request_id, body)

    def lost(self, peer: str) -> None:
        """The link to a peer broke."""
        self._happens(self.node.peer_lost, peer)

    def ask(self, opcode: int, body: bytes, deliver: Deliver) -> None:
        """A client's request arrives."""
        self._happens(self._ask, opcode, body, deliver)

    def _ask(self, opcode: int, body: bytes, deliver: Deliver) -> None:
        ingress = self.node.ingress
        ingress.submit(self._sink, self._sink.expect(deliver), opcode, body)
        ingress.request_wake()

    def pause(self) -> None:
        """It stops in its tracks; it does not notice."""
        self.paused = True

    def resume(self) -> None:
        """It goes on, and finds all that has come since."""
        self.paused = False
        missed, self._missed = self._missed, []
        for action, arguments in missed:
            self._happens(action, *arguments)

    def fail_disk(self) -> None:
        """The write or sync under way fails: whatever the process touches of its log next ends it."""
        self.log.fail(DiskFailed("the simulated disk has failed"))

    # -- the loop that a server would turn -----------------------------------------------------------------------------

    def _later(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        self.world.events.after(delay, self._happens, action, *arguments)

    def _happens(self, action: Callable[..., None], *arguments: Any) -> None:
        if not self.alive:
            return
        if self.paused:
            self._missed.append((action, arguments))
            return
        try:
            action(*arguments)
        except DiskFailed:
            self.world.ends(self.machine, "its disk failed")

    def _wake(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._later(1 + int(self.world.events.rng.random() * self.world.plan.turn_us), self._due_turn)

    def _due_turn(self) -> None:
        if self._turn_due:      # else a tick has taken it already
            self._turn()

    def _turn(self) -> None:
        self._turn_due = False
        self.node.pump()
        self._check()
        if not self._syncing:
            self._sync()
        if self.store.pending and not self._finishing:
            self._finishing = True
            self._later(self.world.events.between(1 * MS, 50 * MS), self._finish_checkpoint)

    def _sync(self) -> None:
        """The log's writer: one sync at a time, for everything that was written before it began."""
        ticket = self.log.submitted_ticket
        self._syncing = ticket > self.log.durable_ticket
        if self._syncing:
            self._later(self.machine.fsync_us(), self._synced, ticket)

    def _synced(self, ticket: int) -> None:
        self.log.complete(ticket)
        self._sync()
        self.node.durable()

    def _finish_checkpoint(self) -> None:
        self._finishing = False
        self.store.complete()

    def _tick_later(self) -> None:
        due_ns = self._last_tick_ns + self.world.plan.tick_us * 1000 - self.machine.now_ns()
        late = int(self.world.events.rng.random() * 200)
        self._later(max(1, int(due_ns / self.machine.clock_rate) // 1000) + late, self._tick)

    def _tick(self) -> None:
        """Count the ticks that have passed, as the server does: after a pause a leader makes up for more of them."""
        tick_ns = self.world.plan.tick_us * 1000
        passed = (self.machine.now_ns() - self._last_tick_ns) // tick_ns
        self._last_tick_ns += passed * tick_ns
        limit = 2 * self.world.plan.election_ticks if self.raft.role == LEADER else TICKS_A_HEARTBEAT
        for _ in range(min(passed, limit)):
            self.node.tick()
        self._tick_later()
        self._turn()

    # -- the transport -------------------------------------------------------------------------------------------------

    def send(self, to: str, frame: bytes) -> bool:
        """Queue a frame to a peer."""
        world = self.world
        world.trace.append((world.events.now, self.node_id, to, frame))
        if frame[4] == Opcode.RAFT and frame[FRAME_HEADER_BYTES] in PROMISING:
            check_frame(self, to, frame)
        return world.network.send(self.node_id, to, frame)

    def flush(self) -> None:
        """Every frame has left in `send`."""

    # -- invariants ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        raft, truth = self.raft, self.world.truth
        if raft.role == LEADER and truth.leads(self.node_id, raft.term, raft.log):
            self.world.note(f"{self.node_id} leads term {raft.term}")
        index = raft.commit_index
        if index != self._committed:
            if index < self._committed:
                raise Violation(f"{self.node_id}'s commit index goes back from {self._committed} to {index}")
            self._committed = index
            truth.commits(index, raft.term)
            if raft.role == LEADER:
                check_commit(self, index, self.world.machines.values())


def _raise(error: BaseException) -> None:
    raise error
