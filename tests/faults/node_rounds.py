"""Rounds of power loss on real nodes, each with its data directory on a lossy disk of its own.

Writers record what was acknowledged while the power of one node, or of all at once, is cut: at once or before some
change of its disk, with or without a kill and a restart before. In the end every acknowledged write is there, and the
nodes' stores have equal hashes. Nobody assumes which node leads, or how long anything takes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fastkv
from tests.e2e.cluster import Cluster, Node, eventually
from tests.faults import part_lives
from tests.faults.lossy_disk import Kind, Loss
from tests.faults.lossy_mount import LossyMount
from tests.faults.small_node import said_by
from tests.faults.storage_rounds import Outcome

DEADLINE_S = 60.0
SETTINGS = """
raft: {election_timeout_ms: 1000, heartbeat_timeout_ms: 100, snapshot_log_bytes: 65536}
storage: {segment_bytes: 65536, memtable_bytes: 65536, checkpoint_age_s: 1, checkpoint_wal_bytes: 1048576,
          lmdb_map_bytes: 67108864}
"""
"""Small, so that a few hundred writes roll segments, write checkpoints, cut the log, and make snapshots necessary."""
WRITERS = 4
CALMNESS_S = 0.02
"""After a write that failed, before the next: there may be nobody to write to."""


class Writers:
    """Threads that put ever new keys, and remember which were acknowledged."""

    def __init__(self, endpoints: str) -> None:
        self.acknowledged: list[str] = []
        self._stopped = threading.Event()
        self._client = fastkv.connect(endpoints, exactly_once=False, timeout=3)
        self._threads = [threading.Thread(target=self._write, args=(f"writer-{n}",)) for n in range(WRITERS)]

    def _write(self, name: str) -> None:
        number = 0
        while not self._stopped.is_set():
            number += 1
            key = f"{name}/{number:06d}"
            try:
                self._client.put(key, value_of(key))
            except fastkv.FastKVError:
                self._stopped.wait(CALMNESS_S)      # nothing was promised
            else:
                self.acknowledged.append(key)

    def until(self, more: int) -> None:
        """Wait until so many more writes have been acknowledged."""
        wanted = len(self.acknowledged) + more
        eventually(lambda: len(self.acknowledged) >= wanted, within_s=DEADLINE_S, what=f"{more} more writes")

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._client.close()


def value_of(key: str) -> str:
    """What the writers put there: 1 KB on average."""
    return f"{key} " * (len(key) + 13 * int(key[-2:]))


class LossyCluster:
    """Nodes on lossy disks. Ends everything, and unmounts, whatever happens."""

    def __init__(self, directory: Path, nodes: int) -> None:
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.cluster = Cluster(directory, nodes, extra=SETTINGS)
            self.disks = {
                node.node_id: stack.enter_context(LossyMount(directory / "data", node.node_id)) for node in self.cluster
            }
            stack.callback(self.cluster.close)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def nodes(self) -> list[Node]:
        """All of them."""
        return list(self.cluster)

    def start(self) -> None:
        """Start all, and wait for a leader."""
        for node in self.nodes:
            node.start()
        self.cluster.leader(within_s=DEADLINE_S)

    def lose_power(self, victims: list[Node], loss: Loss, seed: int) -> None:
        """Cut the power of these nodes' disks where it is not off already, kill the nodes, and mount anew."""
        for node in victims:
            self.disks[node.node_id].cut(loss, seed)
        for node in victims:
            node.kill()
        for node in victims:
            self.disks[node.node_id].power_on()

    def until_all_agree(self) -> list[int]:
        """Wait until every store has all that was applied: [applied index, revision, keys, state hash] of them all."""
        metas: list[Any] = []

        def agree() -> bool:
            metas[:] = [said_by(part_lives.store_meta, node.data_path / "store")[0] for node in self.nodes]
            applied = {health(node).get("applied_index") for node in self.nodes}
            return all(metas) and {meta[0][0] for meta in metas} == applied and len(applied) == 1

        eventually(agree, within_s=DEADLINE_S, what="checkpoints of the same state on all nodes")
        hashes = {tuple(meta[0]) for meta in metas}
        assert len(hashes) == 1, f"the nodes' states differ: {hashes}"
        return list(metas[0][0])


