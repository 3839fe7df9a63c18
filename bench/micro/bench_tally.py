"""Counting what the raw port answers: the call from Python, the look at the clock, and what a scrape costs.

Inside a connection counting is a few nanoseconds; `bench_replies` shows it, before and after a change.
"""

from __future__ import annotations

from itertools import repeat

from bench.micro.data import exhaust
from bench.micro.measure import Measure
from fastkv._core.codes import Opcode, Status
from fastkv._core.tally import Tally
from fastkv.server.metrics import Figures, NodeMetrics, RawRequests, RequestMetrics

COUNT = 1024
ASKED = (Opcode.GET, Opcode.PUT, Opcode.DELETE, Opcode.SCAN, Opcode.STATUS, Opcode.SESSION, Opcode.ADMIN, Opcode.PING)
ANSWERS = (Status.OK, Status.KEY_NOT_FOUND, Status.NO_LEADER, Status.OVERLOADED, Status.OUTCOME_UNKNOWN)
ROUTES = ("get", "put", "delete", "scan", "metrics", "health", "readyz", "livez", "cluster_status", "other")


def counted() -> Tally:
    """Everything has been asked, and answered in many ways."""
    tally = Tally()
    tally.look()
    for opcode in ASKED:
        for status in ANSWERS:
            tally.count(opcode, status, tally.now_us)
    return tally


def figures() -> Figures:
    """A node of three, at some moment."""
    return Figures(
        has_leader=True, is_leader=True, leader_changes=2, term=3, commit_index=10, applied_index=9,
        proposals_committed=8, proposals_applied=7, proposals_failed=1, proposals_pending=4, keys=100,
        store_bytes=1 << 20, log_bytes=1 << 26, disk_bytes=1 << 33, disk_free_bytes=1 << 32,
        connections={"client": 5, "peer": 2, "http": 1}, peer_round_trip_seconds={"node-2": 0.001, "node-3": 0.001},
    )  # fmt: skip


def bench_count(measure: Measure) -> None:
    """One answer."""
    tally = Tally()
    tally.look()
    count, opcode, status, now_us = tally.count, int(Opcode.PUT), int(Status.OK), tally.now_us
    measure.repeat(
        lambda: exhaust(map(count, repeat(opcode, COUNT), repeat(status), repeat(now_us))), operations=COUNT
    )
    assert tally.answered()[opcode, status] % COUNT == 0


def bench_look(measure: Measure) -> None:
    """The clock: once for a turn of the loop, once for a batch of answers."""
    tally = Tally()
    measure.repeat(lambda: [tally.look() for _ in range(COUNT)], operations=COUNT)
    assert tally.now_us


def bench_scrape(measure: Measure) -> None:
    """All of /metrics, with every operation and many codes in use."""
    http = RequestMetrics()
    for op in ROUTES:
        for code in ("OK", "KEY_NOT_FOUND", "NO_LEADER", "OVERLOADED"):
            http.observe(op, code, 0.001)
    node = NodeMetrics(figures, [http, RawRequests(counted())])
    assert measure.repeat(node.render).count(b"\n") > 400
