"""The commands of docs/operations.md, as they stand there and in their order, on a real cluster under load."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastkv.chaos.ports import free_ports
from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [shlex.split(line[2:]) for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]


class Operator:
    """Types the page's commands, and does to machines what the page says has happened to them."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self.cluster = cluster
        self.directory = directory
        self.started: list[Node] = []

    def node(self, node_id: str) -> Node:
        return next(node for node in [*self.started, *self.cluster] if node.node_id == node_id)

    def joins(self, node_id: str) -> None:
        """A node that waits to be added; its file names the cluster and itself."""
        http_port, raft_port = free_ports(2)
        config = self.directory / f"{node_id}.yaml"
        config.write_text(self.cluster.config.read_text() + f'    {node_id}: "127.0.0.1:{raft_port}"\n')
        node = Node(node_id, config, http_port, raft_port, self.directory)
        node.start(environment={"KV_JOIN": "true"})
        self.started.append(node)
        eventually(node.status, within_s=60, what=f"{node_id} to answer")

    def loses_its_disk(self, node_id: str) -> None:
        node = self.node(node_id)
        node.kill()
        shutil.rmtree(node.data_path)
        node.start()
        eventually(node.status, within_s=60, what=f"{node_id} to answer")

    def moves(self, node_id: str) -> None:
        node = self.node(node_id)
        assert node.stop() == 0
        node.http_port, node.raft_port = free_ports(2)
        node.start()
        eventually(node.status, within_s=60, what=f"{node_id} to answer")

    def happens_before(self, command: list[str]) -> None:
        """What the page says of the machines."""
        match command:
            case ["fastkv", "serve", *_, "--node-id", node_id, "--join"]:
                self.joins(node_id)
            case ["fastkv", "member", "remove", "node-2"]:
                self.loses_its_disk("node-2")
            case ["fastkv", "member", "add", node_id, *_, "--replaces", dead]:
                self.node(dead).kill()
                self.joins(node_id)
            case ["fastkv", "member", "update", node_id, *_]:
                self.moves(node_id)

    def types(self, command: list[str]) -> None:
        match command:
            case ["fastkv", "member", "add" | "update", node_id, *_]:
                node = self.node(node_id)
                command = [*command[:4], node.endpoint, f"127.0.0.1:{node.http_port}", *command[6:]]
        if "--endpoints" in command:
            command = command[:-2]
        endpoints = ",".join(node.endpoint for node in [*self.cluster, *self.started] if node.running)

        def ends_well() -> bool:
            done = subprocess.run(
                [sys.executable, "-m", *command, "--endpoints", endpoints],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            # An election of a busy machine is seen as what it is; who looks again sees its end.
            assert done.returncode == 0 or command[1] == "inspect", f"{command}: {done.stdout}{done.stderr}"
            return done.returncode == 0

        eventually(ends_well, within_s=60, what=f"{' '.join(command)} to find all well")

    def until_settled(self, command: list[str]) -> None:
        """A node that was added votes a moment later."""
        if command[:3] == ["fastkv", "member", "add"]:
            asked = self.cluster.nodes["node-1"]

            def votes() -> bool:
                members = asked.request("GET", "/cluster/members")[1].get("members", [])
                return command[3] in [member["id"] for member in members if member["role"] == "voter"]

            eventually(votes, within_s=60, what=f"{command[3]} to vote")


def test_the_page_s_commands(cluster: Cluster, tmp_path: Path) -> None:
    assert len(COMMANDS) >= 10
    operator = Operator(cluster, tmp_path)
    try:
        with Writers(cluster.endpoints) as writers:
            for command in COMMANDS:
                operator.happens_before(command)
                if command[1] != "serve":
                    operator.types(command)
                operator.until_settled(command)
                writers.until(20)
        assert writers.failures == []
        assert writers.lost() == []
    finally:
        for node in operator.started:
            if node.running:
                node.kill()
