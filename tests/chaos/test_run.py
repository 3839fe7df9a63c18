"""Whole runs, short ones: they pass, they leave what they say, and what was spoiled afterwards is seen.

They last until enough was tried, however slow the machine is, so that nothing hangs on its speed.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest
import yaml

from fastkv.chaos import linearizability
from fastkv.chaos.agreement import agree
from fastkv.chaos.clients import filled
from fastkv.chaos.cluster import Cluster
from fastkv.chaos.history import Recorder, read_history
from fastkv.chaos.judge import FAIL, judge
from fastkv.chaos.linearizability import Verdict
from fastkv.chaos.modes import MODES
from fastkv.chaos.record import RunRecord
from fastkv.chaos.run import HISTORY, examined
from fastkv.client import AsyncClient
from fastkv.storage.lmdb_format import NAMED_DATABASES
from fastkv.wire.client import Record, encode_record
from tests.chaos.test_cluster import LIMIT_S, with_cluster
from tests.chaos.test_judge import good
from tests.chaos.test_namespaces import WHY_NOT

SECONDS = 5
ROUNDED_S = 0.1
RUN_LIMIT_S = 420

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(RUN_LIMIT_S + 20)]


def chaos(mode: str, directory: Path, *options: str) -> dict[str, Any]:
    """A run that passes; its verdict."""
    command = [sys.executable, "-m", "fastkv", "chaos", mode, "--seconds", str(SECONDS), "--json"]
    ran = subprocess.run(
        [*command, "--output", str(directory), *options],
        capture_output=True, text=True, timeout=RUN_LIMIT_S, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    verdict: dict[str, Any] = json.loads(ran.stdout)
    return verdict


@pytest.fixture(scope="module")
def random_failures(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """One run, for all who look at what it has left."""
    directory = tmp_path_factory.mktemp("random-failures")
    return chaos("random-failures", directory, "--seed", "1"), directory


def check(verdict: dict[str, Any], mode: str) -> None:
    assert verdict["outcome"] == "PASS"
    figures = verdict["figures"]
    assert figures["acknowledged_lost"] == 0
    assert figures["linearizable"] == "yes"
    assert figures["seconds"] >= SECONDS - ROUNDED_S
    assert set(MODES[mode].must) <= figures["faults"].keys()
    assert sum(figures["faults"].values()) >= 3
    assert figures["operations"] == figures["ok"] + figures["failed"] + figures["unknown"]


def test_random_failures(random_failures: tuple[dict[str, Any], Path]) -> None:
    verdict, directory = random_failures
    check(verdict, "random-failures")
    assert verdict["figures"]["leader_kills"] >= 1
    assert verdict["figures"]["median_gap_after_leader_kill_ms"] > 0
    assert verdict["directory"] == str(directory)


def test_a_run_leaves_its_files(random_failures: tuple[dict[str, Any], Path]) -> None:
    verdict, directory = random_failures
    written = json.loads((directory / "verdict.json").read_text())
    assert written["figures"] == verdict["figures"]
    drawn = json.loads((directory / "timeline.json").read_text())
    assert drawn["faults"][0]["kind"] == "kill-leader"
    assert {seen["node"] for seen in drawn["resources"]} == {"node-1", "node-2", "node-3"}
    assert any(reign["leader"] for reign in drawn["leaders"])
    assert (directory / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert "Leader in term" in "".join((directory / f"node-{n}.log").read_text() for n in (1, 2, 3))


def test_network_partition_with_five_nodes(tmp_path: Path) -> None:
    check(chaos("network-partition", tmp_path, "--seed", "1", "--nodes", "5"), "network-partition")


def test_load_test_with_failures(tmp_path: Path) -> None:
    check(chaos("load-test-with-failures", tmp_path, "--seed", "1"), "load-test-with-failures")


@pytest.mark.skipif(bool(WHY_NOT), reason=f"network namespaces are NOT tested: {WHY_NOT}")
def test_network_partition_in_namespaces(tmp_path: Path) -> None:
    check(chaos("network-partition", tmp_path, "--seed", "2", "--network", "namespaces"), "network-partition")


# -- it bites ----------------------------------------------------------------------------------------------------------


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / HISTORY).read_text().splitlines()]


def checked(changed: list[dict[str, Any]], path: Path) -> Verdict:
    path.write_text("".join(json.dumps(line) + "\n" for line in changed))
    return linearizability.check(read_history(path)).verdict


def test_a_stale_read_in_its_history_is_seen(random_failures: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The last read of a key that was written more than once is answered with what had been there before."""
    history = lines(random_failures[1])
    assert checked(history, tmp_path / "as it was") is Verdict.LINEARIZABLE
    said: dict[str, tuple[str, int]] = {}
    inputs = {line["op_id"]: line["in"] for line in history if line["ev"] == "invoke"}
    for line in history:
        if line["ev"] == "ok" and line["f"] == "put" and line["key"].startswith("hot/"):
            older = said.setdefault(line["key"], (inputs[line["op_id"]], line["rev"]))
            if older[1] != line["rev"]:
                key = line["key"]
    last = next(line for line in reversed(history) if (line["ev"], line["f"], line["key"]) == ("ok", "get", key))
    last["out"], last["rev"] = said[key]
    assert checked(history, tmp_path / "spoiled") is Verdict.VIOLATION


