"""Steady under load: leaders that stay, latency while checkpoints run, memory and goodput under too much load.

    python -m bench.cluster.steady full --minutes 10
    python -m bench.cluster.steady checkpoints --rounds 3
    python -m bench.cluster.steady overload --rounds 3

`full`: 64 connections with 16 puts in flight each, as fast as the cluster goes; how often leadership moved, and a line
for each minute. `checkpoints`: puts at half the rate that the cluster can do, on a cluster that writes checkpoints all
the time and on one that writes none; latencies count from when a put was due. `overload`: puts at five times the rate
that the cluster can do; what is refused has to be refused cheaply.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench import machine
from bench.cluster.nodes import Nodes
from bench.processes import Servers
from fastkv._core.workload import Workload
from fastkv.client import load

KEYS = 100_000
LEADER_CHANGES = "fastkv_server_leader_changes_total"
CHECKPOINTS = "fastkv_checkpoint_duration_seconds_count"
NO_CHECKPOINTS: Mapping[str, Any] = {
    "storage": {"memtable_bytes": 4 << 30, "checkpoint_age_s": 86_400, "checkpoint_wal_bytes": 64 << 30}
}
MANY_CHECKPOINTS: Mapping[str, Any] = {"storage": {"checkpoint_age_s": 1}}
"""At most a second after one is done the next begins."""


def puts(value_bytes: int = 128) -> Workload:
    """What all of these write."""
    return Workload({"put": 1}, keys=KEYS, value_bytes=value_bytes)


def full(nodes: Nodes, servers: Servers, options: argparse.Namespace) -> dict[str, Any]:
    """Full load for so many minutes."""
    before = _sum(nodes, LEADER_CHANGES)
    minutes = []
    print("| minute | puts/s | p50 µs | p99 µs | p99.9 µs | max µs | errors | leader changes | MB a node |")
    print("|---:" * 9 + "|")
    for minute in range(options.minutes):
        result = load.run(
            nodes.address(nodes.wait_for_leader()), puts(options.value_bytes), connections=64, depth=16,
            count=load.WITHOUT_END, max_seconds=60, seed=minute,
        )  # fmt: skip
        latency = result["latency_us"]
        changes = _sum(nodes, LEADER_CHANGES) - before
        resident_mb = max(servers.resident_bytes().values()) / 1e6
        errors = sum(result["errors"].values()) + result["lost"] + result["unanswered"]
        minutes.append({**result, "leader_changes": changes, "resident_mb": resident_mb})
        print(
            f"| {minute + 1} | {result['throughput']:,.0f} | {latency['p50']:,.0f} | {latency['p99']:,.0f} "
            f"| {latency['p999']:,.0f} | {latency['max']:,.0f} | {errors:,} | {changes:.0f} | {resident_mb:,.0f} |",
            flush=True,
        )
    return {"minutes": minutes}


def checkpoints(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of both clusters in turn."""
    rate = options.rate or _half_of_peak(directory)
    print("| | checkpoints | puts/s | p50 µs | p99 µs | p99.9 µs | max µs |")
    print("|---|" + "---:|" * 6)
    found: dict[str, list[dict[str, Any]]] = {"none": [], "many": []}
    for _ in range(options.rounds):
        for name, settings in (("none", NO_CHECKPOINTS), ("many", MANY_CHECKPOINTS)):
            with Running(directory, settings) as (nodes, _):
                before = _sum(nodes, CHECKPOINTS)
                result = load.run(
                    nodes.address(nodes.wait_for_leader()), puts(), connections=64, depth=64, rate=rate,
                    count=load.WITHOUT_END, max_seconds=options.seconds,
                )  # fmt: skip
                result["checkpoints"] = _sum(nodes, CHECKPOINTS) - before
            found[name].append(result)
            latency = result["latency_us"]
            print(
                f"| {name} | {result['checkpoints']:.0f} | {result['throughput']:,.0f} | {latency['p50']:,.0f} "
                f"| {latency['p99']:,.0f} | {latency['p999']:,.0f} | {latency['max']:,.0f} |",
                flush=True,
            )
    p99 = {name: statistics.median(each["latency_us"]["p99"] for each in rounds) for name, rounds in found.items()}
    print(f"p99 with checkpoints: {p99['many'] / p99['none']:.2f} x without")
    return {"rate": rate, "rounds": found, "p99_ratio": p99["many"] / p99["none"]}


