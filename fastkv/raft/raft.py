"""The Raft object: state, time, the dispatch of messages, and what is ready to be carried out.

The rules stand in one file for each role (`election`, `follower`, `leader`, `reads`), as functions over this state.
This file holds what all roles share: terms (thesis 3.3), role changes, and the outbox.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fastkv.log_types import HardState, Segment
from fastkv.raft import election, follower, leader, reconfigure, snapshots, transfer
from fastkv.raft.lease import Lease
from fastkv.raft.log import RaftLog
from fastkv.raft.membership import Change, Membership
from fastkv.raft.messages import (
    APPEND,
    APPEND_REPLY,
    HEARTBEAT,
    HEARTBEAT_REPLY,
    PRE_VOTE,
    PRE_VOTE_REPLY,
    READ_INDEX,
    READ_INDEX_REPLY,
    SNAPSHOT,
    TIMEOUT_NOW,
    VOTE,
    VOTE_REPLY,
    Message,
)
from fastkv.raft.progress import CUT
from fastkv.raft.reads import ReadRounds
from fastkv.raft.ready import Ready
from fastkv.raft.reconfigure import History
from fastkv.raft.types import (
    FOLLOWER,
    LEADER,
    LEARNER,
    InvariantBroken,
    Leadership,
    NotLeader,
    Overloaded,
    RaftConfig,
    ReadState,
    Transferring,
    require,
)
from fastkv.raft.writes import WritesUnderWay

if TYPE_CHECKING:
    from fastkv._core.entry import EntryBatch
    from fastkv.raft.progress import Progress

NOBODY = ""


class Raft:
    """One member. Deterministic: the same inputs and the same `rng` give the same outputs.

    Inputs: `tick`, `step`, `propose`, `read`, `persisted`, `applied`, `unreachable`, `campaign`, `change`, `transfer`,
    `step_down`, `restored`. Output: `take_ready`. Nothing here blocks, and nothing is sent or stored but by a `Ready`.

    `membership` is what the state machine says of the members at `applied`, and `configurations` the ENTRY_CONFIG
    entries that the log has behind that, as (index, body). With `awaits_snapshot` the state that the log
    goes on from may be lost: the member votes and acknowledges, and campaigns and applies only after a snapshot.
    """

    def __init__(
        self,
        config: RaftConfig,
        hard_state: HardState,
        log: RaftLog,
        rng: random.Random,
        *,
        membership: Membership,
        applied: int = 0,
        configurations: Iterable[tuple[int, bytes]] = (),
        awaits_snapshot: bool = False,
    ) -> None:
        require(applied <= log.last_index, f"the state machine has applied {applied}, the log ends at {log.last_index}")
        restores = awaits_snapshot and applied < log.base_index
        require(restores or applied >= log.base_index, f"the log begins behind {log.base_index}, the state {applied}")
        if log.base_term > hard_state.term:
            # A snapshot came from a later term than this node had heard of, and a crash before that was written.
            hard_state = HardState(log.base_term, NOBODY, hard_state.commit)
        require(hard_state.term >= log.last_term, f"the log ends in term {log.last_term}, after term {hard_state.term}")
        self.config = config
        self.node_id = config.node_id
        self.history = History(applied, membership)
        for index, body in configurations:
            if index > applied:
                self.history.append(index, Membership.decode(body))
        self.membership = self.history.newest
        """What is in force: the newest in the log, committed or not (thesis 4.1)."""
        self.peers = self.membership.peers_of(config.node_id)
        self.log = log
        self.rng = rng
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.role = self._passive_role()
        self.leader = NOBODY
        self.may_lead = True
        """False while this node's disk is not fit for a leader's: it does not campaign then."""
        self.now_ns = 0
        """The caller's monotonic clock; never ahead of it."""
        self.ticks = 0
        self.commit_index = max(applied, min(hard_state.commit, log.last_index))
        self.applied_index = applied
        self.restoring = log.base_index if restores else 0
        """A snapshot of this entry or a later one is needed to go on; 0: none is."""
        self.verified_index = 0
        """Entries up to here are known to equal the current leader's (a follower's bound for the commit index)."""
        self.low_water = 0
        """Every member has the entries up to here: nobody will ask for them again."""
        self.votes: dict[str, bool] = {}
        self.progress: dict[str, Progress] = {}
        self.reads = ReadRounds(self)
        self.lease = Lease(config.lease_ns)
        self.uncommitted = leader.Uncommitted()
        self.mark = self.newer_mark = 0
        """Where a leader's log ended one to two election timeouts ago, and less than one: see `leader.caught_up`."""
        self.transferee = NOBODY
        """To whom this leader is handing over."""
        self.transfer_elapsed = 0
        self.elapsed = 0
        """Ticks since this follower heard from a leader, or since this leader last checked its quorum."""
        self.since_leader = 0 if hard_state.term else config.election_ticks
        """Ticks since a leader was heard, of whichever term; one that just started may have answered one before."""
        self.heartbeat_elapsed = 0
        self.election_timeout = 0
        self.replicate_due = False
        self.send_now: list[Message] = []
        self.send_after_persist: list[Message] = []
        self._unstable: list[Segment] = []
        self._writes = WritesUnderWay()
        self._told_hard_state = (self.term, self.vote)
        self._handed_out = 1 << 63 if restores else applied     # nothing is applied before the snapshot
        self._read_states: list[ReadState] = []
        self._reads_failed: list[int] = []
        self._told_leadership = Leadership(self.role, NOBODY, self.term)
        self._told_membership = self.membership
        self.snapshot_wanted = 0
        self.draw_timeout()

    # -- inputs ------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick of time."""
        self.ticks += 1
        self.elapsed += 1
        self.since_leader += 1
        if self.role == LEADER:
            leader.tick(self)
        elif self.elapsed >= self.election_timeout:
            self.campaign()

    def campaign(self, *, transferred: bool = False) -> None:
        """Try to become leader now (thesis 3.4; with pre-vote, 9.6), or with the leader's leave (3.10)."""
        if self.role != LEADER and self.may_lead and not self.restoring and self.history.may_campaign(self.node_id):
            election.campaign(self, pre_vote=self.config.pre_vote and not transferred, transferred=transferred)

    def step(self, message: Message) -> None:
        """Take a message from another node. Late and duplicate ones are harmless.

        Also from one that is no member as far as this node knows: what it knows may be old (thesis 4.1).
        """
        if message.to != self.node_id:
            return
        if message.term > self.term:
            if not election.heard_newer_term(self, message):
                return
        elif message.term < self.term:
            election.heard_older_term(self, message)
            return
        if self.role == LEADER:
            leader.heard_from(self, message.frm)
        handler = HANDLERS.get(message.kind)
        if handler is not None:
            handler(self, message)

    def propose(self, batch: EntryBatch) -> tuple[int, int]:
        """Append a batch to the leader's log: (index of its first entry, term). Raises a ProposalRefused."""
        if self.role != LEADER:
            raise NotLeader(self.leader)
        if self.transferee:
            raise Transferring(self.transferee)
        if not self.uncommitted.has_room(batch.nbytes, self.config.max_uncommitted_bytes):
            raise Overloaded(f"{self.uncommitted.nbytes} bytes are waiting to be committed")
        return leader.append(self, batch), self.term

    def read(self, context: int) -> None:
        """Ask for a read index (thesis 6.4), in any role. The answer comes in `Ready.reads` or `Ready.reads_failed`."""
        self.reads.ask(context)

    def lease_holds(self, now_ns: int) -> bool:
        """Whether this node leads, knows what is committed, and nobody else can lead at `now_ns` (thesis 6.4.1)."""
        return self.role == LEADER and self.lease.holds(now_ns) and self.reads.knows_commit()

    def change(self, change: Change, since: int | None = None) -> int:
        """Begin a change of members (thesis 4): the index of its first entry. Raises NotLeader or ChangeRefused.

        Refused where it would leave the decision to members that were not heard from since tick `since`.
        """
        return reconfigure.propose(self, change, since)

    def transfer(self, to: str = NOBODY) -> str:
        """Hand leadership over (thesis 3.10), to the best voter if none is named: whom. NotLeader or ChangeRefused."""
        return transfer.begin(self, to)

    def step_down(self) -> None:
        """Lead no more, and not wait for a transfer to come about."""
        if self.role == LEADER:
            transfer.hand_over(self)

    def disown(self) -> None:
        """The cluster does not take this node for one of its founders: forget that, and wait to be added."""
        require(self.log.last_index == 0, "a node with a log is a member of whatever that says")
        self.history = History(0, Membership())
        self.become_follower(self.term, NOBODY)
        self.membership_changed()

    def restored(self, index: int, term: int, membership: Membership, *, log_kept: bool) -> None:
        """The state machine is at entry `index` now, by a snapshot (thesis 5.3).

        The log on the disk had that entry, with that term, and keeps what is behind it; or it begins there anew.
        """
        snapshots.restored(self, index, term, membership, log_kept=log_kept)

    @property
    def waits_for_disk(self) -> bool:
        """Whether this leader would commit more if all that its log has were on its own disk."""
        return self.role == LEADER and leader.held_by_majority(self, self.log.last_index) > self.commit_index

    @property
    def someone_fetches(self) -> bool:
        """Whether this leader knows of a member that needs a snapshot, and will need the log from there on."""
        return any(progress.state == CUT and leader.is_active(self, peer) for peer, progress in self.progress.items())

    def persisted(self, index: int, term: int) -> None:
        """The entries of a Ready are on this node's disk; `index` and `term` are those of the last of them.

        To be called once for each Ready that had entries, in their order. Of entries that have been replaced since,
        or will be by a write that is still under way, only those before the replaced ones count as this node's copy.
        """
        lasting_index = self._writes.ended(index, term)
        if lasting_index > self.log.durable_index:
            self.log.durable_index = lasting_index
            if self.role == LEADER:
                leader.maybe_commit(self)

    def applied(self, index: int) -> None:
        """The state machine has applied everything up to `index`."""
        if not self.applied_index <= index <= self.commit_index:
            raise InvariantBroken(f"applied {index}, before {self.applied_index}, committed {self.commit_index}")
        self.applied_index = index

    def unreachable(self, node_id: str) -> None:
        """The link to a member broke: what was under way may be lost."""
        progress = self.progress.get(node_id)
        if self.role == LEADER and progress is not None:
            progress.back_to_probe()
            self.replicate_due = True

    # -- output ------------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `take_ready` has anything to give."""
        return bool(
            self.send_now
            or self._unstable
            or self.replicate_due
            or self.commit_index > self._handed_out
            or self.send_after_persist
            or self._read_states
            or self._reads_failed
            or self.reads.round_due
            or (self.term, self.vote) != self._told_hard_state
            or (self.role, self.leader, self.term) != self._told_leadership
            or self.membership is not self._told_membership
            or self.snapshot_wanted
        )

    def take_ready(self) -> Ready:
        """What is to be done now; see `ready`. It counts as handed out: it has to be carried out whole, in order."""
        if self.role == LEADER:
            leader.replicate(self)
        led, leadership = self._told_leadership.role == LEADER, self._changed_leadership()
        # Whoever waits for a deposed leader's entries has to hear of it before others are applied in their place.
        committed = [] if led and leadership is not None else self._take_committed()
        ready = Ready(
            hard_state=self._changed_hard_state(),
            segments=self._unstable,
            send_now=self.send_now,
            send_after_persist=self.send_after_persist,
            committed=committed,
            reads=self._read_states,
            reads_failed=self._reads_failed,
            leadership=leadership,
            membership=None if self.membership is self._told_membership else self.membership,
            snapshot_wanted=self.snapshot_wanted,
        )
        self._told_membership = self.membership
        self.snapshot_wanted = 0
        if self._unstable:
            self._writes.began(self._unstable[-1])
        self._unstable = []
        self.send_now = []
        self.send_after_persist = []
        self._read_states = []
        self._reads_failed = []
        return ready

    def _changed_hard_state(self) -> HardState | None:
        if (self.term, self.vote) == self._told_hard_state and not self._unstable:
            return None     # the commit index alone is worth no write; it travels with the next entries
        self._told_hard_state = (self.term, self.vote)
        # A crash may leave this on the disk without the entries that follow it, and with those they were to replace.
        stored = self._unstable[0].first_index - 1 if self._unstable else self.commit_index
        return HardState(self.term, self.vote, min(self.commit_index, stored))

    def _changed_leadership(self) -> Leadership | None:
        now = Leadership(self.role, self.leader, self.term)
        if now == self._told_leadership:
            return None
        self._told_leadership = now
        return now

    def _take_committed(self) -> list[Segment]:
        if self.commit_index <= self._handed_out:
            return []
        committed = self.log.from_to(self._handed_out + 1, self.commit_index)
        self._handed_out = committed[-1].last_index
        return committed

    # -- terms (thesis 3.3) ------------------------------------------------------------------------------------------

    def become_follower(self, term: int, leader_id: str) -> None:
        """Enter `term`, or give up a candidacy or leadership within it, and follow `leader_id` (empty: not known)."""
        require(term >= self.term, f"term {self.term} goes back to {term}")
        if term > self.term:
            self.term = term
            self.vote = NOBODY
        self.reads.leadership_changed()
        self.lease.reset()
        self.transferee = NOBODY
        if self.role == LEADER:
            self.since_leader = self.config.election_ticks      # nobody's lease hangs on this node's own silence
        self.role = self._passive_role()
        self.leader = leader_id
        self.verified_index = 0
        self.progress = {}
        self.uncommitted.clear()
        self.replicate_due = False
        self.elapsed = 0
        self.draw_timeout()

    def _passive_role(self) -> int:
        return FOLLOWER if self.history.may_campaign(self.node_id) else LEARNER

    # -- what the rules use ------------------------------------------------------------------------------------------

    def draw_timeout(self) -> None:
        """A fresh random election timeout (thesis 3.4): no two members campaign together for long."""
        self.election_timeout = self.config.election_ticks + self.rng.randrange(self.config.election_ticks)

    def send(self, message: Message) -> None:
        """Queue a message that promises nothing about this node's disk."""
        self.send_now.append(message)

    def send_once_durable(self, message: Message) -> None:
        """Queue a message that leaves once everything decided so far is on this node's disk."""
        self.send_after_persist.append(message)

    def store(self, segment: Segment) -> None:
        """Append to the log, and have it persisted."""
        self.log.append(segment)
        self._unstable.append(segment)
        body = segment.batch.config
        if body is not None:
            self.history.append(segment.first_index, Membership.decode(body))
            self.membership_changed()

    def membership_changed(self) -> None:
        """The log says something else of the members than before; it counts at once (thesis 4.1)."""
        self.membership = self.history.newest
        self.peers = self.membership.peers_of(self.node_id)
        if self.role == LEADER:
            leader.members_changed(self)
        elif self.role in (FOLLOWER, LEARNER):
            self.role = self._passive_role()
        elif not self.history.may_campaign(self.node_id):
            self.become_follower(self.term, NOBODY)

    def cut_conflict(self, from_index: int) -> None:
        """Drop the entries from `from_index` on: they are another leader's and were never committed (paper 5.3)."""
        require(from_index > self.commit_index, f"entry {from_index} is committed and cannot be replaced")
        self.log.truncate(from_index)
        self._writes.replaced(from_index)
        kept = [s for s in self._unstable if s.first_index < from_index]
        if kept and kept[-1].last_index >= from_index:
            kept[-1] = kept[-1].slice(kept[-1].first_index, from_index - 1)
        self._unstable = kept
        if self.history.truncate(from_index):
            self.membership_changed()

    def drop_log(self) -> None:
        """Nothing that was handed out to be written belongs to the log any more."""
        require(not self._unstable, "entries that were never handed out are dropped")
        self._writes.replaced(1)

    def skip_to(self, index: int) -> None:
        """The state machine has the entries up to `index` from elsewhere."""
        self.commit_index = self.verified_index = max(self.commit_index, index)
        self.applied_index = self._handed_out = index
        self.restoring = 0

    def commit_to(self, index: int) -> None:
        """The entries up to `index` are committed."""
        if index > self.commit_index:
            if index > self.log.last_index:
                raise InvariantBroken(f"commit index {index} is behind the log's end {self.log.last_index}")
            self.commit_index = index
            if self.history.committed(index) and self.role in (FOLLOWER, LEARNER):
                self.role = self._passive_role()

    def answer_read(self, context: int, index: int) -> None:
        """A read asked for here is confirmed."""
        self._read_states.append(ReadState(context, index))

    def fail_reads(self, contexts: list[int]) -> None:
        """Reads asked for here that nobody will confirm."""
        self._reads_failed += contexts


HANDLERS = {
    PRE_VOTE: election.heard_vote_request,
    VOTE: election.heard_vote_request,
    PRE_VOTE_REPLY: election.heard_vote_reply,
    VOTE_REPLY: election.heard_vote_reply,
    APPEND: follower.heard_append,
    HEARTBEAT: follower.heard_heartbeat,
    APPEND_REPLY: leader.heard_append_reply,
    HEARTBEAT_REPLY: leader.heard_heartbeat_reply,
    READ_INDEX: leader.heard_read_index,
    READ_INDEX_REPLY: follower.heard_read_index_reply,
    TIMEOUT_NOW: follower.heard_timeout_now,
    SNAPSHOT: snapshots.heard_snapshot,
}
