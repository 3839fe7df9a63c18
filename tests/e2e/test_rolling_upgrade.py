"""The former release's cluster becomes one of this release, node by node, under writes; and goes back while it can.

Its data is the fixture's. The part of its nodes is played by this release's code, held at the former version of the
protocol (`KV_PROTOCOL_VERSION`): it dials, refuses and proposes as that release does.
"""

from __future__ import annotations

import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastkv._core.codes import Opcode, Status
from fastkv.version import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, __version__
from fastkv.wire.client import CLIENT_ROLE, PEER_ROLE, encode_hello_body
from tests.e2e.cluster import Cluster, Node, eventually, running_cluster
from tests.e2e.load import Writers
from tests.fixtures.release import SMALL, content, fixed_ports, keys_of, unpack
from tests.fixtures.talk import Answer, Talk

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(900)]

FORMER = {"KV_PROTOCOL_VERSION": str(OLDEST_PROTOCOL_VERSION)}
WITHIN_S = 120.0
PAGE = (Path(__file__).parents[2] / "docs" / "upgrades.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [shlex.split(line[2:]) for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def former(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes of the former release, on its data."""
    directory = tmp_path / "upgrade"
    directory.mkdir()
    unpack("cluster", directory / "data")
    with fixed_ports() as ports:
        cluster = Cluster(directory, 3, extra=SMALL, ports=ports)
        try:
            for node in cluster:
                node.start(environment=FORMER)
            cluster.leader()
            yield cluster
        finally:
            cluster.close()


def spoken(cluster: Cluster) -> set[int]:
    """What the nodes take for their cluster's version."""

    def answered(node: Node) -> int:
        return int(node.status().get("protocol_version", 0))

    return {
        eventually(lambda node=node: answered(node), within_s=WITHIN_S, what=f"{node.node_id} to answer")
        for node in cluster
    }


def until_known(cluster: Cluster, versions: dict[str, int]) -> None:
    """Every node has heard from every other what it speaks at most."""

    def known(node: Node) -> bool:
        nodes = node.status().get("nodes", {})
        return {name: shown["protocol_version"] for name, shown in nodes.items()} == versions

    eventually(lambda: all(known(node) for node in cluster), within_s=WITHIN_S, what=f"all to know {versions}")


def replace(cluster: Cluster, node: Node, writers: Writers, environment: dict[str, str] | None = None) -> None:
    """Stop one node, and start another release on its data."""
    assert node.stop() == 0
    writers.until(20)
    node.start(environment=environment)
    cluster.leader(within_s=WITHIN_S)
    writers.until(20)


def until_agreed(cluster: Cluster) -> dict[str, Any]:
    """All nodes have applied the same and have the same state; what they say of it."""

    def agreed() -> dict[str, Any] | None:
        said = [node.request("GET", "/health")[1] for node in cluster]
        states = {tuple(health[name] for name in ("applied_index", "revision", "state_hash")) for health in said}
        return said[0] if len(states) == 1 else None

    return eventually(agreed, within_s=WITHIN_S, what="the states to agree")


def hello(node: Node, body: bytes) -> Answer:
    with Talk(node.raft_port, hello=None) as talk:
        answer = talk.ask(Opcode.HELLO, body)
        assert answer.opcode == Opcode.HELLO or talk.at_end(), "a refused connection is closed"
        return answer


def node_of(cluster: Path, version: int, older: int) -> bytes:
    """The HELLO of a node of that cluster that speaks the versions from `version - older` to `version`."""
    known = min(version, PROTOCOL_VERSION)
    body = encode_hello_body(PEER_ROLE, "node-9", f"test-{cluster.name}", disk=9, address="127.0.0.1:1", version=known)
    return body[:4] + struct.pack("<HBB", version, PEER_ROLE, older) + body[8:]


@pytest.mark.parametrize("order", ["the leader last", "the leader first"])
def test_node_by_node_under_writes(former: Cluster, order: str) -> None:
    said = content("cluster")
    eventually(
        lambda: until_agreed(former)["revision"] == said["revision"], within_s=WITHIN_S, what="all that was there"
    )
    assert keys_of(former.nodes["node-1"]) == said["keys"]
    nodes = [*former.followers(), former.leader()]
    first, second, third = nodes if order == "the leader last" else nodes[::-1]
    names = [node.node_id for node in (first, second, third)]
    old, new = OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION
    with Writers(former.endpoints, count=4) as writers:
        until_known(former, dict.fromkeys(names, old))
        replace(former, first, writers)
        until_known(former, dict(zip(names, (new, old, old), strict=True)))
        replace(former, second, writers)
        until_known(former, dict(zip(names, (new, new, old), strict=True)))
        assert spoken(former) == {old}, "one node of the former release holds all back"
        if order == "the leader last":      # and so the upgraded ones can go back
            replace(former, second, writers, FORMER)
            until_known(former, dict(zip(names, (new, old, old), strict=True)))
            replace(former, second, writers)
        replace(former, third, writers)
        eventually(lambda: spoken(former) == {new}, within_s=WITHIN_S, what="the cluster to go on")
        writers.until(50)
    assert writers.failures == []
    assert writers.lost() == []
    kept = {key: value for key, value in keys_of(first).items() if not bytes.fromhex(key).startswith(b"writer-")}
    assert kept == said["keys"]
    until_agreed(former)
    _there_is_no_way_back(former, third)


def _there_is_no_way_back(cluster: Cluster, node: Node) -> None:
    """Neither does the former release start on that data, nor does anybody talk to it."""
    assert node.stop() == 0
    refusing = next(other for other in cluster if other.running)
    answer = hello(refusing, node_of(cluster.directory, OLDEST_PROTOCOL_VERSION, 0))
    assert (answer.opcode, answer.code) == (Opcode.ERROR, Status.UNSUPPORTED_VERSION)
    assert f"this cluster speaks version {PROTOCOL_VERSION} of the protocol".encode() in answer.body
    node.start(environment=FORMER)
    assert node.process is not None
    assert node.process.wait(timeout=60) == 1
    last = [line for line in node.log_text().splitlines() if "critical" in line][-1]
    assert f"a cluster that speaks version {PROTOCOL_VERSION} of the protocol, and this node" in last
    assert "NEWER_VERSION" in last
    node.start()
    cluster.leader(within_s=WITHIN_S)
    until_agreed(cluster)


# -- the page ----------------------------------------------------------------------------------------------------------


def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_page_s_commands(former: Cluster) -> None:
    """The procedure as it stands there, by hand: what it shows is waited for, as a person would."""
    assert len(COMMANDS) >= 12
    endpoints = ("--endpoints", former.endpoints)
    said = ""
    released: set[str] = set()
    with Writers(former.endpoints, count=4) as writers:
        for command in COMMANDS:
            match command:
                case ["fastkv", "check", directory]:
                    node = former.nodes[Path(directory).name]
                    assert node.stop() == 0
                    found = typed("fastkv", "check", str(node.data_path))
                    assert found.returncode == 0, found.stdout + found.stderr
                case ["fastkv", "serve", "--config", _, "--node-id", node_id, *held]:
                    node = former.nodes[node_id]
                    if node.running:
                        assert node.stop() == 0
                    node.start(environment={"KV_PROTOCOL_VERSION": held[1]} if held else None)
                    released |= set() if held else {node_id}
                    former.leader(within_s=WITHIN_S)
                case ["fastkv", "leader", "transfer", to]:
                    eventually(
                        lambda to=to: typed("fastkv", "leader", "transfer", to, *endpoints).returncode == 0
                        or former.leader(within_s=WITHIN_S).node_id == to,
                        within_s=WITHIN_S, what=f"{to} to lead",
                    )  # fmt: skip
                case _:
                    said = eventually(
                        lambda command=command: (done := typed(*command, *endpoints)).returncode == 0 and done.stdout,
                        within_s=WITHIN_S, what=shlex.join(command),
                    )  # fmt: skip
            if command == ["fastkv", "cluster", "status"] and "node-1" not in released:
                assert f"the cluster speaks version {OLDEST_PROTOCOL_VERSION} of the protocol" in said
            writers.until(20)
        eventually(lambda: spoken(former) == {PROTOCOL_VERSION}, within_s=WITHIN_S, what="the cluster to go on")
        said = typed("fastkv", "cluster", "status", *endpoints).stdout
    assert f"the cluster speaks version {PROTOCOL_VERSION} of the protocol" in said
    assert said.count(__version__) == 3
    assert writers.failures == []
    assert writers.lost() == []


# -- a release that is not there yet -----------------------------------------------------------------------------------


def test_the_next_release_and_this_one(tmp_path: Path) -> None:
    """Who speaks a version more than there is: it is answered in ours, or told which those are."""
    ours, later = PROTOCOL_VERSION, PROTOCOL_VERSION + 1
    with running_cluster(tmp_path, 1) as cluster:
        node = cluster.nodes["node-1"]
        eventually(lambda: spoken(cluster) == {ours}, within_s=WITHIN_S, what="today's version")
        client = b"fkv1" + struct.pack("<HBB", later, CLIENT_ROLE, later - 1) + bytes(6)
        for body in (node_of(tmp_path, later, 1) + b"what it has appended", client):
            answer = hello(node, body)
            assert (answer.opcode, answer.code) == (Opcode.HELLO, Status.OK)
            assert struct.unpack_from("<HH", answer.body) == (ours, ours)
        for body in (node_of(tmp_path, later, 0), client[:7] + bytes(7)):
            answer = hello(node, body)
            assert (answer.opcode, answer.code) == (Opcode.ERROR, Status.UNSUPPORTED_VERSION)
            known = f"versions {OLDEST_PROTOCOL_VERSION} to {ours}"
            assert answer.body.decode() == f"this node speaks {known} of the protocol, not version {later}"
        with Talk(node.raft_port) as talk:      # and a client of the former version, as all are so far
            assert talk.hello is not None
            assert struct.unpack_from("<HH", talk.hello.body) == (1, ours)
