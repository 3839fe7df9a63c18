"""The leader is killed while clients write: how long nothing is acknowledged, and what becomes of the writes.

    python -m bench.cluster.failover --rounds 20

Each round kills the leader with SIGKILL, waits until another node leads, starts the killed one again, and waits until
it has caught up. A gap is the time between two acknowledgements that follow each other, of whichever writers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

import fastkv
from bench import machine
from bench.cluster.nodes import Nodes
from bench.cluster.writers import Writers
from bench.processes import Servers

SETTLED_S = 1.0
"""Between one round and the next."""


@dataclass(frozen=True, slots=True)
class Round:
    """One leader killed."""

    writes: int
    failed: int
    quiet_gap_ms: float
    gap_ms: float


def main() -> int:
    """The table of all rounds; 1 where a write failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.failover", description=__doc__)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    with (
        tempfile.TemporaryDirectory(prefix="failover-", dir=options.data_dir.resolve()) as directory,
        Servers(Path(directory)) as servers,
    ):
        nodes = Nodes(Path(directory), servers)
        nodes.start()
        rounds = uvloop.run(measure_all(nodes, servers, options))
    failed = sum(found.failed for found in rounds)
    gaps = [found.gap_ms for found in rounds]
    print(f"{failed} failed writes; the gap: median {statistics.median(gaps):.0f} ms, worst {max(gaps):.0f} ms")
    if options.output:
        said = {"machine": about, "rounds": [asdict(found) for found in rounds]}
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return 1 if failed else 0


async def measure_all(nodes: Nodes, servers: Servers, options: argparse.Namespace) -> list[Round]:
    """Round after round, on one cluster."""
    rounds = []
    print("| writes | failed | longest gap ms, undisturbed | after the kill |\n" + "|---:" * 4 + "|")
    for _ in range(options.rounds):
        async with fastkv.AsyncClient(nodes.endpoints) as client:
            found = await measure(nodes, servers, Writers(client, options.writers))
        rounds.append(found)
        print(f"| {found.writes:,} | {found.failed} | {found.quiet_gap_ms:.0f} | {found.gap_ms:.0f} |", flush=True)
    return rounds


async def measure(nodes: Nodes, servers: Servers, writers: Writers) -> Round:
    """Kill the leader, and bring it back."""
    loop = asyncio.get_running_loop()
    leader = await loop.run_in_executor(None, nodes.wait_for_leader)
    await asyncio.sleep(SETTLED_S)
    quiet_gap_ms = writers.longest_gap_ms()
    servers.kill(leader)
    await asyncio.sleep(SETTLED_S)
    gap_ms = writers.longest_gap_ms()
    nodes.start_one(leader)
    await loop.run_in_executor(None, nodes.wait_for_leader)
    await writers.end()
    for failure in writers.failures[:5]:
        print(failure, file=sys.stderr)
    return Round(writers.acknowledged, len(writers.failures), quiet_gap_ms, gap_ms)


if __name__ == "__main__":
    sys.exit(main())
