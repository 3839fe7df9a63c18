"""How old the state of a node may be: what a stale read is told.

Time counts by the clock of the leases, which goes on while the process is paused or the machine suspended. Whatever is
read after such a pause may have waited in a socket for as long, so it counts from when the node last looked at the
clock before it.
"""

from __future__ import annotations

from fastkv.raft import LEADER, Raft

UNKNOWN_AGE_MS = 0xFFFF_FFFF
"""The age of the state of a node that has not heard from a leader since it began."""


class Age:
    """Of one node's state."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._heard_ns = -1

    def heard(self) -> None:
        """A message of the leader is here."""
        self._heard_ns = self._raft.now_ns

    def ms(self) -> int:
        """By `Raft.now_ns`: since a leader was heard from, and on a leader since a majority was known to follow it."""
        raft = self._raft
        if raft.role == LEADER and (not raft.peers or raft.lease_holds(raft.now_ns)):
            return 0
        since_ns = max(self._heard_ns, raft.lease.confirmed_ns if raft.role == LEADER else -1)
        if since_ns < 0:
            return UNKNOWN_AGE_MS
        return min((raft.now_ns - since_ns) // 1_000_000, UNKNOWN_AGE_MS - 1)
