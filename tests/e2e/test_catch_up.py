"""A node that was away, or that lost everything, catches up from a snapshot while the others serve."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastkv
from fastkv._core.workload import Workload
from fastkv.client import load
from tests.e2e.cluster import Cluster, Node, eventually, running_cluster
from tests.e2e.load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SMALL = """
raft:
  election_timeout_ms: 1000
  heartbeat_timeout_ms: 100
  snapshot_log_bytes: 65536
  snapshot_chunk_bytes: 65536
storage:
  segment_bytes: 1048576
  checkpoint_wal_bytes: 1048576
  checkpoint_age_s: 1
"""
VALUE = "x" * 1000


@pytest.fixture
def small_logs(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes that keep little log."""
    with running_cluster(tmp_path, extra=SMALL) as started:
        yield started


def fill(cluster: Cluster, first: int, count: int) -> None:
    """So many keys, far more than the log keeps."""

    async def put_all() -> None:
        async with fastkv.AsyncClient(cluster.endpoints, timeout=60, max_in_flight=64) as kv:
            keys = range(first, first + count)
            await asyncio.gather(*(kv.put(f"key-{number:06}", f"{number}{VALUE}") for number in keys))

    asyncio.run(put_all())


def applied(node: Node) -> int:
    index: int = node.request("GET", "/health")[1]["applied_index"]
    return index


def until_equal(behind: Node, ahead: Node) -> None:
    """Both have applied the same, and say the same of their keys."""
    eventually(lambda: applied(behind) >= applied(ahead), within_s=60, what="the same index")
    one, other = (node.request("GET", "/health")[1] for node in (behind, ahead))
    assert (one["keys"], one["revision"]) == (other["keys"], other["revision"])


def metric(node: Node, name: str) -> int:
    for line in node.request("GET", "/metrics")[1].decode().splitlines():
        if line.startswith(f"fastkv_{name} "):
            return int(float(line.split()[1]))
    raise AssertionError("no such metric")


def installed(node: Node) -> int:
    return metric(node, "snapshots_installed_total")


def test_a_node_that_was_away_for_longer_than_the_log_is_kept(small_logs: Cluster) -> None:
    away = small_logs.followers()[0]
    fill(small_logs, 0, 200)
    away.kill()
    fill(small_logs, 100, 6000)
    leader = small_logs.leader()
    eventually(lambda: (leader.data_path / "wal").exists(), within_s=60, what="a log")
    with Writers(small_logs.endpoints) as writers:
        away.start()
        eventually(lambda: away.status().get("nodes"), within_s=60, what="the node to answer")
        eventually(lambda: installed(away) >= 1, within_s=60, what="a snapshot to be installed")
        writers.until(100)
    assert writers.failures == []
    assert metric(leader, "checkpoint_duration_seconds_count") >= 1     # without one there is nothing to fetch
    until_equal(away, leader)
    assert away.get("key-000150", "?consistency=stale")[1]["value"].startswith("150x")
    away.kill()                                 # what was installed is there after a crash
    away.start()
    eventually(lambda: away.status().get("nodes"), within_s=60, what="the node to answer")
    until_equal(away, leader)


@pytest.mark.timeout(1500)
def test_a_node_that_was_down_for_a_million_writes(cluster: Cluster) -> None:
    """With the default limits, while others write."""
    away, leader = cluster.followers()[0], cluster.leader()
    away.kill()
    done = load.run(
        str(leader.endpoint), Workload({"put": 1}, value_bytes=256), connections=16, depth=64, count=1_050_000,
        max_seconds=1000,
    )  # fmt: skip
    assert done["ok"] >= 1_000_000, done        # a busy machine may cost an election, and what was under way then
    with Writers(cluster.endpoints) as writers:
        away.start()
        eventually(lambda: away.status().get("nodes"), within_s=60, what="the node to answer")
        ahead = max(applied(node) for node in cluster if node is not away)
        eventually(lambda: applied(away) >= ahead, within_s=300, what="everything that it missed")
        writers.until(100)
    assert writers.failures == []
    assert writers.lost() == []
    until_equal(away, cluster.leader())


def test_a_node_that_lost_everything_is_replaced_under_its_name(small_logs: Cluster) -> None:
    lost = small_logs.followers()[0]
    fill(small_logs, 0, 6000)
    lost.kill()
    shutil.rmtree(lost.data_path)
    leader = small_logs.leader()
    assert leader.request("DELETE", f"/cluster/members/{lost.node_id}")[0] == 200
    lost.start()
    body = b'{"id": "%s", "raft": "%s"}' % (lost.node_id.encode(), lost.endpoint.encode())
    assert leader.request("POST", "/cluster/members", body)[0] == 200
    eventually(lambda: lost.status().get("nodes"), within_s=60, what="the node to answer")
    eventually(lambda: installed(lost) >= 1, within_s=60, what="a snapshot to be installed")
    until_equal(lost, leader)


def test_a_fetch_goes_on_after_the_fetching_node_was_killed(small_logs: Cluster) -> None:
    away = small_logs.followers()[0]
    fill(small_logs, 0, 100)
    away.kill()
    fill(small_logs, 100, 6000)
    part = away.data_path / "store.part"
    for _ in range(3):
        away.start()
        eventually(lambda: part.exists() or not away.running, within_s=60, what="the first bytes of a snapshot")
        away.kill()
    away.start()
    leader = small_logs.leader()
    eventually(lambda: away.status().get("nodes"), within_s=60, what="the node to answer")
    until_equal(away, leader)
    assert not part.exists()
