"""Raft, as rules without a world: no I/O, no clock, no threads, no randomness of its own.

**What it promises.** A cluster of members agrees on one log. An entry that is *committed* is on the disks of a majority
and will be applied, at the same index, by every member, whatever crashes, partitions, delays, losses, duplicates and
reorderings there are. While a majority can talk, the cluster makes progress.

**What goes in.** `Raft` is told what happened: a `tick` of time passed, a `Message` came (`step`), clients want a batch
of commands appended (`propose`) or a read confirmed (`read`), entries are durable (`persisted`) or applied (`applied`),
a link broke (`unreachable`), somebody wants other members (`change`) or another leader (`transfer`), a snapshot is
installed (`restored`).

**What comes out.** `take_ready` says what is to be done: what to persist, what to send before and what only after that
is durable, what to apply, which reads to serve. `ready.py` is the contract, and the reason why each order is safe.

**How a write travels.** `propose` appends a `Segment` (a run of encoded entries) to the leader's log. The next Ready
hands it to the disk and to every follower at once. Followers append, and acknowledge once durable. When a majority's
disks have it, and it is of the leader's own term, the commit index moves, and the next Ready hands it out.

**How a read travels.** `read` joins the next round. The round begins with heartbeats; when a majority has answered
them, the leader was still the leader after the read was asked for, and so the commit index noted at its beginning
covers everything that was acknowledged before it. While a leader's *lease* holds, it may answer without a round.

**How the membership changes.** By entries of the log, in two steps, with learners that catch up before they vote; what
is in force is what the newest such entry in the log says, committed or not.

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
| `lease` | reads without a round | 6.4.1 |
| `membership`, `reconfigure` | who belongs to the cluster; how that changes | 4 |
| `transfer` | handing leadership over | 3.10 |
| `snapshots` | followers that need what was cut | 5 |
| `log`, `quorum` | the log in memory; majorities | 3.5; 4.3 |

**Caveats.** Snapshots are neither made nor moved here: Raft says who needs one, and is told when it is there. Leases
are as good as the bound on clocks that `RaftConfig.lease_ns` was computed with. A member whose disk was lost must not
come back under its old identity; who runs Raft has to see to that (`Member.disk`).
"""

from fastkv.raft.log import LogReader, RaftLog
from fastkv.raft.membership import (
    AddMember,
    ChangeRefused,
    Member,
    Membership,
    NoteDisk,
    Promote,
    RaiseVersion,
    Readdress,
    Remove,
)
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
    Transferring,
)

__all__ = [
    "CANDIDATE",
    "FOLLOWER",
    "LEADER",
    "LEARNER",
    "PRE_CANDIDATE",
    "AddMember",
    "ChangeRefused",
    "InvariantBroken",
    "Leadership",
    "LogReader",
    "Member",
    "Membership",
    "Message",
    "NotLeader",
    "NoteDisk",
    "Overloaded",
    "Promote",
    "ProposalRefused",
    "Raft",
    "RaftConfig",
    "RaftLog",
    "RaiseVersion",
    "ReadState",
    "Readdress",
    "Ready",
    "Remove",
    "Transferring",
]
