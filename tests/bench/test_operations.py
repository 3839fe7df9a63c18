"""`scripts/benchmark.sh` (`python -m bench`): N operations, against the cluster that runs or one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bench.__main__ as program
from bench.cluster.nodes import Nodes
from bench.processes import Servers
from fastkv.chaos.ports import free_ports
from fastkv.errors import Unavailable

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    directory = tmp_path_factory.mktemp("running")
    with Servers(directory) as servers:
        nodes = Nodes(directory, servers, settings={"raft": {"election_timeout_ms": 1000, "heartbeat_timeout_ms": 100}})
        nodes.start()
        yield nodes


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize("mode", program.MODES)
def test_against_the_cluster_that_runs(running: Nodes, mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", mode, "2000", "--keys", "300", "--json"],
        env={**os.environ, "FASTKV_ENDPOINTS": running.endpoints},
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["workload"], said["ok"], said["missing"]) == (mode, 2000, 0)
    assert said["leader"] in running.endpoints
    assert {"p50", "p90", "p99", "p999", "max"} <= set(said["latency_us"])


@pytest.mark.slow
@pytest.mark.e2e
def test_against_a_cluster_of_its_own_where_none_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def nobody(endpoints: str, timeout_s: float) -> None:
        raise Unavailable("no node answers")

    monkeypatch.setattr(program, "leader_address", nobody)
    monkeypatch.setattr(program, "DATA_DIR", tmp_path / "data")
    assert program.main(["writes", "1500", "--keys", "300", "--json"], {}) == 0
    out, errors = capfd.readouterr()
    assert json.loads(out)["ok"] == 1500
    assert "starting three nodes" in errors
    assert list((tmp_path / "data").iterdir()) == []


def test_a_cluster_that_was_named_has_to_answer(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert program.main(["writes", "10"], {"FASTKV_ENDPOINTS": f"127.0.0.1:{port}"}) == 4
    assert f"127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [[], ["writes"], ["scans", "10"], ["reads", "0"], ["reads", "-5"], ["reads", "1.5"], ["mixed", "many"]],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_told(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(wrong, {})
    assert ended.value.code == 2
    assert "usage: scripts/benchmark.sh" in capsys.readouterr().err
