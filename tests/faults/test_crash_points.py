"""Nodes killed at calls that change their data directory: a few, drawn by a seed. `crash_points` takes them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.crash_points import SCENARIOS, Sweep, Tally
from tests.faults.injection import MUTATING, Place, needs_strace, places

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_strace, pytest.mark.timeout(600)]

SEED = 11


def sweep_some(directory: Path, counts: dict[str, int]) -> Tally:
    """So many points of each scenario."""
    tally = Tally()
    for name, count in counts.items():
        sweep = Sweep(SCENARIOS[name], directory / name)
        for point in sweep.draw(SEED, count):
            tally.take(sweep, point)
    assert tally.failures == []
    assert tally.points == sum(counts.values())
    assert 2 * len(tally.unreached) <= tally.points, f"most points were not reached: {tally}"
    return tally


def test_a_node_by_itself_keeps_what_it_acknowledged_wherever_it_is_killed(tmp_path: Path) -> None:
    assert sweep_some(tmp_path, {"single": 6, "restart": 4}).points == 10


def test_a_leader_and_a_follower_keep_what_they_acknowledged_wherever_they_are_killed(tmp_path: Path) -> None:
    """The other one of the two that acknowledged is gone for good then."""
    assert sweep_some(tmp_path, {"leader": 2, "follower": 2}).points == 4


def test_the_places_of_a_run_are_all_that_change_its_directory(tmp_path: Path) -> None:
    """What is counted: of each thread for itself, in the data directory only, a rename under both of its names."""
    data = tmp_path / "data"
    trace = tmp_path / "strace"
    trace.write_text(
        f'11 rename("{data}/wal/a.tmp", "{data}/wal/a.wal") = 0\n'
        f"11 pwritev(9<{data}/wal/a.wal>, [...], 1, 0) = 8\n"
        f"12 pwritev(9<{data}/wal/a.wal>, [...], 1, 8) = 8\n"
        f"12 pwritev(9<{data}/wal/a.wal>, [...], 1, 16 <unfinished ...>\n"
        f'12 openat(AT_FDCWD</x>, "{data}/seen", O_RDONLY) = 10<{data}/seen>\n'
        f'12 openat(AT_FDCWD</x>, "{data}/made", O_RDWR|O_CREAT) = 10<{data}/made>\n'
        f"11 fsync(4<{data}>) = 0\n"
        f"11 write(5<{data}-else/b>, 1) = 1\n"
        "12 <... pwritev resumed>) = 8\n"
    )
    made = Place("openat", "made")
    assert {place: count for place, count in places(trace, data).items() if place != made} == {
        Place("rename", "wal/a.tmp"): 1,
        Place("rename", "wal/a.wal"): 1,
        Place("pwritev", "wal/a.wal"): 2,
        Place("fsync", ""): 1,
    }
    assert places(trace, data)[made] >= 1
    assert "pwritev" in MUTATING
