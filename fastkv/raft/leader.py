"""The leader: replication (thesis 3.5, pipelined as in 10.2.1), the commit rule (3.6.2), check-quorum (6.2)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from fastkv._core.entry import BatchBuilder, EntryBatch
from fastkv.log_types import Segment
from fastkv.raft import quorum, reconfigure, snapshots, transfer
from fastkv.raft.messages import APPEND, HEARTBEAT, Message
from fastkv.raft.progress import CUT, PROBE, REPLICATE, Progress
from fastkv.raft.types import LEADER, InvariantBroken

if TYPE_CHECKING:
    from fastkv.raft.raft import Raft

NOOP_KIND = 0


class Uncommitted:
    """Bytes that this leader has appended and that are not committed: what bounds its memory under overload."""

    __slots__ = ("_batches", "nbytes")

    def __init__(self) -> None:
        self.nbytes = 0
        self._batches: deque[tuple[int, int]] = deque()

    def has_room(self, nbytes: int, limit_bytes: int) -> bool:
        """Whether a batch may be appended; with nothing outstanding, one of any size may."""
        return self.nbytes == 0 or self.nbytes + nbytes <= limit_bytes

    def appended(self, last_index: int, nbytes: int) -> None:
        self._batches.append((last_index, nbytes))
        self.nbytes += nbytes

    def committed(self, index: int) -> None:
        while self._batches and self._batches[0][0] <= index:
            self.nbytes -= self._batches.popleft()[1]

    def clear(self) -> None:
        self._batches.clear()
        self.nbytes = 0


def take_office(raft: Raft) -> None:
    """Won: announce it, and open the term with an entry of our own.

    Only an entry of its own term tells a leader what is committed (thesis 3.6.2), so it appends a no-op at once.
    """
    raft.role = LEADER
    raft.leader = raft.node_id
    raft.elapsed = 0
    raft.heartbeat_elapsed = 0
    raft.verified_index = raft.log.last_index
    raft.progress = {peer: Progress(raft.log.last_index + 1, raft.ticks) for peer in raft.peers}
    raft.lease.reset()
    noop = BatchBuilder()
    noop.append(NOOP_KIND, b"")
    append(raft, noop.take())
    raft.mark = raft.newer_mark = raft.log.last_index


def append(raft: Raft, batch: EntryBatch) -> int:
    """Append a batch to the own log; the index of its first entry. It is sent and persisted with the next Ready."""
    first = raft.log.last_index + 1
    segment = Segment(first, raft.term, batch)
    raft.store(segment)
    raft.uncommitted.appended(segment.last_index, batch.nbytes)
    raft.replicate_due = True
    return first


def tick(raft: Raft) -> None:
    """Send heartbeats; step down without a quorum."""
    config = raft.config
    transfer.tick(raft)
    if raft.role != LEADER:
        return
    if raft.elapsed >= config.election_ticks:
        raft.elapsed = 0
        if config.check_quorum and not _quorum_active(raft):
            # A leader that is cut off must not keep its clients waiting (thesis 6.2).
            raft.become_follower(raft.term, "")
            return
        raft.mark, raft.newer_mark = raft.newer_mark, raft.log.last_index
        reconfigure.promote_learners(raft)
    raft.heartbeat_elapsed += 1
    if raft.heartbeat_elapsed >= config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        for progress in raft.progress.values():
            progress.check_due = True
        send_heartbeats(raft)


def _quorum_active(raft: Raft) -> bool:
    active = {peer: True for peer in (raft.node_id, *raft.peers) if is_active(raft, peer)}
    return quorum.tally(raft.membership.voters, active, raft.membership.outgoing) == quorum.WON


def is_active(raft: Raft, node_id: str) -> bool:
    """Whether a member has been heard from within an election timeout."""
    return was_heard(raft, node_id, raft.ticks - raft.config.election_ticks)


def was_heard(raft: Raft, node_id: str, since: int) -> bool:
    """Whether a member has been heard from at tick `since` or later."""
    if node_id == raft.node_id:
        return True
    progress = raft.progress.get(node_id)
    return progress is not None and progress.heard >= since


def caught_up(raft: Raft, node_id: str) -> bool:
    """Whether a member has what was the whole log one to two election timeouts ago, and so will soon have all of it.

    The rounds of thesis 4.2.1, with the clock for a measure: what is left to send takes less than an election timeout.
    """
    progress = raft.progress.get(node_id)
    return progress is not None and progress.state == REPLICATE and progress.match >= raft.mark


def heard_from(raft: Raft, peer: str) -> None:
    """A message of this term came from a member: it is there."""
    progress = raft.progress.get(peer)
    if progress is not None:
        progress.heard = raft.ticks


def members_changed(raft: Raft) -> None:
    """Who is new is sent the log, who is gone is not; and what makes a majority may be another number now."""
    # A new one's probe is the entry that brings it in.
    raft.progress = {
        peer: raft.progress.get(peer) or Progress(raft.log.last_index, raft.ticks) for peer in raft.peers
    }
    if raft.transferee not in raft.membership.voters:
        raft.transferee = ""
    raft.replicate_due = True
    maybe_commit(raft)


def send_heartbeats(raft: Raft) -> None:
    """To everybody, as a new round: an answer confirms that round and all before it."""
    context = raft.reads.begin_round()
    low_water = _low_water(raft)
    for peer in raft.peers:
        raft.send(
            Message(
                HEARTBEAT,
                raft.node_id,
                peer,
                raft.term,
                index=raft.progress[peer].match,
                commit=raft.commit_index,
                context=context,
                low_water=low_water,
            )
        )


def _low_water(raft: Raft) -> int:
    """What every member has on disk. It only grows: a member that is set back has lost its disk."""
    lowest = raft.log.durable_index
    for progress in raft.progress.values():
        if progress.match < lowest:
            lowest = progress.match
    raft.low_water = max(raft.low_water, lowest)
    return raft.low_water


def replicate(raft: Raft) -> None:
    """Before each Ready: start the read round that is due, and send every follower what its window allows."""
    raft.reads.start_round()
    if raft.replicate_due:
        raft.replicate_due = False
        for peer in raft.peers:
            send_entries(raft, peer)


def send_entries(raft: Raft, peer: str, *, even_empty: bool = False) -> None:
    """Send what the follower does not have yet, as far as probing or the window allow."""
    progress = raft.progress[peer]
    config = raft.config
    if progress.state == PROBE and progress.probing:
        return
    while progress.inflight_bytes < config.max_inflight_bytes:
        first = progress.next
        if first <= raft.log.base_index:
            if progress.state != CUT:       # else it was told, and is told again with every heartbeat that it answers
                _needs_snapshot(raft, peer)
            return
        segments = raft.log.slice(first, config.max_append_bytes, config.max_append_entries)
        if not segments and not even_empty:
            return
        _send_append(raft, peer, first - 1, segments)
        if segments or progress.state == PROBE:
            last = segments[-1].last_index if segments else first - 1
            progress.sent(last, sum(segment.nbytes for segment in segments))
        if progress.state == PROBE or not segments:
            return


def _needs_snapshot(raft: Raft, peer: str) -> None:
    raft.progress[peer].cut_off()
    snapshots.tell_cut(raft, peer)


def _send_append(raft: Raft, peer: str, prev_index: int, segments: list[Segment]) -> None:
    """Send the entries behind `prev_index`, which is in the log or its base."""
    prev_term = raft.log.term(prev_index)
    if prev_term is None:
        raise InvariantBroken(f"entry {prev_index} is neither in the log nor its base")
    raft.send(
        Message(
            APPEND,
            raft.node_id,
            peer,
            raft.term,
            index=prev_index,
            log_term=prev_term,
            commit=raft.commit_index,
            low_water=raft.low_water,
            segments=segments,
        )
    )


def heard_append_reply(raft: Raft, message: Message) -> None:
    """A follower has entries durable, or refuses because its log does not match."""
    progress = raft.progress.get(message.frm)
    if raft.role != LEADER or progress is None:
        return
    if message.reject:
        # Skip our own terms that the follower's log cannot have, too (paper 5.3, end).
        next_index = raft.log.last_not_above(message.hint_index, message.hint_term)[0] + 1
        if progress.refused(message.index, next_index):
            send_entries(raft, message.frm, even_empty=True)
        return
    if message.index > raft.log.last_index:
        return                      # not of this log: no member of this term can have it
    was_replicating = progress.state == REPLICATE
    if progress.acknowledged(message.index):
        if message.index > raft.commit_index:
            maybe_commit(raft)
        transfer.go_on(raft)
        if raft.progress.get(message.frm) is not progress:
            return                  # what was committed is its removal, or our own
    if not was_replicating or progress.next <= raft.log.last_index:
        send_entries(raft, message.frm)


def heard_heartbeat_reply(raft: Raft, message: Message) -> None:
    """The follower takes us for the leader: that confirms read rounds, and is the occasion to heal lost messages."""
    progress = raft.progress.get(message.frm)
    if raft.role != LEADER or progress is None:
        return
    raft.reads.acknowledged(message.frm, message.context)
    # Once an interval is enough, however many read rounds there are: entries that wait for a disk are not lost.
    if not progress.check_due:
        return
    progress.check_due = False
    if progress.next <= raft.log.base_index:
        _needs_snapshot(raft, message.frm)
    elif progress.state == PROBE or (progress.state == REPLICATE and progress.match < progress.next - 1):
        # A probe, or what was sent ahead, is not answered. Perhaps it is under way, perhaps it or the answer is lost:
        # an empty APPEND behind it finds out. It is acknowledged if everything before it is there, and else refused.
        _send_append(raft, message.frm, progress.next - 1, [])


def heard_read_index(raft: Raft, message: Message) -> None:
    """A follower asks for a read index on behalf of its clients."""
    if raft.role == LEADER:
        raft.reads.ask_for(message.frm, message.context)


def maybe_commit(raft: Raft) -> None:
    """Commit what a majority has on disk, if its last entry is of this term (thesis 3.6.2, figure 3.7)."""
    index = held_by_majority(raft, raft.log.durable_index)
    if index > raft.commit_index and raft.log.matches(index, raft.term):
        raft.commit_to(index)
        raft.uncommitted.committed(index)
        raft.reads.committed()
        reconfigure.go_on(raft)
        transfer.go_on(raft)


def held_by_majority(raft: Raft, own_index: int) -> int:
    """What a majority has on disk, if the leader itself has everything up to `own_index`."""
    matches = {peer: progress.match for peer, progress in raft.progress.items()}
    matches[raft.node_id] = own_index
    return quorum.reached(raft.membership.voters, matches, raft.membership.outgoing)
