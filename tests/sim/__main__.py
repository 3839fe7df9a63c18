"""`python -m tests.sim --seed S`: run one seed, or several, and say what happened."""

from __future__ import annotations

import argparse
import sys

from tests.sim.world import Violation, World


def main() -> int:
    """0 when no seed breaks a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--operations", type=int, default=300, help="client operations a seed")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--journal", action="store_true", help="print the faults of each run")
    arguments = parser.parse_args()
    broken = 0
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        world = World(seed, nodes=arguments.nodes)
        try:
            world.run(operations=arguments.operations)
        except Violation as violation:
            broken += 1
            print(f"seed {seed}: {violation}", file=sys.stderr)
        else:
            print(
                f"seed {seed}: {len(world.history)} operations, {len(world.faults.struck)} faults, "
                f"{world.events.now // 1000} ms, {world.digest()[:16]}"
            )
        if arguments.journal:
            print(world.replay())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
