"""Every metric of a real node is true, and moves when what it tells of happens."""

from __future__ import annotations

import http.client
import json
import platform
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import fastkv
from fastkv.version import __version__
from tests.e2e.cluster import Cluster, Node, eventually, running_cluster
from tests.e2e.scrape import Scrape

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WITHIN_S = 60.0
# Long timeouts, so that no busy machine changes the leader, nor ends what a test looks at; little log, so that a node
# that was away needs a snapshot.
CONFIG = """
raft:
  election_timeout_ms: 4000
  heartbeat_timeout_ms: 200
  snapshot_log_bytes: 65536
storage:
  segment_bytes: 1048576
  checkpoint_wal_bytes: 1048576
  checkpoint_age_s: 1
limits:
  leader_wait_ms: 40000
  request_timeout_ms: 60000
  snapshot_ttl_s: 300
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes for all tests of this file; each leaves them running and with a leader."""
    with running_cluster(tmp_path_factory.mktemp("metrics"), extra=CONFIG) as started:
        yield started


def until(node: Node, condition: Callable[[Scrape], bool], what: str) -> Scrape:
    """Scrape until the metrics say so."""

    def probe() -> Scrape | None:
        scrape = Scrape(node)
        return scrape if condition(scrape) else None

    return eventually(probe, within_s=WITHIN_S, what=what)


@contextmanager
def paused(*nodes: Node) -> Iterator[None]:
    for node in nodes:
        assert node.process is not None
        node.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            resume(node)


def resume(node: Node) -> None:
    assert node.process is not None
    node.process.send_signal(signal.SIGCONT)


# -- requests ----------------------------------------------------------------------------------------------------------


def requests(scrape: Scrape, op: str, code: str = "OK") -> float:
    return scrape.of("requests_total", op=op, code=code)


@pytest.mark.parametrize("through", ["leader", "follower"])
def test_requests_of_the_raw_port(cluster: Cluster, through: str) -> None:
    node = cluster.leader() if through == "leader" else cluster.followers()[0]
    before = Scrape(node)
    with fastkv.connect(node.endpoint, follow_leader=False) as kv:
        for number in range(20):
            kv.put(f"raw/{number}", "v")
        with pytest.raises(fastkv.PreconditionFailed):
            kv.put("raw/0", "v", if_revision=1 << 40)
        for number in range(10):
            assert kv.get(f"raw/{number}").value == b"v"
        assert kv.get("raw/none").value is None
        assert kv.delete("raw/1")
        assert len(list(kv.scan(prefix="raw/"))) == 19
        kv.status()
        during = Scrape(node)
    answered = {
        ("hello", "OK"): 1,
        ("session", "OK"): 1,
        ("put", "OK"): 20,
        ("put", "PRECONDITION_FAILED"): 1,
        ("get", "OK"): 10,
        ("get", "KEY_NOT_FOUND"): 1,
        ("delete", "OK"): 1,
        ("scan", "OK"): 1,
        ("status", "OK"): 1,
    }
    assert {key: requests(during, *key) - requests(before, *key) for key in answered} == answered
    for op in {op for op, _ in answered}:
        count = sum(number for (counted, _), number in answered.items() if counted == op)
        timed = during.of("request_duration_seconds_count", op=op) - before.of("request_duration_seconds_count", op=op)
        assert timed == count, op
    # A write waits for a disk at least; nothing takes longer than all of this test.
    took = during.of("request_duration_seconds_sum", op="put") - before.of("request_duration_seconds_sum", op="put")
    assert 21 * 0.00001 < took < WITHIN_S


def test_requests_over_http_count_with_the_others(cluster: Cluster) -> None:
    node = cluster.leader()
    before = Scrape(node)
    for number in range(5):
        assert node.put(f"http/{number}", "v")[0] == 201
    assert node.get("http/0")[0] == 200
    assert node.get("http/none")[0] == 404
    assert node.request("DELETE", "/kv/http/0")[0] == 200
    assert node.request("GET", "/kv?prefix=http/")[1]["count"] == 4
    assert node.request("GET", "/nowhere")[0] == 404
    after = Scrape(node)
    answered = {
        ("put", "OK"): 5, ("get", "OK"): 1, ("get", "KEY_NOT_FOUND"): 1, ("delete", "OK"): 1, ("scan", "OK"): 1,
        ("other", "NOT_FOUND"): 1, ("metrics", "OK"): 1,
    }  # fmt: skip
    assert {key: requests(after, *key) - requests(before, *key) for key in answered} == answered
    timed = [scrape.of("request_duration_seconds_count", op="put") for scrape in (before, after)]
    assert timed[1] - timed[0] == 5


