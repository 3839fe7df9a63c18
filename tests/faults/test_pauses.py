"""Nodes that stand still for longer than an election timeout, and go on: they never serve what is old.

That the questions would find a stale answer is shown by `test_clocks`: there a lease is given a clock that stands still
with the machine, and they do.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest

from fastkv._core.codes import Consistency, FrameFlag, Opcode
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.client import load
from fastkv.client.addresses import Address
from fastkv.wire.client import decode_stale_prefix, encode_get
from tests.e2e.cluster import Cluster, Node, eventually, paused, running_cluster
from tests.faults.watch import LIMIT_S, Questions, Watch

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAUSE_S = 0.5
"""Several election timeouts of 100 to 200 ms."""

both_kinds_of_reads = pytest.mark.parametrize("reads", ["read-index", "lease"])


@both_kinds_of_reads
def test_a_leader_that_was_paused_serves_nothing_stale(tmp_path: Path, reads: str) -> None:
    with running_cluster(tmp_path, extra=f"raft:\n  reads: {reads}\n") as cluster:
        for number in range(4):
            before, after = f"{number} before", f"{number} after"
            assert write(cluster, "k", before)
            old = cluster.leader()
            others = [node for node in cluster if node is not old]
            questions = Questions(old)
            with paused(old):
                cluster.leader(among=others)
                assert write(cluster, "k", after, among=others)
                questions.ask("k")      # it finds them when it wakes up, before any message
            assert {value for _, value in questions.answers()} <= {after}
            eventually(
                lambda wanted=after, node=old: node.get("k")[1].get("value") == wanted,
                within_s=LIMIT_S, what="the new value on the one that was paused",
            )  # fmt: skip


def write(cluster: Cluster, key: str, value: str, *, among: list[Node] | None = None) -> bool:
    """Put it, through whichever node takes it: on a busy machine leaders change by themselves."""
    nodes = itertools.cycle(among if among is not None else list(cluster))
    return eventually(lambda: next(nodes).put(key, value)[0] in (200, 201), within_s=LIMIT_S, what="a write")


@both_kinds_of_reads
@pytest.mark.timeout(240)
def test_whoever_was_paused_serves_nothing_stale(tmp_path: Path, reads: str) -> None:
    with running_cluster(tmp_path, extra=f"raft:\n  reads: {reads}\n") as cluster, Watch(cluster) as watch:
        for _ in range(2):
            pause(cluster, watch, [cluster.leader()])
        for follower in cluster.followers():
            pause(cluster, watch, [follower])
        for pair in itertools.combinations(cluster, 2):
            pause(cluster, watch, list(pair))
        for _ in range(2):
            pause(cluster, watch, list(cluster))
        eventually(
            lambda: all(watch.answered[node.node_id] for node in cluster), within_s=LIMIT_S, what="reads of every node"
        )
    assert watch.stale == []


def pause(cluster: Cluster, watch: Watch, victims: list[Node]) -> None:
    """Have some nodes stand still, the others go on if they can; and ask all of them before anybody wakes up."""
    everybody = [Questions(node) for node in cluster]
    with paused(*victims):
        if len(victims) == 1:
            cluster.leader(among=[node for node in cluster if node not in victims])
            watch.until(10)
        time.sleep(PAUSE_S)             # there is nothing to wait for but the time itself
        floor = watch.floor
        for questions in everybody:
            questions.ask()
    for questions in everybody:
        for how, value in questions.answers():
            watch.saw(int(value), floor, f"{how} on {questions.node.node_id}, asked while it was paused")
    watch.until(10)


def test_a_stale_read_is_told_of_the_pause_in_which_it_waited(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        assert write(cluster, "k", "v")
        for node in cluster:
            with load.connect(Address.parse(node.endpoint)) as connection:
                connection.settimeout(LIMIT_S)
                with paused(node):
                    began = time.monotonic()
                    time.sleep(PAUSE_S)
                    connection.sendall(encode_frame(Opcode.GET, 0, 0, 1, encode_get(b"k", Consistency.STALE_READ)))
                    paused_ms = (time.monotonic() - began) * 1000
                ((_, flags, _, _, body),) = FrameReader(1 << 16).feed(connection.recv(1 << 16))
            assert flags & FrameFlag.STALE
            _, age_ms = decode_stale_prefix(body)
            assert age_ms >= int(paused_ms), node.node_id
