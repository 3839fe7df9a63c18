"""What nodes take of their machine, and when that counts as growing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.chaos.resources import BOUNDS, JUDGED_FROM_S, MIB, Sample, growth, sample

FLAT = Sample(0.0, "node-1", 100 * MIB, 60, 6, 200 * MIB)
SECONDS = JUDGED_FROM_S


def series(**last: int) -> list[Sample]:
    """A sample a second: flat, but for what it has come to in the last quarter."""
    return [FLAT._replace(t=float(t), **(last if t >= SECONDS * 3 / 4 else {})) for t in range(int(SECONDS))]


def test_what_is_flat_has_not_grown() -> None:
    assert growth(series(), SECONDS) == ([], [])


@pytest.mark.parametrize("name", BOUNDS)
def test_what_is_beyond_its_bound_has_grown_and_what_is_at_it_has_not(name: str) -> None:
    before = getattr(FLAT, name)
    most = int(before * (1 + BOUNDS[name].part)) + BOUNDS[name].more
    assert growth(series(**{name: most}), SECONDS) == ([], [])
    grown, _ = growth(series(**{name: most + 2}), SECONDS)
    assert grown == [f"{name} of node-1 grew from {before:,.0f} to {most + 2:,.0f}"]


def test_a_peak_is_no_growth() -> None:
    samples = series()
    samples[-30] = samples[-30]._replace(memory_bytes=100 * FLAT.memory_bytes)
    assert growth(samples, SECONDS) == ([], [])


def test_the_time_in_which_everything_fills_up_does_not_count() -> None:
    samples = [one._replace(memory_bytes=MIB) if one.t < SECONDS / 4 else one for one in series()]
    assert growth(samples, SECONDS) == ([], [])


def test_a_short_run_is_not_judged() -> None:
    assert growth(series(memory_bytes=100 * FLAT.memory_bytes), SECONDS - 1) == ([], [])


def test_a_node_that_was_hardly_seen_is_said_so() -> None:
    grown, too_few = growth([*series(), *(one._replace(node="node-2") for one in series()[::100])], SECONDS)
    assert grown == []
    assert too_few == ["node-2 was looked at 6 times only"]


def test_a_process_is_seen_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    with (tmp_path / "sub" / "file").open("wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    seen = sample(1.5, "node-1", os.getpid(), tmp_path)
    assert seen is not None
    assert (seen.t, seen.node) == (1.5, "node-1")
    assert seen.memory_bytes > MIB
    assert seen.open_files >= 3
    assert seen.threads >= 1
    assert seen.disk_bytes >= 1 << 20


def test_a_process_that_has_gone_is_not_seen(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert sample(0.0, "node-1", process.pid, tmp_path) is None
