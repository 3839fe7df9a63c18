"""`scripts/benchmark.sh`: N operations against the cluster that runs, or against one of its own where none does.

    python -m bench writes|reads|mixed N [--json] [options of `fastkv bench`]

The cluster is looked for at FASTKV_ENDPOINTS, else on the default ports. One of its own has three nodes on free ports,
keeps its data in `data/bench`, and is stopped and removed at the end. Before reads, every key is written once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.cluster.nodes import Nodes
from bench.processes import Servers
from fastkv.cli.endpoints import leader_address
from fastkv.cli.options import DEFAULT_ENDPOINTS
from fastkv.cli.output import Exit
from fastkv.errors import Unavailable

MODES = ("writes", "reads", "mixed")
LOOK_TIMEOUT_S = 2.0
DATA_DIR = Path("data/bench")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line: what is for us, and what is for `fastkv bench`."""
    parser = argparse.ArgumentParser(
        prog="scripts/benchmark.sh",
        description="Carry out N operations against the cluster that runs (FASTKV_ENDPOINTS, or the default ports), or "
        "against three nodes of its own where none does, and say how fast they were.",
        epilog="Everything else is passed on: see `fastkv bench --help`. "
        "Example: scripts/benchmark.sh mixed 100000 --connections 64",
        allow_abbrev=False,
    )
    parser.add_argument("mode", choices=MODES, help="mixed: half reads, half writes")
    parser.add_argument("count", metavar="N", type=_count, help="how many operations")
    return parser.parse_known_args(arguments)


def _count(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"N is a whole number above 0, not {text!r}")
    return number


def command(mode: str, count: int, endpoints: str, rest: Sequence[str]) -> list[str]:
    """The `fastkv bench` that does it."""
    fill = [] if mode == "writes" else ["--fill"]
    asked = ["--workload", mode, "--count", str(count), "--endpoints", endpoints]
    return [sys.executable, "-m", "fastkv", "bench", *asked, *fill, *rest]


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The exit status of `fastkv bench`; 4 where the cluster that was named does not answer."""
    options, rest = parse(arguments)
    named = environ.get("FASTKV_ENDPOINTS", "")
    try:
        leader_address(named or DEFAULT_ENDPOINTS, LOOK_TIMEOUT_S)
    except Unavailable as error:
        if named:
            print(f"the cluster at FASTKV_ENDPOINTS ({named}) cannot be used: {error}", file=sys.stderr)
            return Exit.UNREACHABLE
        return _on_an_own_cluster(options, rest)
    return subprocess.run(command(options.mode, options.count, named or DEFAULT_ENDPOINTS, rest)).returncode


def _on_an_own_cluster(options: argparse.Namespace, rest: Sequence[str]) -> int:
    print("no cluster runs here: starting three nodes for the time being", file=sys.stderr)
    DATA_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="own-", dir=DATA_DIR.resolve()) as name, Servers(Path(name)) as servers:
        nodes = Nodes(Path(name), servers)
        nodes.start()
        return subprocess.run(command(options.mode, options.count, nodes.endpoints, rest)).returncode


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:], os.environ))
    except KeyboardInterrupt:
        sys.exit(130)
