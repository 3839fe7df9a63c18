"""Members come and go on real processes, while writers write."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastkv.chaos.ports import free_ports
from tests.e2e.cluster import PATIENT, Cluster, Node, eventually, running_cluster
from tests.e2e.load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def of_nobody(directory: Path, node_id: str) -> Node:
    """A node that knows nothing but its own ports."""
    config = directory / "nobody.yaml"
    config.write_text(f'cluster:\n  data_dir: "{directory / "data"}"\n{PATIENT}')
    http_port, raft_port = free_ports(2)
    return Node(node_id, config, http_port, raft_port, directory)


def newcomer(directory: Path, node_id: str) -> Node:
    """A node that waits to be added."""
    node = of_nobody(directory, node_id)
    node.start(environment={"KV_JOIN": "true", "KV_CLUSTER": ""})
    return node


def add(at: Node, node: Node, **more: object) -> None:
    asked = {"id": node.node_id, "raft": node.endpoint, "http": f"127.0.0.1:{node.http_port}", **more}
    status, answer = at.request("POST", "/cluster/members", json.dumps(asked).encode())
    assert status == 200, answer


def voters(at: Node) -> set[str]:
    _, answer = at.request("GET", "/cluster/members")
    return {one["id"] for one in answer.get("members", []) if one["role"] == "voter"}     # none without a leader


def until_voters(at: Node, wanted: set[str]) -> None:
    eventually(lambda: voters(at) == wanted, within_s=60, what=f"the voters {wanted}")


@contextmanager
def single(directory: Path) -> Iterator[tuple[Node, list[Node]]]:
    """One node, and a list of those that were started besides, all killed at the end."""
    first = of_nobody(directory, "node-1")
    started = [first]
    try:
        first.start()
        eventually(lambda: first.status().get("is_leader"), within_s=60, what="a leader")
        yield first, started
    finally:
        for node in started:
            if node.running:
                node.kill()


def test_one_three_five_three(tmp_path: Path) -> None:
    with single(tmp_path) as (_, started):
        newcomers = [newcomer(tmp_path, f"node-{number}") for number in (2, 3, 4, 5)]
        started += newcomers
        for node in newcomers:
            eventually(node.status, within_s=60, what=f"{node.node_id} to answer")
        endpoints = ",".join(node.endpoint for node in started)
        with Writers(endpoints, exactly_once=False) as writers:
            grow_and_shrink(started, writers)
        assert writers.failures == []
        assert writers.lost() == []


def grow_and_shrink(started: list[Node], writers: Writers) -> None:
    for count, node in enumerate(started[1:], 2):
        add(started[0], node)
        until_voters(started[0], {one.node_id for one in started[:count]})
        writers.until(50)
    asked = started[4]
    for node in (started[0], started[1]):       # the first of them leads
        status, answer = asked.request("DELETE", f"/cluster/members/{node.node_id}")
        assert status == 200, answer
        assert node.process is not None
        assert node.process.wait(timeout=60) == 0
        assert f"{node.node_id} was removed from the cluster" in node.log_text()
        writers.until(50)
    assert voters(asked) == {"node-3", "node-4", "node-5"}
    started[0].start()                          # it comes back, and learns it again
    assert started[0].process is not None
    assert started[0].process.wait(timeout=60) == 0
    writers.until(50)


def test_a_dead_node_is_replaced_in_one_step(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        with Writers(cluster.endpoints) as writers:
            replace_one(tmp_path, cluster, writers)
        assert writers.failures == []
        assert writers.lost() == []


def replace_one(tmp_path: Path, cluster: Cluster, writers: Writers) -> None:
    dead = cluster.followers()[0]
    dead.kill()
    shutil.rmtree(dead.data_path)
    leader = cluster.leader()
    stranger = Node("node-4", cluster.config, *free_ports(2), tmp_path)
    config = tmp_path / "joins.yaml"
    config.write_text(cluster.config.read_text().rstrip("\n") + f'\n    node-4: "{stranger.endpoint}"\n')
    stranger._config = config
    stranger.start(environment={"KV_JOIN": "true"})
    try:
        eventually(stranger.status, within_s=60, what="node-4 to answer")
        add(leader, stranger, replaces=dead.node_id)
        left = {node.node_id for node in cluster} - {dead.node_id}
        until_voters(leader, {*left, "node-4"})
        writers.until(50)
    finally:
        stranger.kill()


def test_a_wiped_node_is_not_taken_for_the_member_that_it_was(cluster: Cluster) -> None:
    wiped = cluster.followers()[0]
    leader = cluster.leader()
    assert leader.put("k", "v")[0] in (200, 201)

    def known() -> bool:
        """Whether every member's disk has been noted: that comes a moment after they have met."""
        return leader.request("GET", "/health")[1]["applied_index"] >= 4

    eventually(known, within_s=60, what="the members to know each other")
    wiped.kill()
    shutil.rmtree(wiped.data_path)
    wiped.start()
    eventually(
        lambda: "the cluster knows" in wiped.log_text() and "remove the member" in wiped.log_text(),
        within_s=60, what="a refusal in the log",
    )  # fmt: skip
    status, answer = wiped.request("GET", "/readyz")
    assert status == 503
    assert "membership" in answer["failed"]
    assert any("another data directory" in problem for problem in wiped.request("GET", "/health")[1]["problems"])
    status, answer = leader.request("DELETE", f"/cluster/members/{wiped.node_id}")
    assert status == 200, answer
    add(leader, wiped)                              # as the text says: removed, and added anew
    until_voters(leader, set(cluster.nodes))
    eventually(lambda: wiped.get("k", "?consistency=stale")[0] == 200, within_s=60, what="the value on the new member")


