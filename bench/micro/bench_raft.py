"""The consensus core, which is interpreted: what one decision costs, without network and disk.

What it costs does not depend on how many entries a batch has, so a decision is the unit here: share it by the entries
in a batch.
"""

from __future__ import annotations

import random
from itertools import count

from bench.micro.data import batch_of
from bench.micro.measure import Measure
from fastkv._core.entry import EntryBatch
from fastkv.log_types import HardState, Segment
from fastkv.raft import FOLLOWER, LEADER, Member, Membership, Message, Raft, RaftConfig, RaftLog, Ready
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT, HEARTBEAT_REPLY, PRE_VOTE_REPLY, VOTE_REPLY

NAMES = ("a", "b", "c")
BATCH = 16
LOG_MEMORY_BYTES = 16 << 20
"""What is applied is evicted beyond that, as a node does it."""


class NothingEvicted:
    """The reader of a log that nobody asks for what it has evicted."""

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        raise AssertionError(f"entries {first} to {last} are evicted")

    def term_at(self, index: int) -> int:
        raise AssertionError(f"entry {index} is evicted")


def new_member(name: str) -> Raft:
    """One of three, that has just started for the first time."""
    return Raft(
        RaftConfig(name),
        HardState(),
        RaftLog(0, 0, [], NothingEvicted()),
        random.Random(name),
        membership=Membership.of(Member(other) for other in NAMES),
    )


def carry_out(raft: Raft) -> Ready:
    """Take what is ready. The disk is done at once, the state machine too."""
    ready = raft.take_ready()
    if ready.segments:
        raft.persisted(ready.segments[-1].last_index, ready.segments[-1].term)
    if ready.committed:
        raft.applied(ready.committed[-1].last_index)
    return ready


def trim(raft: Raft) -> None:
    if raft.log.nbytes_in_memory > LOG_MEMORY_BYTES:
        raft.log.evict(raft.applied_index)


def acknowledge(raft: Raft, *peers: str) -> None:
    """Followers have the whole log on their disks."""
    for peer in peers:
        raft.step(Message(APPEND_REPLY, peer, raft.node_id, raft.term, index=raft.log.last_index))


def new_leader() -> Raft:
    """The leader of three, whose first entry everybody has."""
    raft = new_member("a")
    raft.campaign()
    raft.step(Message(PRE_VOTE_REPLY, "b", "a", raft.term + 1))
    raft.step(Message(VOTE_REPLY, "b", "a", raft.term))
    carry_out(raft)
    acknowledge(raft, "b", "c")
    carry_out(raft)
    assert (raft.role, raft.commit_index) == (LEADER, 1)
    return raft


def new_follower() -> Raft:
    """A follower of `b`, with an empty log."""
    raft = new_member("a")
    raft.step(Message(HEARTBEAT, "b", "a", 1))
    carry_out(raft)
    assert (raft.role, raft.leader) == (FOLLOWER, "b")
    return raft


def bench_commit(measure: Measure) -> None:
    """A leader of three takes a proposal, sends it, has it on its disk, and hears of both followers' disks."""
    raft, batch = new_leader(), batch_of(BATCH)

    def commit() -> list[Segment]:
        raft.propose(batch)
        sent = carry_out(raft)
        assert len(sent.send_now) == 2
        acknowledge(raft, "b")
        committed = carry_out(raft).committed
        acknowledge(raft, "c")
        assert not raft.has_ready()
        trim(raft)
        return committed

    (segment,) = measure.repeat(commit)
    assert segment.batch is batch
    assert raft.commit_index == raft.log.last_index == segment.last_index


def bench_commit_of_eight_in_a_row(measure: Measure) -> None:
    """The same with eight proposals under way before the first is acknowledged: pipelined, as under load; for each."""
    raft, batch = new_leader(), batch_of(BATCH)

    def commit() -> list[Segment]:
        first = raft.log.last_index + 1
        for _ in range(8):
            raft.propose(batch)
            carry_out(raft)
        committed: list[Segment] = []
        for number in range(1, 9):
            for peer in ("b", "c"):
                raft.step(Message(APPEND_REPLY, peer, "a", raft.term, index=first - 1 + number * BATCH))
                if raft.has_ready():
                    committed += carry_out(raft).committed
        trim(raft)
        return committed

    assert len(measure.repeat(commit, operations=8)) == 8
    assert raft.commit_index == raft.log.last_index


