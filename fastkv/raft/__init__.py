"""Raft, as rules without a world: no I/O, no clock, no threads, no randomness of its own.

**What it promises.** A cluster of members agrees on one log. An entry that is *committed* is on the disks of a majority
and will be applied, at the same index, by every member, whatever crashes, partitions, delays, losses, duplicates and
reorderings there are. While a majority can talk, the cluster makes progress.

**What goes in.** `Raft` is told what happened: a `tick` of time passed, a `Message` came (`step`), clients want a batch
of commands appended (`propose`) or a read confirmed (`read`), entries are durable (`persisted`) or applied (`applied`),
a link broke (`unreachable`).

**What comes out.** `take_ready` says what is to be done: what to persist, what to send before and what only after that
is durable, what to apply, which reads to serve. `ready.py` is the contract, and the reason why each order is safe.

**How a write travels.** `propose` appends a `Segment` (a run of encoded entries) to the leader's log. The next Ready
hands it to the disk and to every follower at once. Followers append, and acknowledge once durable. When a majority's
disks have it, and it is of the leader's own term, the commit index moves, and the next Ready hands it out.

**How a read travels.** `read` joins the next round. The round begins with heartbeats; when a majority has answered
them, the leader was still the leader after the read was asked for, and so the commit index noted at its beginning
covers everything that was acknowledged before it.

**Where to read on**, in this order, with the chapter of Ongaro's thesis ("Consensus: Bridging Theory and Practice",
2014) that each implements:

| file | what | thesis |
|---|---|---|
| `types`, `messages` | names, configuration, the message | 3.1 |
| `ready` | what to do, in which order | 3.8, 10.2.1 |
| `raft` | state, terms, dispatch | 3.3 |
| `election` | campaigns, votes, pre-vote, stickiness | 3.4, 3.6.1, 9.6, 4.2.3 |
| `follower` | appending, conflicts, the follower's commit index | 3.5 |
| `leader` | replication, the commit rule, check-quorum | 3.5, 3.6.2, 6.2, 10.2.1 |
| `progress` | what a leader knows of one follower | 10.2.1 |
| `reads` | ReadIndex | 6.4 |
| `log`, `quorum` | the log in memory; majorities | 3.5; 4.3 |

**Caveats.** Membership is fixed when a `Raft` is made; joint consensus (4.3) has its place in `quorum`, whose functions
take the voters they count. There are no snapshots yet: the log may be cut only up to `low_water`, which every member
has, and a member that lost its disk cannot catch up once the log has been cut. Leadership is not handed over on a
clean stop. Reads always cost a round; leases need a bound on clocks, and come with it.
"""

from fastkv.raft.log import LogReader, RaftLog
from fastkv.raft.messages import Message
from fastkv.raft.raft import Raft
from fastkv.raft.ready import Ready
from fastkv.raft.types import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    LEARNER,
    PRE_CANDIDATE,
    InvariantBroken,
    Leadership,
    NotLeader,
    Overloaded,
    ProposalRefused,
    RaftConfig,
    ReadState,
)

__all__ = [
    "CANDIDATE",
    "FOLLOWER",
    "LEADER",
    "LEARNER",
    "PRE_CANDIDATE",
    "InvariantBroken",
    "Leadership",
    "LogReader",
    "Message",
    "NotLeader",
    "Overloaded",
    "ProposalRefused",
    "Raft",
    "RaftConfig",
    "RaftLog",
    "ReadState",
    "Ready",
]
