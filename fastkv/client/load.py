"""Load for a cluster: connections for the compiled generator (`_core.loadgen`), opened here.

What is asked for is a `Workload`; how hard is said by the parameters of `run`. Both functions block and answer the
dictionary that `loadgen.pyi` describes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from itertools import cycle, islice
from typing import Any, Literal

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import FrameReader, encode_frame
from fastkv._core.loadgen import drive
from fastkv._core.workload import Workload
from fastkv.client.addresses import Address, parse_endpoints
from fastkv.wire.client import CLIENT_ROLE, encode_hello_body

HELLO_TIMEOUT_S = 5.0
ANSWER_LIMIT_BYTES = 1 << 16
WITHOUT_END = 1 << 40
"""More operations than any bounded time allows: a count for loads that end by time."""

MIXES: dict[str, tuple[dict[str, float], Literal["uniform", "zipfian", "latest"]]] = {
    "writes": ({"put": 1}, "uniform"),
    "reads": ({"get": 1}, "uniform"),
    "mixed": ({"get": 1, "put": 1}, "uniform"),
    "ycsb-a": ({"get": 0.5, "put": 0.5}, "zipfian"),
    "ycsb-b": ({"get": 0.95, "put": 0.05}, "zipfian"),
    "ycsb-c": ({"get": 1}, "zipfian"),
    "ycsb-d": ({"get": 0.95, "insert": 0.05}, "latest"),
    "ycsb-e": ({"scan": 0.95, "insert": 0.05}, "zipfian"),
    "ycsb-f": ({"get": 0.5, "modify": 0.5}, "zipfian"),
}
"""What there are names for; `ycsb-…` are the core workloads of YCSB (Cooper et al., SoCC 2010, table 2)."""


def connect(address: Address) -> socket.socket:
    """A connected, greeted, non-blocking socket.

    ConnectionError with the server's text where it refuses the HELLO, another OSError where nobody answers.
    """
    client = socket.create_connection(address, timeout=HELLO_TIMEOUT_S)
    try:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(encode_frame(Opcode.HELLO, 0, 0, 0, encode_hello_body(CLIENT_ROLE, "", "")))
        opcode, _, status, _, body = _answer(client)
        if opcode != Opcode.HELLO or status != Status.OK:
            raise ConnectionError(f"{address} refused the HELLO: {body.decode(errors='replace')}")
        client.setblocking(False)
    except BaseException:
        client.close()
        raise
    return client


def _answer(client: socket.socket) -> tuple[int, int, int, int, bytes]:
    reader = FrameReader(ANSWER_LIMIT_BYTES)
    while True:
        received = client.recv(ANSWER_LIMIT_BYTES)
        if not received:
            raise ConnectionError("the server closed the connection during HELLO")
        for frame in reader.feed(received):
            return frame


def run(
    endpoints: str | Iterable[str],
    workload: Workload,
    *,
    connections: int = 1,
    depth: int = 1,
    count: int = 10_000,
    rate: float | None = None,
    max_seconds: float = 60.0,
    seed: int = 1,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Carry out `count` operations, or for `max_seconds`, whichever ends first.

    Each endpoint gets its share of the connections. With `rate`, so many operations a second are due, at random
    moments, whatever the cluster does (an open load), and at most `connections` times `depth` of them are in flight;
    without, that many are in flight all the time (a closed load).

    `on_progress(answers)` is called about ten times a second. Where it answers True nothing more is sent, and the run
    ends with the answers to what is in flight; its exceptions, and KeyboardInterrupt, end it at once.

    OSError where a connection cannot be opened; ValueError for bad parameters.
    """
    if connections < 1:
        raise ValueError("connections is above 0")
    with ExitStack() as opened:
        addresses = islice(cycle(parse_endpoints(endpoints)), connections)
        sockets = [opened.enter_context(connect(address)) for address in addresses]
        return drive(
            sockets, workload, depth=depth, count=count, rate=rate, max_seconds=max_seconds, seed=seed,
            on_progress=on_progress,
        )  # fmt: skip


def fill(
    endpoints: str | Iterable[str],
    *,
    keys: int = 100_000,
    key_bytes: int = 16,
    value_bytes: int = 128,
    connections: int = 16,
    depth: int = 64,
    max_seconds: float = 600.0,
    on_progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Write every key once, in order."""
    inserts = Workload({"insert": 1.0}, keys=0, key_bytes=key_bytes, value_bytes=value_bytes)
    return run(
        endpoints, inserts, connections=connections, depth=depth, count=keys, max_seconds=max_seconds,
        on_progress=on_progress,
    )  # fmt: skip
