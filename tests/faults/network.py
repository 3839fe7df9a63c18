"""Clusters whose nodes reach each other through proxies: links that a test makes slow, or cuts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fastkv.chaos.links import PASS, Links, Rule
from fastkv.chaos.ports import free_ports
from tests.e2e.cluster import Cluster, Node

BLOCKED = Rule(blocked=True)


class Network:
    """The proxies, on a loop and a thread of their own."""

    def __init__(self, nodes: Mapping[str, tuple[int, int]]) -> None:
        self._links = Links(nodes)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links")
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._links.start(), self._loop).result()

    def set_around(self, node: Node, others: list[Node], rule: Rule) -> None:
        """The rule for both directions between a node and others; holds once this returns."""

        async def set_all() -> None:
            for other in others:
                self._links.set(node.node_id, other.node_id, rule)
                self._links.set(other.node_id, node.node_id, rule)

        asyncio.run_coroutine_threadsafe(set_all(), self._loop).result()

    @contextmanager
    def cut_off(self, node: Node, others: list[Node]) -> Iterator[None]:
        """Nothing passes between a node and others; what was sent meanwhile arrives afterwards."""
        self.set_around(node, others, BLOCKED)
        try:
            yield
        finally:
            self.set_around(node, others, PASS)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._links.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class LinkedNode(Node):
    """A node that others reach at another port than it listens on."""

    def __init__(self, like: Node, config: Path, directory: Path) -> None:
        own = directory / f"{like.node_id}.yaml"
        own.write_text(f"{config.read_text()}server: {{raft_port: {like.raft_port}, http_port: {like.http_port}}}\n")
        super().__init__(like.node_id, own, like.http_port, like.raft_port, directory)

    def ports(self) -> dict[str, str]:
        return {}       # they are in its file; from the environment they would be where others are to reach it


class LinkedCluster(Cluster):
    """A cluster whose configuration names the proxies; clients talk to the nodes themselves."""

    def __init__(self, directory: Path, nodes: int = 3, *, extra: str = "") -> None:
        super().__init__(directory, nodes, extra=extra)
        own = {port for node in self for port in (node.raft_port, node.http_port)}
        fronts = [port for port in free_ports(3 * nodes) if port not in own][:nodes]
        text = self.config.read_text()
        for node, front in zip(self, fronts, strict=True):
            text = text.replace(f'raft: "127.0.0.1:{node.raft_port}"', f'raft: "127.0.0.1:{front}"')
        self.config.write_text(text)
        ways = {node.node_id: (front, node.raft_port) for node, front in zip(self, fronts, strict=True)}
        self.nodes = {node.node_id: LinkedNode(node, self.config, directory) for node in self}
        self.network = Network(ways)

    def close(self) -> None:
        super().close()
        self.network.close()


@contextmanager
def linked_cluster(directory: Path, *, extra: str = "") -> Iterator[LinkedCluster]:
    """Three nodes with a leader; killed at the end."""
    cluster = LinkedCluster(directory, extra=extra)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
