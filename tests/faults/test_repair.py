"""A member with damaged files comes back from its peers: it forgets no promise, and serves nothing that it has not.

Three real nodes each; what is damaged is the store, the log, or both.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fastkv
from tests.e2e.cluster import Cluster, Node, eventually, running_cluster

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

SMALL = (
    "storage:\n  segment_bytes: 65536\n  memtable_bytes: 65536\n  checkpoint_age_s: 1\n"
    "  checkpoint_wal_bytes: 1048576\n"
    "raft: {election_timeout_ms: 1000, heartbeat_timeout_ms: 100, snapshot_log_bytes: 65536}\n"
)
LIMIT_S = 60.0


def fastkv_command(*arguments: str, status: int = 0) -> Any:
    """Run a `fastkv` command with --json; its answer."""
    command = [sys.executable, "-m", "fastkv", *arguments, "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert ended.returncode == status, (ended.stdout, ended.stderr)
    return json.loads(ended.stdout)


def health(node: Node) -> dict[str, Any]:
    """GET /health; what nothing is to be made of while the node does not answer."""
    try:
        answer: dict[str, Any] = node.request("GET", "/health")[1]
    except (OSError, http.client.HTTPException):
        return {"applied_index": 0, "state_hash": node.node_id, "status": "down", "problems": []}
    return answer


def hash_of(node: Node) -> tuple[int, str]:
    answer = health(node)
    return answer["applied_index"], answer["state_hash"]


def agree(cluster: Cluster) -> bool:
    """Whether all nodes are at one index, serve, and have equal states."""
    said = [health(node) for node in cluster]
    return {one["status"] for one in said} == {"ok"} and len({hash_of(node) for node in cluster}) == 1


def fill(cluster: Cluster, count: int, *, first: int = 0, among: list[Node] | None = None) -> None:
    endpoints = ",".join(node.endpoint for node in (among or list(cluster)))
    with fastkv.connect(endpoints, timeout=30) as kv:
        for number in range(first, first + count):
            kv.put(f"k{number % 50}", f"{number} " * 800)


def checkpointed(node: Node, *, cut: bool) -> None:
    """Wait until the store of a stopped or running node has something, and its log was cut where that is wanted."""

    def done() -> bool:
        return (node.data_path / "wal" / f"{1:016x}.wal").exists() is not cut

    eventually(done, within_s=LIMIT_S, what="a log that is cut" if cut else "a log that is whole")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes with small segments, whose logs have been cut."""
    with running_cluster(tmp_path, extra=SMALL) as started:
        fill(started, 150)
        for node in started:
            checkpointed(node, cut=True)
        yield started


def damage_store(node: Node) -> None:
    """Another byte in the middle of each page behind the first two."""
    path = node.data_path / "store" / "data.mdb"
    data = bytearray(path.read_bytes())
    for at in range(3 * 4096 + 2000, len(data), 4096):
        data[at] ^= 0x55
    path.write_bytes(data)


def damage_log(node: Node) -> None:
    """Another byte in the middle of the oldest segment."""
    path = min((node.data_path / "wal").glob("*.wal"))
    data = bytearray(path.read_bytes())
    data[2000] ^= 0x55
    path.write_bytes(data)


def refused(node: Node, says: str) -> None:
    """The node does not start, ends with status 1, and says what to do."""
    before = len(node.log_text())
    node.start()
    assert node.process is not None
    assert node.process.wait(timeout=LIMIT_S) == 1
    said = node.log_text()[before:]
    assert says in said
    assert "fastkv check" in said
    assert "fastkv repair" in said


def serving_again(cluster: Cluster) -> None:
    """All nodes come to one state, and each of them answers with the newest value."""
    fill(cluster, 20, first=5000)
    eventually(lambda: agree(cluster), within_s=LIMIT_S, what=f"equal states; logs in {cluster.directory}")
    for node in cluster:
        assert node.get("k19")[1]["value"].startswith("5019 ")


def roles(kv: fastkv.Client) -> dict[str, str]:
    return {member["id"]: member["role"] for member in kv.admin({"do": "members"})["members"]}


def stored_disk(node: Node) -> int:
    disk: int = json.loads((node.data_path / "identity.json").read_text())["disk"]
    return disk


