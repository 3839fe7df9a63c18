"""The verdict on a run. It fails on what must never be, and also where too little was tried to say anything.

How fast the cluster was is said, and not judged: that hangs on the machine.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from fastkv.chaos.clients import Sample
from fastkv.chaos.modes import MODES
from fastkv.chaos.record import LeaderKill, RunRecord
from fastkv.chaos.resources import growth

PASS, FAIL, NOT_ENOUGH = "PASS", "FAIL", "NOT ENOUGH"
ANSWERED_S = 1.0
LEAST_FAULTS = 3
SECONDS_A_FAULT = 20.0
"""A longer run has to have more faults: one in so many seconds."""
LEAST_OVERLAPPING = 50
LEAST_ACKNOWLEDGED = 50
GAP_LOOKED_AT_S = 1.0
"""After a leader was killed, the gap is looked for in the time until it is started again, and at least for so long."""


@dataclass(frozen=True)
class Figures:
    """What was measured."""

    seconds: float
    operations: int
    ok: int
    failed: int
    unknown: int
    acknowledged_writes: int
    acknowledged_lost: int
    linearizable: str
    availability: float
    """The part of the operations of clients that know all nodes that was answered within `ANSWERED_S`."""
    availability_by_kind: dict[str, float]
    longest_write_gap_s: float
    median_gap_after_leader_kill_ms: float | None
    leader_kills: int
    leader_changes: int
    faults: dict[str, int]
    faults_without_effect: int
    overlapping: int
    settled_s: float
    keys: int


@dataclass(frozen=True)
class Judgement:
    """What is to be said of a run."""

    outcome: str
    figures: Figures
    violations: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Of what there was too little."""
    explanation: str = ""

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong, and enough was tried."""
        return self.outcome == PASS

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judge(record: RunRecord) -> Judgement:
    """The verdict."""
    grown, seldom_seen = growth(record.resources, record.seconds)
    violations = [
        *(f"acknowledged, and lost: {text}" for text in record.agreement.lost),
        *(f"the nodes differ: {text}" for text in record.agreement.divergence),
        *record.ended_by_themselves,
        *record.trouble,
        *grown,
    ]
    if record.linearizable is False:
        violations.insert(0, "the history is not linearizable")
    missing = [*too_little(record), *seldom_seen]
    if record.linearizable is None:
        missing.append("the history was not checked to its end")
    outcome = FAIL if violations else NOT_ENOUGH if missing else PASS
    return Judgement(outcome, _figures(record), violations, missing, record.explanation)


def too_little(record: RunRecord) -> list[str]:
    """What was tried less often than a verdict needs."""
    missing = []
    counted = Counter(taken.kind for taken in record.taken if taken.counts)
    least = max(LEAST_FAULTS, int(record.seconds / SECONDS_A_FAULT))
    if counted.total() < least:
        missing.append(f"{counted.total()} faults were taken, and {least} are the least")
    missing += [f"there was no {kind}" for kind in MODES[record.mode].must if not counted[kind]]
    if record.overlapping < LEAST_OVERLAPPING:
        missing.append(f"{record.overlapping} operations overlapped on a key, and {LEAST_OVERLAPPING} are the least")
    if record.agreement.acknowledged < LEAST_ACKNOWLEDGED and not record.agreement.lost:
        missing.append(f"{record.agreement.acknowledged} keys were written once and acknowledged, "
                       f"and {LEAST_ACKNOWLEDGED} are the least")  # fmt: skip
    return missing


def _figures(record: RunRecord) -> Figures:
    outcomes = Counter(sample.outcome for sample in record.samples)
    acks = acknowledgements(record.samples)
    gaps = [gap_after(kill, acks) for kill in record.kills]
    by_kind = {kind: availability(record.samples, kind) for kind in sorted({s.kind for s in record.samples})}
    return Figures(
        seconds=record.seconds,
        operations=len(record.samples),
        ok=outcomes["ok"],
        failed=outcomes["failed"],
        unknown=outcomes["unknown"],
        acknowledged_writes=len(acks),
        acknowledged_lost=len(record.agreement.lost),
        linearizable={True: "yes", False: "no", None: "unknown"}[record.linearizable],
        availability=by_kind.get("all", 0.0),
        availability_by_kind=by_kind,
        longest_write_gap_s=max((b - a for a, b in pairwise([0.0, *acks, record.seconds])), default=0.0),
        median_gap_after_leader_kill_ms=statistics.median(gaps) * 1000 if gaps else None,
        leader_kills=len(record.kills),
        leader_changes=max(0, len({reign.term for reign in record.reigns if reign.leader}) - 1),
        faults=dict(Counter(taken.kind for taken in record.taken if taken.counts)),
        faults_without_effect=sum(not taken.counts for taken in record.taken),
        overlapping=record.overlapping,
        settled_s=record.agreement.settled_s,
        keys=record.agreement.keys,
    )


def acknowledgements(samples: Sequence[Sample]) -> list[float]:
    """When writes were acknowledged, in order."""
    return sorted(sample.ended for sample in samples if sample.outcome == "ok" and sample.f != "get")


def availability(samples: Sequence[Sample], kind: str) -> float:
    """The part of the operations of such clients that was answered in time; 0 where there were none."""
    own = [sample for sample in samples if sample.kind == kind]
    answered = sum(sample.outcome == "ok" and sample.ended - sample.began <= ANSWERED_S for sample in own)
    return answered / len(own) if own else 0.0


def gap_after(kill: LeaderKill, acks: Sequence[float]) -> float:
    """The longest time without an acknowledged write from when a leader was killed."""
    until = max(kill.restarted, kill.killed + GAP_LOOKED_AT_S)
    first = bisect_right(acks, kill.killed)
    last = bisect_right(acks, until)
    moments = [kill.killed, *acks[first:last]]
    if last == first:       # none in all that time: up to the next one
        moments.append(acks[last] if last < len(acks) else until)
    return max(b - a for a, b in pairwise(moments))
