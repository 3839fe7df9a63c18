"""Every line that a node writes parses, and says of which node, role and term it is."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

import fastkv
from tests.e2e.cluster import Node, eventually, running_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONFIG = "logging:\n  format: json\n  level: debug\n"
ROLES = {"Leader", "Follower", "Candidate", "Learner"}


def lines_of(node: Node) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.log_text().splitlines()]


def test_every_line_of_a_cluster_is_json(tmp_path: Path) -> None:
    with running_cluster(tmp_path, extra=CONFIG) as cluster:
        with fastkv.connect(cluster.endpoints) as kv:
            kv.put("a", "1")
        old = cluster.leader()
        with socket.create_connection(("127.0.0.1", old.raft_port), timeout=30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(4096):
                continue
        old.kill()
        others = [node for node in cluster if node is not old]
        new = cluster.leader(among=others)
        term = new.status()["nodes"][new.node_id]["term"]
        old.start()
        eventually(old.status, within_s=30, what="the old leader to answer")
        cluster.leader()
        for node in cluster:
            assert node.stop() == 0
        for node in cluster:
            lines = lines_of(node)
            assert len(lines) > 5
            for line in lines:
                assert line["node"] == node.node_id
                assert line["role"] in ROLES
                assert isinstance(line["term"], int)
                assert line["time"].endswith("Z")
                assert {"level", "logger", "message"} <= set(line)
            assert lines[-1]["message"] == "stopped"
        assert any((line["role"], line["term"]) == ("Leader", term) for line in lines_of(new)), "they are true"
        assert any("closing a connection" in line["message"] for line in lines_of(old))


def test_a_node_that_cannot_start_says_so_in_json(tmp_path: Path) -> None:
    with running_cluster(tmp_path, nodes=1, extra=CONFIG) as cluster:
        (node,) = cluster
        twin = Node(node.node_id, cluster.config, node.http_port, node.raft_port, tmp_path)
        twin.log_path = tmp_path / "twin.log"
        twin.start()
        assert twin.process is not None
        assert twin.process.wait(60) != 0
        line = lines_of(twin)[-1]
        assert (line["level"], line["node"]) == ("critical", "node-1")
