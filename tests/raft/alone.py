"""One member, with the test in the place of everybody else: what it hears, and what it says and stores in answer."""

from __future__ import annotations

import random

from fastkv.log_types import HardState, Segment
from fastkv.raft import LEADER, Message, Raft, RaftConfig, RaftLog, ReadState
from fastkv.raft.messages import APPEND, APPEND_REPLY, HEARTBEAT, PRE_VOTE_REPLY, VOTE_REPLY
from tests.raft.harness import Disk, batch, members

FIELDS = ("index", "log_term", "commit", "reject", "hint_index", "hint_term", "context", "low_water", "segments")


class Alone:
    """Member `name` with a durable log of these terms. Its disk is done before anybody hears of it again.

    An election timeout has passed since it started, so that it votes. `vote=None` keeps its `term` free.
    """

    def __init__(
        self,
        *terms: int,
        name: str = "a",
        others: str = "bc",
        term: int | None = None,
        vote: str = "",
        commit: int = 0,
        seed: int = 1,
        **settings: int | bool,
    ) -> None:
        self.name = name
        self.others = tuple(others)
        self.settings = settings
        self.rng = random.Random(seed)
        self.disk = Disk(HardState(max(terms, default=0) if term is None else term, vote, commit))
        for index, entry_term in enumerate(terms, 1):
            self.disk.write_record(entry(index, entry_term))
        self.disk.membership = members(name, *others)
        self.applied: list[Segment] = []
        self.reads: list[ReadState] = []
        self.reads_failed: list[int] = []
        self.start()

    def start(self) -> None:
        """Start, or start again, from what is on the disk."""
        config = RaftConfig(self.name, **self.settings)  # type: ignore[arg-type]
        disk = self.disk
        disk.under_way.clear()
        log = RaftLog(disk.base_index, disk.base_term, disk.segments, disk)
        self.raft = Raft(
            config,
            disk.hard_state,
            log,
            self.rng,
            membership=disk.membership,
            applied=disk.base_index,
            configurations=disk.configurations(),
        )
        self.raft.since_leader = config.election_ticks
        self.applied = []

    @property
    def terms(self) -> list[int]:
        """The log, as the terms of its entries."""
        log = self.raft.log
        return [log.term(index) or 0 for index in range(log.base_index + 1, log.last_index + 1)]

    def decide(self) -> tuple[list[Message], list[Message]]:
        """Take what is ready, and leave its disk at work: what it sends at once, and what only after that."""
        now: list[Message] = []
        later: list[Message] = []
        raft = self.raft
        while raft.has_ready():
            ready = raft.take_ready()
            self.disk.under_way.append(ready)
            now += ready.send_now
            later += ready.send_after_persist
            self.reads += ready.reads
            self.reads_failed += ready.reads_failed
            self.applied += ready.committed
            if ready.committed:
                raft.applied(ready.committed[-1].last_index)
        return now, later

    def sync(self) -> None:
        """Its disk has everything."""
        for ready in self.disk.under_way:
            self.disk.write(ready)
            if ready.segments:
                self.raft.persisted(ready.segments[-1].last_index, ready.segments[-1].term)
        self.disk.under_way.clear()

    def act(self) -> list[Message]:
        """Carry out everything that is ready; what it has said."""
        said: list[Message] = []
        while self.raft.has_ready() or self.disk.under_way:
            now, later = self.decide()
            self.sync()
            said += [*now, *later]
        return said

    def hear(self, kind: int, frm: str, term: int, **fields: object) -> list[Message]:
        """A message comes; what it says to that."""
        self.raft.step(Message(kind, frm, self.name, term, **fields))  # type: ignore[arg-type]
        return self.act()

    def hear_append(self, frm: str, term: int, index: int, log_term: int, *new: int, commit: int = 0) -> list[Message]:
        """An APPEND of entries of the terms `new` behind entry `index`; what it says to that."""
        segments = [entry(at, entry_term) for at, entry_term in enumerate(new, index + 1)]
        return self.hear(APPEND, frm, term, index=index, log_term=log_term, commit=commit, segments=segments)

    def hear_leader(self, frm: str, term: int) -> list[Message]:
        """A heartbeat that says nothing but who leads."""
        return self.hear(HEARTBEAT, frm, term)

    def acknowledge(self, frm: str, index: int) -> list[Message]:
        """A follower has everything up to `index` on its disk; what this leader says to that."""
        return self.hear(APPEND_REPLY, frm, self.raft.term, index=index)

    def tick(self, count: int = 1) -> list[Message]:
        """Time passes; what it says meanwhile."""
        said: list[Message] = []
        for _ in range(count):
            self.raft.tick()
            said += self.act()
        return said

    def campaign(self) -> list[Message]:
        """It campaigns, and asks for votes; if need be it is told before that it would get them."""
        self.raft.campaign()
        said = self.act()
        if self.raft.config.pre_vote and self.raft.role != LEADER:
            for other in self.others:
                said = self.hear(PRE_VOTE_REPLY, other, self.raft.term + 1) or said
        return said

    def lead(self) -> list[Message]:
        """It is elected by all; what it says in its first breath."""
        said = self.campaign()
        for other in self.others:
            said += self.hear(VOTE_REPLY, other, self.raft.term)
        assert self.raft.role == LEADER
        return said

    def lead_safely(self) -> None:
        """It is elected by all, and its first entry is committed."""
        self.lead()
        for other in self.others:
            self.acknowledge(other, self.raft.log.last_index)
        assert self.raft.commit_index == self.raft.log.last_index

    def propose(self, *keys: str) -> list[Message]:
        """A client's batch; what it says to that."""
        self.raft.propose(batch(*keys))
        return self.act()


def entry(index: int, term: int) -> Segment:
    """One entry. Equal index and term make equal entries, as in any cluster."""
    return Segment(index, term, batch(f"{index}@{term}"))


def of_kind(messages: list[Message], kind: int) -> list[Message]:
    """Those of that kind."""
    return [message for message in messages if message.kind == kind]


def same(message: Message, **expected: object) -> bool:
    """Whether these fields are as expected, and all others that a test may ask for are empty."""
    return all(bool(getattr(message, name)) is False for name in FIELDS if name not in expected) and all(
        getattr(message, name) == value for name, value in expected.items()
    )
