"""How cost grows: with the number of keys, the size of values, connections, nodes, and the distance between nodes.

    python -m bench.cluster.growth --curves keys,values,connections,nodes,delay --seconds 5 --output growth.json

Each point is a cluster of its own: started, filled, loaded, stopped. What is not the curve's own matter is 3 nodes,
100,000 keys of 16 bytes, values of 128, 64 connections with 16 requests in flight each. Reads are linearizable, at the
leader. The distance is a delay that proxies put between nodes, each way; clients are as near as ever.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine
from bench.cluster.nodes import Nodes
from bench.processes import Servers
from fastkv._core.workload import Workload
from fastkv.client import load
from fastkv.client.addresses import Address

PATIENT: Mapping[str, Any] = {"raft": {"election_timeout_ms": 600, "heartbeat_timeout_ms": 100}}
"""For nodes so far apart that 100 ms are two of their round trips."""
FAR_MS = 20.0
FILL_BYTES = 512 << 20
"""No more than this is stored for a curve of value sizes."""
IN_FLIGHT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """A cluster, and what is in it."""

    nodes: int = 3
    keys: int = 100_000
    value_bytes: int = 128
    delay_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Load:
    """So many connections, with so many requests in flight on each."""

    operation: str
    connections: int
    depth: int

    def __str__(self) -> str:
        return f"{self.operation} c{self.connections}" + (f"x{self.depth}" if self.depth > 1 else "")


@dataclass(frozen=True, slots=True)
class Point:
    """One load on one cluster of a curve."""

    curve: str
    x: float
    load: str
    throughput: float
    p50_us: float
    p99_us: float
    cpu_us_each: float
    """CPU time of all nodes together, for an operation."""
    resident_mb: float
    """Of the node that takes most."""
    tool_share: float
    failed: int
    """Answers that were errors, and requests without one: a change of leaders in the middle costs those under way."""


FULL = (Load("put", 64, 16), Load("get", 64, 16))


def curve(name: str) -> Iterator[tuple[float, Shape, tuple[Load, ...]]]:
    """The points of a curve: x, the cluster, and the loads."""
    if name == "keys":
        yield from ((keys, Shape(keys=keys), FULL) for keys in (10_000, 100_000, 1_000_000, 10_000_000))
    elif name == "values":
        for value_bytes in (16, 128, 1024, 16 << 10, 128 << 10, 1 << 20):
            shape = Shape(keys=min(100_000, FILL_BYTES // value_bytes), value_bytes=value_bytes)
            in_flight = min(1024, max(4, IN_FLIGHT_BYTES // value_bytes))
            connections = min(64, in_flight)
            yield value_bytes, shape, tuple(Load(op, connections, in_flight // connections) for op in ("put", "get"))
    elif name == "connections":
        for connections in (1, 10, 100, 1000, 9000):
            yield connections, Shape(), (Load("put", connections, 1), Load("get", connections, 1))
    elif name == "nodes":
        yield from ((nodes, Shape(nodes=nodes), FULL) for nodes in (1, 3, 5, 7))
    elif name == "delay":
        loads = (Load("put", 1, 1), Load("put", 64, 16), Load("put", 64, 128), Load("get", 64, 16))
        yield from ((delay_ms, Shape(delay_ms=delay_ms), loads) for delay_ms in (0.0, 0.5, 5.0, 50.0))
    else:
        raise ValueError(name)


CURVES = ("keys", "values", "connections", "nodes", "delay")


def measure(name: str, x: float, shape: Shape, loads: tuple[Load, ...], seconds: float, parent: Path) -> list[Point]:
    """One cluster, and what its loads came to. RuntimeError where it could not be filled, or nothing was done."""
    points = []
    settings = PATIENT if shape.delay_ms >= FAR_MS else None
    with tempfile.TemporaryDirectory(prefix="growth-", dir=parent.resolve()) as path, Servers(Path(path)) as servers:
        nodes = Nodes(Path(path), servers, count=shape.nodes, settings=settings, delay_ms=shape.delay_ms)
        nodes.start()
        leader = nodes.wait_for_leader()
        filled = load.fill(
            nodes.address(leader), keys=shape.keys, value_bytes=shape.value_bytes,
            depth=min(64, max(1, IN_FLIGHT_BYTES // 64 // shape.value_bytes)),
        )  # fmt: skip
        if filled["ok"] != shape.keys:
            raise RuntimeError(f"the fill failed: {filled}")
        for each in loads:
            points.append(_load(name, x, shape, each, seconds, nodes, servers))
            print(f"  {name} {x:g}: {each}: {points[-1].throughput:,.0f} /s", file=sys.stderr)
    return points


def _load(name: str, x: float, shape: Shape, each: Load, seconds: float, nodes: Nodes, servers: Servers) -> Point:
    leader = nodes.wait_for_leader()
    before = servers.cpu_seconds()
    workload = Workload({each.operation: 1}, keys=shape.keys, value_bytes=shape.value_bytes)
    result = load.run(
        nodes.address(leader), workload, connections=each.connections, depth=each.depth, count=load.WITHOUT_END,
        max_seconds=seconds,
    )  # fmt: skip
    if not result["ok"] or result["missing"]:
        raise RuntimeError(f"{each} on {shape}: {result}")
    spent = {server: now - before[server] for server, now in servers.cpu_seconds().items() if server != "links"}
    return Point(
        name, x, str(each), result["throughput"], result["latency_us"]["p50"], result["latency_us"]["p99"],
        sum(spent.values()) * 1e6 / result["ok"], max(servers.resident_bytes().values()) / 1e6, result["cpu_share"],
        sum(result["errors"].values()) + result["lost"] + result["unanswered"],
    )  # fmt: skip


def idle_connection_bytes(parent: Path, connections: int = 9000) -> float:
    """What the leader's resident memory grows by for each connection that asks for nothing."""
    with tempfile.TemporaryDirectory(prefix="idle-", dir=parent.resolve()) as path, Servers(Path(path)) as servers:
        nodes = Nodes(Path(path), servers)
        nodes.start()
        leader = nodes.wait_for_leader()
        load.fill(nodes.address(leader), keys=1000)
        before = servers.resident_bytes()[leader]
        held = []
        try:
            for _ in range(connections):
                held.append(load.connect(Address.parse(nodes.address(leader))))
            return (servers.resident_bytes()[leader] - before) / connections
        finally:
            for each in held:
                each.close()


