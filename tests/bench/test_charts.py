"""Every row that was measured is in the charts, and the same rows make the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import charts


def row(load: str, rival: str, throughput: float, p999_us: float | None = 900.0) -> dict[str, Any]:
    return {
        "load": load, "rival": rival, "throughput": throughput, "lowest": throughput * 0.9, "highest": throughput * 1.2,
        "p50_us": 100.0, "p99_us": 500.0, "p999_us": p999_us,
    }  # fmt: skip


ROWS = [
    row("put-c1", "etcd", 900), row("put-c1", "redis", 3000, None), row("put-c1", "fastkv", 2500),
    row("put-c64", "etcd", 7000), row("put-c64", "redis", 45_000, None), row("put-c64", "fastkv", 50_000),
    row("http-get-c64", "etcd", 12_000), row("http-get-c64", "fastkv", 25_000),
]  # fmt: skip
POINTS = [
    {"curve": curve, "x": x, "load": load, "throughput": 1000.0 * x}
    for curve in charts.CURVES
    for x in (1, 10)
    for load in ("put c64x16", "get c64x16")
]


def test_bars_stand_for_the_rows_that_there_are() -> None:
    (panel,) = charts.throughput(ROWS).axes
    heights = sorted(patch.get_height() for patch in panel.patches)  # type: ignore[attr-defined]
    assert heights == sorted(row["throughput"] for row in ROWS)
    assert [label.get_text() for label in panel.get_xticklabels()] == ["put-c1", "put-c64", "http-get-c64"]


def test_a_percentile_that_a_tool_does_not_tell_is_left_out() -> None:
    panels = charts.latency(ROWS).axes
    points = {line.get_label(): len(line.get_ydata()) for line in panels[0].lines}  # type: ignore[arg-type]
    assert points == {"etcd": 3, "redis": 2, "fastkv": 3}
    assert len(panels[2].lines) == 2


def test_throughput_is_drawn_against_latency_for_each_operation() -> None:
    put, get = charts.trade(ROWS).axes
    assert (put.get_title(), get.get_title()) == ("put", "http-get")
    assert list(put.lines[0].get_xdata()) == [900, 7000]  # type: ignore[arg-type]


def test_each_curve_has_its_panel() -> None:
    panels = charts.growth(POINTS).axes
    assert [panel.get_xlabel() for panel in panels] == list(charts.CURVES.values())
    assert all(len(panel.lines) == 2 for panel in panels)


@pytest.mark.slow
def test_the_program_writes_files_that_are_the_same_each_time(tmp_path: Path) -> None:
    rivals, growth = tmp_path / "rivals.json", tmp_path / "growth.json"
    rivals.write_text(json.dumps({"rows": ROWS}))
    growth.write_text(json.dumps({"points": POINTS}))
    written = []
    for name in ("first", "second"):
        output = tmp_path / name
        assert charts.main(["--rivals", str(rivals), "--growth", str(growth), "--output", str(output)]) == 0
        written.append({path.name: path.read_bytes() for path in output.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"throughput.svg", "latency.svg", "trade.svg", "growth.svg"}


def test_something_has_to_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        charts.main(["--output", str(tmp_path)])
    assert "--rivals or --growth" in capsys.readouterr().err
