"""Random lives of small clusters: drops, duplicates, reordering, restarts that lose what was not persisted.

After each step: one leader a term, one entry an index, and no read below what was committed when it was asked for.
Bugs brought back on purpose show that these checks bite. (A commit of an old term needs the schedule of the paper's
figure 8, which chance does not find in seconds; the script `figure_8` has it, and `test_scripts` the bug.)
"""

from __future__ import annotations

import contextlib

import pytest

from fastkv.raft import LEADER, Message, ProposalRefused, Raft, RaftLog, election, follower, reads
from tests.raft.harness import Cluster, batch


class Life(Cluster):
    """A cluster in the hands of a random number generator."""

    def __init__(self, seed: int, size: int) -> None:
        self.truth: dict[int, tuple[int, object]] = {}
        self.leaders: dict[int, str] = {}
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
        if raft.role == LEADER:
            assert self.leaders.setdefault(raft.term, name) == name, f"two leaders of term {raft.term}"
        for ready in self.readies[name]:
            for state in ready.reads:
                assert state.index >= self.floors[name, state.context], "a stale read"
                self.confirmed += 1
            for segment in ready.committed:
                for offset, entry in enumerate(segment.batch.entries()):
                    decided = (segment.term, entry)
                    index = segment.first_index + offset
                    assert self.truth.setdefault(index, decided) == decided, f"two entries at index {index}"
        self.readies[name].clear()
        assert self.applied[name] >= before

    def step(self, *, faults: bool) -> None:
        rng, name = self.rng, self.rng.choice(self.names)
        raft, action = self.rafts[name], self.rng.random()
        if action < 0.25:
            raft.tick()
        elif action < 0.30:
            with contextlib.suppress(ProposalRefused):
                raft.propose(batch(*(str(rng.randrange(100)) for _ in range(rng.randint(1, 4)))))
        elif action < 0.33:
            self.contexts += 1
            self.floors[name, self.contexts] = max(r.commit_index for r in self.rafts.values())
            raft.read(self.contexts)
        elif action < 0.332 and faults:
            self.start(name)
        elif action < 0.335 and faults:
            # Cut off somebody, most often whoever leads; or let everybody talk again.
            leaders = [n for n in self.names if self.rafts[n].role == LEADER]
            self.cut = rng.choice([set(), {name}, set(leaders[:1]), {*leaders[:1], name}])
        elif action < 0.34 and faults:
            raft.unreachable(rng.choice(self.names))
        elif action < 0.6 and self.disks[name].under_way:
            self.sync(name, 1)
        elif self.wire:
            self.deliver_one(faults=faults)
        for member in self.names:
            self.settle(member)

    def deliver_one(self, *, faults: bool) -> None:
        rng = self.rng
        message: Message = self.wire.pop(rng.randrange(min(len(self.wire), 10)))
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
@pytest.mark.parametrize("seed", range(15))
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
