"""Names and small values of the consensus core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

FOLLOWER = 0
PRE_CANDIDATE = 1
CANDIDATE = 2
LEADER = 3
LEARNER = 4

ROLE_NAMES = ("follower", "pre-candidate", "candidate", "leader", "learner")


class ProposalRefused(Exception):
    """The proposal was not appended: it is certainly not done."""


class NotLeader(ProposalRefused):
    """Only the leader appends."""


class Transferring(ProposalRefused):
    """Leadership is being handed over: a new leader will take it in a moment."""


class Overloaded(ProposalRefused):
    """More bytes are appended and not yet committed than the configuration allows."""


class InvariantBroken(AssertionError):
    """What Raft guarantees does not hold. Raised also under `python -O`: the node has to stop before it does harm."""


def require(holds: bool, invariant: str) -> None:
    """Stop the node where an invariant is broken."""
    if not holds:
        raise InvariantBroken(invariant)


@dataclass(frozen=True, slots=True)
class ReadState:
    """The read asked for under `context` may be served from any state that has applied `index`."""

    context: int
    index: int


class Leadership(NamedTuple):
    """Who this node takes itself and the leader for; `leader` is empty while none is known."""

    role: int
    leader: str
    term: int


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """One member's limits. Times are ticks, except for `lease_ns`."""

    node_id: str
    election_ticks: int = 20
    """A follower that hears no leader for a random time of [election_ticks, 2 × election_ticks) campaigns."""
    heartbeat_ticks: int = 5
    max_append_bytes: int = 1 << 20
    """Entries in one APPEND; a single longer entry still travels, alone."""
    max_append_entries: int = 16384
    max_inflight_bytes: int = 8 << 20
    """Sent to one follower and not yet acknowledged."""
    max_uncommitted_bytes: int = 64 << 20
    """Appended by this leader and not yet committed; beyond that proposals are refused."""
    lease_ns: int = 0
    """How long after a round of heartbeats was sent nobody else can be elected, by this node's clock: less than
    `election_ticks` as fast clocks and late ticks may count them. 0: no leases."""
    pre_vote: bool = True
    check_quorum: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise ValueError("a heartbeat is shorter than an election timeout, and longer than nothing")
