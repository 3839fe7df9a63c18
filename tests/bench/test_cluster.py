"""The programs of `bench/cluster` do what they say; how fast is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cluster import growth
from bench.cluster.beside_writes import Round

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def measured(program: str, directory: Path, *arguments: str) -> dict[str, Any]:
    output = directory / "result.json"
    command = [sys.executable, "-m", f"bench.cluster.{program}", "--rounds", "1", "--output", str(output)]
    done = subprocess.run(
        [*command, "--data-dir", str(directory), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(output.read_text())["rounds"]
    return dict(found)


def test_every_node_is_restarted_and_no_write_fails(tmp_path: Path) -> None:
    found = measured("rolling_restart", tmp_path, "--writers", "4")
    assert found["failed"] == 0
    assert len(found["gaps_ms"]) == 3
    assert 0 < found["longest_gap_ms"] == max(found["gaps_ms"])


def test_a_node_that_lost_everything_catches_up(tmp_path: Path) -> None:
    found = measured("catch_up", tmp_path, "--keys", "3000", "--value-bytes", "100", "--quiet-seconds", "0.3")
    assert found["seconds"] > 0
    assert found["quiet_throughput"] > 0
    assert found["busy_throughput"] > 0


def test_the_figures_of_a_round() -> None:
    found = Round(600, 6, 1000, 1500, 10, 10)
    assert (found.megabytes_per_second, found.p99_ratio) == (100, 1.5)


def test_a_point_of_a_curve(tmp_path: Path) -> None:
    loads = (growth.Load("put", 2, 2), growth.Load("get", 1, 1))
    points = growth.measure("nodes", 1, growth.Shape(nodes=1, keys=500), loads, 0.3, tmp_path)
    assert [(point.x, point.load) for point in points] == [(1, "put c2x2"), (1, "get c1")]
    assert all(point.throughput > 0 and 0 < point.p50_us <= point.p99_us for point in points)
    assert "put c2x2" in growth.table(points)
    assert list(tmp_path.iterdir()) == []


def test_nodes_may_be_far_apart(tmp_path: Path) -> None:
    far = growth.Shape(keys=100, delay_ms=10)
    (point,) = growth.measure("delay", 10, far, (growth.Load("put", 1, 1),), 0.5, tmp_path)
    assert point.p50_us >= 20_000       # there and back


@pytest.mark.parametrize("name", growth.CURVES)
def test_the_curves_are_what_a_generator_can_do(name: str) -> None:
    for _, shape, loads in growth.curve(name):
        for each in loads:
            assert each.connections * each.depth * (shape.value_bytes + 64) <= 1 << 30
            assert shape.keys * shape.value_bytes <= 2 << 30


def test_idle_connections_are_counted(tmp_path: Path) -> None:
    assert growth.idle_connection_bytes(tmp_path, connections=200) < 1 << 20


@pytest.mark.parametrize("what", ["checkpoints", "overload"])
def test_steadiness_is_measured(tmp_path: Path, what: str) -> None:
    output = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.cluster.steady", what, "--rounds", "1", "--seconds", "2", "--rate", "2000",
         "--data-dir", str(tmp_path), "--output", str(output)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(output.read_text())
    if what == "checkpoints":
        assert said["rounds"]["none"][0]["checkpoints"] == 0
        assert said["rounds"]["many"][0]["checkpoints"] >= 3
    else:
        assert said["rounds"][0]["rate"] == 5 * said["rounds"][0]["peak"]["throughput"]
        assert said["goodput"] > 0


def test_a_killed_leader_costs_no_write(tmp_path: Path) -> None:
    found = measured("failover", tmp_path, "--writers", "4")
    assert found["failed"] == 0
    assert found["gap_ms"] > found["quiet_gap_ms"] / 2 > 0


def test_nodes_come_back(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.cluster.restart", "--keys", "2000", "--overwrites", "1000", "--rounds", "1",
         "--data-dir", str(tmp_path), "--output", str(output)],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rounds = json.loads(output.read_text())["rounds"]
    assert [found["killed"] for found in rounds] == [False, True]
    assert all(found["ready_s"] > 0 for found in rounds)
