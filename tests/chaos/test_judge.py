"""Verdicts: a good run passes, and each thing that must not be, and each lack, makes one that does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastkv.chaos.agreement import Agreement, compare_contents, compare_states, lost
from fastkv.chaos.clients import Sample
from fastkv.chaos.judge import FAIL, NOT_ENOUGH, PASS, acknowledgements, availability, gap_after, judge
from fastkv.chaos.record import LeaderKill, Reign, RunRecord, Taken
from fastkv.chaos.resources import JUDGED_FROM_S
from fastkv.chaos.resources import Sample as Seen


def good() -> RunRecord:
    """Twenty seconds in which all went well, made by hand."""
    return RunRecord(
        "random-failures", 1, ["node-1", "node-2", "node-3"], "proxies",
        seconds=20.0,
        samples=[Sample("all", "put", t / 10, t / 10 + 0.005, "ok") for t in range(200)],
        taken=[Taken(kind, "node-1", t, t + 1, 0, True) for t, kind in enumerate(("kill-leader", "split", "one-way"))],
        kills=[LeaderKill(2.0, 3.0)],
        reigns=[Reign(0.0, "node-1", 1), Reign(2.1, "", 0), Reign(2.3, "node-2", 2)],
        overlapping=100,
        agreement=Agreement(leader="node-2", acknowledged=100, keys=100),
        linearizable=True,
    )  # fmt: skip


def test_a_good_run_passes() -> None:
    verdict = judge(good())
    assert (verdict.outcome, verdict.violations, verdict.missing) == (PASS, [], [])
    assert verdict.passed
    figures = verdict.figures
    assert (figures.operations, figures.ok, figures.failed, figures.unknown) == (200, 200, 0, 0)
    assert figures.acknowledged_writes == 200
    assert figures.leader_changes == 1
    assert figures.faults == {"kill-leader": 1, "split": 1, "one-way": 1}


def growing() -> list[Seen]:
    return [Seen(t, "node-1", (100 + int(t)) << 20, 50, 5, 1 << 20) for t in map(float, range(int(JUDGED_FROM_S)))]


BAD: dict[str, Callable[[RunRecord], object]] = {
    "'once/x' is not there": lambda record: record.agreement.lost.append("'once/x' is not there"),
    "state hashes differ": lambda record: record.agreement.divergence.append("at entry 7 the state hashes differ"),
    "not linearizable": lambda record: setattr(record, "linearizable", False),
    "ended by itself": lambda record: record.ended_by_themselves.append("node-1 ended by itself with status 70"),
    "not within 60 s": lambda record: record.trouble.append("not within 60 s: one leader that all know"),
}


@pytest.mark.parametrize("says", BAD)
def test_what_must_not_be_fails(says: str) -> None:
    record = good()
    BAD[says](record)
    verdict = judge(record)
    assert verdict.outcome == FAIL
    assert not verdict.passed
    assert says in "\n".join(verdict.violations)


def test_growth_without_end_fails_a_long_run() -> None:
    record = good()
    record.seconds = JUDGED_FROM_S
    record.taken *= 20
    assert judge(record).outcome == PASS
    record.resources = growing()
    verdict = judge(record)
    assert verdict.outcome == FAIL
    assert "memory_bytes of node-1 grew" in verdict.violations[0]


LACKS: dict[str, Callable[[RunRecord], object]] = {
    "2 faults were taken": lambda record: record.taken.pop(),
    "there was no kill-leader": lambda record: record.taken.__setitem__(0, record.taken[1]),
    "operations overlapped": lambda record: setattr(record, "overlapping", 10),
    "written once": lambda record: setattr(record.agreement, "acknowledged", 10),
    "not checked to its end": lambda record: setattr(record, "linearizable", None),
}


@pytest.mark.parametrize("says", LACKS)
def test_too_little_is_no_pass(says: str) -> None:
    record = good()
    LACKS[says](record)
    verdict = judge(record)
    assert verdict.outcome == NOT_ENOUGH
    assert not verdict.passed
    assert says in "\n".join(verdict.missing)


def test_a_fault_that_met_no_traffic_does_not_count() -> None:
    record = good()
    record.taken = [taken._replace(counts=taken.kind != "split") for taken in record.taken]
    verdict = judge(record)
    assert verdict.outcome == NOT_ENOUGH
    assert verdict.figures.faults_without_effect == 1


def test_a_long_run_needs_more_faults() -> None:
    record = good()
    record.seconds = 200.0
    assert "3 faults were taken, and 10 are the least" in judge(record).missing


def test_a_violation_is_a_failure_also_where_too_little_was_tried() -> None:
    record = good()
    record.taken.clear()
    record.linearizable = False
    verdict = judge(record)
    assert verdict.outcome == FAIL
    assert verdict.missing


def test_availability_is_what_was_answered_in_time() -> None:
    samples = [
        Sample("all", "get", 0.0, 0.5, "ok"), Sample("all", "get", 0.0, 1.5, "ok"),
        Sample("all", "put", 0.0, 0.1, "failed"), Sample("all", "put", 0.0, 0.1, "unknown"),
        Sample("http", "get", 0.0, 0.1, "ok"),
    ]  # fmt: skip
    assert availability(samples, "all") == 0.25
    assert availability(samples, "http") == 1.0
    assert availability(samples, "node-1") == 0.0


def test_acknowledgements_are_of_writes() -> None:
    samples = [Sample("all", f, 0.0, t, o) for f, t, o in
               (("put", 3.0, "ok"), ("get", 2.0, "ok"), ("cas", 1.0, "ok"), ("del", 4.0, "unknown"))]  # fmt: skip
    assert acknowledgements(samples) == [1.0, 3.0]


@pytest.mark.parametrize(
    ("acks", "gap"),
    [
        ([1.0, 2.0, 2.3, 2.4, 4.0], 0.3),       # up to the first one after it
        ([1.9, 2.01, 2.4, 2.5, 3.5], 0.39),     # one that was under way is no end of the gap
        ([1.0, 7.0], 5.0),                      # none until much later
        ([1.0], 1.0),                           # none at all: at least as long as was looked
    ],
)
def test_the_gap_after_a_leader_kill(acks: list[float], gap: float) -> None:
    assert gap_after(LeaderKill(2.0, 3.0), acks) == pytest.approx(gap)


# -- what it is told of the nodes --------------------------------------------------------------------------------------


def state(index: int, digest: str, *, alarm: bool = False) -> dict[str, object]:
    problems = ["this node's state at entry 5 differs"] if alarm else []
    return {"applied_index": index, "state_hash": digest, "checks": {"state": not alarm}, "problems": problems}


def test_states_that_differ_are_named() -> None:
    assert compare_states({"a": state(5, "x"), "b": state(5, "x")}) == []
    assert "at entry 5 the state hashes differ: a x, b y" in compare_states({"a": state(5, "x"), "b": state(5, "y")})
    assert "b serves nothing" in compare_states({"a": state(5, "x"), "b": state(5, "x", alarm=True)})[0]


def test_contents_that_differ_are_named() -> None:
    same = {"k": ("v", 1)}
    assert compare_contents({"a": same, "b": dict(same), "c": dict(same)}) == []
    assert compare_contents({"a": same, "b": {}}) == ["a and b differ in 1 keys: 'k'"]
    assert compare_contents({"a": same, "b": {"k": ("v", 2)}}) == ["a and b differ in 1 keys: 'k'"]
    assert compare_contents({"a": {}, "b": same}) == ["a and b differ in 1 keys: 'k'"]


def test_lost_keys_are_named() -> None:
    written = {"once/1": "w:1:5", "once/2": "w:2:5"}
    assert lost(written, {"once/1": ("w:1:5", 1), "once/2": ("w:2:5", 2), "more": ("x", 3)}) == []
    assert lost(written, {"once/1": ("w:1:5", 1)}) == ["'once/2' is not there"]
    assert lost(written, {"once/1": ("other", 1), "once/2": ("w:2:5", 2)}) == ["'once/1' holds 'other', not 'w:1:5'"]
