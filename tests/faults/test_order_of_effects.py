"""No vote, no request for votes and no acknowledgement leaves a node before the sync that it relies on."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from fastkv.client.addresses import Address
from fastkv.raft.messages import APPEND_REPLY, VOTE, VOTE_REPLY
from tests.e2e import trace
from tests.e2e.cluster import Cluster, eventually
from tests.e2e.test_ack_after_sync import WRITES_EACH, early_acks, write
from tests.faults.crash_points import SETTINGS
from tests.faults.effects import TRACED, Files, judge
from tests.faults.injection import needs_strace
from tests.faults.journal import DEADLINE_S, Journal

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_strace]

PATIENT = SETTINGS.replace("election_timeout_ms: 1000, heartbeat_timeout_ms: 100", "election_timeout_ms: 3000")
WRITERS = 2
DROPPED = 12


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, dict[str, list[trace.Call]]]:
    """The directory, the first leader and the calls of three nodes that elect, write, roll, and elect again."""
    directory = tmp_path_factory.mktemp("traced")
    cluster = Cluster(directory, extra=PATIENT)
    outputs = {node.node_id: directory / f"{node.node_id}.strace" for node in cluster}
    journal = Journal("run")
    try:
        for node in cluster:
            node.start(wrap=trace.wrapping(outputs[node.node_id], *TRACED))
        leader = cluster.leader(within_s=DEADLINE_S)
        address = Address("127.0.0.1", leader.raft_port)
        writers = [threading.Thread(target=write, args=(address, n * WRITES_EACH)) for n in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        for _ in range(30):
            eventually(lambda: journal.write(leader) == 201, within_s=DEADLINE_S, what="a write")
        leader.kill()
        rest = [node for node in cluster if node is not leader]
        cluster.leader(among=rest, within_s=DEADLINE_S)
        eventually(lambda: journal.write(rest[0]) == 201, within_s=DEADLINE_S, what="a write with the new leader")
        for node in rest:
            node.stop()
    finally:
        cluster.close()
    for output in outputs.values():
        eventually(lambda output=output: "+++ " in output.read_text()[-200:], within_s=DEADLINE_S, what="its end")
    return directory, leader.node_id, {name: trace.calls(output) for name, output in outputs.items()}


Traced = tuple[Path, str, dict[str, list[trace.Call]]]


def test_every_promise_comes_after_the_sync_that_it_relies_on(traced: Traced) -> None:
    directory, leader, calls = traced
    verdicts = {name: judge(of_node, directory / "data", name) for name, of_node in calls.items()}
    assert [verdict.violations for verdict in verdicts.values()] == [[], [], []]
    said = sum((verdict.promises for verdict in verdicts.values()), start=Counter[int]())
    assert said[VOTE] >= 2, "the first election, and the one after the leader was killed"
    assert said[VOTE_REPLY] >= 2
    assert said[APPEND_REPLY] > 30
    assert all(verdict.names > 10 for verdict in verdicts.values()), "segments came and went"
    acknowledged = range(WRITERS * WRITES_EACH)
    assert early_acks(calls, leader, acknowledged) == []


def without(calls: list[trace.Call], dropped: set[int]) -> list[trace.Call]:
    """The same trace, in which those calls, by their place, have failed."""
    return [dataclasses.replace(call, result=-1) if n in dropped else call for n, call in enumerate(calls)]


def test_a_sync_of_the_log_that_is_left_out_would_be_seen(traced: Traced) -> None:
    """Any single one, where something was promised on it before the next: a follower's are like that."""
    directory, leader, calls = traced
    name = next(name for name in calls if name != leader)
    files = Files(calls[name])
    syncs = [n for n, call in enumerate(calls[name]) if call in files.path and call.name == "fdatasync"
             and files.path[call].suffix == ".wal"]     # fmt: skip
    drawn = random.Random(5).sample(syncs, min(DROPPED, len(syncs)))
    caught = [bool(judge(without(calls[name], {n}), directory / "data", name).violations) for n in drawn]
    assert any(caught)
    assert judge(without(calls[name], set(syncs)), directory / "data", name).violations


def test_a_sync_of_a_directory_that_is_left_out_would_be_seen(traced: Traced) -> None:
    directory, _, calls = traced
    for name, of_node in calls.items():
        files = Files(of_node)
        data = directory / "data" / name
        for where in (data, data / "wal"):
            syncs = {n for n, call in enumerate(of_node) if call.name == "fsync" and files.path.get(call) == where}
            assert syncs, f"{name} never syncs {where}"
            assert judge(without(of_node, syncs), directory / "data", name).violations
