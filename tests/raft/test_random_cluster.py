"""Random lives of small clusters: drops, duplicates, reordering, crashes between any two records, evicted and cut logs.

After each step the properties of the thesis' figure 3.2 hold: Election Safety, Log Matching, Leader Completeness, State
Machine Safety (leaders never append but at the end: Leader Append-Only is an assertion of `RaftLog`). No read is below
what was committed when it was asked for, and nobody who waits for an entry is given another. Bugs brought back on
purpose show that these checks bite. (A commit of an old term needs the schedule of the paper's figure 8, which chance
does not find in seconds; the script `figure_8` has it, and `test_scripts` the bug.)
"""

from __future__ import annotations

import contextlib

import pytest

from fastkv.log_types import Segment
from fastkv.raft import LEADER, Message, ProposalRefused, Raft, RaftLog, Ready, election, follower, reads
from fastkv.raft.progress import CUT
from tests.raft.harness import Cluster, batch
from tests.seeds import seeds


class Life(Cluster):
    """A cluster in the hands of a random number generator."""

    def __init__(self, seed: int, size: int) -> None:
        self.truth: dict[int, tuple[int, object]] = {}
        self.committed_in: dict[int, int] = {}
        """For each entry, the term in which it was committed, or one after that."""
        self.written: dict[tuple[int, int], tuple[object, int | None]] = {}
        self.leaders: dict[int, str] = {}
        self.proposed: dict[str, dict[int, int]] = {}
        """What each member waits for: index and term of the entries it proposed, while it leads."""
        self.cuts = 0
        self.cuts_deep = False
        """Whether logs are cut further than every member has them, so that some need a snapshot."""
        self.floors: dict[tuple[str, int], int] = {}
        self.confirmed = 0
        self.contexts = 0
        self.cut: set[str] = set()
        names = [f"n{i}" for i in range(size)]
        super().__init__(*names, seed=seed, max_append_bytes=60, max_append_entries=5, max_inflight_bytes=200)

    def settle(self, name: str) -> None:
        before = self.applied[name]
        super().settle(name)
        raft = self.rafts[name]
        for ready in self.readies[name]:
            self.check_written(raft, ready.segments)
            self.check_applied(name, ready)
            for state in ready.reads:
                assert state.index >= self.floors[name, state.context], "a stale read"
                self.confirmed += 1
        self.readies[name].clear()
        if raft.role == LEADER:
            self.check_leader(raft)
        assert self.applied[name] >= before

    def check_written(self, raft: Raft, segments: list[Segment]) -> None:
        """Log Matching: an index and a term name one entry, and one entry before it."""
        for segment in segments:
            before = raft.log.term(segment.first_index - 1)
            for index, entry in enumerate(segment.batch.entries(), segment.first_index):
                this = (entry, before)
                assert self.written.setdefault((index, segment.term), this) == this, f"two entries {index}"
                before = segment.term

    def check_applied(self, name: str, ready: Ready) -> None:
        """State Machine Safety, and every waiter's entry is its own; in the order in which a Ready is carried out."""
        waits = self.proposed.setdefault(name, {})
        for segment in ready.committed:
            for index, entry in enumerate(segment.batch.entries(), segment.first_index):
                decided = (segment.term, entry)
                assert self.truth.setdefault(index, decided) == decided, f"two entries at index {index}"
                self.committed_in.setdefault(index, self.rafts[name].term)
                assert waits.pop(index, segment.term) == segment.term, f"{name} takes entry {index} for its own"
        if ready.leadership is not None and ready.leadership.role != LEADER:
            waits.clear()

    def check_leader(self, raft: Raft) -> None:
        """Election Safety and Leader Completeness; and no member that kept its disk needs what has been cut."""
        assert self.cuts_deep or all(progress.state != CUT for progress in raft.progress.values())
        if raft.term in self.leaders:
            assert self.leaders[raft.term] == raft.node_id, f"two leaders of term {raft.term}"
            return
        self.leaders[raft.term] = raft.node_id
        for index, (term, _) in self.truth.items():
            if self.committed_in[index] < raft.term and index > raft.log.base_index:
                assert raft.log.term(index) == term, f"the leader of term {raft.term} lacks entry {index}"

    def step(self, *, faults: bool) -> None:
        rng, name = self.rng, self.rng.choice(self.names)
        raft, action = self.rafts[name], self.rng.random()
        if action < 0.25:
            raft.tick()
        elif action < 0.30:
            with contextlib.suppress(ProposalRefused):
                first, term = raft.propose(batch(*(str(rng.randrange(100)) for _ in range(rng.randint(1, 4)))))
                self.proposed.setdefault(name, {}).update(dict.fromkeys(range(first, raft.log.last_index + 1), term))
        elif action < 0.33:
            self.contexts += 1
            self.floors[name, self.contexts] = max(r.commit_index for r in self.rafts.values())
            raft.read(self.contexts)
        elif action < 0.332 and faults:
            self.disks[name].crash(rng.randint(0, 3))
            self.proposed[name] = {}
            self.start(name, in_memory=rng.choice([None, 1, 3]))
        elif action < 0.335 and faults:
            # Cut off somebody, most often whoever leads; or let everybody talk again.
            leaders = [n for n in self.names if self.rafts[n].role == LEADER]
            self.cut = rng.choice([set(), {name}, set(leaders[:1]), {*leaders[:1], name}])
        elif action < 0.34 and faults:
            raft.unreachable(rng.choice(self.names))
        elif action < 0.345:
            raft.log.evict(raft.applied_index)
        elif action < 0.346:
            self.cut_log(name)
        elif action < 0.6 and self.disks[name].under_way:
            self.sync(name, 1)
        else:
            # A node can hear several messages before it carries out what came of them.
            to = name if self.rng.random() < 0.5 else None
            for _ in range(self.rng.choice([1, 1, 1, 2, 4, 8])):
                self.deliver_one(to, faults=faults)
        for member in self.names:
            self.settle(member)

    def cut_log(self, name: str) -> None:
        """The state machine has a checkpoint at what it has applied; the log goes as far as nobody needs it."""
        raft, disk = self.rafts[name], self.disks[name]
        index = min(raft.applied_index, raft.log.durable_index if self.cuts_deep else raft.low_water)
        if index > raft.log.base_index:
            self.cuts += 1
            disk.cut(index, raft.log.term(index) or 0)
            raft.log.cut(disk.base_index, disk.base_term)

    def deliver_one(self, to: str | None, *, faults: bool) -> None:
        """One of the oldest messages; only to `to`, where it is given."""
        rng = self.rng
        waiting = [at for at, message in enumerate(self.wire[:30]) if to is None or message.to == to][:10]
        if not waiting:
            return
        message: Message = self.wire.pop(rng.choice(waiting))
        if faults and (rng.random() < 0.05 or (message.frm in self.cut) != (message.to in self.cut)):
            return
        if faults and rng.random() < 0.05:
            self.wire.append(message)
        self.rafts[message.to].step(message)


