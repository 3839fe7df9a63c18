"""Power loss from the command line: more rounds than a run of the suite has time for.

    python -m tests.faults.power_loss storage|one|three [--seeds FIRST:BEHIND] [--directory D]

`storage`: lives of a node's storage half (`storage_rounds`). `one` and `three`: so many real nodes under load
(`node_rounds`). One line a round; exit status 1 where anything that was promised is not there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.lossy_mount import CannotMount, LossyMount
from tests.faults.node_rounds import LossyCluster, node_round
from tests.faults.small_node import save_image
from tests.faults.storage_rounds import Outcome, storage_round

NODES = {"one": 1, "three": 3}


def run(what: str, seed: int, directory: Path, image: Path | None) -> Outcome:
    """One round in a fresh directory. What breaks is an outcome as well."""
    directory.mkdir(parents=True)
    if image is not None:
        with LossyMount(directory) as disk:
            return storage_round(seed, disk, image)
    with LossyCluster(directory, NODES[what]) as lossy:
        try:
            return node_round(seed, lossy)
        except AssertionError as broken:
            return Outcome([str(broken)])


def main() -> int:
    """Run the rounds; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.power_loss", description="Rounds of power loss.")
    parser.add_argument("what", choices=["storage", *NODES])
    parser.add_argument("--seeds", default="0:10", help="FIRST:BEHIND; default 0:10")
    parser.add_argument("--directory", type=Path, help="where the disks are; default: a temporary directory")
    asked = parser.parse_args()
    first, _, behind = asked.seeds.partition(":")
    base = asked.directory or Path(tempfile.mkdtemp(prefix="power-loss-"))
    failed = cuts = kills = promised = 0
    image = save_image(base) if asked.what == "storage" else None
    for seed in range(int(first), int(behind)):
        began = time.monotonic()
        try:
            outcome = run(asked.what, seed, base / str(seed), image)
        except CannotMount as why:
            print(f"power loss cannot be tested here: {why}", file=sys.stderr)
            return 1
        took_s = time.monotonic() - began
        counts = f"{outcome.cuts} cuts, {outcome.promised} promised, {len(outcome.wrong)} wrong"
        print(f"seed {seed}: {counts}, {took_s:.1f} s", flush=True)
        cuts, kills, promised = cuts + outcome.cuts, kills + outcome.kills, promised + outcome.promised
        if outcome.wrong:
            failed += 1
            print("\n".join(["  " + line for line in outcome.wrong[:10] + outcome.told]), flush=True)
        else:
            shutil.rmtree(base / str(seed))
    print(f"{failed} failed; {cuts} power cuts, {kills} kills, {promised} promised entries or writes; {base}")
    return 1 if failed or not cuts else 0


if __name__ == "__main__":
    sys.exit(main())