def table(points: list[Point]) -> str:
    """Markdown."""
    lines = ["| curve | | load | ops/s | p50 µs | p99 µs | server µs/op | MB a node | tool CPU | failed |"]
    lines.append("|---|---:|---|" + "---:|" * 7)
    lines += [
        f"| {point.curve} | {point.x:,g} | {point.load} | {point.throughput:,.0f} | {point.p50_us:,.0f} "
        f"| {point.p99_us:,.0f} | {point.cpu_us_each:,.1f} | {point.resident_mb:,.0f} | {point.tool_share:.0%} "
        f"| {point.failed:,} |"
        for point in points
    ]
    return "\n".join(lines)


def main() -> int:
    """The table of all curves; 1 where a point could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.growth", description=__doc__)
    parser.add_argument("--curves", default=",".join(CURVES), help="of %(default)s, and idle")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    points: list[Point] = []
    status = 0
    said: dict[str, Any] = {"machine": about}
    for name in options.curves.split(","):
        if name == "idle":
            said["idle_connection_bytes"] = idle_connection_bytes(options.data_dir)
            print(f"an idle connection takes {said['idle_connection_bytes']:,.0f} bytes", file=sys.stderr)
            continue
        for x, shape, loads in curve(name):
            try:
                points += measure(name, x, shape, loads, options.seconds, options.data_dir)
            except RuntimeError as error:       # the other points are worth having
                print(f"{name} {x:g}: {error}", file=sys.stderr)
                status = 1
    print(table(points))
    if options.output:
        said["points"] = [asdict(point) for point in points]
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
