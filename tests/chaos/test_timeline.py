"""The timeline of a run, and its picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fastkv.chaos.chart import draw
from fastkv.chaos.clients import Sample
from fastkv.chaos.network import MissingError
from fastkv.chaos.record import Reign
from fastkv.chaos.timeline import POINTS, timeline
from tests.chaos.test_judge import good

PNG = b"\x89PNG\r\n\x1a\n"
LARGEST_BYTES = 150 * 1024


def test_operations_are_counted_where_they_end() -> None:
    record = good()
    record.samples = [
        Sample("all", "put", 0.0, 0.1, "ok"), Sample("all", "put", 0.1, 0.2, "ok"),
        Sample("all", "put", 0.2, 5.1, "unknown"), Sample("all", "get", 19.9, 20.5, "failed"),
    ]  # fmt: skip
    buckets = timeline(record)["buckets"]
    assert len(buckets) == 81
    assert buckets[0]["ok_per_s"] == 8.0
    assert buckets[0]["max_ms"] == pytest.approx(100.0)
    assert buckets[20]["unknown_per_s"] == 4.0
    assert buckets[20]["p50_ms"] is None, "only answers have a latency"
    assert buckets[-1]["failed_per_s"] == 4.0
    assert sum(bucket["ok_per_s"] for bucket in buckets) == 8.0


def test_a_long_run_has_no_more_points_than_a_picture() -> None:
    record = good()
    record.seconds = 36_000.0
    assert len(timeline(record)["buckets"]) == POINTS + 1


def test_it_is_json_and_says_what_happened() -> None:
    said = json.loads(json.dumps(timeline(good())))
    assert [fault["kind"] for fault in said["faults"]] == ["kill-leader", "split", "one-way"]
    assert said["leaders"][0] == {"t": 0.0, "leader": "node-1", "term": 1}
    assert said["nodes"] == ["node-1", "node-2", "node-3"]


@pytest.mark.slow
def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw(timeline(good()), tmp_path / "good.png")
    empty = good()
    empty.samples, empty.taken, empty.reigns = [], [], [Reign(0.0, "", 0)]
    draw(timeline(empty), tmp_path / "empty.png")
    for name in ("good.png", "empty.png"):
        drawn = (tmp_path / name).read_bytes()
        assert drawn.startswith(PNG)
        assert 5_000 < len(drawn) < LARGEST_BYTES


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingError, match=r"pip install 'fastkv\[chaos\]'"):
        draw(timeline(good()), tmp_path / "timeline.png")
    assert not (tmp_path / "timeline.png").exists()
