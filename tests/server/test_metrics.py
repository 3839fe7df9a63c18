"""The metrics of a node, read back by Prometheus' own parser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fastkv._core.codes import Opcode, Status
from fastkv._core.tally import Tally
from fastkv.server import metrics
from fastkv.server.http.routes import KEY, MEMBER, ROUTES
from fastkv.server.metrics import REQUEST_BOUNDS_S, Distribution, Figures, NodeMetrics, RawRequests, RequestMetrics
from fastkv.version import __version__

PROMISED = {
    "server_has_leader": "gauge",
    "server_is_leader": "gauge",
    "server_leader_changes_total": "counter",
    "server_refuses_writes": "gauge",
    "raft_term": "gauge",
    "raft_commit_index": "gauge",
    "raft_applied_index": "gauge",
    "raft_proposals_committed_total": "counter",
    "raft_proposals_applied_total": "counter",
    "raft_proposals_failed_total": "counter",
    "raft_proposals_pending": "gauge",
    "wal_fsync_duration_seconds": "histogram",
    "wal_batch_entries": "histogram",
    "checkpoint_duration_seconds": "histogram",
    "peer_round_trip_seconds": "gauge",
    "request_duration_seconds": "histogram",
    "requests_total": "counter",
    "keys": "gauge",
    "store_bytes": "gauge",
    "wal_bytes": "gauge",
    "disk_bytes": "gauge",
    "disk_free_bytes": "gauge",
    "watchers": "gauge",
    "connections": "gauge",
    "snapshot_open": "gauge",
    "snapshots_installed_total": "counter",
    "snapshot_sent_bytes_total": "counter",
    "snapshot_received_bytes_total": "counter",
    "state_alarm": "gauge",
    "build_info": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_resident_memory_bytes": "gauge",
    "process_virtual_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_open_fds": "gauge",
    "process_max_fds": "gauge",
}
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def figures(**changed: Any) -> Figures:
    plain: dict[str, Any] = {
        "has_leader": True,
        "is_leader": False,
        "leader_changes": 2,
        "term": 3,
        "commit_index": 10,
        "applied_index": 9,
        "proposals_committed": 8,
        "proposals_applied": 7,
        "proposals_failed": 1,
        "proposals_pending": 4,
        "keys": 100,
        "store_bytes": 1 << 20,
        "log_bytes": 1 << 26,
        "disk_bytes": 1 << 33,
        "disk_free_bytes": 1 << 32,
        "connections": {"client": 5, "peer": 2, "http": 1},
    }
    return Figures(**{**plain, **changed})


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[f"fastkv_{name}", frozenset(labels.items())]


def full() -> bytes:
    """A scrape in which every metric has a sample."""
    requests = RequestMetrics()
    requests.observe("get", "OK", 0.001)
    return NodeMetrics(lambda: figures(peer_round_trip_seconds={"node-2": 0.001}), [requests]).render()


def test_every_promised_metric_is_there_with_its_type_and_no_other() -> None:
    text = full()
    types = dict(re.findall(r"^# TYPE fastkv_(\S+) (\S+)$", text.decode(), re.MULTILINE))
    assert types == PROMISED
    names = {name for name, _ in samples(text)}
    for name, kind in PROMISED.items():
        assert f"fastkv_{name}{'_bucket' if kind == 'histogram' else ''}" in names, "a type without a sample"


def test_the_page_lists_what_there_is() -> None:
    rows = re.findall(r"^\| `fastkv_(\w+)` \| (\w+) \| ([\w, ]*) ?\| \S", PAGE.read_text(), re.MULTILINE)
    assert {name: kind for name, kind, _ in rows} == PROMISED
    labels: dict[str, set[str]] = {name: set() for name in PROMISED}
    for family in text_string_to_metric_families(full().decode()):
        name = family.name.removeprefix("fastkv_")
        for sample in family.samples:
            labels[name if name in PROMISED else f"{name}_total"] |= set(sample.labels) - {"le"}
    assert {name: set(re.findall(r"\w+", shown)) for name, _, shown in rows} == labels


def test_every_operation_is_on_the_page() -> None:
    text = PAGE.read_text()
    routes = {op for route in (KEY, MEMBER, *ROUTES.values()) for op, _ in route.methods.values()}
    named = {metrics.OTHER, *metrics._OPS.values(), *routes}
    assert {op for op in named if f"`{op}`" not in text} == set()


def test_every_name_begins_with_fastkv_and_has_a_help() -> None:
    text = NodeMetrics(figures, []).render().decode()
    lines = text.splitlines()
    assert all(line.startswith(("fastkv_", "# HELP fastkv_", "# TYPE fastkv_")) for line in lines)
    assert text.count("# HELP") == text.count("# TYPE")
    assert text.endswith("\n")
    assert "fastkv_process_resident_memory_bytes" in text


def test_figures_are_read_at_each_scrape() -> None:
    now = figures()
    node = NodeMetrics(lambda: now, [])
    text = node.render()
    assert value(text, "server_has_leader") == 1
    assert value(text, "server_is_leader") == 0
    assert value(text, "raft_term") == 3
    assert value(text, "server_leader_changes_total") == 2
    assert value(text, "connections", kind="http") == 1
    assert value(text, "build_info", version=__version__, python=__import__("platform").python_version()) == 1
    now.term, now.is_leader = 4, True
    assert value(node.render(), "raft_term") == 4
    assert value(node.render(), "server_is_leader") == 1


def test_two_nodes_in_one_process_do_not_meet() -> None:
    first, second = NodeMetrics(lambda: figures(term=1), []), NodeMetrics(lambda: figures(term=2), [])
    assert (value(first.render(), "raft_term"), value(second.render(), "raft_term")) == (1, 2)


def test_requests_of_all_faces_are_added_up() -> None:
    http, raw = RequestMetrics(), RequestMetrics()
    for face in (http, raw):
        face.observe("get", "OK", 0.002)
    http.observe("get", "KEY_NOT_FOUND", 20.0)
    raw.observe("put", "OK", 0.00005)
    text = NodeMetrics(figures, [http, raw]).render()
    assert value(text, "requests_total", op="get", code="OK") == 2
    assert value(text, "requests_total", op="get", code="KEY_NOT_FOUND") == 1
    assert value(text, "requests_total", op="put", code="OK") == 1
    assert value(text, "request_duration_seconds_bucket", op="get", le="0.001") == 0
    assert value(text, "request_duration_seconds_bucket", op="get", le="0.0025") == 2
    assert value(text, "request_duration_seconds_bucket", op="get", le="10.0") == 2
    assert value(text, "request_duration_seconds_bucket", op="get", le="+Inf") == 3
    assert value(text, "request_duration_seconds_count", op="get") == 3
    assert value(text, "request_duration_seconds_sum", op="get") == pytest.approx(20.004)
    assert value(text, "request_duration_seconds_bucket", op="put", le="0.0001") == 1
    # A scrape changes nothing.
    assert sum(http.durations["get"].counts) == 2
    assert http.totals["get", "OK"] == 1


def test_what_the_raw_port_has_counted_is_read_by_name() -> None:
    tally = Tally()
    tally.look()
    now = tally.now_us
    for opcode, status, took_us in [
        (Opcode.PUT, Status.OK, 1500),
        (Opcode.PUT, Status.NO_SPACE, 100),
        (Opcode.SCAN, Status.OK, 0),
        (Opcode.ERROR, Status.FRAME_TOO_LARGE, 0),
        (0xEE, Status.UNKNOWN_OPCODE, 0),
        (Opcode.GET, 999, 0),
        (Opcode.GOODBYE, Status.OK, 0),     # nobody asked
    ]:
        tally.count(opcode, status, (now - took_us) % 2**32)
    http = RequestMetrics()
    http.observe("put", "OK", 0.5)
    text = NodeMetrics(figures, [http, RawRequests(tally)]).render()
    assert value(text, "requests_total", op="put", code="OK") == 2
    assert value(text, "requests_total", op="put", code="NO_SPACE") == 1
    assert value(text, "requests_total", op="scan", code="OK") == 1
    assert value(text, "requests_total", op="other", code="FRAME_TOO_LARGE") == 1
    assert value(text, "requests_total", op="other", code="UNKNOWN_OPCODE") == 1
    assert value(text, "requests_total", op="get", code="UNKNOWN") == 1
    assert value(text, "request_duration_seconds_bucket", op="put", le="0.0001") == 1
    assert value(text, "request_duration_seconds_bucket", op="put", le="0.0025") == 2
    assert value(text, "request_duration_seconds_sum", op="put") == pytest.approx(0.5016)
    assert value(text, "request_duration_seconds_count", op="other") == 2
    assert b"goodbye" not in text.lower()


def test_what_an_alert_waits_for_is_shown_while_it_is_none() -> None:
    text = NodeMetrics(figures, []).render()
    for op, code in [("put", "NO_SPACE"), ("put", "OUTCOME_UNKNOWN"), ("delete", "NO_LEADER"), ("get", "TIMEOUT")]:
        assert value(text, "requests_total", op=op, code=code) == 0


def test_a_label_cannot_break_the_format() -> None:
    text = NodeMetrics(lambda: figures(peer_round_trip_seconds={'node"\n2\\': 0.5}), []).render()
    assert value(text, "peer_round_trip_seconds", peer='node"\n2\\') == 0.5


@given(st.lists(st.floats(0, 30)))
def test_buckets_are_cumulative(values: list[float]) -> None:
    distribution = Distribution(REQUEST_BOUNDS_S)
    for one in values:
        distribution.observe(one)
    buckets = distribution.buckets()
    assert [count for _, count in buckets] == [sum(one <= float(bound) for one in values) for bound, _ in buckets]
    assert buckets[-1] == ("+Inf", len(values))
    assert distribution.total == pytest.approx(sum(values))


def test_a_distribution_fits_its_bounds() -> None:
    counted = Distribution((1.0, 2.0), [5, 6, 7], 30.0)
    counted.add(Distribution((1.0, 2.0), [1, 1, 1], 5.0))
    assert (counted.counts, counted.total) == ([6, 7, 8], 35.0)
    with pytest.raises(ValueError, match="need 3 counters"):
        Distribution((1.0, 2.0), [1, 2])
    with pytest.raises(ValueError, match="different bounds"):
        counted.add(Distribution((1.0,)))
