"""Charts of what was measured, as SVG: from the JSON that `bench.rivals` and `bench.cluster.growth` write.

    python -m bench.charts --rivals rivals.json --growth growth.json --output docs/images

`throughput.svg` and `latency.svg` compare the rivals under each load; `trade.svg` draws throughput against latency, a
point for each load of an operation; `growth.svg` has a panel for each curve.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, Any]
COLOURS = {"fastkv": "#0b7a75", "etcd": "#8a5cd1", "redis": "#c8501e"}
LINES = ("#0b7a75", "#c8501e", "#8a5cd1", "#444444")
CURVES = {
    "keys": "keys in the store",
    "values": "bytes of a value",
    "connections": "connections",
    "nodes": "nodes",
    "delay": "ms between nodes, each way",
}


def figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Sequence[Axes]]:
    """An empty figure with so many panels side by side, drawn without a display and the same each time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "fastkv", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    drawn, panels = pyplot.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    for panel in panels[0]:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    return drawn, list(panels[0])


def save(drawn: Figure, path: Path) -> None:
    """Write it, without a date, so that the same figures make the same file."""
    from matplotlib import pyplot

    drawn.savefig(path, metadata={"Date": None})
    pyplot.close(drawn)


def throughput(rows: Sequence[Row]) -> Figure:
    """Operations a second of each rival under each load, with the range of the rounds."""
    loads, rivals = _names(rows, "load"), _names(rows, "rival")
    drawn, (panel,) = figure(1.5 + 1.1 * len(loads), 3.6)
    width = 0.8 / len(rivals)
    for place, rival in enumerate(rivals):
        own = {row["load"]: row for row in rows if row["rival"] == rival}
        at = [i for i, load in enumerate(loads) if load in own]
        found = [own[loads[i]] for i in at]
        heights = [row["throughput"] for row in found]
        below = [row["throughput"] - row["lowest"] for row in found]
        above = [row["highest"] - row["throughput"] for row in found]
        xs = [i + (place - (len(rivals) - 1) / 2) * width for i in at]
        panel.bar(
            xs, heights, width * 0.92, yerr=(below, above), label=rival, color=COLOURS.get(rival),
            error_kw={"elinewidth": 0.8, "ecolor": "#222222"},
        )  # fmt: skip
    panel.set_yscale("log")
    panel.set_xticks(range(len(loads)), loads, rotation=20, ha="right")
    panel.set_ylabel("operations a second")
    panel.legend(frameon=False, ncols=len(rivals))
    return drawn


def latency(rows: Sequence[Row]) -> Figure:
    """p50, p99 and p99.9 of each rival, a panel for each load."""
    loads, rivals = _names(rows, "load"), _names(rows, "rival")
    drawn, panels = figure(1.2 + 1.9 * len(loads), 3.0, len(loads))
    for panel, load in zip(panels, loads, strict=True):
        for rival in rivals:
            row = next((row for row in rows if (row["load"], row["rival"]) == (load, rival)), None)
            if row is not None:
                values = [row["p50_us"], row["p99_us"], row["p999_us"]]
                names = [name for name, value in zip(("p50", "p99", "p99.9"), values, strict=True) if value is not None]
                panel.plot(
                    names, [value for value in values if value is not None], "o-", label=rival, color=COLOURS.get(rival)
                )
        panel.set_yscale("log")
        panel.set_title(load, fontsize=9)
    panels[0].set_ylabel("µs")
    panels[0].legend(frameon=False)
    return drawn


def trade(rows: Sequence[Row]) -> Figure:
    """Throughput against p99, a point for each load: a rival is better the further right and the lower it is."""
    operations = _names([{"operation": row["load"].partition("-c")[0]} for row in rows], "operation")
    drawn, panels = figure(1 + 3.4 * len(operations), 3.4, len(operations))
    for panel, operation in zip(panels, operations, strict=True):
        for rival in _names(rows, "rival"):
            own = [r for r in rows if r["rival"] == rival and r["load"].partition("-c")[0] == operation]
            own.sort(key=lambda row: float(row["throughput"]))
            if own:
                panel.plot(
                    [row["throughput"] for row in own], [row["p99_us"] for row in own], "o-", label=rival,
                    color=COLOURS.get(rival), markersize=4,
                )  # fmt: skip
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_title(operation, fontsize=9)
        panel.set_xlabel("operations a second")
    panels[0].set_ylabel("p99, µs")
    panels[0].legend(frameon=False)
    return drawn


def growth(points: Sequence[Row]) -> Figure:
    """Throughput along each curve, a line for each load."""
    curves = _names(points, "curve")
    drawn, panels = figure(1 + 3.0 * len(curves), 3.2, len(curves))
    for panel, curve in zip(panels, curves, strict=True):
        own = [point for point in points if point["curve"] == curve]
        by_load: dict[str, list[Row]] = {}
        for point in own:
            # Where the load itself is what grows, its name does.
            load = point["load"].partition(" ")[0] if curve in ("values", "connections") else point["load"]
            by_load.setdefault(load, []).append(point)
        for colour, (load, line) in zip(LINES, by_load.items(), strict=False):
            panel.plot(
                [point["x"] for point in line], [point["throughput"] for point in line], "o-", label=load, color=colour,
                markersize=4,
            )  # fmt: skip
        if curve in ("keys", "values", "connections"):
            panel.set_xscale("log")
        panel.set_yscale("log" if curve in ("values", "delay", "connections") else "linear")
        if panel.get_yscale() == "linear":
            panel.set_ylim(bottom=0)
        panel.set_xlabel(CURVES.get(curve, curve))
        panel.legend(frameon=False, fontsize=7)
    panels[0].set_ylabel("operations a second")
    return drawn


def _names(rows: Sequence[Row], key: str) -> list[str]:
    """Each once, in the order of their first rows."""
    return list(dict.fromkeys(str(row[key]) for row in rows))


def main(arguments: Sequence[str]) -> int:
    """Write the charts for the files that were given."""
    parser = argparse.ArgumentParser(prog="python -m bench.charts", description=__doc__)
    parser.add_argument("--rivals", type=Path, help="what `python -m bench.rivals --output` wrote")
    parser.add_argument("--growth", type=Path, help="what `python -m bench.cluster.growth --output` wrote")
    parser.add_argument("--output", type=Path, required=True, help="a directory")
    options = parser.parse_args(arguments)
    if not options.rivals and not options.growth:
        parser.error("--rivals or --growth is needed")
    options.output.mkdir(parents=True, exist_ok=True)
    if options.rivals:
        rows = json.loads(options.rivals.read_text())["rows"]
        save(throughput(rows), options.output / "throughput.svg")
        save(latency(rows), options.output / "latency.svg")
        save(trade(rows), options.output / "trade.svg")
    if options.growth:
        save(growth(json.loads(options.growth.read_text())["points"]), options.output / "growth.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
