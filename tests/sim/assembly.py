"""A node as it is put together for a simulation: production parts over simulated disks, observed where it matters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastkv.kv.state import StateMachine
from fastkv.log_types import HardState, Segment
from fastkv.node import Node, NodeSettings
from fastkv.raft import Membership, Raft, RaftConfig, RaftLog
from fastkv.storage.memory_log import MemoryDisk, MemoryLogStore
from fastkv.storage.memory_store import MemoryStore
from tests.sim.events import MS
from tests.sim.truth import Truth

if TYPE_CHECKING:
    from tests.sim.process import Process


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


@dataclass(slots=True)
class Parts:
    """What one life of a node consists of."""

    store: MemoryStore
    state: ObservedMachine
    log: ObservedLog
    raft: Raft
    node: Node


def assemble(process: Process, *, on_removed: Callable[[str], None]) -> Parts:
    """A node on what its machine's disk has."""
    machine, world = process.machine, process.world
    plan, rng = world.plan, world.events.rng
    pending = machine.stored.pending_install()
    if pending is not None:             # as the server does: what a crash interrupted is completed, the log first
        MemoryLogStore(machine.disk, keep_above=pending[0], restart_at=pending)
    store = MemoryStore(machine.stored)
    state = ObservedMachine(
        store,
        memtable_bytes=1 << 19,         # two chunks of an arena; it is the log's length that asks for checkpoints
        checkpoint_log_bytes=plan.checkpoint_log_bytes,
        checkpoint_age_ticks=plan.checkpoint_age_ticks,
        retry_ticks=plan.ticks(1),
        snapshots=4,
        snapshot_ttl_ticks=1000,
        first_snapshot_id=rng.getrandbits(64),
    )
    state.observe(machine.node_id, world.truth)
    log = ObservedLog(machine.disk, machine.node_id, world.truth, keep_above=state.applied_index)
    recovered = log.recovered
    raft = Raft(
        RaftConfig(
            node_id=machine.node_id,
            election_ticks=plan.election_ticks,
            heartbeat_ticks=plan.heartbeat_ticks,
            max_append_bytes=plan.max_append_bytes,
            max_append_entries=plan.max_append_entries,
            max_inflight_bytes=plan.max_inflight_bytes,
            max_uncommitted_bytes=plan.max_uncommitted_bytes,
            lease_ns=plan.lease_ns,
        ),
        recovered.hard_state,
        RaftLog(recovered.base_index, recovered.base_term, recovered.segments, log),
        rng,
        membership=Membership.decode(state.membership) or machine.first_membership,
        applied=state.applied_index,
        configurations=recovered.configurations,
    )
    node = Node(
        NodeSettings(
            node_id=machine.node_id,
            disk=machine.disk_number,
            tick_ms=plan.tick_us / MS,
            request_timeout_ticks=plan.ticks(4),
            leader_wait_ticks=plan.ticks(2),
            read_retry_ticks=plan.ticks(1),
            status_ticks=plan.ticks(5),
            status_expiry_ticks=plan.ticks(15),
            waiting_limit_bytes=plan.waiting_limit_bytes,
            log_memory_bytes=plan.log_memory_bytes,
            snapshot_log_bytes=plan.snapshot_log_bytes,
            snapshot_chunk_bytes=plan.snapshot_chunk_bytes,
            snapshot_window_bytes=2 * plan.snapshot_chunk_bytes,
            snapshot_timeout_ticks=plan.ticks(1),
            lease_reads=plan.lease_reads,
            raft_address=machine.address,
            http_address=machine.address,
        ),
        raft,
        state,
        store,
        log,
        process.links,
        process.wake,
        clock=machine.now_ns,
        on_members=process.links.reach,
        on_removed=on_removed,
        on_disowned=machine.disown,
        value_limit_bytes=1 << 20,
        open_limit_bytes=1 << 16,
    )
    return Parts(store, state, log, raft, node)