def test_a_node_moves_to_another_address(cluster: Cluster) -> None:
    moved = cluster.followers()[0]
    with Writers(cluster.endpoints) as writers:
        assert moved.stop() == 0
        moved.http_port, moved.raft_port = free_ports(2)
        moved.start()
        eventually(moved.status, within_s=60, what="the node to answer")
        asked = json.dumps({"raft": moved.endpoint, "http": f"127.0.0.1:{moved.http_port}"}).encode()
        status, answer = cluster.leader().request("PUT", f"/cluster/members/{moved.node_id}", asked)
        assert status == 200, answer
        assert {one["id"]: one["raft"] for one in answer["members"]}[moved.node_id] == moved.endpoint
        writers.until(50)
    assert writers.failures == []
    assert writers.lost() == []
    for node in cluster:                # they all find it there, also after a restart with the old file
        node.kill()
        node.start()
    cluster.leader()
    assert cluster.leader().status()["nodes"][moved.node_id]["address"] == moved.endpoint
    assert moved.put("k", "v")[0] in (200, 201)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"id": "node-1", "raft": "127.0.0.1:1"}, "node-1"),
        ({"id": "node-9", "raft": ""}, "raft"),
        ({"id": "node-9", "raft": "127.0.0.1:1", "replaces": "nobody"}, "nobody"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    cluster: Cluster, asked: dict[str, object], says: str
) -> None:
    leader = cluster.leader()
    before = leader.request("GET", "/cluster/members")[1]
    status, answer = leader.request("POST", "/cluster/members", json.dumps(asked).encode())
    assert status in (400, 409), answer
    assert says in answer["error"]
    after = leader.request("GET", "/cluster/members")[1]
    assert [one["id"] for one in after["members"]] == [one["id"] for one in before["members"]]


def test_removing_too_many_is_refused_while_one_is_down(cluster: Cluster) -> None:
    leader = cluster.leader()
    down, up = cluster.followers()
    down.kill()
    status, answer = leader.request("DELETE", f"/cluster/members/{up.node_id}")
    assert (status, answer["code"]) == (409, "CHANGE_REFUSED")
    assert "quorum" in answer["error"]
    assert leader.put("k", "v")[0] in (200, 201)
