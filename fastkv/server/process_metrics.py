"""What the kernel says of this process: CPU, memory, files.

prometheus-client has a collector of these, which lists /proc/self/fd to count open files: with ten thousand connections
that keeps the loop for longer than all the other metrics together. The kernel knows the number (Linux 6.2).
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PROC = Path("/proc")
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessMetrics(Collector):
    """Metrics `<prefix>_process_*` of this process. Nothing where there is no /proc."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}_process"
        self._booted_s = _boot_time_s()

    def describe(self) -> Iterable[Metric]:
        """Nothing to say before the first scrape; keeps the registry from collecting at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families, as prometheus-client asks for them."""
        try:
            # Behind the name, which may contain anything: fields 3 and on of proc(5).
            fields = (_PROC / "self" / "stat").read_bytes().rpartition(b")")[2].split()
            open_files = open_file_count()
        except OSError:
            return
        cpu_s = (int(fields[11]) + int(fields[12])) * _TICK_S
        yield CounterMetricFamily(f"{self._prefix}_cpu_seconds", "CPU time, in user and system mode.", value=cpu_s)
        yield self._gauge("virtual_memory_bytes", "Virtual memory.", int(fields[20]))
        yield self._gauge("resident_memory_bytes", "Resident memory.", int(fields[21]) * _PAGE_BYTES)
        started_s = self._booted_s + int(fields[19]) * _TICK_S
        yield self._gauge("start_time_seconds", "When the process began, in seconds since 1970.", started_s)
        yield self._gauge("open_fds", "Open files and sockets.", open_files)
        yield self._gauge("max_fds", "How many may be open.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"{self._prefix}_{name}", text, value=value)


def open_file_count() -> int:
    """How many files and sockets this process has open. OSError where there is no /proc."""
    directory = _PROC / "self" / "fd"
    return os.stat(directory).st_size or len(os.listdir(directory))


def _boot_time_s() -> float:
    """When the machine was started, in seconds since 1970; 0 where there is no /proc."""
    try:
        lines = (_PROC / "stat").read_bytes().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith(b"btime ")), 0.0)
