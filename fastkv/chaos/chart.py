"""The timeline of a run as a picture: operations a second, latencies and leaders, with the faults as bands behind.

Drawn by matplotlib, which is no part of a plain installation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastkv.chaos.network import MissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OUTCOMES = {"ok": "#0b7a75", "failed": "#e0a030", "unknown": "#c8501e"}
LATENCIES = {"p50_ms": ("median", "#0b7a75"), "p99_ms": ("p99", "#8a5cd1"), "max_ms": ("slowest", "#bbbbbb")}
BANDS = {
    "kill": "#d62728", "pause": "#ff9f1c", "rolling": "#7f7fd5", "replace": "#7f7fd5", "slow": "#b0a060",
    "lossy": "#b0a060", "half": "#b0a060",
}  # fmt: skip
PARTITION = "#4a90d9"
NAMED_UP_TO = 45
"""With more faults than so many, their names would only cover each other."""


def draw(timeline: dict[str, Any], path: Path) -> None:
    """Write a PNG. MissingError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise MissingError("no chart: matplotlib is not installed; pip install 'fastkv[chaos]' brings it") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        3, 1, figsize=(10, 5.6), sharex=True, layout="constrained", height_ratios=(3, 3, 1.2)
    )
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        _bands(panel, timeline["faults"])
    _operations(panels[0], timeline["buckets"])
    _latencies(panels[1], timeline["buckets"])
    _leaders(panels[2], timeline)
    _names(panels[0], timeline["faults"])
    panels[0].set_xlim(0, timeline["seconds"])
    panels[2].set_xlabel("seconds")
    figure.suptitle(f"{timeline['mode']}, seed {timeline['seed']}, {len(timeline['nodes'])} nodes", fontsize=10)
    figure.savefig(path, dpi=95)
    pyplot.close(figure)


def _bands(panel: Axes, faults: list[dict[str, Any]]) -> None:
    for fault in faults:
        colour = BANDS.get(fault["kind"].partition("-")[0], PARTITION)
        alpha = 0.18 if fault["counts"] else 0.05
        panel.axvspan(fault["began"], fault["ended"], color=colour, alpha=alpha, linewidth=0)


def _names(panel: Axes, faults: list[dict[str, Any]]) -> None:
    if len(faults) > NAMED_UP_TO:
        return
    for fault in faults:
        panel.text(
            (fault["began"] + fault["ended"]) / 2, 1.0, fault["kind"], transform=panel.get_xaxis_transform(),
            rotation=90, fontsize=6, ha="center", va="top", color="#333333",
        )  # fmt: skip


def _operations(panel: Axes, buckets: list[dict[str, Any]]) -> None:
    t = [bucket["t"] for bucket in buckets]
    for outcome, colour in OUTCOMES.items():
        panel.plot(t, [bucket[f"{outcome}_per_s"] for bucket in buckets], color=colour, linewidth=1, label=outcome)
    panel.set_ylabel("operations a second")
    panel.legend(frameon=False, ncols=3, fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _latencies(panel: Axes, buckets: list[dict[str, Any]]) -> None:
    for name, (label, colour) in reversed(LATENCIES.items()):
        points = [(bucket["t"], bucket[name]) for bucket in buckets if bucket[name] is not None]
        panel.plot([t for t, _ in points], [ms for _, ms in points], color=colour, linewidth=1, label=label)
    panel.set_yscale("log")
    panel.set_ylabel("latency, ms")
    panel.legend(frameon=False, ncols=3, fontsize=7, loc="lower right", bbox_to_anchor=(1.0, 1.0))


def _leaders(panel: Axes, timeline: dict[str, Any]) -> None:
    nodes, reigns = timeline["nodes"], timeline["leaders"]
    ends = [*(reign["t"] for reign in reigns[1:]), timeline["seconds"]]
    for reign, end in zip(reigns, ends, strict=False):
        if reign["leader"]:
            panel.barh(nodes.index(reign["leader"]), end - reign["t"], left=reign["t"], height=0.7, color="#444444")
    panel.set_yticks(range(len(nodes)), nodes, fontsize=7)
    panel.set_ylabel("leader")
