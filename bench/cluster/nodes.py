"""A cluster of fastkv on 127.0.0.1, from this checkout, whose nodes can be stopped, emptied and started one by one."""

from __future__ import annotations

import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.processes import Servers
from fastkv.chaos.ports import free_ports

CHECKOUT = Path(__file__).parents[2]
HTTP_TIMEOUT_S = 20.0


class Nodes:
    """`node-1` to `node-N`, on free ports, with their data, logs and configuration in `directory`.

    `settings` are sections of the configuration file besides `cluster` and `logging`. With `delay_ms`, whatever a node
    says takes so long to another one; clients are as near as ever.
    """

    def __init__(
        self,
        directory: Path,
        servers: Servers,
        *,
        count: int = 3,
        settings: Mapping[str, Any] | None = None,
        delay_ms: float = 0.0,
    ) -> None:
        ports = free_ports(3 * count)
        self.names = tuple(f"node-{number}" for number in range(1, count + 1))
        self.raft_ports = dict(zip(self.names, ports[:count], strict=True))
        self._http_ports = dict(zip(self.names, ports[count : 2 * count], strict=True))
        self._link_ports = dict(zip(self.names, ports[2 * count :], strict=True)) if delay_ms else self.raft_ports
        self._delay_ms = delay_ms
        self._servers = servers
        self._directory = directory
        self._data = directory / "data"
        self._settings = settings or {}
        for name in self.names:
            self._write_config(name)

    def _write_config(self, name: str) -> None:
        nodes = {
            each: {"raft": f"127.0.0.1:{self._link_ports[each]}", "http": self.http_address(each)}
            for each in self.names
        }
        cluster = {"name": "bench", "bootstrap_id": self.names[0], "data_dir": str(self._data), "nodes": nodes}
        document = {
            "cluster": cluster,
            "server": {"raft_port": self.raft_ports[name]},
            "logging": {"level": "warning"},
            **self._settings,
        }
        self._config(name).write_text(json.dumps(document))       # JSON is YAML

    def _config(self, name: str) -> Path:
        return self._directory / f"{name}.yaml"

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all of them, and wait for a leader. TimeoutError, with their logs, where none comes."""
        if self._delay_ms:
            ports = [f"{name}={self._link_ports[name]}:{self.raft_ports[name]}" for name in self.names]
            command = [sys.executable, "-m", "bench.cluster.links", "--delay-ms", str(self._delay_ms), *ports]
            self._servers.start("links", command, {"PYTHONPATH": str(CHECKOUT)})
        for name in self.names:
            self.start_one(name)
        self.wait_for_leader()

    def start_one(self, name: str, *, join: bool = False) -> None:
        """Start a node; with `join` it waits to be added, where its data directory is empty."""
        environ = {"RAFT_NODE_ID": name, "KV_CONFIG": str(self._config(name)), "PYTHONPATH": str(CHECKOUT)}
        if join:
            environ["KV_JOIN"] = "true"
        self._servers.start(name, [sys.executable, "-m", "fastkv", "serve"], environ)

    def wipe(self, name: str) -> None:
        """Empty the data directory of a node that does not run."""
        shutil.rmtree(self._data / name)

    def wait_for_leader(self) -> str:
        """The leader, once every node knows it."""
        self._servers.until(lambda: bool(self.leader()))
        return self.leader()

    # -- looking and asking --------------------------------------------------------------------------------------------

    def address(self, name: str) -> str:
        """Its raw-TCP port."""
        return f"127.0.0.1:{self.raft_ports[name]}"

    def http_address(self, name: str) -> str:
        """Its HTTP port."""
        return f"127.0.0.1:{self._http_ports[name]}"

    @property
    def endpoints(self) -> str:
        """All raw-TCP ports, as clients take them."""
        return ",".join(self.address(name) for name in self.names)

    def leader(self) -> str:
        """Whom every node takes for the leader; empty while they do not agree, or one does not answer."""
        said = set()
        for name in self.names:
            try:
                nodes = self.ask(name, "GET", "/cluster/status")["nodes"]
            except (OSError, ValueError):
                return ""
            said.add(next((other for other, node in nodes.items() if node["is_leader"]), ""))
        return said.pop() if len(said) == 1 else ""

    def ask(self, name: str, method: str, path: str, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a node answers over HTTP, whatever the status. OSError where it does not."""
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(f"http://{self.http_address(name)}{path}", body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_S) as answer:
                parsed: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as refused:
            parsed = json.load(refused)
        return parsed

    def metric(self, name: str, metric: str) -> float:
        """One of its metrics, by its whole name."""
        with urllib.request.urlopen(f"http://{self.http_address(name)}/metrics", timeout=HTTP_TIMEOUT_S) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"{metric} "):
                    return float(line.split()[1])
        raise KeyError(metric)
