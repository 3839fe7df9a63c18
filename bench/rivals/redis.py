"""Redis, one node, every write fsynced before its answer (`appendfsync always`): no replication at all."""

from __future__ import annotations

import csv
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.processes import Servers
from bench.rivals.loads import Data, Load
from bench.rivals.rival import Measurement, RivalError
from fastkv.chaos.ports import free_ports

FILL_BATCH = 1000
WARM_UP_OPERATIONS = 5000


class Redis:
    """One server on 127.0.0.1, loaded with redis-benchmark."""

    name = "redis"

    def missing(self) -> str | None:
        tools = [tool for tool in ("redis-server", "redis-benchmark") if not shutil.which(tool)]
        return f"{' and '.join(tools)} (Debian: redis-server, redis-tools)" if tools else None

    def version(self) -> str:
        said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
        return said.partition("v=")[2].split()[0]

    def start(self, directory: Path, servers: Servers) -> None:
        (self._port,) = free_ports(1)
        self._servers = servers
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "dir": str(directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "daemonize": "no",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        servers.start("redis", ["redis-server", *flags])
        servers.until(self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=1) as client:
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def fill(self, data: Data) -> None:
        """With the keys that redis-benchmark asks for: `key:000000000000` and on, 16 bytes like ours."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=30) as client:
            for count, commands in _set_batches(data):
                client.sendall(commands)
                expected = b"+OK\r\n" * count
                answered = b""
                while len(answered) < len(expected):
                    part = client.recv(1 << 16)
                    if not part:
                        break
                    answered += part
                if answered != expected:
                    raise RivalError(f"redis refused the fill: {answered[:100]!r}")

    def supports(self, load: Load) -> bool:
        return not load.over_http

    def run(self, load: Load, data: Data, seconds: float) -> Measurement:
        # redis-benchmark counts operations, not seconds: a short run says how many make up the time.
        warm_up = self._benchmark(load, data, WARM_UP_OPERATIONS)
        count = max(WARM_UP_OPERATIONS, int(float(warm_up["rps"]) * seconds))
        cpu, used = self._servers.cpu_seconds(), resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        said = self._benchmark(load, data, count)
        elapsed_s = time.monotonic() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Measurement(
            throughput=float(said["rps"]),
            p50_us=float(said["p50_latency_ms"]) * 1000,
            p99_us=float(said["p99_latency_ms"]) * 1000,
            p999_us=None,
            failed=0,  # it stops at the first error
            operations=count,
            seconds=elapsed_s,
            tool_cpu_seconds=after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime,
            server_cpu_seconds={name: now - cpu[name] for name, now in self._servers.cpu_seconds().items()},
        )

    def _benchmark(self, load: Load, data: Data, count: int) -> dict[str, str]:
        """One row of redis-benchmark's CSV. Its latency is that of a whole pipeline of `depth` commands."""
        command = ["redis-benchmark", "-p", str(self._port), "-t", "get" if load.reads else "set", "--csv", "-e"]
        command += ["-c", str(load.connections), "-P", str(load.depth), "-n", str(count)]
        command += ["-r", str(data.keys), "-d", str(data.value_bytes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        rows = list(csv.DictReader(done.stdout.splitlines()))
        if done.returncode or len(rows) != 1:
            raise RivalError(f"redis-benchmark failed: {(done.stderr or done.stdout)[-500:]}")
        return rows[0]


def _set_batches(data: Data) -> Iterator[tuple[int, bytes]]:
    value = data.value.encode()
    for start in range(0, data.keys, FILL_BATCH):
        numbers = range(start, min(start + FILL_BATCH, data.keys))
        commands = (b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$%d\r\n%s\r\n" % (i, len(value), value) for i in numbers)
        yield len(numbers), b"".join(commands)