def live(seed: int, size: int, steps: int) -> Life:
    life = Life(seed, size)
    for _ in range(steps):
        life.step(faults=True)
        if len(life.wire) > 400:
            del life.wire[:200]
    return life


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("seed", seeds(15, quick=4))
def test_safety_and_convergence(seed: int, size: int) -> None:
    life = live(seed, size, 8000)
    for _ in range(40):
        for name in life.names:
            life.ticks(name, 5)
        life.calm()
        rafts = list(life.rafts.values())
        if any(r.role == LEADER for r in rafts) and len({r.commit_index for r in rafts}) == 1:
            break
    commit = {raft.commit_index for raft in life.rafts.values()}
    last = {raft.log.last_index for raft in life.rafts.values()}
    assert commit == last
    assert len(commit) == 1
    assert len({tuple(disk.terms()) for disk in life.disks.values()}) == 1


def test_lives_are_eventful() -> None:
    lives = [live(seed, 3, 8000) for seed in range(6)]
    assert sum(len(life.leaders) for life in lives) > 20
    assert sum(len(life.truth) for life in lives) > 200
    assert sum(life.confirmed for life in lives) > 50
    assert sum(life.cuts for life in lives) > 10


def caught(seeds: int = 120, *, size: int = 3, steps: int = 8000) -> bool:
    """Whether some life breaks an invariant."""
    for seed in range(seeds):
        try:
            live(seed, size, steps)
        except (AssertionError, IndexError):
            return True
    return False


def test_an_acknowledgement_before_the_disk_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Raft, "send_once_durable", Raft.send)
    assert caught()


def test_a_vote_for_everybody_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = election.heard_vote_request

    def generous(raft: Raft, message: Message) -> None:
        raft.vote = ""
        heard(raft, message)

    monkeypatch.setitem(__import__("fastkv.raft.raft", fromlist=["HANDLERS"]).HANDLERS, 3, generous)
    assert caught()


def test_a_vote_for_an_old_log_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RaftLog, "is_up_to_date", lambda self, index, term: True)
    assert caught()


def test_truncation_by_any_append_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    take = follower._take

    def careless(raft: Raft, segment: object) -> None:
        first = segment.first_index  # type: ignore[attr-defined]
        if raft.commit_index < first <= raft.log.last_index:
            raft.cut_conflict(first)
        take(raft, segment)  # type: ignore[arg-type]

    monkeypatch.setattr(follower, "_take", careless)
    assert caught()


def test_a_read_without_a_round_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    start_round = reads.ReadRounds.start_round

    def hasty(self: reads.ReadRounds) -> None:
        start_round(self)
        self._confirm(self.newest_round)

    monkeypatch.setattr(reads.ReadRounds, "start_round", hasty)
    assert caught()


def test_an_eviction_of_what_is_not_durable_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    evict = RaftLog.evict

    def careless(self: RaftLog, index: int) -> None:
        durable, self.durable_index = self.durable_index, self.last_index
        evict(self, index)
        self.durable_index = durable

    monkeypatch.setattr(RaftLog, "evict", careless)
    assert caught()
