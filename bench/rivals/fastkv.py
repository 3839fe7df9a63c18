"""fastkv, three nodes, its own defaults, loaded with its compiled generator."""

from __future__ import annotations

import json
from pathlib import Path

from bench.cluster.nodes import Nodes
from bench.processes import Servers
from bench.rivals import wrk
from bench.rivals.loads import Data, Load
from bench.rivals.rival import Measurement, RivalError

NODES = 3


class FastKV:
    """A cluster of three on 127.0.0.1, from this checkout."""

    name = "fastkv"

    def missing(self) -> str | None:
        try:
            import fastkv._core.loadgen  # noqa: F401
        except ImportError:
            return "fastkv's compiled core (python setup.py build_ext --inplace)"
        return None

    def version(self) -> str:
        from fastkv import __version__

        return __version__

    def start(self, directory: Path, servers: Servers) -> None:
        self._directory = directory
        self._servers = servers
        self._nodes = Nodes(directory, servers, count=NODES)
        self._nodes.start()

    def fill(self, data: Data) -> None:
        from fastkv.client import load

        leader = self._nodes.wait_for_leader()
        result = load.fill(self._nodes.address(leader), keys=data.keys, value_bytes=data.value_bytes)
        if result["ok"] != data.keys:
            raise RivalError(f"fastkv refused the fill: {result}")

    def supports(self, load: Load) -> bool:
        return True

    def run(self, load: Load, data: Data, seconds: float) -> Measurement:
        return self._run_http(load, data, seconds) if load.over_http else self._run_raw(load, data, seconds)

    def _run_raw(self, wanted: Load, data: Data, seconds: float) -> Measurement:
        from fastkv._core.codes import Consistency
        from fastkv._core.workload import Workload
        from fastkv.client import load

        leader = self._nodes.wait_for_leader()
        cpu = self._servers.cpu_seconds()
        workload = Workload(
            {"get" if wanted.reads else "put": 1},
            keys=data.keys,
            value_bytes=data.value_bytes,
            consistency=Consistency.LEASE_READ if wanted.operation == "lease-get" else Consistency.LINEARIZABLE,
        )
        result = load.run(
            self._nodes.address(leader),
            workload,
            connections=wanted.connections,
            depth=wanted.depth,
            count=load.WITHOUT_END,
            max_seconds=seconds,
        )
        if result["missing"] or result["forwarded"] or result["lost"] or result["unanswered"] or not result["ok"]:
            raise RivalError(f"fastkv did not do what it was asked: {result}")
        latency = result["latency_us"]
        return Measurement(
            throughput=result["throughput"],
            p50_us=latency["p50"],
            p99_us=latency["p99"],
            p999_us=latency["p999"],
            failed=sum(result["errors"].values()),
            operations=result["ok"],
            seconds=result["seconds"],
            tool_cpu_seconds=result["cpu_seconds"],
            server_cpu_seconds={name: now - cpu[name] for name, now in self._servers.cpu_seconds().items()},
        )

    def _run_http(self, load: Load, data: Data, seconds: float) -> Measurement:
        leader = self._nodes.wait_for_leader()
        url = f"http://{self._nodes.http_address(leader)}/kv/{data.key(data.keys // 2)}"
        method, body = ("GET", "") if load.reads else ("PUT", json.dumps({"value": data.value}))
        cpu = self._servers.cpu_seconds()
        result = wrk.run(url, load, seconds, self._directory, method=method, body=body)
        server_cpu = {name: now - cpu[name] for name, now in self._servers.cpu_seconds().items()}
        if load.reads and result.answer_bytes < result.succeeded * data.value_bytes:
            raise RivalError("fastkv answered reads without their values")
        return result.measurement(server_cpu)
