"""Rounds of kills and power cuts on the storage half of a node: see `small_node`.

A round is drawn from its seed. In each of its cycles a life is killed at some change of its disk (the page cache
survives), the next one starts from that, so that it reads what was never synced, makes promises on the strength of it,
and some time later the power goes. What was promised has to be there, and the node has to start.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.lossy_disk import Kind, Loss
from tests.faults.lossy_mount import LossyMount
from tests.faults.small_node import Plan, Promises, check, live

CYCLES = 3
NEVER = 1 << 30


@dataclass
class Outcome:
    """How a round went."""

    wrong: list[str] = field(default_factory=list)
    """What was not as it must be; empty where all is well."""
    told: list[str] = field(default_factory=list)
    """What happened."""
    promised: int = 0
    cuts: int = 0
    kills: int = 0


def storage_round(seed: int, disk: LossyMount, image: Path) -> Outcome:
    """A few cycles on a fresh disk."""
    rng = random.Random(seed)
    outcome, promises = Outcome(), Promises()
    data = disk.path / "data"
    for cycle in range(CYCLES):
        for _ in range(rng.randint(1, 2)):
            _kill(rng, disk, data, image, promises, outcome)
        _cut(rng, disk, data, image, promises, outcome)
        wrong = check(data, promises)
        if wrong:
            outcome.wrong = [f"cycle {cycle}: {text}" for text in wrong]
            break
    outcome.promised = promises.index
    return outcome


def _moment(rng: random.Random) -> tuple[int, list[Kind]]:
    """The n-th change of some kinds: what comes before a sync is what hurts most to lose."""
    kinds = rng.choice([[Kind.SYNC_NAMES], [Kind.SYNC_NAMES], [Kind.SYNC], [Kind.NAME], list(Kind)])
    return rng.choice([rng.randint(1, 10), rng.randint(1, 10), rng.randint(1, 100), NEVER]), kinds


def _plan(rng: random.Random, image: Path, steps: int) -> Plan:
    return Plan(
        steps,
        batch=rng.randint(1, 4),
        joins_at=rng.choice([-1, rng.randint(0, 5)]),
        image=str(image),
        image_at=rng.choice([-1, rng.randint(0, 10)]),
        idle=rng.random() < 0.2,
    )


def _kill(
    rng: random.Random, disk: LossyMount, data: Path, image: Path, promises: Promises, outcome: Outcome
) -> None:
    """A life that is killed at some change, or after some steps."""
    at, kinds = _moment(rng)
    plan = _plan(rng, image, rng.randint(1, 40))
    disk.arm_kill(at, kinds)
    killed = live(data, plan, promises)
    outcome.kills += killed
    outcome.told.append(f"{plan}, killed at change {at} of {kinds}: {disk.changes()}, {promises}")
    if not killed:
        outcome.wrong.append("a life ended by itself")


def _cut(
    rng: random.Random, disk: LossyMount, data: Path, image: Path, promises: Promises, outcome: Outcome
) -> None:
    """A life during which, or after which, the power goes."""
    at, kinds = _moment(rng)
    loss, seed = rng.choice(list(Loss)), rng.getrandbits(32)
    plan = _plan(rng, image, rng.randint(0, 20))
    disk.arm_cut(at, loss, seed, kinds)
    live(data, plan, promises)
    outcome.told.append(f"{plan}, power cut ({loss}, {seed}) at change {at} of {kinds}: {disk.changes()}, {promises}")
    outcome.cuts += 1
    disk.cut(loss, seed)        # does nothing where it is off already
    disk.power_on()
