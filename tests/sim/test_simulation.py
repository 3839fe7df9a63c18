"""The simulator's runs: many seeds, the same everywhere, with faults that really happen."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.seeds import seeds
from tests.sim.events import MS
from tests.sim.plan import FAULTS, draw
from tests.sim.world import World

ROOT = Path(__file__).parents[2]

FIVE_NODES = range(1000, 1200)
THREE_NODES = range(2000, 2040)
BATCH = 20
"""Seeds a test: enough tests to see which seeds fail, few enough to read the list."""

def run(seed: int, *, operations: int = 2000, nodes: int = 5) -> World:
    world = World(seed, nodes=nodes)
    world.run(operations=operations)
    assert world.seen.operations >= operations
    return world


@pytest.mark.parametrize("seed", seeds(8, quick=4))
def test_seeds(seed: int) -> None:
    run(seed, operations=1000)


@pytest.mark.slow
@pytest.mark.parametrize("first", FIVE_NODES[::BATCH])
def test_five_nodes(first: int) -> None:
    for seed in range(first, first + BATCH):
        run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", THREE_NODES[::BATCH])
def test_three_nodes(first: int) -> None:
    for seed in range(first, first + BATCH):
        run(seed, nodes=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 43))
def test_crashes_that_tear_real_logs(seed: int, tmp_path: Path) -> None:
    crashes = (("crash", 5), ("crash all", 2), ("slow disks", 1), ("weather", 1))
    plan = replace(draw(seed), faults=crashes, fault_us=(10 * MS, 60 * MS))
    world = World(seed, nodes=5, plan=plan, real_logs=tmp_path)
    world.run(operations=800)
    assert sum("crashes" in line for line in world.journal) > 5


@pytest.mark.slow
def test_faults_really_happen() -> None:
    worlds = [run(seed, operations=1000) for seed in range(100, 108)]
    told = "\n".join(line for world in worlds for line in world.journal)
    seen = {name for name, sign in SIGNS.items() if sign in told}
    assert seen == set(SIGNS)
    assert sum(len(world.faults.struck) for world in worlds) > 100
    assert sum(len(world.truth.leaders) for world in worlds) > 20
    assert sum(op.returned > world.events.now for world in worlds for op in world.history) > 100
    assert sum(len(world.seen.stale) for world in worlds) > 100


SIGNS = {
    "crash": "crashes",
    "pause": "is paused",
    "split": " -x- ",
    "one-way": " -x-> ",
    "bridge": "sees both",
    "cut off leader": "is cut off",
    "weather": "bad weather",
    "slow disks": "a sync takes",
    "stalled disk": "disk stalls",
    "full disk": "disk is full",
    "failing disk": "ends: its disk failed",
    "drifting clocks": "other rates",
}


def test_every_fault_can_be_drawn() -> None:
    assert set(SIGNS) <= set(FAULTS)


def test_a_fault_that_is_left_out_leaves_the_others_as_they_are() -> None:
    told = [line.split(" ms  ")[1] for line in run(3, operations=300).journal if "#" in line]
    world = World(3, nodes=5, skip_faults=frozenset({1}))
    world.run(operations=300)
    assert world.faults.struck[0] == 2
    numbers = {line.split(" ms  ")[1].split()[0] for line in world.journal if "#" in line}
    assert "#1" not in numbers
    assert numbers & {line.split()[0] for line in told}


@pytest.mark.slow
def test_a_seed_is_the_same_run_in_every_process() -> None:
    """Neither hash order nor anything else of a process has a say."""
    program = (
        "from tests.sim.world import World\n"
        "for seed in range(7, 27):\n"
        "    world = World(seed, nodes=5)\n"
        "    world.run(operations=800)\n"
        "    print(world.digest())"
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
