"""The three kinds of runs: which faults, how often, how long, and under which load.

A schedule is drawn from the seed alone. Faults are dealt like cards, a whole deck after the other, so that none stays
away for long; the first one is given, so that even a short run has the fault that the mode is about.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from fastkv.chaos.faults import FAULTS, Step

KIB = 1024


@dataclass(frozen=True, slots=True)
class Card:
    """A fault in a deck, so many times, held for so long."""

    kind: str
    times: int
    hold_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Crowd:
    """The clients of a run, and what they write."""

    everywhere: int
    """Clients of the library that know all nodes."""
    settled: int
    """Clients of the library that know one node only; so many for each."""
    http: int
    """Clients that speak HTTP."""
    pause_s: float
    """How long a client waits between two operations, on average."""
    value_bytes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mode:
    """A kind of run."""

    name: str
    first: tuple[str, ...]
    deck: tuple[Card, ...]
    gap_s: tuple[float, float]
    crowd: Crowd
    log_bytes: int
    """How much of the log nodes keep for who was away: a few seconds of it."""
    must: tuple[str, ...] = ()
    """Faults without which the run was none of its kind."""


PROCESSES = (
    Card("kill-leader", 3, (1.0, 2.5)),
    Card("kill-follower", 2, (0.5, 3.0)),
    Card("pause-leader", 2, (0.5, 2.0)),
    Card("pause-follower", 1, (0.5, 2.5)),
    Card("slow-links", 1, (1.0, 3.0)),
    Card("lossy-links", 1, (1.0, 3.0)),
    Card("half-open", 1, (1.0, 2.5)),
    Card("rolling-restart", 1, (0.0, 0.0)),
    Card("replace-member", 1, (0.2, 1.0)),
    Card("kill-all", 1, (0.0, 0.3)),
)
PARTITIONS = (
    Card("one-way", 3, (0.7, 2.5)),
    Card("isolate-leader", 2, (0.7, 2.5)),
    Card("isolate-node", 1, (0.7, 2.5)),
    Card("split", 2, (0.7, 2.5)),
    Card("bridge", 2, (0.7, 2.5)),
    Card("cut-clients", 1, (0.7, 2.0)),
    Card("flapping", 1, (1.0, 2.5)),
)
MODES = {
    mode.name: mode
    for mode in (
        Mode("random-failures", ("kill-leader", "pause-leader"), PROCESSES, (0.8, 2.0),
             Crowd(6, 1, 3, 0.03, (16, 512)), 512 * KIB, must=("kill-leader",)),
        Mode("network-partition", ("isolate-leader", "one-way"), PARTITIONS, (0.6, 1.5),
             Crowd(6, 1, 3, 0.03, (16, 512)), 512 * KIB, must=("isolate-leader",)),
        Mode("load-test-with-failures", ("kill-leader", "isolate-leader"), (*PROCESSES, *PARTITIONS), (2.0, 4.0),
             Crowd(32, 4, 8, 0.03, (256, 16_384)), 16 * 1024 * KIB, must=("kill-leader", "isolate-leader")),
    )
}  # fmt: skip
"""By name."""


def schedule(mode: Mode, seed: int, abilities: Collection[str]) -> Iterator[Step]:
    """The faults of a run, without end; `abilities` are the network's."""
    rng = random.Random(f"{mode.name} {seed}")
    cards = [card for card in mode.deck if FAULTS[card.kind].needs is None or FAULTS[card.kind].needs in abilities]
    given = [next(card for card in cards if card.kind == kind) for kind in mode.first]
    while True:
        deck = [card for card in cards for _ in range(card.times)]
        rng.shuffle(deck)
        for card in given:
            deck.remove(card)
        for card in (*given, *deck):
            gap_s, hold_s = rng.uniform(*mode.gap_s), rng.uniform(*card.hold_s)
            yield Step(gap_s, card.kind, hold_s, rng.random(), rng.random())
        given = []
