"""Damage, many times over: each seed damages one place of a copied data directory, and a start must not be fooled.

    python -m tests.faults.sweep --count 5000          # seeds 0 to 4999
    python -m tests.faults.sweep --seed 77 --count 1   # one of them again

In a process of its own, because what is looked for includes that the process ends with a signal. Each time a start
either refuses with an error that names the file and what to do, or recovers exactly what was acknowledged; and what
`fastkv check` says goes with it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from fastkv.errors import StorageError
from fastkv.storage.check import COPY, check, locked
from tests.faults.damage import NODE, Mutation, State, copied, files_of, make, mutate, start


class Fooled(Exception):
    """A start has believed what is damaged, or the check does not say what a start does."""


def one(pristine: Path, acknowledged: State, scratch: Path, seed: int) -> tuple[Mutation, str]:
    """Damage a copy in one place, and start with it: what was done, and "refused" or "recovered"."""
    rng = random.Random(seed)
    path = copied(pristine, scratch / "copy")
    files = files_of(path / NODE)
    store = [file for file in files if file.suffix == ".mdb"]
    mutation = mutate(path, rng, store if rng.random() < 0.4 else files)
    with locked(path / NODE):
        damaged = check(path / NODE).damaged_parts - {COPY}
    try:
        found = start(path)
    except StorageError as error:
        if "fastkv check" not in str(error) and "belongs to" not in str(error) and "format" not in str(error):
            raise Fooled(f"seed {seed}, {mutation}: the message does not say what to do: {error}") from error
        if not damaged:
            raise Fooled(f"seed {seed}, {mutation}: the check finds nothing, and a start says: {error}") from error
        return mutation, "refused"
    if found != acknowledged:
        raise Fooled(f"seed {seed}, {mutation}: {found} instead of {acknowledged}")
    if damaged:
        raise Fooled(f"seed {seed}, {mutation}: the check finds damage of {damaged}, and a start does not mind it")
    return mutation, "recovered"


def sweep(first: int, count: int) -> Counter[tuple[str, str]]:
    """Some seeds, one after the other: how often each (kind of damage, outcome) came."""
    outcomes: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        acknowledged, _ = make(scratch / "pristine", entries=240, seed=first)
        for seed in range(first, first + count):
            print(f"seed {seed}", file=sys.stderr, flush=True)      # after a signal, the last one that was begun
            mutation, outcome = one(scratch / "pristine", acknowledged, scratch, seed)
            outcomes[mutation.kind, outcome] += 1
    return outcomes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    outcomes = sweep(arguments.seed, arguments.count)
    print(json.dumps({f"{kind}: {outcome}": times for (kind, outcome), times in sorted(outcomes.items())}))


if __name__ == "__main__":
    main()
