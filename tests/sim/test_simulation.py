"""The simulator's runs: many seeds, the same everywhere, and checks that bite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv._core.codes import Status
from fastkv.node.writes import Proposals
from fastkv.raft import Raft, reads
from fastkv.storage.memory_log import MemoryLogStore
from tests.sim.world import Violation, World

ROOT = Path(__file__).parents[2]

QUICK = range(12)
MANY = range(100, 220)


def run(seed: int, *, operations: int = 500, nodes: int = 3) -> World:
    world = World(seed, nodes=nodes)
    world.run(operations=operations)
    return world


@pytest.mark.parametrize("seed", QUICK)
def test_seeds(seed: int) -> None:
    world = run(seed)
    assert len(world.history) >= 500


@pytest.mark.slow
@pytest.mark.parametrize("seed", MANY)
def test_more_seeds(seed: int) -> None:
    run(seed, operations=700)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(300, 320))
def test_five_nodes(seed: int) -> None:
    run(seed, nodes=5)


def test_faults_really_happen() -> None:
    crashed = partitioned = unknown = elections = 0
    for seed in QUICK:
        world = run(seed)
        crashed += sum("crashes" in line for line in world.journal)
        partitioned += sum("partition" in line for line in world.journal)
        unknown += sum(op.returned > world.events.now for op in world.history)
        elections += len(world.truth.leaders)
    assert crashed > 20
    assert partitioned > 10
    assert unknown > 5
    assert elections > 20


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Neither hash order nor anything else of a process has a say."""
    program = (
        "from tests.sim.world import World\n"
        "w = World(7)\n"
        "w.run(operations=300)\n"
        "print(w.digest())"
    )
    digests = set()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


# -- seeded bugs: a simulator that has never caught anything proves nothing --------------------------------------------


def caught(*, seeds: int = 60, operations: int = 500) -> int | None:
    """The first seed that breaks a promise, or None."""
    for seed in range(seeds):
        try:
            run(seed, operations=operations)
        except Violation:
            return seed
    return None


def test_an_ack_before_the_disk_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Raft, "send_once_durable", Raft.send)
    assert caught() is not None


def test_a_read_without_a_round_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_round(self: reads.ReadRounds) -> None:
        self.newest_round += 1
        for node_id, context in self._unsent:
            self._waiting.append(reads._Asked(self.newest_round, node_id, context, self._raft.commit_index))
        self._unsent = []
        self._confirm(self.newest_round)

    monkeypatch.setattr(reads.ReadRounds, "start_round", start_round)
    assert caught() is not None


def test_a_read_before_a_commit_of_the_own_term_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads.ReadRounds, "_knows_commit", lambda self: True)
    assert caught(seeds=150) is not None


def test_votes_counted_twice_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    # With every vote counted twice, one vote besides one's own is as good as two: a minority elects.
    monkeypatch.setattr("fastkv.raft.election.quorum.size", lambda voters: 1)
    assert caught() is not None


def test_a_forgotten_vote_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    append = MemoryLogStore.append

    def forgetful(self: MemoryLogStore, hard_state: object, segments: object) -> int:
        return append(self, None, segments)  # type: ignore[arg-type]

    monkeypatch.setattr(MemoryLogStore, "append", forgetful)
    assert caught(seeds=150) is not None


def test_an_unknown_outcome_called_not_done_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_all = Proposals.fail_all
    monkeypatch.setattr(
        Proposals, "fail_all", lambda self, applied_index, status: fail_all(self, applied_index, Status.NO_LEADER)
    )
    assert caught(seeds=150) is not None
