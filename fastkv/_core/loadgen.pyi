"""The compiled load generator. Both functions block, without the GIL, and answer the same dictionary:

* `count`: answers; `ok`: done; `missing`: GETs whose key does not exist; `errors`: the rest, by the status' name
* `lost`: in flight on a connection that broke; `unanswered`: still in flight five seconds after the end of the run
* `unexpected`: answers to nothing that was asked (must be 0); `forwarded`: answers relayed by a follower
* `seconds`: from the first request to the last answer; `throughput`: ok and missing answers a second
* `latency_us`: p50, p90, p99, p999, mean and max in microseconds
* `cpu_seconds`: the generator's own CPU time; `cpu_share`: of one core, over `seconds`

`on_progress(answers)` is called about ten times a second, with the GIL. Where it answers True nothing more is sent, and
the run ends with the answers to what is in flight; its exceptions, and KeyboardInterrupt, end it at once.

ConnectionError (or another OSError) where a connection cannot be opened; ValueError for bad parameters.
"""

from collections.abc import Callable
from socket import socket
from typing import Any, Literal

def connect(host: str, port: int) -> socket: ...
def run(
    host: str,
    port: int,
    *,
    operation: Literal["put", "get", "mixed"] = "put",
    connections: int = 1,
    depth: int = 1,
    count: int = 10_000,
    keys: int = 100_000,
    key_bytes: int = 16,
    value_bytes: int = 128,
    seed: int = 1,
    max_seconds: float = 60.0,
    read_ratio: float = 0.5,
    consistency: int = 0,
    sequential: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]: ...
def load(
    host: str,
    port: int,
    *,
    keys: int = 100_000,
    key_bytes: int = 16,
    value_bytes: int = 128,
    connections: int = 16,
    depth: int = 64,
    seed: int = 1,
    max_seconds: float = 600.0,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]: ...
