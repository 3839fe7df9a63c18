"""Every node is stopped and started in turn while clients write: how many writes fail, and the longest gap.

    python -m bench.cluster.rolling_restart --rounds 5

A gap is the time between two acknowledgements that follow each other, of whichever writers: how long the whole cluster
acknowledged nothing. The same is measured just before, undisturbed, because on a busy machine that is no zero either.
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

QUIET_S = 3.0
SETTLED_S = 1.0
"""Between one node's return and the next one's stop."""


@dataclass(frozen=True, slots=True)
class Round:
    """All nodes restarted once."""

    writes: int
    failed: int
    quiet_gap_ms: float
    longest_gap_ms: float
    gaps_ms: tuple[float, ...]
    """The longest around each node's restart."""


def main() -> int:
    """The table of all rounds; 1 where a write failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.rolling_restart", description=__doc__)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-sessions", action="store_true", help="writers without a session for exactly-once retries")
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    with (
        tempfile.TemporaryDirectory(prefix="rolling-restart-", dir=options.data_dir.resolve()) as directory,
        Servers(Path(directory)) as servers,
    ):
        nodes = Nodes(Path(directory), servers)
        nodes.start()
        rounds = uvloop.run(measure_all(nodes, servers, options))
    failed = sum(found.failed for found in rounds)
    longest = [found.longest_gap_ms for found in rounds]
    median = statistics.median(longest)
    print(f"{failed} failed writes; the longest gap: median {median:.0f} ms, worst {max(longest):.0f} ms")
    if options.output:
        said = {"machine": about, "rounds": [asdict(found) for found in rounds]}
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return 1 if failed else 0


async def measure_all(nodes: Nodes, servers: Servers, options: argparse.Namespace) -> list[Round]:
    """Round after round, on one cluster."""
    rounds = []
    print("| writes | failed | longest gap ms, undisturbed | in each restart |\n" + "|---:" * 3 + "|---|")
    for _ in range(options.rounds):
        async with fastkv.AsyncClient(nodes.endpoints, exactly_once=not options.no_sessions) as client:
            found = await measure(nodes, servers, Writers(client, options.writers))
        rounds.append(found)
        each = ", ".join(f"{gap:.0f}" for gap in found.gaps_ms)
        print(f"| {found.writes:,} | {found.failed} | {found.quiet_gap_ms:.0f} | {each} |", flush=True)
    return rounds


async def measure(nodes: Nodes, servers: Servers, writers: Writers) -> Round:
    """Restart every node once; the leader is the last, as an operator would have it."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(QUIET_S)
    quiet_gap_ms = writers.longest_gap_ms()
    leader = await loop.run_in_executor(None, nodes.wait_for_leader)
    gaps = []
    for name in [*(name for name in nodes.names if name != leader), leader]:
        status = await loop.run_in_executor(None, servers.terminate, name)
        if status:
            raise RuntimeError(f"{name} ended with status {status}")
        nodes.start_one(name)
        await loop.run_in_executor(None, nodes.wait_for_leader)
        await asyncio.sleep(SETTLED_S)
        gaps.append(writers.longest_gap_ms())
    await writers.end()
    for failure in writers.failures[:5]:
        print(failure, file=sys.stderr)
    return Round(writers.acknowledged, len(writers.failures), quiet_gap_ms, max(gaps), tuple(gaps))


if __name__ == "__main__":
    sys.exit(main())