def test_who_does_not_speak_the_protocol_is_counted(cluster: Cluster) -> None:
    node = cluster.leader()
    before = Scrape(node)
    with socket.create_connection(("127.0.0.1", node.raft_port), timeout=WITHIN_S) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while plain.recv(4096):
            continue
    after = Scrape(node)
    assert requests(after, "other", "FRAME_TOO_LARGE") - requests(before, "other", "FRAME_TOO_LARGE") == 1


def test_connections(cluster: Cluster) -> None:
    node = cluster.leader()
    until(node, lambda scrape: scrape.of("connections", kind="peer") == 2, "a connection of each peer")
    until(node, lambda scrape: scrape.of("connections", kind="client") == 0, "clients of before to be gone")
    idle = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=WITHIN_S)
    with fastkv.connect(node.endpoint, follow_leader=False) as kv:
        kv.status()
        idle.request("GET", "/livez")
        idle.getresponse().read()
        shown = Scrape(node)
        assert shown.of("connections", kind="client") == 1
        assert shown.of("connections", kind="http") >= 2, "the idle one, and the scrape"
    idle.close()
    until(node, lambda scrape: scrape.of("connections", kind="client") == 0, "the client to be gone")


# -- storage and consensus ---------------------------------------------------------------------------------------------


def test_writes_show_in_log_store_and_indexes(cluster: Cluster) -> None:
    before = {node.node_id: Scrape(node) for node in cluster}
    leader = cluster.leader()
    for number in range(30):
        leader.put(f"write/{number}", "v" * 1000)
    for node in cluster:
        old = before[node.node_id]
        new = until(
            node,
            lambda now, old=old: now["keys"] >= old["keys"] + 30
            and now["checkpoint_duration_seconds_count"] > old["checkpoint_duration_seconds_count"],
            "the keys, and a checkpoint of them",
        )
        for name in ("raft_commit_index", "raft_applied_index", "raft_proposals_committed_total",
                     "raft_proposals_applied_total", "wal_batch_entries_sum"):  # fmt: skip
            assert new[name] - old[name] >= 30, name
        assert new["raft_applied_index"] <= new["raft_commit_index"]
        assert new["wal_fsync_duration_seconds_count"] > old["wal_fsync_duration_seconds_count"]
        assert new["wal_fsync_duration_seconds_sum"] > old["wal_fsync_duration_seconds_sum"]
        assert new["wal_batch_entries_count"] > old["wal_batch_entries_count"]
        assert new["checkpoint_duration_seconds_sum"] > old["checkpoint_duration_seconds_sum"]
        until(
            node,
            lambda now, node=node: now["store_bytes"] == (node.data_path / "store" / "data.mdb").stat().st_blocks * 512,
            "the size of the store",
        )
        assert new["wal_bytes"] > 0
        assert 0 < new["disk_free_bytes"] < new["disk_bytes"]
        assert (new["raft_proposals_pending"], new["server_refuses_writes"], new["state_alarm"]) == (0, 0, 0)
        assert new["watchers"] == 0, "there are none yet"


def test_an_open_scan(cluster: Cluster) -> None:
    node = cluster.leader()
    for number in range(3):
        node.put(f"scan/{number}", "v")
    assert Scrape(node)["snapshot_open"] == 0
    page = node.request("GET", "/kv?prefix=scan/&limit=2")[1]
    assert Scrape(node)["snapshot_open"] == 1
    assert node.request("GET", f"/kv?cursor={page['cursor']}")[1]["count"] == 1
    assert Scrape(node)["snapshot_open"] == 0


def test_build_and_process(cluster: Cluster) -> None:
    for node in cluster:
        assert node.process is not None
        shown = Scrape(node)
        assert shown.of("build_info", version=__version__, python=platform.python_version()) == 1
        assert shown["process_resident_memory_bytes"] > 1 << 20
        assert 10 < shown["process_open_fds"] < shown["process_max_fds"]


# -- who leads ---------------------------------------------------------------------------------------------------------


