"""A node put together: what its configuration makes of its data directory.

Log, store and state machine are opened, and joined to consensus and node; sockets and the loop come from `runtime`.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import Any

from fastkv.config import NodeConfig
from fastkv.kv.state import StateMachine
from fastkv.node import Addresses, Node, NodeSettings, Transport
from fastkv.raft import Member, Membership, Raft, RaftConfig, RaftLog
from fastkv.storage.directory import DataDirectory
from fastkv.storage.lmdb_image import pending_install
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.storage.wal import Wal

log = logging.getLogger(__name__)

TICKS_A_HEARTBEAT = 5
"""A tick is a fifth of a heartbeat: fine enough to spread election timeouts, rare enough to cost nothing."""

CLOCK_DRIFT = 0.1
"""By how much the rates of two nodes' clocks may differ for leases to be safe; those of machines differ by 0.0001."""


def tick_s(config: NodeConfig) -> float:
    """How long a tick is, in seconds."""
    return config.raft.heartbeat_timeout_ms / 1000 / TICKS_A_HEARTBEAT


def boot_time_ns() -> int:
    """What leases are measured on: nanoseconds since the machine was started, those in which it was suspended too.

    `time.monotonic` stands still in a suspended machine, and a leader that wakes up would believe a lease that ran out.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Assembly:
    """One node's parts. `poster(callback, *arguments)` brings a call onto the loop from another thread."""

    def __init__(
        self,
        config: NodeConfig,
        directory: DataDirectory,
        *,
        poster: Callable[..., object],
        on_checkpoint: Callable[[float], None],
    ) -> None:
        self._config = config
        self._directory = directory
        self._tick_s = tick_s(config)
        storage, limits = config.storage, config.limits
        pending = pending_install(directory.store_path, storage.verify_bytes)
        if pending is not None:
            # A crash came between the log's restart behind a snapshot and the store's: the log goes first here, too.
            log.info("completing the installation of a snapshot that ends with entry %d", pending[0])
            self._open_log(pending[0], restart_at=pending).close()
        self.store = LmdbStore(
            directory.store_path,
            cluster=config.cluster.name,
            node_id=config.node_id,
            map_bytes=storage.lmdb_map_bytes,
            poster=poster,
            snapshots=limits.snapshots,
            verify_bytes=storage.verify_bytes,
            on_checkpoint=on_checkpoint,
        )
        self.machine = StateMachine(
            self.store,
            memtable_bytes=storage.memtable_bytes,
            checkpoint_log_bytes=storage.checkpoint_wal_bytes,
            checkpoint_age_ticks=self._ticks(storage.checkpoint_age_s * 1000),
            retry_ticks=self._ticks(1000),
            snapshots=limits.snapshots,
            snapshot_ttl_ticks=self._ticks(limits.snapshot_ttl_s * 1000),
            first_snapshot_id=int.from_bytes(os.urandom(8), "little"),
        )
        self.log = self._open_log(self.machine.applied_index)

    def _open_log(self, keep_above: int, restart_at: tuple[int, int] | None = None) -> Wal:
        return Wal(
            self._directory.wal_path,
            cluster=self._config.cluster.name,
            node_id=self._config.node_id,
            segment_bytes=self._config.storage.segment_bytes,
            keep_above=keep_above,
            recycle_bytes=self._config.storage.checkpoint_wal_bytes,
            restart_at=restart_at,
            awaits_snapshot=self._directory.awaits_snapshot,
        )

    def _ticks(self, milliseconds: float) -> int:
        return max(1, round(milliseconds / 1000 / self._tick_s))

    @property
    def is_fresh(self) -> bool:
        """Whether nothing has ever happened here."""
        recovered = self.log.recovered
        return recovered.hard_state.term == 0 and recovered.last_index == 0 and self.machine.applied_index == 0

    # -- consensus -----------------------------------------------------------------------------------------------------

    def _raft(self) -> Raft:
        raft, recovered = self._config.raft, self.log.recovered
        return Raft(
            RaftConfig(
                node_id=self._config.node_id,
                election_ticks=self._election_ticks,
                heartbeat_ticks=TICKS_A_HEARTBEAT,
                max_append_bytes=raft.max_append_bytes,
                max_append_entries=raft.max_append_entries,
                max_inflight_bytes=raft.max_inflight_bytes,
                max_uncommitted_bytes=raft.max_uncommitted_bytes,
                lease_ns=self._lease_ns,
            ),
            recovered.hard_state,
            RaftLog(recovered.base_index, recovered.base_term, recovered.segments, self.log),
            random.Random(os.urandom(16)),
            membership=Membership.decode(self.machine.membership) or self._first_members(),
            applied=self.machine.applied_index,
            configurations=recovered.configurations,
            awaits_snapshot=self._directory.awaits_snapshot,
        )

    @property
    def _election_ticks(self) -> int:
        return round(self._config.raft.election_timeout_ms / 1000 / self._tick_s)

    @property
    def _lease_ns(self) -> int:
        """How long a lease lasts: the shortest time in which a follower can count an election timeout.

        Its tick may be due as the heartbeat arrives, after a pause it makes up for a heartbeat's worth of ticks, and
        its clock may run faster than ours.
        """
        counted = max(0, self._election_ticks - TICKS_A_HEARTBEAT - 1)
        return int(counted * self._tick_s * 1e9 * (1 - CLOCK_DRIFT))

    def _first_members(self) -> Membership:
        """Who founds the cluster: what the configuration says counts until the log says something else."""
        if self._config.cluster.join or self._directory.joins:
            return Membership()         # it was founded before, and will tell who belongs to it
        return Membership.of(
            Member(node_id, str(address.raft), str(address.http))
            for node_id, address in self._config.cluster.nodes.items()
        )

    def first_peers(self, membership: Membership) -> Addresses:
        """Whom to dial first: the members, or whoever is in the configuration while there are none."""
        known = {member.node_id: (member.raft,) for member in membership.members if member.raft}
        named = {node_id: (str(address.raft),) for node_id, address in self._config.cluster.nodes.items()}
        return {peer: addresses for peer, addresses in (known or named).items() if peer != self._config.node_id}

    # -- the node ------------------------------------------------------------------------------------------------------

    def node(
        self,
        transport: Transport,
        wake: Callable[[], None],
        *,
        on_members: Callable[[Addresses], None],
        on_removed: Callable[[str], None],
        report: Callable[[], dict[str, Any]],
    ) -> Node:
        """The node, over a transport; see `Node` for the callbacks."""
        limits = self._config.limits
        node = Node(
            self._settings(),
            self._raft(),
            self.machine,
            self.store,
            self.log,
            transport,
            wake,
            clock=boot_time_ns,
            on_members=on_members,
            on_removed=on_removed,
            on_disowned=self._directory.note_joins,
            report=report,
            value_limit_bytes=limits.value_bytes,
            open_limit_bytes=self._config.raft.max_append_bytes * 16,
        )
        node.ingress.session_limit = limits.sessions
        return node

    def _settings(self) -> NodeSettings:
        raft, limits = self._config.raft, self._config.limits
        own = self._config.cluster.nodes[self._config.node_id]
        return NodeSettings(
            node_id=self._config.node_id,
            disk=self._directory.disk,
            tick_ms=self._tick_s * 1000,
            request_timeout_ticks=self._ticks(limits.request_timeout_ms),
            leader_wait_ticks=self._ticks(limits.leader_wait_ms),
            read_retry_ticks=self._ticks(raft.election_timeout_ms),
            status_ticks=self._ticks(500),
            status_expiry_ticks=self._ticks(1500),
            waiting_limit_bytes=raft.max_uncommitted_bytes,
            log_memory_bytes=raft.log_memory_bytes,
            snapshot_log_bytes=raft.snapshot_log_bytes,
            snapshot_chunk_bytes=raft.snapshot_chunk_bytes,
            snapshot_window_bytes=raft.snapshot_window_bytes,
            snapshot_timeout_ticks=self._ticks(raft.snapshot_timeout_ms),
            lease_reads=raft.reads == "lease",
            raft_address=str(own.raft),
            http_address=str(own.http),
        )
