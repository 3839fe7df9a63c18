"""`python -m tests.sim`: run seeds, or see how many it takes to catch a bug."""

from __future__ import annotations

import argparse
import gc
import sys
import time

from tests.sim.bugs import BUGS, LIMIT, STARTS, seeds_of_all_starts, seeds_until_caught, table
from tests.sim.report import report
from tests.sim.shrink import run, shrink


def arguments() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=1, help="how many seeds, from --seed on")
    parser.add_argument("--operations", type=int, default=2000, help="client operations a seed (default: 2000)")
    parser.add_argument("--nodes", type=int, default=5, help="members of the cluster at first (default: 5)")
    parser.add_argument("--skip", default="", help="numbers of faults to leave out: 1,2,3")
    parser.add_argument("--shrink", action="store_true", help="look for a shorter run that fails, too")
    parser.add_argument("--journal", action="store_true", help="print what happened in each run")
    parser.add_argument("--quiet", action="store_true", help="a line for every hundred seeds only, and failures")
    parser.add_argument("--bug", choices=sorted(BUGS), help="bring this bug back, and say how many seeds catch it")
    parser.add_argument("--bugs", action="store_true", help=f"the table of all bugs: medians over {STARTS} starts")
    return parser.parse_args()


def main() -> int:
    """0 when no seed breaks a promise, and where bugs are asked for: when they are all caught."""
    asked = arguments()
    if asked.bugs:
        medians = {name: seeds_of_all_starts(name) for name in BUGS}
        print(table(medians))
        return 1 if any(taken.count(None) > STARTS // 2 for taken in medians.values()) else 0
    if asked.bug:
        caught = seeds_until_caught(asked.bug, first=asked.seed, operations=asked.operations, nodes=asked.nodes)
        print(f"caught by seed {asked.seed + caught[0] - 1}: {caught[1]}" if caught else f"not caught by {LIMIT} seeds")
        return 0 if caught else 1
    return run_seeds(asked)


def run_seeds(asked: argparse.Namespace) -> int:
    """Run them one after another; 1 where one fails."""
    broken, began = 0, time.monotonic()
    skipped = frozenset(int(number) for number in asked.skip.split(",") if number)
    for number, seed in enumerate(range(asked.seed, asked.seed + asked.count), 1):
        world, failure = run(seed, asked.nodes, asked.operations, skipped)
        if failure is not None:
            broken += 1
            shorter = shrink(failure) if asked.shrink else failure
            print(f"{report(shorter.world, shorter.violation)}\nto see it again: {shorter.command}", file=sys.stderr)
        elif not asked.quiet:
            print(
                f"seed {seed}: {world.seen.operations} operations, {len(world.faults.struck)} faults, "
                f"{world.events.now // 1000} ms, {world.digest()[:16]}"
            )
        if asked.journal and failure is None:
            print("\n".join(world.journal))
        del world, failure
        if number % 100 == 0 or number == asked.count > 1:
            gc.collect()
            print(f"{number} seeds, {broken} failed, {(time.monotonic() - began) / number:.3f} s each", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
