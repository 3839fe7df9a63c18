"""What is to be done now, and in which order it is safe.

Raft decides; whoever runs it carries a `Ready` out. The order that safety needs:

1. `hard_state` and `segments` are handed to the log store, in this order, as one write.
2. `send_now` may leave before that write is durable. It holds what promises nothing about this node's disk: a
   leader's APPENDs and heartbeats (the leader counts its own copy only once `persisted` says so, thesis 10.2.1), the
   answers to heartbeats, and read indexes.
3. `send_after_persist` leaves once that write, and every write before it, is durable: votes and requests for votes
   (their term and vote must not be forgotten, thesis 3.8) and acknowledgements of entries.
4. `committed` is applied. It may be applied before it is durable *here*: it is durable on a majority.
5. `reads` are served once their index is applied.

When the write of 1 is durable, `Raft.persisted(index, term)` is called with its last entry.
"""

from __future__ import annotations

from fastkv.log_types import HardState, Segment
from fastkv.raft.membership import Membership
from fastkv.raft.messages import Message
from fastkv.raft.types import Leadership, ReadState


class Ready:
    """One batch of decisions."""

    __slots__ = (
        "committed",
        "hard_state",
        "leadership",
        "membership",
        "reads",
        "reads_failed",
        "segments",
        "send_after_persist",
        "send_now",
        "snapshot_wanted",
    )

    def __init__(
        self,
        hard_state: HardState | None,
        segments: list[Segment],
        send_now: list[Message],
        send_after_persist: list[Message],
        committed: list[Segment],
        reads: list[ReadState],
        reads_failed: list[int],
        leadership: Leadership | None,
        membership: Membership | None = None,
        snapshot_wanted: int = 0,
    ) -> None:
        self.hard_state = hard_state
        """Term, vote and commit index to persist; None when term and vote are as before and there are no entries."""
        self.segments = segments
        """Entries to persist. One that begins at or before the stored log's end replaces that end."""
        self.send_now = send_now
        self.send_after_persist = send_after_persist
        self.committed = committed
        """Exactly the entries behind those handed out before, up to the commit index."""
        self.reads = reads
        self.reads_failed = reads_failed
        """Contexts that nobody will answer: ask again, under a fresh one."""
        self.leadership = leadership
        """Set when role, leader or term have changed."""
        self.membership = membership
        """Set when another membership is in force: who is to be reached, and where."""
        self.snapshot_wanted = snapshot_wanted
        """The leader has cut the log up to here, and this member needs it: fetch a snapshot that is as new; 0: none."""