def test_a_write_that_was_acknowledged_and_is_not_there_is_seen(
    random_failures: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """A read at the very end finds nothing where something was acknowledged and never deleted."""
    history = lines(random_failures[1])
    may_be_gone = {line["key"] for line in history if (line["f"], line["ev"]) == ("del", "info")}
    reads = [
        line for line in history
        if line["client"].startswith("last") and line["ev"] == "ok" and line["out"] and line["key"] not in may_be_gone
    ]  # fmt: skip
    reads[-1]["out"], reads[-1]["rev"] = None, 0
    assert checked(history, tmp_path / "spoiled") is Verdict.VIOLATION


def test_a_violation_is_in_the_verdict_with_what_shows_it(tmp_path: Path) -> None:
    with Recorder(tmp_path / HISTORY) as recorder:
        for value, revision in (("a", 1), ("b", 2)):
            recorder.ok(recorder.invoke("c", "put", "k", value), True, rev=revision)
        recorder.ok(recorder.invoke("c", "get", "k"), "a", rev=1)
    record = good()
    record.linearizable, record.explanation = examined(tmp_path / HISTORY)
    verdict = judge(record)
    assert verdict.outcome == FAIL
    assert verdict.violations == ["the history is not linearizable"]
    assert "linearizable: NO" in verdict.explanation
    assert "'k'" in verdict.explanation


GHOST = encode_record(Record(1, 1, 1, 0, b"nobody wrote it"))


def alter_value(data: lmdb._Database, transaction: lmdb.Transaction) -> None:
    transaction.put(b"once/1", GHOST, db=data)


def exchange_keys(data: lmdb._Database, transaction: lmdb.Transaction) -> None:
    assert transaction.delete(b"once/1", db=data)
    transaction.put(b"ghost", GHOST, db=data)


@pytest.mark.parametrize(
    ("spoil", "differs"), [(alter_value, 1), (exchange_keys, 2)], ids=["another value", "another key"]
)
def test_a_node_whose_data_was_spoiled_is_seen(
    tmp_path: Path, spoil: Callable[[lmdb._Database, lmdb.Transaction], None], differs: int
) -> None:
    """In ways that a start does not find where it does not read the content."""
    acknowledged = {f"once/{number}": f"w:{number}:2000" for number in range(200)}
    record: RunRecord = good()

    async def act(cluster: Cluster) -> None:
        async with AsyncClient(cluster.endpoints, timeout=LIMIT_S) as kv:
            for key, word in acknowledged.items():
                await kv.put(key, filled(word))
        assert (await agree(cluster, acknowledged)).divergence == []
        node = cluster.nodes["node-2"]
        await until_stored(node.data_path / "store", b"once/1")
        await node.stop()
        with lmdb.open(str(node.data_path / "store"), max_dbs=NAMED_DATABASES) as environment:
            data = environment.open_db(b"data", create=False)
            with environment.begin(write=True) as transaction:
                spoil(data, transaction)
        config = tmp_path / "node-2.yaml"
        document = yaml.safe_load(config.read_text())
        document["storage"]["verify_bytes"] = 0
        config.write_text(yaml.safe_dump(document))
        node.start()
        record.agreement = await agree(cluster, acknowledged)

    with_cluster(tmp_path, act)
    verdict = judge(record)
    assert verdict.outcome == FAIL
    assert record.agreement.divergence[0].startswith(f"node-1 and node-2 differ in {differs} key")
    assert len(record.agreement.lost) == 1
    assert "'once/1'" in verdict.violations[0]


async def until_stored(store: Path, key: bytes) -> None:
    """Wait for the checkpoint that brings the key into the store: till then it is only in the log."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            with lmdb.open(str(store), max_dbs=NAMED_DATABASES, readonly=True) as environment:
                data = environment.open_db(b"data", create=False)
                with environment.begin() as transaction:
                    if transaction.get(key, db=data) is not None:
                        return
            await asyncio.sleep(0.05)
