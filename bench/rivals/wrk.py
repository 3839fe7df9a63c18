"""wrk: JSON over HTTP/1.1, one request after the other on each connection, the same for both HTTP faces.

It answers with its own figures; what it counts as an error (a status from 400 on, a socket that failed, a request that
took too long) is no success here either. One body and one address for a whole run, as with `h2load`.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.rivals.loads import Load
from bench.rivals.rival import Measurement, RivalError

_SCRIPT = """
wrk.method = %(method)s
wrk.body = %(body)s
wrk.headers["Content-Type"] = "application/json"
function done(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format(
        '{"requests": %%d, "duration_us": %%d, "bytes": %%d, "failed": %%d, "p50": %%d, "p99": %%d, "p999": %%d}\\n',
        summary.requests, summary.duration, summary.bytes,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        latency:percentile(50), latency:percentile(99), latency:percentile(99.9)
    ))
end
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of wrk says."""

    throughput: float
    succeeded: int
    failed: int
    answer_bytes: int
    p50_us: float
    p99_us: float
    p999_us: float
    cpu_seconds: float

    def measurement(self, server_cpu_seconds: dict[str, float]) -> Measurement:
        """The same, with what the servers spent on it."""
        return Measurement(
            throughput=self.throughput,
            p50_us=self.p50_us,
            p99_us=self.p99_us,
            p999_us=self.p999_us,
            failed=self.failed,
            operations=self.succeeded,
            seconds=self.succeeded / self.throughput,
            tool_cpu_seconds=self.cpu_seconds,
            server_cpu_seconds=server_cpu_seconds,
        )


def missing() -> str | None:
    return None if shutil.which("wrk") else "wrk (Debian: wrk)"


def run(url: str, load: Load, seconds: float, directory: Path, *, method: str, body: str = "") -> Result:
    """Load `url` for so many seconds. RivalError where wrk fails, or nothing was answered."""
    if load.depth != 1:
        raise RivalError(f"{load}: HTTP has one request in flight on each connection")
    script = directory / "wrk.lua"
    script.write_text(_SCRIPT % {"method": _lua(method), "body": _lua(body)})
    command = ["wrk", "--threads=1", f"--connections={load.connections}", f"--duration={max(1, round(seconds))}s"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*command, f"--script={script}", url], capture_output=True, text=True, timeout=seconds + 60, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise RivalError(f"wrk failed: {(done.stderr or done.stdout)[-500:]}")
    said = json.loads(lines[-1])
    succeeded = said["requests"] - said["failed"]
    if succeeded <= 0:
        raise RivalError(f"{url}: no request succeeded of {said['requests']}")
    return Result(
        throughput=succeeded / (said["duration_us"] / 1e6),
        succeeded=succeeded,
        failed=said["failed"],
        answer_bytes=said["bytes"],
        p50_us=said["p50"],
        p99_us=said["p99"],
        p999_us=said["p999"],
        cpu_seconds=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def _lua(text: str) -> str:
    """A Lua string literal; every byte that could mean something is written as its number."""
    return '"' + "".join(chr(c) if chr(c).isascii() and chr(c).isalnum() else f"\\{c:03}" for c in text.encode()) + '"'
