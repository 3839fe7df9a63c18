"""The compiled load generator. `drive` blocks, without the GIL, and answers a dictionary:

* `count`: answers; `ok`: done; `missing`: GETs whose key does not exist; `errors`: the rest, by the status' name
* `lost`: in flight on a connection that broke; `unanswered`: still in flight five seconds after the end of the run;
  `unsent`: of an open load, due before the end of the run and never sent, since no place was free
* `unexpected`: answers to nothing that was asked (must be 0); `forwarded`: answers relayed by a follower
* `seconds`: from the first request to the last answer; `throughput`: ok and missing answers a second
* `latency_us`: p50, p90, p99, p999, mean and max in microseconds; `curve_us`: pairs of percentile and microseconds, as
  HdrHistogram plots them; `operations`: `count` and `latency_us` of each kind of operation that occurred
* `cpu_seconds`: the generator's own CPU time; `cpu_share`: of one core, over `seconds`

How a load is described: `fastkv.client.load`, which opens the sockets.
"""

from collections.abc import Callable
from socket import socket
from typing import Any

from fastkv._core.workload import Workload

def drive(
    sockets: list[socket],
    workload: Workload,
    *,
    depth: int = 1,
    count: int = 10_000,
    rate: float | None = None,
    max_seconds: float = 60.0,
    seed: int = 1,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]: ...