def test_the_leader_and_its_changes(cluster: Cluster) -> None:
    before = {node.node_id: Scrape(node) for node in cluster}
    assert sum(scrape["server_is_leader"] for scrape in before.values()) == 1
    assert before[cluster.leader().node_id]["server_is_leader"] == 1
    old = cluster.leader()
    heir = cluster.followers()[0]
    assert old.request("POST", "/cluster/leader", json.dumps({"to": heir.node_id}).encode())[0] == 200
    for node in cluster:
        known = before[node.node_id]
        shown = until(
            node, lambda now, known=known: now["server_leader_changes_total"] > known["server_leader_changes_total"],
            "the change",
        )  # fmt: skip
        assert shown["server_has_leader"] == 1
        assert shown["raft_term"] > known["raft_term"]
        assert shown["server_leader_changes_total"] - known["server_leader_changes_total"] <= (
            shown["raft_term"] - known["raft_term"]
        ), "a term has one leader at most"
    until(heir, lambda now: now["server_is_leader"] == 1, "the heir to lead")
    until(old, lambda now: now["server_is_leader"] == 0, "the old leader to know")


def test_round_trips_grow_while_a_peer_is_silent(cluster: Cluster) -> None:
    leader, (first, second) = cluster.leader(), cluster.followers()
    others = {first.node_id, second.node_id}
    shown = until(
        leader, lambda now: set(now.labelled("peer_round_trip_seconds", "peer")) == others, "a round trip to each peer"
    )
    assert all(0 < seconds < WITHIN_S for seconds in shown.labelled("peer_round_trip_seconds", "peer").values())
    with paused(first):
        until(leader, lambda now: now.of("peer_round_trip_seconds", peer=first.node_id) > 1, "the silence to show")
        assert Scrape(leader)["server_has_leader"] == 1
    until(leader, lambda now: 0 < now.of("peer_round_trip_seconds", peer=first.node_id) < 1, "the answer to show")


def test_without_a_majority_there_is_no_leader_and_writes_fail(cluster: Cluster) -> None:
    alone, others = cluster.leader(), cluster.followers()
    before = Scrape(alone)
    assert before["server_has_leader"] == 1
    with paused(*others):
        # Taken by a leader that can reach nobody any more, which cannot know what will become of it; or by no leader,
        # where this test was kept waiting for so long that it has given up already.
        status, answer = alone.request("PUT", "/kv/lost", b"v", timeout_s=2 * WITHIN_S)
        code = answer["code"]
        assert (status, code) in ((504, "OUTCOME_UNKNOWN"), (503, "NO_LEADER"))
        shown = Scrape(alone)
        assert shown["raft_proposals_failed_total"] == before["raft_proposals_failed_total"] + 1
        assert requests(shown, "put", code) == requests(before, "put", code) + 1
        assert (shown["server_has_leader"], shown["server_is_leader"], shown["raft_proposals_pending"]) == (0, 0, 0)
        with socket.create_connection(("127.0.0.1", alone.http_port), timeout=WITHIN_S) as client:
            client.sendall(b"PUT /kv/kept HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nv")
            until(alone, lambda now: now["raft_proposals_pending"] == 1, "the write to wait for a leader")
            for node in others:
                resume(node)
            assert client.recv(64).startswith(b"HTTP/1.1 201 ")
    shown = until(alone, lambda now: now["server_has_leader"] == 1, "a leader")
    assert shown["raft_proposals_pending"] == 0
    assert shown["raft_proposals_failed_total"] == before["raft_proposals_failed_total"] + 1


def test_a_snapshot_that_is_fetched(cluster: Cluster) -> None:
    leader, away = cluster.leader(), cluster.followers()[0]
    away.kill()
    sent = {node.node_id: Scrape(node)["snapshot_sent_bytes_total"] for node in cluster if node is not away}
    for number in range(8):
        assert leader.put(f"big/{number}", str(number) * 500_000)[0] in (200, 201)
    for number in range(2):     # the second of these checkpoints begins after all that was written
        checkpoints = Scrape(leader)["checkpoint_duration_seconds_count"]
        leader.put("big/last", str(number))
        until(leader, lambda now, seen=checkpoints: now["checkpoint_duration_seconds_count"] > seen, "a checkpoint")
    away.start()
    eventually(away.status, within_s=WITHIN_S, what="the node to answer")
    shown = until(away, lambda now: now["snapshots_installed_total"] == 1, "a snapshot to be installed")
    received = shown["snapshot_received_bytes_total"]
    assert received > 4_000_000
    now = {node.node_id: Scrape(node)["snapshot_sent_bytes_total"] for node in cluster if node is not away}
    assert sum(now[name] - sent[name] for name in now) >= received
