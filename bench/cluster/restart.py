"""A node with a million keys and a long log is stopped, or killed, and started: how long until it serves again.

    python -m bench.cluster.restart --keys 1000000 --rounds 3

The time runs from the start of the process until /readyz says that it knows a leader and has applied what it had: the
interpreter, the store, the log behind it, and finding the others. A killed node has all of its log since the last
checkpoint to apply again; a node that was stopped as well, since a stop writes no checkpoint.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import machine
from bench.cluster.nodes import Nodes
from bench.processes import Servers
from fastkv._core.workload import Workload
from fastkv.client import load

POLL_S = 0.005
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Round:
    """One node's return."""

    killed: bool
    wal_mb: float
    ready_s: float


def main() -> int:
    """The table of all rounds, and the medians."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.restart", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--overwrites", type=int, default=1_000_000, help="after the fill, so that the log is full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    rounds = []
    with (
        tempfile.TemporaryDirectory(prefix="restart-", dir=options.data_dir.resolve()) as directory,
        Servers(Path(directory)) as servers,
    ):
        nodes = Nodes(Path(directory), servers)
        nodes.start()
        filled = load.fill(nodes.address(nodes.wait_for_leader()), keys=options.keys, value_bytes=options.value_bytes)
        if filled["ok"] != options.keys:
            raise RuntimeError(f"the fill failed: {filled}")
        print("| | log MB | s until ready |\n|---|---:|---:|")
        for number in range(2 * options.rounds):
            found = measure(nodes, servers, options, killed=number % 2 == 1)
            rounds.append(found)
            how = "killed" if found.killed else "stopped"
            print(f"| {how} | {found.wal_mb:,.0f} | {found.ready_s:.2f} |", flush=True)
    for killed in (False, True):
        median = statistics.median(found.ready_s for found in rounds if found.killed == killed)
        print(f"{'killed' if killed else 'stopped'}: median {median:.2f} s")
    if options.output:
        said = {"machine": about, "rounds": [asdict(found) for found in rounds]}
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def measure(nodes: Nodes, servers: Servers, options: argparse.Namespace, *, killed: bool) -> Round:
    """Overwrite keys, end a follower, start it, and wait until it is ready."""
    leader = nodes.wait_for_leader()
    written = load.run(
        nodes.address(leader), Workload({"put": 1}, keys=options.keys, value_bytes=options.value_bytes),
        connections=64, depth=16, count=options.overwrites, max_seconds=PATIENCE_S,
    )  # fmt: skip
    if written["ok"] != options.overwrites:
        raise RuntimeError(f"the overwrites failed: {written}")
    name = next(name for name in nodes.names if name != leader)
    wal_mb = nodes.metric(name, "fastkv_wal_bytes") / 1e6
    if killed:
        servers.kill(name)
    else:
        servers.terminate(name)
    began = time.monotonic()
    nodes.start_one(name)
    while not is_ready(nodes, name):
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError(f"{name} was not ready in {PATIENCE_S} s")
        time.sleep(POLL_S)
    return Round(killed, wal_mb, time.monotonic() - began)


def is_ready(nodes: Nodes, name: str) -> bool:
    """What /readyz says."""
    try:
        with urllib.request.urlopen(f"http://{nodes.http_address(name)}/readyz", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


if __name__ == "__main__":
    sys.exit(main())
