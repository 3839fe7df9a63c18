"""What the run ran on: without it a figure cannot be read."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

SYNCS = 300
BLOCK = bytes(range(256)) * 16


def describe(directory: Path) -> dict[str, Any]:
    """Processor, cores, memory, kernel, Python, and what the disk under `directory` takes for a durable 4 KiB write."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": os.getloadavg()[0],
        "fdatasync_4k_us": _fdatasync_us(directory),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _fdatasync_us(directory: Path) -> dict[str, float]:
    """p50 and p99 of an overwrite of 4 KiB with fdatasync, in µs."""
    path = directory / "fdatasync.probe"
    took = []
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, BLOCK * SYNCS, 0)
        os.fsync(fd)
        for i in range(SYNCS):
            began = time.perf_counter_ns()
            os.pwrite(fd, BLOCK, i * len(BLOCK))
            os.fdatasync(fd)
            took.append((time.perf_counter_ns() - began) / 1000)
    finally:
        os.close(fd)
        path.unlink()
    took.sort()
    return {"p50": took[SYNCS // 2], "p99": took[SYNCS * 99 // 100]}
