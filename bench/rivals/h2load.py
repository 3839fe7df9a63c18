"""h2load, nghttp2's load tool: gRPC over HTTP/2, faster than any Go or Python client.

It sends one body to one address for a whole run. So against etcd every put goes to one key, which is etcd's best case:
the ratio that comes out is, if anything, too kind to etcd.

Throughput and latency come from two runs: the log that latency is read from costs a write for each request, and at
etcd's rates that is several per cent of a core that the servers need.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.loads import Load
from bench.rivals.rival import RivalError

_FINISHED = re.compile(r"finished in [\d.]+\w+, ([\d.]+) req/s")
_REQUESTS = re.compile(r"requests: \d+ total, \d+ started, (\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored")
_CODES = re.compile(r"status codes: (\d+) 2xx")
_TRAFFIC = re.compile(r"traffic: .* \((\d+)\) data")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of h2load says."""

    throughput: float
    succeeded: int
    failed: int
    body_bytes: int
    cpu_seconds: float
    latencies_us: list[int]
    """Sorted; empty unless asked for."""

    def percentile_us(self, percent: float) -> float:
        """RivalError where no request was logged."""
        if not self.latencies_us:
            raise RivalError("h2load logged no request")
        return self.latencies_us[min(len(self.latencies_us) - 1, int(percent / 100 * len(self.latencies_us)))]


def missing() -> str | None:
    return None if shutil.which("h2load") else "h2load (Debian: nghttp2-client)"


def run(
    url: str,
    load: Load,
    seconds: float,
    *,
    body: Path | None = None,
    headers: Sequence[str] = (),
    log: Path | None = None,
) -> Result:
    """Load `url` for so many seconds; with `log`, latencies are taken, too. RivalError where h2load fails."""
    command = ["h2load", f"--duration={max(1, round(seconds))}", "--threads=1"]
    command += [f"--clients={load.connections}", f"--max-concurrent-streams={load.depth}"]
    command += [f"--header={header}" for header in headers]
    command += [f"--data={body}"] if body else []
    command += [f"--log-file={log}"] if log else []
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=seconds + 60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished, requests = _FINISHED.search(done.stdout), _REQUESTS.search(done.stdout)
    codes, traffic = _CODES.search(done.stdout), _TRAFFIC.search(done.stdout)
    if done.returncode or not (finished and requests and codes and traffic):
        raise RivalError(f"h2load failed: {(done.stderr or done.stdout)[-500:]}")
    return Result(
        throughput=float(finished[1]),
        succeeded=min(int(requests[2]), int(codes[1])),
        failed=int(requests[3]) + int(requests[4]),
        body_bytes=int(traffic[1]),
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        latencies_us=_latencies_us(log) if log else [],
    )


def _latencies_us(log: Path) -> list[int]:
    """The third column of the log is a request's duration in microseconds."""
    with log.open() as lines:
        return sorted(int(line.split("\t")[2]) for line in lines)
