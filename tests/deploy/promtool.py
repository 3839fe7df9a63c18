"""Prometheus' own judgement of what is meant for Prometheus."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"


def promtool(*arguments: str | Path, stdin: bytes | None = None) -> str:
    """Run promtool, and what it printed. Fails the test where it is not content."""
    done = subprocess.run(["promtool", *map(str, arguments)], input=stdin, capture_output=True, timeout=110)
    said = (done.stdout + done.stderr).decode()
    if done.returncode:
        pytest.fail(f"promtool {' '.join(map(str, arguments))}:\n{said}")
    return said


def parses(directory: Path, expressions: list[str]) -> None:
    """Every expression is PromQL: each is made a recording rule, and the rules are checked."""
    rules = "".join(
        f"      - record: expression:{number}\n        expr: {expression!r}\n"
        for number, expression in enumerate(expressions)
    )
    path = directory / "rules.yml"
    path.write_text(f"groups:\n  - name: expressions\n    rules:\n{rules}")
    assert f"SUCCESS: {len(expressions)} rules found" in promtool("check", "rules", path)
