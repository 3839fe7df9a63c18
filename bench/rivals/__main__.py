"""`python -m bench.rivals`: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine
from bench.processes import Servers
from bench.rivals import h2load, report, wrk
from bench.rivals.etcd import Etcd
from bench.rivals.fastkv import FastKV
from bench.rivals.loads import Data, Load
from bench.rivals.redis import Redis
from bench.rivals.rival import Measurement, Rival, RivalError

RIVALS: dict[str, type[Rival]] = {"etcd": Etcd, "redis": Redis, "fastkv": FastKV}
BUSY = 0.25
"""The load average for each core above which something else is running."""
DEFAULT_LOADS = (
    "put-c1,put-c64,put-c64x16,get-c1,get-c64,get-c64x16,lease-get-c1,lease-get-c64,lease-get-c64x16,"
    "http-put-c64,http-get-c64"
)


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.rivals", description=__doc__)
    parser.add_argument("--rivals", default="etcd,redis,fastkv", help=f"of {', '.join(RIVALS)} (default: all)")
    parser.add_argument("--loads", default=DEFAULT_LOADS, help="as put-c64x16, http-get-c64 (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load in each round (default: %(default)s)")
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--value-bytes", type=int, default=128)
    parser.add_argument("--data-dir", type=Path, default=Path("data/bench"), help="on the disk that is to be measured")
    parser.add_argument("--output", type=Path, help="write everything that was measured as JSON")
    options = parser.parse_args(arguments)
    unknown = set(options.rivals.split(",")) - set(RIVALS)
    if unknown:
        parser.error(f"--rivals knows {', '.join(RIVALS)}, not {', '.join(sorted(unknown))}")
    try:
        options.loads = [Load.parse(text) for text in options.loads.split(",")]
    except ValueError as error:
        parser.error(str(error))
    if min(options.rounds, options.seconds, options.keys, options.value_bytes) <= 0:
        parser.error("--rounds, --seconds, --keys and --value-bytes are above 0")
    return options


def missing(rivals: list[Rival], loads: list[Load]) -> list[str]:
    """What has to be installed first; nothing is installed here."""
    found = [f"{rival.name}: {what}" for rival in rivals if (what := rival.missing())]
    if any(rival.name == "etcd" for rival in rivals) and not all(load.over_http for load in loads):
        found += [f"the load tool for gRPC: {what}"] if (what := h2load.missing()) else []
    if any(load.over_http for load in loads):
        found += [f"the load tool for HTTP: {what}"] if (what := wrk.missing()) else []
    return found


def measure(rival: Rival, options: argparse.Namespace, data: Data, directory: Path) -> dict[str, Any]:
    """One round of one rival: start it, fill it, load it, stop it."""
    measured: dict[str, Measurement] = {}
    with Servers(directory) as servers:
        rival.start(directory, servers)
        rival.fill(data)
        for load in options.loads:
            if rival.supports(load):
                measured[str(load)] = result = rival.run(load, data, options.seconds)
                print(f"  {rival.name:<7} {load!s:<14} {result.throughput:>12,.0f} /s", file=sys.stderr)
        return {"measured": measured, "resident_bytes": servers.resident_bytes()}


def main(arguments: list[str]) -> int:
    """0: all was measured; 1: a rival failed; 2: something is missing."""
    options = parse(arguments)
    rivals = [RIVALS[name]() for name in options.rivals.split(",")]
    lacking = missing(rivals, options.loads)
    if lacking:
        print("missing, and not installed by this program:", *lacking, sep="\n  ", file=sys.stderr)
        return 2
    data = Data(options.keys, options.value_bytes)
    options.data_dir.mkdir(parents=True, exist_ok=True)
    about = machine.describe(options.data_dir)
    if about["load_average_before"] > BUSY * about["cores"]:
        print(f"this machine is busy (load {about['load_average_before']:.1f}): ratios will suffer", file=sys.stderr)
    versions = {rival.name: rival.version() for rival in rivals}
    rounds: list[dict[str, dict[str, Any]]] = []
    measured: dict[str, dict[str, list[Measurement]]] = {rival.name: {} for rival in rivals}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        rounds.append({})
        for rival in rivals:
            # Inside the data directory, so that every rival writes to the same disk; removed when it is done.
            with tempfile.TemporaryDirectory(prefix=f"{rival.name}-", dir=options.data_dir.resolve()) as directory:
                try:
                    outcome = measure(rival, options, data, Path(directory))
                except (RivalError, TimeoutError) as error:
                    print(f"{rival.name}: {error}", file=sys.stderr)
                    return 1
            rounds[-1][rival.name] = outcome
            for load, result in outcome["measured"].items():
                measured[rival.name].setdefault(load, []).append(result)
    found = report.rows(measured, [str(load) for load in options.loads])
    print(report.table(found))
    if options.output:
        options.output.write_text(json.dumps(_as_json(options, about, versions, rounds, found), indent=1) + "\n")
    return 0


def _as_json(
    options: argparse.Namespace,
    about: dict[str, Any],
    versions: dict[str, str],
    rounds: list[dict[str, dict[str, Any]]],
    found: list[report.Row],
) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": about,
        "versions": versions,
        "parameters": {"keys": options.keys, "value_bytes": options.value_bytes, "seconds": options.seconds},
        "rows": [asdict(row) for row in found],
        "rounds": [
            {
                name: {
                    "measured": {load: result.as_json() for load, result in outcome["measured"].items()},
                    "resident_bytes": outcome["resident_bytes"],
                }
                for name, outcome in each.items()
            }
            for each in rounds
        ],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
