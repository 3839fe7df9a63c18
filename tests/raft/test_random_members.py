"""Random lives in which the members change: machines join, are promoted, removed, replaced; logs are cut and snapshots
restored; leadership is handed over. Every property that `test_random_cluster` checks holds throughout, and besides:

* no more than one change of members is under way: of two memberships that follow each other in a log, the second is
  appended only when the first is committed (thesis 4.1);
* whoever leads was elected by members: a vote that a membership does not know does not count.

At the end the faults stop, and everybody who belongs to the cluster has one log.
"""

from __future__ import annotations

import contextlib

import pytest

from fastkv.raft import (
    LEADER,
    AddMember,
    ChangeRefused,
    Member,
    NotLeader,
    Promote,
    Raft,
    Readdress,
    Remove,
    quorum,
    reconfigure,
)
from fastkv.raft.membership import Change, Membership
from tests.raft.harness import Disk
from tests.raft.test_random_cluster import Life
from tests.seeds import seeds


class MemberLife(Life):
    """A life of a cluster that grows and shrinks between one and seven members."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__(seed, size)
        self.cuts_deep = True
        self.wanted: dict[str, int] = {}
        self.changed = self.restored = self.transferred = 0

    def check_applied(self, name: str, ready: object) -> None:
        super().check_applied(name, ready)  # type: ignore[arg-type]
        if ready.snapshot_wanted:  # type: ignore[attr-defined]
            self.wanted[name] = ready.snapshot_wanted  # type: ignore[attr-defined]

    def check_leader(self, raft: Raft) -> None:
        super().check_leader(raft)
        under_way = [index for index, _ in raft.history._entries if index > raft.commit_index]
        assert len(under_way) <= 1, f"{raft.node_id} changes members twice at once: {under_way}"

    def step(self, *, faults: bool) -> None:
        action = self.rng.random()
        if action < 0.004:
            self.change()
        elif action < 0.006:
            self.transfer()
        elif action < 0.010:
            self.restore_one()
        elif action < 0.012:
            self.cut_log(self.rng.choice(self.names))
        else:
            super().step(faults=faults)
        self.wire = [message for message in self.wire if message.to in self.rafts]

    def leads(self) -> str:
        leaders = [name for name in self.names if self.rafts[name].role == LEADER]
        return self.rng.choice(leaders) if leaders else ""

    def change(self) -> None:
        name = self.leads()
        if not name:
            return
        with contextlib.suppress(ChangeRefused, NotLeader):
            self.rafts[name].change(self.draw_change(self.rafts[name].membership))
            self.changed += 1
        self.settle(name)

    def draw_change(self, now: Membership) -> Change:
        rng = self.rng
        there = [member.node_id for member in now.members]
        if rng.random() < 0.5 and len(there) < 7:
            new = rng.choice([*(n for n in self.names if n not in there), f"n{len(self.names) + 1}"])
            if new not in self.names:
                self.join(new)
            elif all(new not in raft.membership.voters for raft in self.rafts.values()):
                self.wipe(new)
            replaces = rng.choice(there) if rng.random() < 0.3 else ""
            return AddMember(Member(new, promote=rng.random() < 0.8, replaces=replaces))
        if rng.random() < 0.2:
            return Readdress(rng.choice(there), raft=f"there:{rng.randrange(9999)}")
        return rng.choice([Promote, Remove])(rng.choice(there))

    def wipe(self, name: str) -> None:
        """A former member comes back as a new machine."""
        self.disks[name] = Disk()
        self.proposed[name] = {}
        self.start(name)

    def transfer(self) -> None:
        name = self.leads()
        if name:
            with contextlib.suppress(ChangeRefused):
                self.rafts[name].transfer(self.rng.choice(["", *self.rafts[name].peers]))
                self.transferred += 1
            self.settle(name)

    def restore_one(self) -> None:
        """A member that was told to fetch a snapshot has one, from anybody who has one that is new enough."""
        for name, index in self.wanted.items():
            sources = [
                other for other in self.names
                if self.rafts[other].applied_index >= max(index, self.rafts[name].applied_index + 1)
                and self.rafts[other].log.term(self.rafts[other].applied_index) is not None
            ]
            if sources and self.rafts[name].role != LEADER:
                self.restore(name, self.rng.choice(sources))
                self.restored += 1
                del self.wanted[name]
                return


def live(seed: int, size: int = 3, steps: int = 12_000) -> MemberLife:
    life = MemberLife(seed, size)
    for _ in range(steps):
        life.step(faults=True)
        if len(life.wire) > 400:
            del life.wire[:200]
    return life


def belongs(life: MemberLife) -> list[Raft]:
    """Whoever the newest membership names."""
    newest = max(life.rafts.values(), key=lambda raft: (raft.commit_index, raft.role == LEADER))
    return [life.rafts[member.node_id] for member in newest.membership.members]


def converged(life: MemberLife) -> bool:
    rafts = belongs(life)
    return (
        any(raft.role == LEADER for raft in rafts)
        and len({raft.commit_index for raft in rafts}) == 1
        and all(raft.commit_index == raft.log.last_index for raft in rafts)
        and len({raft.membership for raft in rafts}) == 1
        and not rafts[0].membership.outgoing
    )


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("seed", seeds(12, quick=4))
def test_safety_and_convergence(seed: int, size: int) -> None:
    life = live(seed, size)
    for _ in range(80):
        for name in life.names:
            life.ticks(name, 5)
        life.calm()
        for _ in life.names:
            life.restore_one()
        life.calm()
        if converged(life):
            return
    raise AssertionError({raft.node_id: (raft.role, raft.commit_index, raft.membership) for raft in belongs(life)})


def test_lives_are_eventful() -> None:
    lives = [live(seed) for seed in range(6)]
    assert sum(life.changed for life in lives) > 20
    assert sum(life.restored for life in lives) > 10
    assert sum(life.transferred for life in lives) > 10
    assert sum(len(life.truth) for life in lives) > 200


# -- bugs brought back -------------------------------------------------------------------------------------------------


def caught(seeds: int = 150) -> bool:
    """Whether some life breaks an invariant."""
    for seed in range(seeds):
        try:
            live(seed)
        except (AssertionError, IndexError):
            return True
    return False


@pytest.mark.slow
def test_old_voters_that_are_not_asked_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the joint majority, old and new voters can decide apart."""
    reached, tally = quorum.reached, quorum.tally
    monkeypatch.setattr(quorum, "reached", lambda voters, values, outgoing=(): reached(voters, values))
    monkeypatch.setattr(quorum, "tally", lambda voters, votes, outgoing=(): tally(voters, votes))
    assert caught()


def test_two_changes_at_once_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    propose = reconfigure.propose

    def hasty(raft: Raft, change: Change, since: int | None = None) -> int:
        commit, raft.commit_index = raft.commit_index, max(raft.commit_index, raft.history.index)
        try:
            return propose(raft, change, since)
        finally:
            raft.commit_index = commit

    monkeypatch.setattr(reconfigure, "propose", hasty)
    assert caught()


@pytest.mark.slow
def test_a_suffix_kept_behind_another_log_s_snapshot_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemberLife, "keeps_log", lambda self, raft, index, term: raft.log.last_index >= index)
    assert caught()
