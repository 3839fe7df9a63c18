"""A node that lost everything catches up while clients write: how fast, and what the clients notice.

    python -m bench.cluster.catch_up --keys 1000000 --value-bytes 512 --rounds 3

Each round starts three nodes and fills them. Then 64 connections write, each with one request in flight: first
undisturbed; then while a follower is killed, emptied, removed, and added again. It has caught up once it votes and has
applied what the leader had committed a moment before. MB/s is the snapshot it fetched, divided by the time from its
being added until then: the copy that is made for it, its way, its verification and the log behind it are all in there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine
from bench.cluster.beside_writes import Load, Round
from bench.cluster.nodes import Nodes
from bench.processes import Servers
from fastkv.client import load

POLL_S = 0.05
PATIENCE_S = 300.0


def main() -> int:
    """The table of all rounds, and their medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.catch_up", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=512)
    parser.add_argument("--quiet-seconds", type=float, default=10.0, help="of undisturbed writes in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    rounds = []
    print("| snapshot MB | s | MB/s | p99 µs quiet | p99 µs busy | ratio | writes/s quiet | busy |")
    print("|---:" * 8 + "|")
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="catch-up-", dir=options.data_dir.resolve()) as directory:
            found = measure(Path(directory), options.keys, options.value_bytes, options.quiet_seconds)
        rounds.append(found)
        print(
            f"| {found.megabytes:,.0f} | {found.seconds:.1f} | {found.megabytes_per_second:.0f} "
            f"| {found.quiet_p99_us:,.0f} | {found.busy_p99_us:,.0f} | {found.p99_ratio:.2f} "
            f"| {found.quiet_throughput:,.0f} | {found.busy_throughput:,.0f} |",
            flush=True,
        )
    speed = statistics.median(found.megabytes_per_second for found in rounds)
    ratio = statistics.median(found.p99_ratio for found in rounds)
    print(f"medians: {speed:.0f} MB/s, p99 of the writes meanwhile {ratio:.2f} x undisturbed")
    if options.output:
        said = {"machine": about, "rounds": [asdict(found) for found in rounds]}
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def measure(directory: Path, keys: int, value_bytes: int, quiet_s: float) -> Round:
    """One round."""
    with Servers(directory) as servers:
        nodes = Nodes(directory, servers)
        nodes.start()
        leader = nodes.wait_for_leader()
        filled = load.fill(nodes.address(leader), keys=keys, value_bytes=value_bytes, connections=8, depth=32)
        if filled["ok"] != keys:
            raise RuntimeError(f"the fill failed: {filled}")
        leader = nodes.wait_for_leader()
        quiet = Load(nodes.address(leader))
        time.sleep(quiet_s)
        before = quiet.end()
        lost = next(name for name in nodes.names if name != leader)
        servers.kill(lost)
        nodes.wipe(lost)
        accepted(nodes.ask(leader, "DELETE", f"/cluster/members/{lost}"))
        busy = Load(nodes.address(leader))
        nodes.start_one(lost, join=True)
        servers.until(lambda: is_up(nodes, lost))
        added = time.monotonic()
        address = {"id": lost, "raft": nodes.address(lost), "http": nodes.http_address(lost)}
        accepted(nodes.ask(leader, "POST", "/cluster/members", address))
        servers.until(lambda: has_caught_up(nodes, lost, leader), PATIENCE_S)
        seconds = time.monotonic() - added
        after = busy.end()
        received = nodes.metric(lost, "fastkv_snapshot_received_bytes_total")
    return Round(
        received / 1e6, seconds, before["latency_us"]["p99"], after["latency_us"]["p99"], before["throughput"],
        after["throughput"],
    )  # fmt: skip


def accepted(answer: dict[str, Any]) -> None:
    """RuntimeError where the cluster refused."""
    if "error" in answer:
        raise RuntimeError(answer["error"])


def is_up(nodes: Nodes, name: str) -> bool:
    """Whether it answers."""
    try:
        nodes.ask(name, "GET", "/livez")
    except (OSError, ValueError):
        return False
    return True


def has_caught_up(nodes: Nodes, name: str, leader: str) -> bool:
    """Whether it votes, and has what the leader had committed just before it was asked."""
    committed = nodes.ask(leader, "GET", "/health")["commit_index"]
    voters = [m["id"] for m in nodes.ask(leader, "GET", "/cluster/members")["members"] if m["role"] == "voter"]
    return name in voters and nodes.ask(name, "GET", "/health")["applied_index"] >= committed


if __name__ == "__main__":
    sys.exit(main())