def bench_append(measure: Measure) -> None:
    """A follower takes an AppendEntries, has it on its disk, and learns of the commit of the one before."""
    raft, batch = new_follower(), batch_of(BATCH)

    def append() -> Ready:
        last = raft.log.last_index
        raft.step(
            Message(
                APPEND, "b", "a", 1,
                index=last, log_term=raft.log.last_term, commit=last, segments=[Segment(last + 1, 1, batch)],
            )
        )  # fmt: skip
        ready = carry_out(raft)
        trim(raft)
        return ready

    append()
    ready = measure.repeat(append)
    (reply,) = ready.send_after_persist
    assert (reply.kind, reply.reject, reply.index) == (APPEND_REPLY, False, raft.log.last_index)
    assert ready.committed[-1].last_index == raft.log.last_index - BATCH


def bench_election(measure: Measure) -> None:
    """All three members, from the first pre-vote to the first commit: everything that is said and stored."""

    def setup() -> dict[str, Raft]:
        return {name: new_member(name) for name in NAMES}

    def elect(members: dict[str, Raft]) -> dict[str, Raft]:
        members["a"].campaign()
        wire: list[Message] = []
        while any(raft.has_ready() for raft in members.values()) or wire:
            for message in wire:
                members[message.to].step(message)
            wire = []
            for raft in members.values():
                if raft.has_ready():
                    ready = carry_out(raft)
                    wire += ready.send_now + ready.send_after_persist
        return members

    members = measure.fresh(elect, setup, operations=1, rounds=500)
    assert [raft.role for raft in members.values()] == [LEADER, FOLLOWER, FOLLOWER]
    assert members["a"].commit_index == 1
    assert {raft.log.last_index for raft in members.values()} == {1}


def heartbeat_replies(raft: Raft, heartbeats: list[Message]) -> None:
    for message in heartbeats:
        raft.step(
            Message(
                HEARTBEAT_REPLY, message.to, "a", message.term, index=raft.log.last_index, context=message.context
            )
        )


def bench_read_index(measure: Measure) -> None:
    """A round for a batch of reads: asked for, sent, answered by both followers, confirmed by the first."""
    raft, contexts = new_leader(), count(1)

    def read() -> Ready:
        raft.read(next(contexts))
        heartbeats = carry_out(raft).send_now
        heartbeat_replies(raft, heartbeats[:1])
        confirmed = carry_out(raft)
        heartbeat_replies(raft, heartbeats[1:])
        assert not raft.has_ready()
        return confirmed

    (state,) = measure.repeat(read).reads
    assert (state.index, state.context) == (1, next(contexts) - 1)


def bench_tick_of_an_idle_leader(measure: Measure) -> None:
    """A heartbeat interval: five ticks, one round of heartbeats and its answers; for each tick."""
    raft = new_leader()
    ticks = raft.config.heartbeat_ticks

    def interval() -> int:
        sent = 0
        for _ in range(ticks):
            raft.tick()
            if raft.has_ready():
                heartbeats = carry_out(raft).send_now
                sent += len(heartbeats)
                heartbeat_replies(raft, heartbeats)
        return sent

    assert measure.repeat(interval, operations=ticks) == 2
    assert raft.role == LEADER


def bench_tick_of_an_idle_follower(measure: Measure) -> None:
    """The same interval on the other side: five ticks, one heartbeat answered; for each tick."""
    raft = new_follower()
    ticks = raft.config.heartbeat_ticks
    rounds = count(1)

    def interval() -> int:
        raft.step(Message(HEARTBEAT, "b", "a", 1, context=next(rounds)))
        answered = 0
        for _ in range(ticks):
            raft.tick()
            if raft.has_ready():
                answered += len(carry_out(raft).send_now)
        return answered

    assert measure.repeat(interval, operations=ticks) == 1
    assert raft.leader == "b"


def bench_proposal_alone(measure: Measure) -> None:
    """A cluster of one: what of a commit is not about others."""
    raft = Raft(
        RaftConfig("a"),
        HardState(),
        RaftLog(0, 0, [], NothingEvicted()),
        random.Random(1),
        membership=Membership.of([Member("a")]),
    )
    raft.campaign()
    while raft.has_ready():
        carry_out(raft)
    batch: EntryBatch = batch_of(BATCH)

    def commit() -> list[Segment]:
        raft.propose(batch)
        carry_out(raft)
        committed = carry_out(raft).committed
        trim(raft)
        return committed

    (segment,) = measure.repeat(commit)
    assert segment.batch is batch
