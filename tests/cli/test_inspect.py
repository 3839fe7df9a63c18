"""`fastkv inspect` against a real cluster of three processes, whole and not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tests.cli.test_against_a_cluster import fastkv
from tests.e2e.cluster import PATIENT, Cluster, Node, eventually, running_cluster

pytestmark = pytest.mark.e2e
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), extra=PATIENT) as running:
        leader = running.leader()
        for number in range(30):
            assert leader.put(f"user:{number:02d}", f"name {number}")[0] == 201
        assert leader.request("PUT", "/kv/raw", b"\xff\xfe")[0] == 201
        yield running


def asked(cluster: Cluster, *arguments: str) -> tuple[int, Any]:
    """Exit status and JSON of an inspection."""
    status, out, error = fastkv(cluster.endpoints, "inspect", *arguments, "--json")
    assert not error, error
    return status, json.loads(out)


def settled(cluster: Cluster) -> None:
    """Every node has applied what the leader has."""

    def same() -> bool:
        return len({node.request("GET", "/health")[1]["applied_index"] for node in cluster}) == 1

    eventually(same, within_s=WITHIN_S, what="equal applied indexes")


def test_status(cluster: Cluster) -> None:
    status, view = asked(cluster, "status")
    assert (status, view["leader"]) == (0, cluster.leader().node_id)
    assert {node["id"] for node in view["nodes"]} == set(cluster.nodes)
    assert all(node["health"] == "ok" and not node["problems"] for node in view["nodes"])
    assert {node["keys"] for node in view["nodes"]} == {31}
    status, out, _ = fastkv(cluster.endpoints, "inspect", "status")
    assert status == 0
    assert f"leader: {view['leader']}" in out.decode()


def test_data_is_that_of_every_node(cluster: Cluster) -> None:
    settled(cluster)
    status, view = asked(cluster, "data")
    assert (status, view["agree"], view["keys"], view["behind"]) == (0, True, 31, 0)
    assert {node["keys"] for node in view["nodes"].values()} == {31}
    assert view["pairs"][0] == {
        "key": "raw", "value_base64": "//4=", "revision": 31, "version": 1, "agreement": "same",
    }  # fmt: skip
    status, view = asked(cluster, "data", "--prefix", "user:1", "--limit", "3")
    assert (view["keys"], [pair["key"] for pair in view["pairs"]]) == (10, ["user:10", "user:11", "user:12"])
    status, out, _ = fastkv(cluster.endpoints, "inspect", "data", "--limit", "5")
    assert status == 0
    assert "name 3" in out.decode()
    assert "26 more" in out.decode()
    assert "the nodes agree" in out.decode()


def test_raft_shows_the_log_of_each_node(cluster: Cluster) -> None:
    settled(cluster)
    status, view = asked(cluster, "raft", "--limit", "5")
    assert status == 0
    assert [log["node"] for log in view["logs"]] == list(cluster.nodes)
    last = view["logs"][0]["last_index"]
    for log in view["logs"]:
        assert [entry["index"] for entry in log["entries"]] == list(range(last - 4, last + 1))
        assert log["entries"] == view["logs"][0]["entries"]
        assert log["commit_index"] == log["applied_index"] == last
    # A leader that came later, or a member that was noted, has an entry without a key.
    assert [entry["key"] for entry in view["logs"][0]["entries"] if "key" in entry][-2:] == ["user:29", "raw"]
    status, out, _ = fastkv(cluster.endpoints, "inspect", "raft", "--first", "1", "--limit", "3")
    assert status == 0
    assert "noop" in out.decode()


def test_the_trial_leaves_nothing_behind(cluster: Cluster) -> None:
    status, view = asked(cluster, "test")
    assert (status, view["passed"], len(view["steps"])) == (0, True, 3 * (1 + 3 + 1 + 3))
    assert asked(cluster, "data", "--prefix", "fastkv-inspect-test/")[1]["keys"] == 0
    status, out, _ = fastkv(cluster.endpoints, "inspect", "test")
    assert status == 0
    assert "FAILED" not in out.decode()


# -- what is not whole -------------------------------------------------------------------------------------------------


def altered(node: Node) -> None:
    """Alter one value in a stopped node's store, so that only who reads it can find it."""
    with lmdb.open(str(node.data_path / "store"), max_dbs=8) as store:
        data = store.open_db(b"data", create=False)
        with store.begin(db=data, write=True) as transaction:
            record = transaction.get(b"k1")
            assert record is not None
            transaction.put(b"k1", record[:-1] + b"w")


