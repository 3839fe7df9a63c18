"""A network with a delay between nodes, as a process of its own: `fastkv.chaos.links` with one rule for all.

    python -m bench.cluster.links --delay-ms 5 node-1=9101:9001 node-2=9102:9002

Each node is reached at the first port, and listens on the second one.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from fastkv.chaos.links import Links, Rule, precise_loop


def main() -> int:
    """Until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.cluster.links", description=__doc__)
    parser.add_argument("--delay-ms", type=float, required=True, help="one way, between any two nodes")
    parser.add_argument("nodes", nargs="+", type=_node, metavar="NODE=PORT:PORT")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(serve(dict(options.nodes), options.delay_ms / 1000))
    return 0


def _node(text: str) -> tuple[str, tuple[int, int]]:
    name, _, ports = text.partition("=")
    listening, _, own = ports.partition(":")
    return name, (int(listening), int(own))


async def serve(nodes: dict[str, tuple[int, int]], delay_s: float) -> None:
    """Stand between the nodes."""
    links = Links(nodes)
    links.set_all(Rule(delay_s=delay_s))
    await links.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await links.close()


if __name__ == "__main__":
    sys.exit(main())
