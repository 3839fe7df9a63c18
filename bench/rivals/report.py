"""From measurements to medians, ratios and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from bench.rivals.rival import Measurement

# rival -> load -> one measurement for each round
Measurements = Mapping[str, Mapping[str, Sequence[Measurement]]]


@dataclass(frozen=True, slots=True)
class Row:
    """A rival under a load: medians over the rounds."""

    load: str
    rival: str
    throughput: float
    lowest: float
    highest: float
    p50_us: float
    p99_us: float
    p999_us: float | None
    cpu_us_each: float
    tool_share: float
    """CPU time of the load generator over the time of the run: near 1 it measured itself."""
    failed: int
    ratio: float | None
    """fastkv's throughput over this rival's; None for fastkv itself and where fastkv was not measured."""
    p99_ratio: float | None


def rows(measured: Measurements, loads: Sequence[str]) -> list[Row]:
    """A row for each load and rival that were measured, in the order of the loads."""
    found = []
    for load in loads:
        own = measured.get("fastkv", {}).get(load)
        for rival, by_load in measured.items():
            rounds = by_load.get(load)
            if rounds:
                found.append(_row(load, rival, rounds, None if rival == "fastkv" else own))
    return found


def _row(load: str, rival: str, rounds: Sequence[Measurement], own: Sequence[Measurement] | None) -> Row:
    throughput = median(each.throughput for each in rounds)
    p99_us = median(each.p99_us for each in rounds)
    tails = [each.p999_us for each in rounds if each.p999_us is not None]
    return Row(
        load=load,
        rival=rival,
        throughput=throughput,
        lowest=min(each.throughput for each in rounds),
        highest=max(each.throughput for each in rounds),
        p50_us=median(each.p50_us for each in rounds),
        p99_us=p99_us,
        p999_us=median(tails) if tails else None,
        cpu_us_each=median(each.cpu_us_each for each in rounds),
        tool_share=median(each.tool_cpu_seconds / each.seconds for each in rounds),
        failed=sum(each.failed for each in rounds),
        ratio=median(each.throughput for each in own) / throughput if own else None,
        p99_ratio=median(each.p99_us for each in own) / p99_us if own else None,
    )


HEADINGS = ("load", "rival", "ops/s", "lowest", "highest", "p50 µs", "p99 µs", "p99.9 µs", "server µs/op", "tool CPU")
HEADINGS_OF_RATIOS = ("fastkv ÷", "p99 ÷", "failed")


def table(found: Sequence[Row]) -> str:
    """A Markdown table, aligned so that it reads well on a terminal too."""
    cells = [[*HEADINGS, *HEADINGS_OF_RATIOS], *(_cells(row) for row in found)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = [
        "| "
        + " | ".join(
            text.ljust(w) if i < 2 else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in cells
    ]
    rule = (
        "|" + "|".join("-" * (width + 2) if i < 2 else "-" * (width + 1) + ":" for i, width in enumerate(widths)) + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(row: Row) -> list[str]:
    return [
        row.load,
        row.rival,
        f"{row.throughput:,.0f}",
        f"{row.lowest:,.0f}",
        f"{row.highest:,.0f}",
        f"{row.p50_us:,.0f}",
        f"{row.p99_us:,.0f}",
        "" if row.p999_us is None else f"{row.p999_us:,.0f}",
        f"{row.cpu_us_each:,.1f}",
        f"{row.tool_share:.0%}",
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.p99_ratio is None else f"{row.p99_ratio:.2f}",
        f"{row.failed:,}" if row.failed else "",
    ]
