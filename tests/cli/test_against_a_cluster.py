"""The commands against a real cluster of three processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastkv.cli.bench import WORKLOADS
from tests.cli.conftest import Fastkv
from tests.cli.test_cluster_up import pids
from tests.e2e.cluster import PATIENT, Cluster, eventually, running_cluster

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), extra=PATIENT) as running:
        yield running


def fastkv(endpoints: str, *arguments: str, stdin: bytes | None = None) -> tuple[int, bytes, str]:
    """Exit status, output and errors of one command."""
    result = subprocess.run(
        [sys.executable, "-m", "fastkv", *arguments],
        cwd=ROOT,
        env={**os.environ, "FASTKV_ENDPOINTS": endpoints},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr.decode()


def test_keys_and_values(cluster: Cluster) -> None:
    everywhere = cluster.endpoints
    status, out, _ = fastkv(everywhere, "put", "walk:a", "grüße")
    assert status == 0
    revision = int(out.split()[-1])
    assert fastkv(everywhere, "get", "walk:a") == (0, "grüße\n".encode(), "")
    for node in cluster:
        assert fastkv(node.endpoint, "get", "walk:a", "--raw") == (0, "grüße".encode(), "")
    data = bytes(range(256)) * 10
    assert fastkv(everywhere, "put", "walk:b", "-", stdin=data)[0] == 0
    assert fastkv(everywhere, "get", "walk:b", "--raw")[1] == data

    assert fastkv(everywhere, "put", "walk:a", "again", "--if-revision", "0")[0] == 1
    assert fastkv(everywhere, "put", "walk:a", "again", "--if-revision", str(revision))[0] == 0
    keys = fastkv(everywhere, "scan", "walk:", "--keys-only")[1].split()
    assert keys == [b"walk:a", b"walk:b"]
    assert fastkv(everywhere, "scan", "walk:", "--reverse", "--limit", "1", "--keys-only")[1].split() == [b"walk:b"]
    assert fastkv(everywhere, "del", "walk:a")[0] == 0
    assert fastkv(everywhere, "del", "walk:a")[0] == 3
    assert fastkv(everywhere, "get", "walk:a")[0] == 3


def test_several_keys_and_changes_that_depend_on_what_is_there(cluster: Cluster) -> None:
    everywhere = cluster.endpoints
    status, out, _ = fastkv(everywhere, "cas", "cas:a", "0", "first")
    assert status == 0
    revision = out.split()[-1].decode()
    status, out, errors = fastkv(everywhere, "cas", "cas:a", "0", "second")
    assert (status, out) == (1, b"")
    assert errors.startswith(f"error: the key is at revision {revision}; nothing was changed\nhint: ")
    assert fastkv(everywhere, "cas", "cas:a", revision, "second")[0] == 0
    assert fastkv(everywhere, "mget", "cas:a", "cas:b", "cas:a") == (
        3, b"cas:a\tsecond\ncas:a\tsecond\n", "key not found: cas:b\n",
    )  # fmt: skip
    lines = [json.loads(line) for line in fastkv(everywhere, "mget", "cas:a", "cas:b", "--json")[1].splitlines()]
    assert [(line["key"], line["value"]) for line in lines] == [("cas:a", "second"), ("cas:b", None)]
    assert fastkv(everywhere, "incr", "cas:a")[0] == 1


def test_no_increment_is_lost_where_several_count(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "fastkv", "incr", "visits", "--by", "2", "--timeout", "60"]
    environ = {**os.environ, "FASTKV_ENDPOINTS": cluster.endpoints}
    running = [subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE) for _ in range(6)]
    said = [int(process.communicate(timeout=120)[0]) for process in running]
    assert [process.returncode for process in running] == [0] * 6
    assert sorted(said) == [2, 4, 6, 8, 10, 12]
    assert fastkv(cluster.endpoints, "get", "visits") == (0, b"12\n", "")


def test_the_http_port_is_named_where_it_was_taken_for_the_other(cluster: Cluster) -> None:
    node = next(iter(cluster))
    status, _, errors = fastkv(f"127.0.0.1:{node.http_port}", "get", "k", "--timeout", "1")
    assert status == 4
    assert "speaks HTTP" in errors


def test_status_asks_every_node(cluster: Cluster) -> None:
    leader = cluster.leader()
    status, out, _ = fastkv(cluster.endpoints, "cluster", "status", "--json")
    view = json.loads(out)
    assert (status, view["leader"]) == (0, leader.node_id)
    assert {node["id"]: node["state"] for node in view["nodes"]} == {
        node.node_id: "Leader" if node is leader else "Follower" for node in cluster
    }
    status, out, _ = fastkv(cluster.endpoints, "cluster", "status")
    assert status == 0
    assert f"leader: {leader.node_id}" in out.decode()


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_bench_measures(cluster: Cluster, workload: str) -> None:
    arguments = ("--workload", workload, "--count", "2000", "--keys", "500", "--connections", "2", "--depth", "8")
    status, out, errors = fastkv(cluster.endpoints, "bench", *arguments, "--fill", "--json")
    assert status == 0, errors
    result = json.loads(out)
    assert (result["count"], result["ok"], result["missing"], result["errors"]) == (2000, 2000, 0, {})
    assert sum(said["count"] for said in result["operations"].values()) == 2000
    assert result["leader"] == str(cluster.leader().endpoint)
    assert 0 < result["latency_us"]["p50"] <= result["latency_us"]["p99"] <= result["latency_us"]["max"]
    assert result["forwarded"] == 0


def test_bench_keeps_to_a_rate(cluster: Cluster) -> None:
    arguments = ("--rate", "500", "--seconds", "2", "--depth", "64")
    status, out, errors = fastkv(cluster.endpoints, "bench", *arguments, "--json")
    assert status == 0, errors
    assert 800 < json.loads(out)["ok"] < 1200


@pytest.mark.slow
def test_without_a_majority_commands_end_with_status_4(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        for node in cluster.followers():
            node.kill()
        for arguments in (("get", "k"), ("scan",)):
            status, _, errors = fastkv(cluster.endpoints, *arguments, "--timeout", "2")
            assert status == 4, errors
            assert errors.startswith("error: ")
        # A write that was handed to the leader before it stepped down may have been done.
        assert fastkv(cluster.endpoints, "put", "k", "v", "--timeout", "2")[0] in (4, 5)
        status, out, _ = fastkv(cluster.endpoints, "cluster", "status", "--json", "--timeout", "2")
        assert status == 4
        assert json.loads(out)["leader"] is None
        states = [node["state"] for node in json.loads(out)["nodes"]]
        assert states.count("Unreachable") == 2
        for node in cluster:
            if node.running:
                node.kill()
        assert fastkv(cluster.endpoints, "get", "k", "--timeout", "1")[0] == 4
        assert fastkv(cluster.endpoints, "bench")[0] == 4


@pytest.mark.slow
def test_a_local_cluster_in_the_foreground_from_start_to_stop(real_fastkv: Fastkv) -> None:
    running = real_fastkv.up()
    running.wait_for("3 nodes of distributed-kv-cluster are up")
    endpoints = ",".join(f"localhost:{real_fastkv.base + i}" for i in range(3))
    assert fastkv(endpoints, "put", "k", "v")[0] == 0
    view = json.loads(fastkv(endpoints, "cluster", "status", "--json")[1])
    victim = int(view["leader"][-1])
    os.kill(pids(running.process.pid)[view["leader"]], signal.SIGKILL)
    running.wait_for(f"node-{victim} (process")
    assert fastkv(endpoints, "put", "k", "v2")[0] == 0, "the other two elect a leader and go on"
    command = shlex.split(running.wait_for(f"--node-id node-{victim} ").partition("| ")[2])
    again = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        own = f"localhost:{real_fastkv.base + victim - 1}"
        read = eventually(
            lambda: out if (out := fastkv(own, "get", "k")[1]) else None, within_s=60, what="the node is back"
        )
        assert read == b"v2\n", "a read on the node that missed the write is as fresh as on any other"
    finally:
        again.terminate()
        assert again.wait(timeout=60) == 0
    running.signal(signal.SIGINT)
    assert running.finish() == 0, running.text
    assert running.lines[-1] == "cluster | all nodes stopped"


@pytest.mark.slow
def test_a_detached_cluster_keeps_its_data_over_a_restart(real_fastkv: Fastkv) -> None:
    endpoints = ",".join(f"localhost:{real_fastkv.base + i}" for i in range(3))
    data = str(real_fastkv.data)
    assert real_fastkv.up("--detach").finish() == 0
    assert fastkv(endpoints, "put", "k", "v")[0] == 0
    status, text = real_fastkv.run("cluster", "status", "--data-dir", data)
    assert status == 0
    assert "leader: node-" in text
    status, text = real_fastkv.run("cluster", "stop", "--data-dir", data)
    assert (status, text.splitlines()) == (0, [f"cluster | node-{i}: stopped" for i in (1, 2, 3)])
    again = real_fastkv.up("--detach")
    assert again.finish() == 0, again.text
    assert fastkv(endpoints, "get", "k") == (0, b"v\n", "")
    status, text = real_fastkv.run("cluster", "stop", "--data-dir", data, "--json")
    assert json.loads(text) == {"data_dir": data, "nodes": dict.fromkeys(("node-1", "node-2", "node-3"), "stopped")}
    clean = real_fastkv.up("--detach", "--clean", "--json")
    assert clean.finish() == 0, clean.text
    started = json.loads(clean.text)
    assert started["leader"] in started["nodes"]
    assert ",".join(node["raft"] for node in started["nodes"].values()) == endpoints
    assert fastkv(endpoints, "get", "k")[0] == 3
