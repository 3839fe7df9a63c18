"""What a node tells the others of itself, and what it shows of all of them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from fastkv.node import PeerStatus
from fastkv.raft import FOLLOWER, LEADER
from fastkv.server.metrics import REQUEST_BOUNDS_S, Figures, RequestMetrics
from fastkv.server.overview import FAULTS, LEADERSHIPS, Overview

BUCKETS = len(REQUEST_BOUNDS_S) + 1
FIGURES = Figures(
    has_leader=True, is_leader=True, leader_changes=1, term=3, commit_index=9, applied_index=8, proposals_committed=9,
    proposals_applied=8, proposals_failed=0, proposals_pending=2, keys=5, store_bytes=100, log_bytes=200,
    disk_bytes=1000, disk_free_bytes=500, connections={"http": 1},
)  # fmt: skip
STATUS = PeerStatus(FOLLOWER, 3, 9, 7, "node-1", "b:9001", "b:8081", 90, {}, True, {})


class Node:
    """Of a node, what an overview looks at: node-1 of three, in term 3; a tick is 5 ms."""

    def __init__(self, role: int = LEADER, leader: str = "node-1") -> None:
        progress = {"node-2": SimpleNamespace(match=9), "node-3": SimpleNamespace(match=4)}
        self.raft = SimpleNamespace(
            node_id="node-1", role=role, leader=leader, term=3, commit_index=9, applied_index=8,
            progress=progress if role == LEADER else {},
        )  # fmt: skip
        self.now = 100
        self.settings = SimpleNamespace(tick_ms=5.0)
        self.heard: dict[str, PeerStatus] = {"node-2": STATUS}

    def members(self) -> list[dict[str, Any]]:
        return [{"id": f"node-{i}", "raft": f"{i}:9001", "http": f"{i}:8081", "role": "voter"} for i in (1, 2, 3)]

    def peer_status(self, node_id: str) -> PeerStatus | None:
        return self.heard.get(node_id)


def overview_of(node: Node, *faces: RequestMetrics) -> Overview:
    return Overview(node, faces, lambda: {"node-2": 0.0012345})  # type: ignore[arg-type]


def by_id(overview: Overview) -> dict[str, dict[str, Any]]:
    return {member["id"]: member for member in overview.describe(FIGURES)["members"]}


def test_the_load_is_that_of_all_faces() -> None:
    http, raw = RequestMetrics(), RequestMetrics()
    http.observe("get", "OK", 0.0)
    raw.observe("scan", "KEY_NOT_FOUND", 1000.0)
    raw.observe("put", "PRECONDITION_FAILED", 0.0)
    http.observe("delete", "OK", 0.0)
    http.observe("metrics", "INTERNAL_ERROR", 0.0)
    load = overview_of(Node(), http, raw).report()["load"]
    assert load["reads"] == [1, *[0] * (BUCKETS - 2), 1]
    assert load["writes"] == [2, *[0] * (BUCKETS - 1)]
    assert load["failed"] == 0, "neither a client's own errors nor operations on no key"


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_what_is_the_cluster_s_fault_has_failed(code: str) -> None:
    face = RequestMetrics()
    face.observe("put", code, 0.0)
    assert overview_of(Node(), face).report()["load"]["failed"] == 1


def test_only_a_leader_says_who_is_behind() -> None:
    assert overview_of(Node()).report()["lags"] == {"node-1": 1, "node-2": 0, "node-3": 5}
    assert "lags" not in overview_of(Node(FOLLOWER, "node-2")).report()


def test_members_on_the_leader() -> None:
    members = by_id(overview_of(Node()))
    assert [(m["state"], m["term"], m["lag"]) for m in members.values()] == [
        ("Leader", 3, 1), ("Follower", 3, 0), ("Unknown", 0, 5)
    ]  # fmt: skip
    assert members["node-1"]["round_trips_ms"] == {"node-2": 1.234}
    assert (members["node-2"]["applied_index"], members["node-2"]["heard_ms"]) == (7, 50)
    assert members["node-2"]["load"] is None, "of an older version, which says nothing of it"
    assert members["node-3"]["applied_index"] is None


def test_a_follower_shows_what_the_leader_said() -> None:
    node = Node(FOLLOWER, "node-2")
    load = {"reads": [1], "writes": [2], "failed": 0}
    report = {"load": load, "lags": {"node-1": 3, "node-2": 0, "node-3": "many"}, "round_trips_ms": {"node-1": 0.2}}
    node.heard["node-2"] = dataclasses.replace(STATUS, role=LEADER, report=report)
    members = by_id(overview_of(node))
    assert [m["lag"] for m in members.values()] == [3, 0, None]
    assert members["node-2"]["load"] == load
    assert members["node-2"]["round_trips_ms"] == {"node-1": 0.2}


@pytest.mark.parametrize("report", [{"load": 5, "lags": [], "round_trips_ms": "x"}, {"load": {"reads": []}}])
def test_what_makes_no_sense_is_left_out(report: dict[str, Any]) -> None:
    node = Node(FOLLOWER, "node-2")
    node.heard["node-2"] = dataclasses.replace(STATUS, role=LEADER, report=report)
    members = by_id(overview_of(node))
    assert [m["lag"] for m in members.values()] == [None, None, None]
    assert members["node-2"]["load"] is None
    assert members["node-2"]["round_trips_ms"] == {}


def test_without_a_leader_nobody_knows_who_is_behind() -> None:
    assert [m["lag"] for m in by_id(overview_of(Node(FOLLOWER, ""))).values()] == [None, None, None]


def test_leaderships_are_remembered_as_they_change() -> None:
    overview = overview_of(Node())
    led = [("", 0), ("", 1), ("node-1", 1), ("node-1", 1), ("", 2), ("", 3), ("node-1", 3), ("node-1", 4)]
    for leader, term in led:
        overview.led_by(leader, term)
    said = [(one["leader"], one["term"]) for one in overview.describe(FIGURES)["leaderships"]]
    assert said == [(None, 0), ("node-1", 1), (None, 2), ("node-1", 3), ("node-1", 4)]
    for term in range(5, 5 + 2 * LEADERSHIPS):
        overview.led_by("node-2", term)
    latest = overview.describe(FIGURES)["leaderships"]
    assert len(latest) == LEADERSHIPS
    assert latest[-1]["term"] == 4 + 2 * LEADERSHIPS
    assert [one["at_ms"] for one in latest] == sorted(one["at_ms"] for one in latest)
