"""A few `Raft` objects, their disks and the messages between them, all in the hands of the test.

Nothing happens by itself: a message is delivered, a disk is synced, a tick passes when the test says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, EntryBatch, encode_command
from fastkv.log_types import HardState, Segment
from fastkv.raft import Member, Membership, Message, Raft, RaftConfig, RaftLog, Ready


def batch(*keys: str) -> EntryBatch:
    """One PUT for each key."""
    builder = BatchBuilder()
    for key in keys:
        builder.append(Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key.encode(), b""))
    return builder.take()


def run_of(first_index: int, term: int, count: int = 1) -> Segment:
    """A segment of `count` no-ops."""
    builder = BatchBuilder()
    for _ in range(count):
        builder.append(Kind.NOOP, b"")
    return Segment(first_index, term, builder.take())


def log_of(*terms: int) -> list[Segment]:
    """A log whose entry `i` is of term `terms[i - 1]`, one entry a segment."""
    return [run_of(index, term) for index, term in enumerate(terms, 1)]


def members(*names: str) -> Membership:
    """Everybody votes."""
    return Membership.of(Member(name) for name in names)


def membership_at(raft: Raft, index: int) -> Membership:
    """What is in force once the entries up to `index` are applied, and none after; `index` is no old one."""
    known = raft.history._entries
    return next((membership for at, membership in reversed(known) if at <= index), known[0][1])


class NothingEvicted:
    """A reader for logs that are all in memory."""

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        raise AssertionError(f"entries {first} to {last} are in memory")

    def term_at(self, index: int) -> int:
        raise AssertionError(f"entry {index} is in memory")


class Disk:
    """What a member has persisted, and what is under way to it. It is the reader of what the member evicts."""

    def __init__(self, hard_state: HardState | None = None, segments: Iterable[Segment] = ()) -> None:
        self.hard_state = hard_state or HardState()
        self.segments = list(segments)
        self.base_index = 0
        """Up to here the member has cut its log: its state machine has a checkpoint there."""
        self.base_term = 0
        self.membership = Membership()
        """At the base."""
        self.under_way: list[Ready] = []

    def write(self, ready: Ready) -> None:
        """One write has arrived."""
        for record in records(ready):
            self.write_record(record)

    def write_record(self, record: HardState | Segment) -> None:
        if isinstance(record, HardState):
            self.hard_state = record
            return
        kept = [s for s in self.segments if s.first_index < record.first_index]
        if kept and kept[-1].last_index >= record.first_index:
            kept[-1] = kept[-1].slice(kept[-1].first_index, record.first_index - 1)
        self.segments = [*kept, record]

    def crash(self, survivors: int) -> None:
        """The power goes. Of what was under way, the first `survivors` records happen to be on the disk."""
        for record in [record for ready in self.under_way for record in records(ready)][:survivors]:
            self.write_record(record)
        self.under_way.clear()

    def cut(self, index: int, term: int) -> None:
        for at, body in self.configurations():
            if at <= index:
                self.membership = Membership.decode(body)
        self.base_index, self.base_term = index, term

    def install(self, index: int, term: int, membership: Membership, *, log_kept: bool) -> None:
        """A snapshot takes the place of the entries up to `index`, and of those behind where the log is another one."""
        if not log_kept:
            self.segments = []
        self.base_index, self.base_term, self.membership = index, term, membership

    def configurations(self) -> list[tuple[int, bytes]]:
        """What the entries behind the base say of the membership."""
        found = [(s.first_index, s.batch.config) for s in self.segments if s.first_index > self.base_index]
        return [(index, body) for index, body in found if body is not None]

    def terms(self) -> list[int]:
        return [segment.term for segment in self.segments for _ in range(segment.batch.count)]

    def read(self, first: int, last: int, max_bytes: int) -> list[Segment]:
        """At most three runs at a time, so that readers meet answers that are not all they asked for."""
        assert first > self.base_index, f"entry {first} is cut"
        runs = [s for s in self.segments if s.last_index >= first and s.first_index <= last][:3]
        assert runs, f"entry {first} is not on the disk"
        return [run.slice(max(first, run.first_index), min(last, run.last_index)) for run in runs]

    def term_at(self, index: int) -> int:
        return self.read(index, index, 0)[0].term


def records(ready: Ready) -> list[HardState | Segment]:
    """What a log store writes of a Ready, in its order. A crash may come between any two."""
    return [*([] if ready.hard_state is None else [ready.hard_state]), *ready.segments]


class Cluster:
    """Members by name. `wire` holds what was sent and not yet delivered, in order."""

    def __init__(self, *names: str, seed: int = 1, **settings: int | bool) -> None:
        self.names = names
        self.settings = settings
        self.rng = random.Random(seed)
        self.wire: list[Message] = []
        self.disks = {name: Disk() for name in names}
        self.rafts: dict[str, Raft] = {}
        self.readies: dict[str, list[Ready]] = {name: [] for name in names}
        self.applied: dict[str, int] = dict.fromkeys(names, 0)
        for name in names:
            self.disks[name].membership = members(*names)
            self.start(name)

    def join(self, name: str) -> None:
        """A new machine, that knows nobody and waits to be added."""
        self.names = (*self.names, name)
        self.disks[name] = Disk()
        self.readies[name] = []
        self.start(name)

    def start(self, name: str, *, in_memory: int | None = None) -> None:
        """Start, or start again, from what is on the disk; with only the newest `in_memory` runs in memory."""
        disk = self.disks[name]
        disk.under_way.clear()
        config = RaftConfig(name, **self.settings)  # type: ignore[arg-type]
        runs = [s.slice(max(s.first_index, disk.base_index + 1), s.last_index) for s in disk.segments
                if s.last_index > disk.base_index]
        newest = runs if in_memory is None else runs[max(0, len(runs) - max(1, in_memory)):]
        log = RaftLog(disk.base_index, disk.base_term, newest, disk)
        self.rafts[name] = Raft(
            config,
            disk.hard_state,
            log,
            self.rng,
            membership=disk.membership,
            applied=disk.base_index,
            configurations=disk.configurations(),
        )
        self.applied[name] = disk.base_index

    def restore(self, name: str, source: str) -> int:
        """The member installs a snapshot of what `source` has applied; its index."""
        raft, other = self.rafts[name], self.rafts[source]
        index = other.applied_index
        term, membership = other.log.term(index), membership_at(other, index)
        assert term is not None, f"{source} does not know the term of entry {index}"
        self.settle(name)
        self.sync(name)
        kept = self.keeps_log(raft, index, term)
        self.disks[name].install(index, term, membership, log_kept=kept)
        raft.restored(index, term, membership, log_kept=kept)
        self.applied[name] = index
        self.settle(name)
        return index

    def keeps_log(self, raft: Raft, index: int, term: int) -> bool:
        """Whether a snapshot of that entry leaves the log behind it in place (thesis figure 5.3)."""
        return raft.log.matches(index, term)

    def settle(self, name: str) -> None:
        """Carry out what a member has ready; its writes stay under way until `sync`."""
        raft = self.rafts[name]
        while raft.has_ready():
            ready = raft.take_ready()
            self.readies[name].append(ready)
            self.wire += ready.send_now
            self.disks[name].under_way.append(ready)
            for segment in ready.committed:
                assert segment.first_index == self.applied[name] + 1
                self.applied[name] = segment.last_index
                raft.applied(segment.last_index)

    def sync(self, name: str, writes: int | None = None) -> None:
        """The disk has the first `writes` writes (all of them by default): tell Raft, and send what waited."""
        disk, raft = self.disks[name], self.rafts[name]
        for _ in range(len(disk.under_way) if writes is None else writes):
            ready = disk.under_way.pop(0)
            disk.write(ready)
            if ready.segments:
                raft.persisted(ready.segments[-1].last_index, ready.segments[-1].term)
            self.wire += ready.send_after_persist
        self.settle(name)

    def deliver(self, chosen: Callable[[Message], bool] = lambda message: True) -> list[Message]:
        """Deliver the messages on the wire that are `chosen`; answers to them stay on the wire."""
        now = [message for message in self.wire if chosen(message)]
        self.wire = [message for message in self.wire if not chosen(message)]
        for message in now:
            self.rafts[message.to].step(message)
            self.settle(message.to)
        return now

    def calm(self, *, without: Iterable[str] = ()) -> None:
        """Deliver and sync until nothing moves; messages from and to `without` are lost."""
        lost = set(without)
        for _ in range(1000):
            for name in self.names:
                if name not in lost:
                    self.settle(name)
                    while self.disks[name].under_way:
                        self.sync(name)
            self.wire = [m for m in self.wire if m.frm not in lost and m.to not in lost]
            if not self.wire:
                return
            self.deliver()
        raise AssertionError("the messages never end")

    def elect(self, name: str, *, without: Iterable[str] = ()) -> Raft:
        """Make a member leader, by its campaign."""
        self.rafts[name].campaign()
        self.calm(without=without)
        return self.rafts[name]

    def ticks(self, name: str, count: int) -> None:
        for _ in range(count):
            self.rafts[name].tick()
            self.settle(name)