def test_a_damaged_store_is_fetched_and_the_member_stays_itself(cluster: Cluster) -> None:
    odd = cluster.followers()[0]
    others = [node for node in cluster if node is not odd]
    assert odd.stop() == 0
    disk = stored_disk(odd)
    damage_store(odd)
    refused(odd, "data.mdb is damaged")
    before = fastkv_command("check", str(odd.data_path), status=1)
    assert {damage["part"] for damage in before["damages"]} == {"store"}
    assert before["repair"]["kind"] == "fetch"
    fastkv_command("repair", str(odd.data_path), status=2)              # nobody said yes
    assert fastkv_command("check", str(odd.data_path), status=1) == before
    repaired = fastkv_command("repair", str(odd.data_path), "--yes")
    assert (Path(repaired["set_aside_in"]) / "store" / "data.mdb").exists()
    after = fastkv_command("check", str(odd.data_path))
    assert after["store"]["awaits_snapshot"]
    assert (after["log"]["term"], after["log"]["vote"]) == (before["log"]["term"], before["log"]["vote"])
    fill(cluster, 10, first=4000, among=others)
    odd.start()
    serving_again(cluster)
    assert stored_disk(odd) == disk
    assert not fastkv_command("check", str(odd.data_path), status=2).get("whole")      # in use
    assert odd.stop() == 0
    assert not fastkv_command("check", str(odd.data_path))["store"]["awaits_snapshot"]


def test_until_the_snapshot_is_here_it_serves_nothing_and_votes(cluster: Cluster) -> None:
    """Of three nodes one is down: the other two need the vote and the acknowledgements of the one without its store."""
    odd, gone = cluster.followers()
    leader = cluster.leader()
    assert odd.stop() == 0
    damage_store(odd)
    fastkv_command("repair", str(odd.data_path), "--yes")
    gone.kill()
    odd.start()

    def acknowledged() -> bool:
        try:
            return leader.put("only", "with its help")[0] in (200, 201)
        except (OSError, http.client.HTTPException):
            return False

    eventually(acknowledged, within_s=LIMIT_S, what="a write that the node without its store acknowledges")
    eventually(lambda: hash_of(odd)[0] >= 1, within_s=LIMIT_S, what="its snapshot")
    gone.start()
    serving_again(cluster)


def test_a_damaged_log_makes_it_a_new_member(cluster: Cluster) -> None:
    odd = cluster.followers()[0]
    others = [node for node in cluster if node is not odd]
    assert odd.stop() == 0
    disk = stored_disk(odd)
    damage_log(odd)
    damage_store(odd)
    refused(odd, "is damaged")
    endpoints = ",".join(node.endpoint for node in others)
    repaired = fastkv_command("repair", str(odd.data_path), "--yes", "--endpoints", endpoints)
    assert repaired["repair"]["kind"] == "new member"
    assert odd.node_id in {member["id"] for member in repaired["added"]}
    assert stored_disk(odd) != disk
    odd.start()
    serving_again(cluster)
    with fastkv.connect(endpoints, timeout=30) as kv:
        eventually(lambda: roles(kv) == dict.fromkeys(cluster.nodes, "voter"), within_s=LIMIT_S, what="its vote")


def told_that_it_is_another(node: Node) -> bool:
    return any("another data directory" in problem for problem in health(node)["problems"])


def test_without_the_cluster_it_is_set_aside_and_waits(cluster: Cluster) -> None:
    """It must not vote or found anything; the commands that are named bring it back."""
    odd = cluster.followers()[0]
    others = [node for node in cluster if node is not odd]
    assert odd.stop() == 0
    damage_log(odd)
    fastkv_command("repair", str(odd.data_path), "--yes")
    odd.start()
    eventually(lambda: told_that_it_is_another(odd), within_s=LIMIT_S, what="a refusal that it tells of")
    endpoints = ",".join(node.endpoint for node in others)
    fastkv_command("member", "remove", odd.node_id, "--endpoints", endpoints)
    fastkv_command("member", "add", odd.node_id, odd.endpoint, f"127.0.0.1:{odd.http_port}", "--endpoints", endpoints)
    serving_again(cluster)


def test_a_store_whose_log_is_whole_is_made_anew_from_it(tmp_path: Path) -> None:
    """Also where there is nobody to fetch anything from."""
    with running_cluster(tmp_path, 1, extra="storage:\n  checkpoint_age_s: 1\n") as cluster:
        (node,) = cluster
        fill(cluster, 60)
        eventually(
            lambda: (node.data_path / "store" / "data.mdb").stat().st_size > 10 * 4096, within_s=LIMIT_S,
            what="a checkpoint",
        )
        before = hash_of(node)
        assert node.stop() == 0
        damage_store(node)
        refused(node, "data.mdb is damaged")
        assert fastkv_command("repair", str(node.data_path), "--yes")["repair"]["kind"] == "replay"
        node.start()
        cluster.leader()
        assert node.get("k5")[1]["value"].startswith("55 ")
        index, state_hash = hash_of(node)
        assert index >= before[0]
        assert state_hash == before[1]


def test_the_only_member_is_not_set_aside(tmp_path: Path) -> None:
    with running_cluster(tmp_path, 1) as cluster:
        (node,) = cluster
        fill(cluster, 5)
        assert node.stop() == 0
        damage_log(node)
        before = sorted(path.name for path in node.data_path.iterdir())
        answer = fastkv_command("repair", str(node.data_path), "--yes", status=1)
        assert "only member" in answer["error"]
        assert sorted(path.name for path in node.data_path.iterdir()) == before
