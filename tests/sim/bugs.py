"""Known bugs, brought back on purpose: a simulator that has never caught anything proves nothing.

Each is a switch that changes production code while it is on, here and nowhere else. They are bugs that real systems
have had. `test_bugs` runs seeds until one breaks a promise, and `python -m tests.sim --bugs` says how many it takes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

from fastkv._core.codes import Kind, Status
from fastkv._core.entry import BatchBuilder, encode_session
from fastkv.kv.state import StateMachine
from fastkv.log_types import HardState, Segment
from fastkv.node.reads import Reads
from fastkv.node.writes import Proposals
from fastkv.raft import LEADER, Message, NotLeader, Raft, election, follower, leader, quorum, raft, reconfigure
from fastkv.raft.lease import Lease
from fastkv.raft.membership import Change, plan
from fastkv.raft.messages import PRE_VOTE_REPLY, VOTE_REPLY
from fastkv.raft.reads import ReadRounds
from fastkv.storage.memory_log import MemoryLogStore
from fastkv.storage.memory_store import MemoryImage, MemoryStore
from tests.sim.events import MS
from tests.sim.plan import draw
from tests.sim.process import Process
from tests.sim.world import Violation, World

Switch = Callable[[], AbstractContextManager[Any]]


class Bug(NamedTuple):
    """What it is, a context in which it is there, and what a plan has to be like for it to show soon."""

    what: str
    switch: Switch
    hunt: dict[str, Any]


BUGS: dict[str, Bug] = {}
WEATHER = (("weather", 2), ("crash leader", 2), ("scatter", 1), ("split", 1))


def bug(name: str, what: str, **hunt: Any) -> Callable[[Switch], Switch]:
    """Register a switch."""

    def register(switch: Switch) -> Switch:
        BUGS[name] = Bug(what, switch, hunt)
        return switch

    return register


@bug("vote-not-synced", "a vote is said before it is on the disk, and forgotten in a crash")
def _() -> AbstractContextManager[Any]:
    append = MemoryLogStore.append

    def forgetful(self: MemoryLogStore, hard_state: HardState | None, segments: list[Segment]) -> int:
        if hard_state is not None and not segments:
            hard_state = None
        return append(self, hard_state, segments)

    return mock.patch.object(MemoryLogStore, "append", forgetful)


@bug("old-term-commit", "an entry of an earlier term is committed by counting its copies (paper figure 8)")
def _() -> AbstractContextManager[Any]:
    def maybe_commit(self: Raft) -> None:
        matches = {peer: progress.match for peer, progress in self.progress.items()}
        matches[self.node_id] = self.log.durable_index
        index = quorum.reached(self.membership.voters, matches, self.membership.outgoing)
        if index > self.commit_index:
            self.commit_to(index)
            self.uncommitted.committed(index)
            self.reads.committed()

    return mock.patch.object(leader, "maybe_commit", maybe_commit)


@bug("read-at-boot", "a new leader answers reads before it has committed an entry of its own term")
def _() -> AbstractContextManager[Any]:
    return mock.patch.object(ReadRounds, "knows_commit", return_value=True)


@bug("reused-read-context", "a later read is asked for under the same context as an earlier one")
def _() -> AbstractContextManager[Any]:
    put = Reads._put

    def put_again(self: Reads, now: int) -> None:
        self._last_context = 0
        put(self, now)

    return mock.patch.object(Reads, "_put", put_again)


@bug("truncates-always", "what a leader sends replaces all that follows, also where it is a late, shorter message")
def _() -> AbstractContextManager[Any]:
    def take(self: Raft, segment: Segment) -> None:
        first = max(segment.first_index, self.commit_index + 1)
        if first <= self.log.last_index:
            self.cut_conflict(first)
        if first <= segment.last_index:
            self.store(segment.slice(first, segment.last_index))

    return mock.patch.object(follower, "_take", take)


@bug("ack-before-sync", "entries are acknowledged before they are on the disk")
def _() -> AbstractContextManager[Any]:
    return mock.patch.object(Raft, "send_once_durable", Raft.send)


@bug("votes-counted-twice", "a vote that arrives twice counts twice", faults=WEATHER, fault_us=(10 * MS, 60 * MS))
def _() -> AbstractContextManager[Any]:
    def heard_vote_reply(self: Raft, message: Message) -> None:
        if self.votes.get(message.frm) and not message.reject:
            unheard = [voter for voter in self.membership.voters if voter not in self.votes]
            if unheard:
                message.frm = unheard[0]
        election.heard_vote_reply(self, message)

    return mock.patch.dict(raft.HANDLERS, {VOTE_REPLY: heard_vote_reply, PRE_VOTE_REPLY: heard_vote_reply})


@bug(
    "lease-kept",
    "a leader that hands over goes on answering reads by its lease",
    lease_reads=True,
    changes=(("transfer from a leader that is cut off", 1),),
    change_us=(20 * MS, 100 * MS),
)
def _() -> AbstractContextManager[Any]:
    return mock.patch.object(Lease, "give_up", return_value=None)


@bug("sync-tried-again", "a sync that failed is tried again, and succeeds; what it was for is gone")
def _() -> AbstractContextManager[Any]:
    def fail_disk(self: Process) -> None:
        """What the kernel does: the pages are marked clean, and the next sync has nothing to write."""
        self.machine.disk.under_way.clear()

    return mock.patch.object(Process, "fail_disk", fail_disk)


@bug(
    "read-without-round",
    "a leader answers reads without asking anybody whether it still leads",
    faults=(("cut off leader", 1),),
    lasting_us=300 * MS,
)
def _() -> AbstractContextManager[Any]:
    def start_round(self: ReadRounds) -> None:
        if self._unsent:
            self._confirm(self.begin_round())

    return mock.patch.object(ReadRounds, "start_round", start_round)


@bug("unknown-as-not-done", "writes that a deposed leader had appended are said not to have been done")
def _() -> AbstractContextManager[Any]:
    fail_all = Proposals.fail_all
    return mock.patch.object(
        Proposals, "fail_all", lambda self, applied_index, status: fail_all(self, applied_index, Status.NO_LEADER)
    )


@bug("sessions-not-in-snapshot", "a snapshot leaves out the clients' sessions")
def _() -> AbstractContextManager[Any]:
    make_image = MemoryStore._make_image

    def forgetful(self: MemoryStore) -> MemoryImage:
        disk, sessions = self._disk, self._disk.sessions
        disk.sessions = {}
        try:
            return make_image(self)
        finally:
            disk.sessions = sessions

    return mock.patch.object(MemoryStore, "_make_image", forgetful)


@bug("hasty-change", "members change in one step, by a leader that does not know yet what is committed (Ongaro, 2015)")
def _() -> AbstractContextManager[Any]:
    def propose(self: Raft, change: Change, since: int | None = None) -> int:
        if self.role != LEADER:
            raise NotLeader(self.leader)
        planned = plan(self.membership, change)
        return reconfigure._append(self, planned.final() if planned.outgoing else planned)

    return mock.patch.object(reconfigure, "propose", propose)


@bug("expiry-by-local-clock", "a node drops sessions when its own clock says so, not the log")
def _() -> AbstractContextManager[Any]:
    tick, apply = StateMachine.tick, StateMachine.apply

    def count(self: StateMachine) -> None:
        self.__dict__["ticks"] = self.__dict__.get("ticks", 0) + 1
        tick(self)

    def expire(self: StateMachine, segment: Segment, first: int, last: int, results: Any) -> None:
        if self.__dict__.get("ticks", 0) % 64 >= 48:        # by now all that are open are too old
            builder = BatchBuilder()
            for entry in segment.batch.entries():
                builder.append(entry.kind, encode_session(1) if entry.kind == Kind.ENTRY_SESSION else entry.body)
            segment = Segment(segment.first_index, segment.term, builder.take())
        apply(self, segment, first, last, results)

    return mock.patch.multiple(StateMachine, tick=count, apply=expire)


STARTS = 5
LIMIT = 200


def seeds_until_caught(
    name: str, *, first: int = 0, limit: int = LIMIT, operations: int = 2000, nodes: int = 5, hunted: bool = False
) -> tuple[int, str] | None:
    """How many seeds it takes from `first` on, and what caught it; None where `limit` seeds do not.

    `hunted`: in plans that are like those of any seed but for what this bug needs to show.
    """
    with BUGS[name].switch():
        for seed in range(first, first + limit):
            plan = replace(draw(seed), **BUGS[name].hunt) if hunted else None
            try:
                World(seed, nodes=nodes, plan=plan).run(operations=operations)
            except Violation as violation:
                return seed - first + 1, str(violation)
    return None


def seeds_of_all_starts(name: str) -> list[int | None]:
    """How many seeds it takes from each of several first seeds on."""
    found = [seeds_until_caught(name, first=1000 * start) for start in range(1, STARTS + 1)]
    return [None if caught is None else caught[0] for caught in found]


def table(taken: dict[str, list[int | None]]) -> str:
    """The table of `docs/testing.md`."""
    lines = ["| switch | the bug | seeds until caught: median (each start) |", "|---|---|---|"]
    for name, seeds in taken.items():
        median = statistics.median(LIMIT + 1 if count is None else count for count in seeds)
        each = ", ".join(f"> {LIMIT}" if count is None else str(count) for count in seeds)
        lines.append(f"| `{name}` | {BUGS[name].what} | {median:g} ({each}) |")
    return "\n".join(lines)
