"""The three containers of docker-compose.yml under a name and on ports of their own."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import yaml

from fastkv.chaos.ports import free_ports
from tests.deploy.engine import Engine, compose_command
from tests.e2e.cluster import Node, eventually

ROOT = Path(__file__).parents[2]
WITHIN_S = 240.0
UNTIL_STOPPED_S = "120"
SERVICES = ("kvstore-node-1", "kvstore-node-2", "kvstore-node-3")


class Composed:
    """A running project of Compose. Nodes are addressed by their published ports on 127.0.0.1."""

    def __init__(self, engine: Engine, image: str, directory: Path) -> None:
        self.engine = engine
        self.project = f"fastkvtest{uuid.uuid4().hex[:8]}"
        self._compose = compose_command(engine)
        ports = free_ports(6)
        self.nodes = {
            f"node-{n}": Node(f"node-{n}", None, ports[2 * n - 2], ports[2 * n - 1], directory) for n in (1, 2, 3)
        }
        self._files = [ROOT / "docker-compose.yml", _patient(directory)]
        self._environment = {"KVSTORE_IMAGE": image}
        for n, node in enumerate(self.nodes.values(), 1):
            self._environment[f"KVSTORE_HTTP_PORT_{n}"] = str(node.http_port)
            self._environment[f"KVSTORE_RAFT_PORT_{n}"] = str(node.raft_port)

    def compose(self, *arguments: str) -> str:
        """One command of Compose for this project."""
        command = [*self._compose, "--project-name", self.project]
        command += [part for path in self._files for part in ("--file", str(path))]
        return self.engine.run(*command, *arguments, **self._environment).stdout

    def container(self, node_id: str) -> str:
        """The id of the container that runs a node, also of one that has stopped."""
        service = f"label=com.docker.compose.service=kvstore-{node_id}"
        project = f"label=com.docker.compose.project={self.project}"
        return self.engine.docker("ps", "--all", "--quiet", "--no-trunc", "--filter", service, "--filter", project)

    def state(self, node_id: str) -> dict[str, object]:
        """What the engine says of a node's container: Status, ExitCode, Health, …"""
        described: dict[str, object] = json.loads(
            self.engine.docker("inspect", "--format", "{{json .State}}", self.container(node_id))
        )
        return described

    def health(self, node_id: str) -> str:
        """starting, healthy or unhealthy."""
        health = self.state(node_id)["Health"]
        assert isinstance(health, dict)
        return str(health["Status"])

    def seconds_until_healthy(self, node_id: str) -> float:
        """From the start of the container to the end of the first check that passed."""
        state = self.state(node_id)
        health = state["Health"]
        assert isinstance(health, dict)
        passed = [_time(check["End"]) for check in health["Log"] if check["ExitCode"] == 0]
        return (min(passed) - _time(str(state["StartedAt"]))).total_seconds()

    def wait_until_healthy(self) -> None:
        for node_id in self.nodes:
            eventually(lambda node_id=node_id: self.health(node_id) == "healthy", within_s=WITHIN_S, what=node_id)

    def leader(self, *among: str) -> str:
        """The one of the given nodes, by default all, that all of them know as the leader."""
        asked = among or tuple(self.nodes)

        def agreed() -> str | None:
            said = set()
            for node_id in asked:
                shown = self.nodes[node_id].status().get("nodes", {})
                said.add(next((name for name, one in shown.items() if one["is_leader"]), None))
            leader = said.pop() if len(said) == 1 else None
            return leader if leader in asked else None

        return eventually(agreed, within_s=WITHIN_S, what="one leader")

    def shown(self, by: str, node_id: str) -> str:
        """The state of a node as another one shows it; empty where that one does not answer."""
        nodes = self.nodes[by].status().get("nodes", {})
        return str(nodes[node_id]["state"]) if node_id in nodes else ""

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "40")


def _patient(directory: Path) -> Path:
    """A second file for Compose: the same, with timeouts that no busy machine exceeds."""
    config = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yaml").read_text())
    config["raft"] = {"election_timeout_ms": 5000, "heartbeat_timeout_ms": 250}
    (directory / "patient.yaml").write_text(yaml.safe_dump(config))
    (directory / "patient.yaml").chmod(0o644)
    mounted = [f"{directory / 'patient.yaml'}:/etc/fastkv/compose.yaml:ro"]
    path = directory / "patient-compose.yml"
    path.write_text(yaml.safe_dump({"version": "3.8", "services": {name: {"volumes": mounted} for name in SERVICES}}))
    return path


def _time(text: str) -> datetime:
    """Docker's time stamps have nine digits of a second, and a zone."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text.replace("Z", "+00:00")))


@contextmanager
def composed(engine: Engine, image: str, directory: Path) -> Iterator[Composed]:
    """All three up and healthy; taken down with their volumes at the end."""
    project = Composed(engine, image, directory)
    try:
        project.compose("up", "--detach", "--no-build")
        project.wait_until_healthy()
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", UNTIL_STOPPED_S)
