"""A real cluster of real processes on free ports of this machine, for the end-to-end tests."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fastkv.chaos.ports import free_ports

Result = TypeVar("Result")
START_TIMEOUT_S = 60.0
PATIENT = "raft: {election_timeout_ms: 1000, heartbeat_timeout_ms: 100}\n"
"""For tests of what is planned: no election that a busy machine brings about is to come between its steps."""


def eventually(probe: Callable[[], Result | None], *, within_s: float, what: str) -> Result:
    """Ask again and again until `probe` answers something true. There is no event to wait for across processes."""
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(0.01)


class Node:
    """One node's process, its ports and its files."""

    def __init__(self, node_id: str, config: Path | None, http_port: int, raft_port: int, directory: Path) -> None:
        self.node_id = node_id
        self.http_port = http_port
        self.raft_port = raft_port
        self.log_path = directory / f"{node_id}.log"
        self.data_path = directory / "data" / node_id
        self._config = config
        self._directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.raft_port}"

    def ports(self) -> dict[str, str]:
        """The part of the environment that says where the node listens."""
        return {"KV_HTTP_PORT": str(self.http_port), "KV_RAFT_PORT": str(self.raft_port)}

    def start(self, *, wrap: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> None:
        """Start the process; `wrap` is a command to run it under."""
        command = [*wrap, sys.executable, "-m", "fastkv", "serve"]
        command += ["--config", str(self._config)] if self._config else ["--data-dir", str(self._directory / "data")]
        env = {**os.environ, "RAFT_NODE_ID": self.node_id, **self.ports(), **(environment or {})}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_text(self) -> str:
        return self.log_path.read_text(errors="replace")

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> tuple[int, Any]:
        """Status and answer: parsed where it is JSON, else bytes. OSError where the node is not there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json else content

    def put(self, key: str, value: str) -> tuple[int, Any]:
        body = json.dumps({"value": value}).encode()
        return self.request("PUT", f"/kv/{key}", body, {"Content-Type": "application/json"})

    def get(self, key: str, query: str = "") -> tuple[int, Any]:
        return self.request("GET", f"/kv/{key}{query}")

    def status(self) -> dict[str, Any]:
        """GET /cluster/status; empty while the node does not answer."""
        try:
            status, answer = self.request("GET", "/cluster/status", timeout_s=2)
        except (OSError, http.client.HTTPException):
            return {}
        return answer if status == 200 else {}


class Cluster:
    """Several nodes with one configuration file."""

    def __init__(
        self, directory: Path, nodes: int = 3, *, extra: str = "", ports: Sequence[int] | None = None
    ) -> None:
        """`ports` are those of an earlier life, of nodes that are not to move."""
        self.directory = directory
        self.ports = ports = ports or free_ports(2 * nodes)
        names = [f"node-{i + 1}" for i in range(nodes)]
        listing = "".join(
            f'    {name}: {{raft: "127.0.0.1:{ports[2 * i]}", http: "127.0.0.1:{ports[2 * i + 1]}"}}\n'
            for i, name in enumerate(names)
        )
        config = directory / "cluster.yaml"
        config.write_text(
            f'cluster:\n  name: "test-{directory.name}"\n  bootstrap_id: "node-1"\n'
            f'  data_dir: "{directory / "data"}"\n  nodes:\n{listing}{extra}'
        )
        self.config = config
        self.nodes = {
            name: Node(name, config, ports[2 * i + 1], ports[2 * i], directory) for i, name in enumerate(names)
        }

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @property
    def endpoints(self) -> str:
        return ",".join(node.endpoint for node in self)

    def start(self) -> None:
        for node in self:
            node.start()
        self.leader()

    def close(self) -> None:
        for node in self:
            if node.running:
                node.kill()

    def leader(self, *, among: list[Node] | None = None, within_s: float = START_TIMEOUT_S) -> Node:
        """The node that the running ones agree is the leader."""
        asked = among if among is not None else [node for node in self if node.running]

        def agreed() -> Node | None:
            said = set()
            for node in asked:
                nodes = node.status().get("nodes", {})
                said.add(next((name for name, shown in nodes.items() if shown["is_leader"]), None))
            leader = said.pop() if len(said) == 1 else None
            return self.nodes[leader] if leader in {node.node_id for node in asked} else None

        return eventually(agreed, within_s=within_s, what=f"one leader; logs in {self.directory}")

    def followers(self) -> list[Node]:
        leader = self.leader()
        return [node for node in self if node is not leader and node.running]


@contextmanager
def paused(*nodes: Node) -> Iterator[None]:
    """SIGSTOP, until they stand still, and SIGCONT at the end."""
    processes = [node.process for node in nodes if node.process is not None]
    try:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        for process in processes:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@contextmanager
def running_cluster(directory: Path, nodes: int = 3, *, extra: str = "") -> Iterator[Cluster]:
    """A cluster with a leader; killed at the end."""
    cluster = Cluster(directory, nodes, extra=extra)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
