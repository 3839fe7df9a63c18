"""The walk of the README, on real processes: what a first user does has to work exactly."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

import fastkv
from tests.e2e.cluster import Cluster, Node, eventually

pytestmark = pytest.mark.e2e

WORDS = Path("/usr/share/dict/words")


def states(cluster: Cluster, asked: Node) -> dict[str, tuple[str, int]]:
    shown = asked.status()["nodes"]
    return {name: (node["state"], node["term"]) for name, node in shown.items()}


class Writer(threading.Thread):
    """Writes counters one after the other through the client, and remembers what was acknowledged, and when."""

    def __init__(self, endpoints: str) -> None:
        super().__init__(daemon=True)
        self._endpoints = endpoints
        self._finished = threading.Event()
        self.acknowledged: list[str] = []
        self.times: list[float] = []
        self.unknown = 0
        self.failed = 0

    def run(self) -> None:
        with fastkv.connect(self._endpoints, timeout=60) as kv:
            for number in itertools.count():
                if self._finished.is_set():
                    return
                try:
                    kv.put(f"writer/{number}", str(number), timeout=60)
                except fastkv.OutcomeUnknown:
                    self.unknown += 1
                except fastkv.FastKVError:
                    self.failed += 1
                else:
                    self.acknowledged.append(f"writer/{number}")
                    self.times.append(time.monotonic())

    def finish(self) -> None:
        self._finished.set()
        self.join(timeout=60)
        assert not self.is_alive()

    def longest_gap_s(self) -> float:
        return max(b - a for a, b in itertools.pairwise(self.times))

    def wait_for_more(self, count: int = 50) -> None:
        goal = len(self.acknowledged) + count
        eventually(lambda: len(self.acknowledged) >= goal, within_s=60, what=f"{count} more acknowledged writes")


@pytest.fixture
def writer(cluster: Cluster) -> Writer:
    started = Writer(cluster.endpoints)
    started.start()
    started.wait_for_more()
    return started


def assert_all_there(cluster: Cluster, writer: Writer) -> None:
    for node in cluster:
        with fastkv.connect(node.endpoint, timeout=60) as kv:
            there = {item.key.decode() for item in kv.scan(prefix="writer/", keys_only=True)}
        assert set(writer.acknowledged) <= there, node.node_id


def test_status_shows_one_leader_and_true_terms(cluster: Cluster) -> None:
    leader = cluster.leader()
    for node in cluster:
        shown = eventually(
            lambda node=node: (seen := states(cluster, node)) and len({t for _, t in seen.values()}) == 1 and seen,
            within_s=60,
            what="terms agree",
        )
        assert sorted(state for state, _ in shown.values()) == ["Follower", "Follower", "Leader"]
        assert shown[leader.node_id][0] == "Leader"
        assert shown[leader.node_id][1] >= 1
        status = node.status()
        assert status["cluster_size"] == 3
        assert status["local_node_id"] == node.node_id
        assert status["is_leader"] == (node is leader)


def test_a_write_on_any_node_is_read_on_every_node_at_once(cluster: Cluster) -> None:
    first, second, third = cluster
    status, answer = first.put("user:john", "John Doe, Software Engineer")
    assert (status, answer["key"], answer["value"]) == (201, "user:john", "John Doe, Software Engineer")
    assert answer["message"] == "Key-value pair stored successfully"
    for node in cluster:
        status, answer = node.get("user:john")
        assert (status, answer["value"]) == (200, "John Doe, Software Engineer")
    follower = cluster.followers()[0]
    assert follower.put("company", "Example Ltd")[0] == 201
    assert follower.put("company", "Example Inc")[0] == 200
    assert [node.get("company")[1]["value"] for node in cluster] == ["Example Inc"] * 3
    status, _ = first.request(
        "PUT", "/kv/test", b"hello world", {"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert status == 201
    assert [node.get("test")[1]["value"] for node in cluster] == ["hello world"] * 3
    assert second.request("DELETE", "/kv/test")[0] == 200
    assert third.get("test")[0] == 404
    assert third.request("DELETE", "/kv/test")[1]["code"] == "KEY_NOT_FOUND"


def test_a_killed_follower_is_shown_and_catches_up(cluster: Cluster, writer: Writer) -> None:
    follower = cluster.followers()[0]
    follower.kill()
    rest = [node for node in cluster if node.running]
    for node in rest:
        eventually(
            lambda node=node: states(cluster, node)[follower.node_id] == ("Unknown", 0), within_s=60, what="Unknown"
        )
    writer.wait_for_more()
    for node in rest:
        assert node.get(writer.acknowledged[-1])[0] == 200
    follower.start()
    eventually(lambda: follower.status().get("nodes"), within_s=60, what="the follower serves")
    writer.wait_for_more()
    writer.finish()
    assert writer.failed == writer.unknown == 0
    last = writer.acknowledged[-1]
    eventually(
        lambda: follower.get(last, "?consistency=stale")[0] == 200, within_s=60, what="it catches up by itself"
    )
    assert_all_there(cluster, writer)


def test_writes_resume_after_the_leader_is_killed(cluster: Cluster, writer: Writer) -> None:
    leader = cluster.leader()
    leader.kill()
    writer.wait_for_more()
    new_leader = cluster.leader()
    assert new_leader is not leader
    leader.start()
    eventually(lambda: leader.status().get("nodes"), within_s=60, what="the old leader serves again")
    writer.wait_for_more()
    writer.finish()
    assert writer.failed == 0
    assert writer.unknown <= 3, "only what was under way at the kill, here or through a follower, may be uncertain"
    assert writer.longest_gap_s() < 60
    assert_all_there(cluster, writer)


def test_everything_is_there_after_all_three_are_killed(cluster: Cluster, writer: Writer) -> None:
    for node in cluster:
        node.kill()
    cluster.start()
    writer.finish()
    assert len(writer.acknowledged) >= 50
    assert_all_there(cluster, writer)
    assert cluster.leader().put("after", "restart")[0] == 201


def test_a_clean_stop_and_start_keeps_everything(cluster: Cluster) -> None:
    assert cluster.leader().put("kept", "yes")[0] == 201
    assert [node.stop() for node in cluster] == [0, 0, 0]
    cluster.start()
    assert [node.get("kept")[1]["value"] for node in cluster] == ["yes"] * 3


@pytest.mark.slow
@pytest.mark.skipif(not WORDS.exists(), reason="needs a dictionary: apt-get install wamerican")
def test_a_real_dictionary_is_the_same_on_each_node(cluster: Cluster) -> None:
    words = sorted({word for word in WORDS.read_text(encoding="utf-8").split("\n") if word}, key=str.encode)
    assert len(words) > 90_000

    async def load() -> None:
        import asyncio

        async with fastkv.AsyncClient(cluster.endpoints) as kv:
            for start in range(0, len(words), 5000):
                await asyncio.gather(
                    *(kv.put(f"word/{word}", word[::-1], timeout=60) for word in words[start : start + 5000])
                )

    import asyncio

    asyncio.run(load())
    for node in cluster:
        for prefix in ("word/a", "word/é", "word/zy"):
            expected = [word for word in words if f"word/{word}".startswith(prefix)]
            listed, cursor = [], None
            while True:
                query = f"/kv?prefix={quote(prefix)}&limit=1000" + (f"&cursor={quote(cursor)}" if cursor else "")
                status, page = node.request("GET", query)
                assert status == 200
                listed += [(item["key"], item["value"]) for item in page["items"]]
                cursor = page["cursor"]
                if not cursor:
                    break
            assert listed == [(f"word/{word}", word[::-1]) for word in expected], (node.node_id, prefix)
        status, everything = node.request(
            "GET", "/kv?prefix=word/&keys_only=true", headers={"Accept": "application/x-ndjson"}, timeout_s=60
        )
        assert status == 200
        assert everything.count(b"\n") == len(words)