@pytest.mark.slow
def test_nodes_that_are_down_or_differ(tmp_path: Path) -> None:
    quick = PATIENT + "storage: {checkpoint_age_s: 1, verify_bytes: 0}\n"
    with running_cluster(tmp_path, extra=quick) as cluster:
        leader = cluster.leader()
        for number in range(5):
            assert leader.put(f"k{number}", "v")[0] == 201
        victim = cluster.followers()[0]
        checkpointed = "fastkv_checkpoint_duration_seconds_count"
        eventually(
            lambda: metric(victim, checkpointed) >= 1 and metric(victim, "fastkv_keys") == 5, within_s=WITHIN_S,
            what="a checkpoint",
        )  # fmt: skip
        assert victim.stop() == 0

        status, view = asked(cluster, "status")
        assert (status, view["leader"]) == (1, leader.node_id)
        down = next(node for node in view["nodes"] if node["id"] is None)
        assert (down["address"], down["state"], down["health"]) == (victim.endpoint, "Unreachable", "unreachable")
        status, view = asked(cluster, "raft")
        assert (status, sum("error" in log for log in view["logs"])) == (4, 1)
        status, view = asked(cluster, "data")
        assert (status, view["code"]) == (4, "NO_LEADER")
        status, view = asked(cluster, "test", "--timeout", "2")
        assert (status, view["passed"]) == (1, False)

        status, out, _ = fastkv("", "inspect", "raft", "--data-dir", str(victim.data_path), "--json")
        (log,) = json.loads(out)["logs"]
        assert (status, log["node"], log["applied_index"]) == (0, victim.node_id, None)
        assert {entry["key"] for entry in log["entries"] if "key" in entry} == {f"k{number}" for number in range(5)}
        status, out, _ = fastkv("", "inspect", "raft", "--data-dir", str(victim.data_path), "--first", "2")
        assert status == 0
        assert "entries 1 to" in out.decode()

        altered(victim)
        victim.start()
        eventually(lambda: cluster.leader(among=list(cluster)), within_s=WITHIN_S, what="it is back")

        def found() -> Any:
            said, view = asked(cluster, "data")
            return view if said == 1 and "different" in view else None

        view = eventually(found, within_s=WITHIN_S, what="the difference")
        assert view["different"] == 1
        (pair,) = [pair for pair in view["pairs"] if pair["agreement"] == "different"]
        assert pair["key"] == "k1"
        assert {pair["value"], *(item["value"] for item in pair["elsewhere"].values())} == {"v", "w"}
        status, out, _ = fastkv(cluster.endpoints, "inspect", "data")
        assert status == 1
        assert "DIFFER in 1 key" in out.decode()


def metric(node: Node, name: str) -> float:
    text = node.request("GET", "/metrics")[1].decode()
    return next((float(line.split()[-1]) for line in text.splitlines() if line.startswith(name)), 0.0)


def test_a_directory_that_is_none_or_in_use(cluster: Cluster, tmp_path: Path) -> None:
    status, _, error = fastkv("", "inspect", "raft", "--data-dir", str(tmp_path))
    assert status != 0
    assert "no data directory" in error
    node = cluster.leader()
    status, _, error = fastkv("", "inspect", "raft", "--data-dir", str(node.data_path))
    assert status != 0
    assert "stop the node first" in error