def health(node: Node) -> dict[str, Any]:
    """GET /health; empty while the node does not answer."""
    try:
        answer = node.request("GET", "/health", timeout_s=5)[1]
    except (OSError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}


def lost(endpoints: str, acknowledged: list[str]) -> list[str]:
    """Which acknowledged writes are not there."""
    deadline = time.monotonic() + DEADLINE_S
    missing = []
    with fastkv.connect(endpoints, timeout=10) as client:
        for key in acknowledged:
            while True:
                try:
                    value = client.get(key).value
                except fastkv.FastKVError:
                    if time.monotonic() > deadline:
                        raise
                    continue
                break
            if value != value_of(key).encode():
                missing.append(key)
    return missing


def node_round(seed: int, lossy: LossyCluster, cuts: int = 3) -> Outcome:
    """Some power cuts under load, the last of all nodes at once, and what was lost by them."""
    rng, outcome = random.Random(seed), Outcome()
    lossy.start()
    with Writers(lossy.cluster.endpoints) as writers:
        writers.until(50)
        for _ in range(cuts - 1):
            _cut(rng, lossy, lossy.nodes if rng.random() < 0.2 else [rng.choice(lossy.nodes)], writers, outcome)
        _cut(rng, lossy, lossy.nodes, writers, outcome)
    outcome.promised = len(writers.acknowledged)
    lossy.cluster.leader(within_s=DEADLINE_S)
    outcome.wrong += lost(lossy.cluster.endpoints, writers.acknowledged)
    outcome.told.append(f"in the end: {lossy.until_all_agree()}")
    return outcome


def _cut(
    rng: random.Random, lossy: LossyCluster, victims: list[Node], writers: Writers, outcome: Outcome
) -> None:
    loss, seed = rng.choice(list(Loss)), rng.getrandbits(32)
    crash_before = rng.random() < 0.5
    at, kinds = rng.randint(1, 150), rng.choice([[Kind.SYNC_NAMES], [Kind.SYNC], list(Kind)])
    at = 1 + at % 3 if kinds == [Kind.SYNC_NAMES] else at
    who = ", ".join(node.node_id for node in victims)
    outcome.told.append(f"{who}: {loss} (seed {seed}) at change {at} of {kinds}, crash before: {crash_before}")
    if crash_before:
        for node in victims:
            node.kill()
            lossy.disks[node.node_id].arm_cut(at, loss, seed, kinds)
            node.start()
        outcome.kills += len(victims)
    else:
        for node in victims:
            lossy.disks[node.node_id].arm_cut(at, loss, seed, kinds)
    _wait_for(lambda: any(lossy.disks[node.node_id].changes()["off"] for node in victims))
    lossy.lose_power(victims, loss, seed)
    outcome.cuts += len(victims)
    for node in victims:
        node.start()
    writers.until(rng.randint(20, 100))
    for node in victims:
        eventually(lambda node=node: _is_well(node), within_s=DEADLINE_S, what=f"{node.node_id} to be there again")  # type: ignore[misc]


def _wait_for(come: Callable[[], object]) -> None:
    """Until it has come, or for a while: that it comes depends on what the nodes happen to write."""
    deadline = time.monotonic() + 5
    while not come() and time.monotonic() < deadline:
        time.sleep(0.01)


def _is_well(node: Node) -> bool:
    """Whether it runs and has a leader; a node that has ended by itself never will."""
    assert node.running, f"{node.node_id} has ended: {node.log_text()[-1500:]}"
    return bool(health(node).get("leader"))
