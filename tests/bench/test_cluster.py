"""The programs of `bench/cluster` do what they say; how fast is not asked here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.cluster.catch_up import Round

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def measured(program: str, directory: Path, *arguments: str) -> dict[str, Any]:
    output = directory / "result.json"
    command = [sys.executable, "-m", f"bench.cluster.{program}", "--rounds", "1", "--output", str(output)]
    done = subprocess.run(
        [*command, "--data-dir", str(directory), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=False,
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
