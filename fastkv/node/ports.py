"""What a node needs of the world around it, and how it is tuned. Time is ticks throughout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Transport(Protocol):
    """Links to the other nodes: each carries this node's frames to one peer, in order, and may lose them all."""

    def send(self, node_id: str, frame: bytes) -> bool:
        """Queue a frame. False when the link is down: then the frame was certainly not sent."""

    def flush(self) -> None:
        """Send what has been queued since the last flush, one write a link."""


Addresses = dict[str, tuple[str, ...]]
"""Where each node may be reached: first where it says itself, then where the membership has it.

Neither is always right: one who moves says so before the membership does, and one who has been away for long replays
memberships of former times.
"""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Limits of one node; durations in ticks."""

    node_id: str
    disk: int
    """The number of this node's data directory (see `acquaintances`)."""
    tick_ms: float
    request_timeout_ticks: int
    """A write that has not been applied by then is answered OUTCOME_UNKNOWN, a read TIMEOUT."""
    leader_wait_ticks: int
    """How long a request may wait for a leader before it is answered NO_LEADER."""
    read_retry_ticks: int
    """A read confirmation that has not come by then is asked for again, with a fresh context."""
    status_ticks: int
    """How often peers are told this node's role, term and indexes; a change is told at once."""
    status_expiry_ticks: int
    """A peer not heard from for this long is shown as Unknown."""
    waiting_limit_bytes: int
    """Writes that may wait for a leader, or for the leader's answer, before more are refused as OVERLOADED."""
    log_memory_bytes: int
    """Log entries kept in memory for followers that lag; older ones are read from disk."""
    snapshot_log_bytes: int
    """Log kept on disk for members that lag; one that needs older entries fetches a snapshot."""
    snapshot_chunk_bytes: int
    snapshot_window_bytes: int
    """Of a snapshot that is being fetched, so much may be asked for and not here yet."""
    snapshot_timeout_ticks: int
    """A fetch asks another member after so long without an answer."""
    lease_reads: bool = False
    """Whether a leader answers all linearizable reads by its lease, not only those that ask for it."""
    raft_address: str = ""
    http_address: str = ""


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What a peer last said of itself."""

    role: int
    term: int
    commit_index: int
    applied_index: int
    leader: str
    raft_address: str
    http_address: str
    heard_tick: int
    disks: dict[str, int]
    """By which disks it knows the members, as of what it has applied."""
    room: bool
    """Whether its disk takes more."""
    report: dict[str, Any]
    """What its server says of it, unchecked: see `fastkv.server.overview`."""
