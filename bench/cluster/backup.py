"""A backup of a cluster that is being written to: how fast it is, and what the writers notice.

    python -m bench.cluster.backup --keys 1000000 --value-bytes 512 --rounds 3

Starts three nodes, fills them, and writes until what the fill has left to do is done. Then 64 connections write, each
with one request in flight: in each round first undisturbed, then while `fastkv snapshot save` takes a backup; the
writes whose latency counts are those during it. MB/s is the backup's file, divided by the time of the whole command:
the checkpoint and the snapshot that the node makes for it, its way, its verification and its sync are all in there. At
last the file is restored, on this machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine
from bench.cluster.beside_writes import Load, Round
from bench.cluster.nodes import CHECKOUT, Nodes
from bench.processes import Servers
from fastkv.client import load

RESTORED = "restored"
PATIENT = {"raft": {"election_timeout_ms": 1000, "heartbeat_timeout_ms": 100}}
"""The figures are of writes, and of no election on a machine that has other things to do."""


def main() -> int:
    """The table of all rounds, their medians, and how long a restore takes."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.backup", description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-bytes", type=int, default=512)
    parser.add_argument("--quiet-seconds", type=float, default=10.0, help="of undisturbed writes in each round")
    parser.add_argument("--settle-seconds", type=float, default=30.0, help="of writes behind the fill, not measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args()
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    with tempfile.TemporaryDirectory(prefix="backup-", dir=options.data_dir.resolve()) as directory:
        rounds, restore_s = measure(Path(directory), options)
    speed = statistics.median(found.megabytes_per_second for found in rounds)
    ratio = statistics.median(found.p99_ratio for found in rounds)
    print(f"medians: {speed:.0f} MB/s, p99 of the writes meanwhile {ratio:.2f} x undisturbed")
    print(f"restore of {rounds[-1].megabytes:,.0f} MB: {restore_s:.1f} s")
    if options.output:
        said = {"machine": about, "rounds": [asdict(found) for found in rounds], "restore_seconds": restore_s}
        options.output.write_text(json.dumps(said, indent=1) + "\n")
    return 0


def measure(directory: Path, options: argparse.Namespace) -> tuple[list[Round], float]:
    """All rounds on one cluster, and the seconds of a restore."""
    rounds = []
    print("| backup MB | s | MB/s | p99 µs quiet | p99 µs busy | ratio | writes/s quiet | busy |")
    print("|---:" * 8 + "|")
    with Servers(directory) as servers:
        nodes = Nodes(directory, servers, settings=PATIENT)
        nodes.start()
        leader = nodes.wait_for_leader()
        filled = load.fill(
            nodes.address(leader), keys=options.keys, value_bytes=options.value_bytes, connections=8, depth=32
        )
        if filled["ok"] != options.keys:
            raise RuntimeError(f"the fill failed: {filled}")
        settling = Load(nodes.address(leader))
        time.sleep(options.settle_seconds)
        settling.end()
        file = directory / "round.fkvbackup"
        for _ in range(options.rounds):
            file.unlink(missing_ok=True)
            found = one_round(nodes, file, options.quiet_seconds)
            rounds.append(found)
            print(
                f"| {found.megabytes:,.0f} | {found.seconds:.1f} | {found.megabytes_per_second:.0f} "
                f"| {found.quiet_p99_us:,.0f} | {found.busy_p99_us:,.0f} | {found.p99_ratio:.2f} "
                f"| {found.quiet_throughput:,.0f} | {found.busy_throughput:,.0f} |",
                flush=True,
            )
    config = directory / f"{RESTORED}.yaml"
    config.write_text(json.dumps({"cluster": {"name": RESTORED, "data_dir": str(directory / RESTORED)}}))
    began = time.monotonic()
    fastkv("snapshot", "restore", str(file), "--config", str(config))
    return rounds, time.monotonic() - began


def one_round(nodes: Nodes, file: Path, quiet_s: float) -> Round:
    """Writes by themselves, and writes during a backup."""
    leader = nodes.wait_for_leader()
    quiet = Load(nodes.address(leader))
    time.sleep(quiet_s)
    before = quiet.end()
    busy = Load(nodes.address(leader))
    began = time.monotonic()
    saved = fastkv("snapshot", "save", str(file), "--endpoints", nodes.endpoints)
    seconds = time.monotonic() - began
    after = busy.end()
    return Round(
        saved["bytes"] / 1e6, seconds, before["latency_us"]["p99"], after["latency_us"]["p99"], before["throughput"],
        after["throughput"],
    )  # fmt: skip


def fastkv(*arguments: str) -> dict[str, Any]:
    """What a command says. CalledProcessError where it fails."""
    command = [sys.executable, "-m", "fastkv", *arguments, "--json"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True)
    said: dict[str, Any] = json.loads(done.stdout)
    return said


if __name__ == "__main__":
    sys.exit(main())
