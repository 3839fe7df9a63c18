"""What a seed draws before a run begins: how the cluster is tuned, what its clients do, and which faults it will see.

Seeds differ in kind, not only in detail: one runs on fast disks and reordering links with 160 clients, the next has
one entry a message, clocks far apart and nothing but crashes. A fault that is left out makes room for long sequences of
the others, which is why drawing a subset finds more than always drawing from all ("swarm testing").

Everything is dense: a run of 2,000 operations takes one to a few seconds of virtual time, with a fault every tenth of a
second. So timeouts are short too, in proportion to elections.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.sim.events import MS

FAULTS = {
    "crash": 5,
    "crash leader": 3,
    "crash all": 1,
    "pause": 2,
    "pause leader": 3,
    "split": 4,
    "one-way": 3,
    "bridge": 2,
    "scatter": 2,
    "cut off leader": 4,
    "deaf leader": 2,
    "weather": 4,
    "slow disks": 2,
    "stalled disk": 3,
    "full disk": 2,
    "full disks": 1,
    "failing disk": 1,
    "drifting clocks": 1,
}
"""Faults and how often each is drawn where a seed has it at all."""

CHANGES = {
    "add": 4,
    "promote": 2,
    "remove": 3,
    "replace": 1,
    "wipe": 1,
    "return": 1,
    "move": 1,
    "transfer": 3,
    "transfer from a leader that is cut off": 4,
    "clean stop": 3,
}
"""What operators do, drawn in the same way."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One seed's choices. Times are microseconds of virtual time unless they are ticks."""

    tick_us: int
    election_ticks: int
    heartbeat_ticks: int
    clock_rates: tuple[float, float]
    turn_us: int
    """A node runs so long after it is woken, at most."""
    wire_us: int
    detours: float
    """Share of frames that are overtaken by later ones. 0: links keep their order, as TCP does."""
    fsync_us: int
    clients: int
    keys: int
    think_us: int
    operations: tuple[tuple[str, int], ...]
    max_append_bytes: int
    max_append_entries: int
    max_inflight_bytes: int
    max_uncommitted_bytes: int
    waiting_limit_bytes: int
    log_memory_bytes: int
    checkpoint_log_bytes: int
    checkpoint_age_ticks: int
    snapshot_log_bytes: int
    snapshot_chunk_bytes: int
    fault_us: tuple[int, int]
    """From one fault to the next."""
    lasting_us: int
    """A fault lasts so long, at most."""
    faults: tuple[tuple[str, int], ...]

    changes: tuple[tuple[str, int], ...]
    """What operators do, and how often."""
    change_us: tuple[int, int]
    lease_reads: bool
    session_limit: int
    """How many sessions clients may have; 0: they have none."""

    @property
    def lease_ns(self) -> int:
        """As the server reckons it: the shortest time in which another clock counts an election timeout."""
        counted = max(0, self.election_ticks - self.heartbeat_ticks - 1)
        slowest, fastest = self.clock_rates
        return int(counted * self.tick_us * 1000 * slowest / fastest)

    @property
    def election_us(self) -> int:
        """The smallest election timeout, by a clock that is right."""
        return self.tick_us * self.election_ticks

    def ticks(self, elections: float) -> int:
        """A duration in election timeouts, as ticks."""
        return round(self.election_ticks * elections)


def draw(seed: int) -> Plan:
    """The plan of a seed; its random numbers are its own, so that a fault more or less changes nothing here."""
    rng = random.Random(f"plan {seed}")
    tick_us = 10 * MS
    election_ticks, heartbeat_ticks = rng.choice([(4, 1), (5, 1), (6, 1), (6, 2), (8, 2), (10, 3)])
    election_us = tick_us * election_ticks
    spread = rng.choice([0.02, 0.1, 0.35])
    faults = [(name, weight) for name, weight in FAULTS.items() if rng.random() < 0.7]
    return Plan(
        tick_us=tick_us,
        election_ticks=election_ticks,
        heartbeat_ticks=heartbeat_ticks,
        clock_rates=(1 - spread, 1 + spread),
        turn_us=rng.choice([2000, 4000, 6000, 8000]),
        wire_us=rng.choice([200, 400, 800]),
        detours=rng.choice([0, 0, 0.02, 0.1]),
        fsync_us=rng.choice([300, 1000, 3000]),
        clients=(clients := rng.choice([90, 120, 160])),
        keys=rng.choice([3, 5, 8]),
        think_us=rng.choice([1, 3, 5]) * MS,
        operations=(
            ("get", rng.choice([2, 5])), ("lease", 1), ("put", 5), ("cas", rng.choice([1, 3])), ("del", 1),
            ("stale", 1),
        ),
        max_append_bytes=rng.choice([300, 4000, 8000, 8000]),
        max_append_entries=rng.choice([3, 32, 64, 128, 128, 128]),
        max_inflight_bytes=rng.choice([1000, 8000]),
        max_uncommitted_bytes=rng.choice([1500, 1 << 16]),
        waiting_limit_bytes=rng.choice([2000, 1 << 16]),
        log_memory_bytes=rng.choice([500, 4000]),
        checkpoint_log_bytes=rng.choice([1000, 4000, 16000]),
        checkpoint_age_ticks=rng.choice([10, 50]),
        snapshot_log_bytes=rng.choice([500, 4000, 1 << 30]),
        snapshot_chunk_bytes=rng.choice([500, 5000]),
        fault_us=(election_us // 10, election_us * rng.choice([2, 3, 4]) // 2),
        lasting_us=election_us * rng.choice([2, 3, 4]) // 4,
        faults=tuple(faults) or tuple(FAULTS.items()),
        changes=tuple((name, weight) for name, weight in CHANGES.items() if rng.random() < 0.8),
        change_us=(election_us // 4, election_us * rng.choice([2, 4, 8])),
        lease_reads=rng.random() < 0.5,
        # A few more than clients: those that were opened in vain push others out, and not every one the next.
        session_limit=rng.choice([0, 0, 0, clients + 5, 1000]),
    )
