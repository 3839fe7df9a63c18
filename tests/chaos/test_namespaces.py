"""Nodes in network namespaces: each direction is cut by itself, and nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.chaos import namespaces
from fastkv.chaos.network import MissingError

ROOT = Path(__file__).parents[2]
LIMIT_S = 110


def _why_not() -> str:
    try:
        namespaces.check()
    except MissingError as missing:
        return str(missing)
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return "" if tried.returncode == 0 else f"no network namespace can be made here: {tried.stderr.strip()}"


WHY_NOT = _why_not()


@pytest.mark.slow
@pytest.mark.skipif(bool(WHY_NOT), reason=f"network namespaces are NOT tested: {WHY_NOT}")
def test_each_direction_is_cut_by_itself_and_nothing_is_left_behind(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.chaos.namespaced", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["free"] == []
    assert found["one way"] == ["a>b"]
    assert found["withheld"] == 1
    assert found["clients"] == ["client>c", "c>client"]
    assert 1 <= found["lossy"] <= 39, "half of forty is lost, give or take"
    assert found["healed"] == []
    assert found["withheld in all"] == 3 + found["lossy"]
    assert found["devices left"] == ["lo:"]


def test_what_is_missing_is_said_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool in ("nft", "ip") else f"/usr/bin/{tool}")
    with pytest.raises(MissingError, match=r"needs iproute2 and nftables: sudo apt-get install iproute2 nftables"):
        namespaces.check()
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(MissingError, match="needs root"):
        namespaces.check()