def overload(directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peak, and then five times as much."""
    print("| | due/s | done/s | refused/s | unsent/s | p99 µs | MB a node before | after |")
    print("|---|" + "---:|" * 7)
    found = []
    for _ in range(options.rounds):
        with Running(directory, {}) as (nodes, servers):
            leader = nodes.address(nodes.wait_for_leader())
            peak = load.run(
                leader, puts(), connections=64, depth=16, count=load.WITHOUT_END, max_seconds=options.seconds
            )
            before = max(servers.resident_bytes().values()) / 1e6
            rate = options.factor * peak["throughput"]
            much = load.run(
                leader, puts(), connections=64, depth=1024, rate=rate, count=load.WITHOUT_END,
                max_seconds=options.seconds,
            )  # fmt: skip
            after = max(servers.resident_bytes().values()) / 1e6
        found.append({"peak": peak, "overloaded": much, "rate": rate, "before_mb": before, "after_mb": after})
        for name, due, each in (("peak", 0.0, peak), (f"{options.factor:g} x", rate, much)):
            refused = sum(each["errors"].values()) / each["seconds"]
            print(
                f"| {name} | {due:,.0f} | {each['throughput']:,.0f} | {refused:,.0f} "
                f"| {each['unsent'] / each['seconds']:,.0f} | {each['latency_us']['p99']:,.0f} "
                f"| {before:,.0f} | {after:,.0f} |",
                flush=True,
            )
    kept = statistics.median(each["overloaded"]["throughput"] / each["peak"]["throughput"] for each in found)
    print(f"goodput at {options.factor:g} times the load: {kept:.0%} of the peak")
    return {"rounds": found, "goodput": kept}


class Running:
    """Three nodes, filled, in a directory of their own; a context manager."""

    def __init__(self, parent: Path, settings: Mapping[str, Any]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="steady-", dir=parent)
        self._servers = Servers(Path(self._directory.name))
        self._nodes = Nodes(Path(self._directory.name), self._servers, settings=settings)

    def __enter__(self) -> tuple[Nodes, Servers]:
        try:
            self._nodes.start()
            filled = load.fill(self._nodes.address(self._nodes.wait_for_leader()), keys=KEYS)
            if filled["ok"] != KEYS:
                raise RuntimeError(f"the fill failed: {filled}")
        except BaseException:
            self.__exit__()
            raise
        return self._nodes, self._servers

    def __exit__(self, *error: object) -> None:
        self._servers.stop()
        self._directory.cleanup()


def _half_of_peak(directory: Path) -> float:
    with Running(directory, NO_CHECKPOINTS) as (nodes, _):
        peak = load.run(
            nodes.address(nodes.wait_for_leader()), puts(), connections=64, depth=16, count=load.WITHOUT_END,
            max_seconds=5,
        )  # fmt: skip
    return float(peak["throughput"]) / 2


def _sum(nodes: Nodes, metric: str) -> float:
    return sum(nodes.metric(name, metric) for name in nodes.names)


def main() -> int:
    """The table of what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.cluster.steady", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("full", "checkpoints", "overload"))
    parser.add_argument("--minutes", type=int, default=10, help="of full load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of the others (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--value-bytes", type=int, default=128, help="of full load (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="puts a second for checkpoints (default: half of the peak)")
    parser.add_argument("--factor", type=float, default=5.0, help="of overload (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    directory = options.data_dir.resolve()
    said: dict[str, Any] = {"machine": machine.describe(directory)}
    others: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
        "checkpoints": checkpoints, "overload": overload,
    }  # fmt: skip
    if options.what == "full":
        with Running(directory, {}) as (nodes, servers):
            said |= full(nodes, servers, options)
    else:
        said |= others[options.what](directory, options)
    if options.output:
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
