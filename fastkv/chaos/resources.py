"""What each node takes of its machine, second by second, and whether that grows without end.

A run of ten minutes and more is judged: of each figure, the median of the last quarter against that of the second one.
The first quarter does not count, because there everything fills up for the first time.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20
JUDGED_FROM_S = 600.0
LEAST_SAMPLES = 10
"""Of one node in a quarter; fewer make no median."""


class Bound(NamedTuple):
    """How much a figure may grow from the second quarter to the last: by a part of itself, and so much more."""

    part: float
    more: int


BOUNDS = {
    "memory_bytes": Bound(0.10, 16 * MIB),
    "open_files": Bound(0.0, 16),
    "threads": Bound(0.0, 1),
    "disk_bytes": Bound(0.25, 32 * MIB),
}
"""Disk and memory have what the load itself leaves behind: keys that are written once, and stay."""


class Sample(NamedTuple):
    """One node at one moment.

    Its memory is what is resident without pages of files, as the store's are: the system takes those back at any time.
    """

    t: float
    node: str
    memory_bytes: int
    open_files: int
    threads: int
    disk_bytes: int


def sample(t: float, node: str, pid: int, directory: Path) -> Sample | None:
    """Look at a process and its data directory; None where the process has gone."""
    proc = Path(f"/proc/{pid}")
    try:
        resident, of_files = map(int, (proc / "statm").read_text().split()[1:3])
        open_files = len(os.listdir(proc / "fd"))
        threads = len(os.listdir(proc / "task"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return Sample(t, node, (resident - of_files) * PAGE_BYTES, open_files, threads, _disk_bytes(directory))


def _disk_bytes(directory: Path) -> int:
    """What the files take on the disk; those that come and go meanwhile count or not."""
    taken = 0
    for path, _, names in os.walk(directory):
        for name in names:
            try:
                taken += os.stat(os.path.join(path, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return taken


def growth(samples: Iterable[Sample], seconds: float) -> tuple[list[str], list[str]]:
    """What has grown beyond its bound, and which nodes have too few samples to say. Both empty for a short run."""
    if seconds < JUDGED_FROM_S:
        return [], []
    of_node: dict[str, list[Sample]] = defaultdict(list)
    for one in samples:
        of_node[one.node].append(one)
    grown, too_few = [], []
    for node, own in sorted(of_node.items()):
        early, late = _quarter(own, seconds, 1), _quarter(own, seconds, 3)
        if min(len(early), len(late)) < LEAST_SAMPLES:
            too_few.append(f"{node} was looked at {len(own)} times only")
            continue
        for name, bound in BOUNDS.items():
            before = statistics.median(getattr(one, name) for one in early)
            after = statistics.median(getattr(one, name) for one in late)
            if after > before * (1 + bound.part) + bound.more:
                grown.append(f"{name} of {node} grew from {before:,.0f} to {after:,.0f}")
    return grown, too_few


def _quarter(samples: Sequence[Sample], seconds: float, number: int) -> list[Sample]:
    return [one for one in samples if number * seconds / 4 <= one.t < (number + 1) * seconds / 4]
