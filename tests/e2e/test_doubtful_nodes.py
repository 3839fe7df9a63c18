"""Nodes that are not to be trusted: a leader whose disk is silent, one whose state is another."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

import fastkv
from fastkv._core.codes import RECORD_HEADER_BYTES
from fastkv._core.state_hash import hash_of
from fastkv.storage.lmdb_format import META_KEY, NAMED_DATABASES, decode_meta, encode_meta
from tests.e2e.cluster import Cluster, Node, eventually
from tests.e2e.load import Writers

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STRACE = shutil.which("strace")
STALL_US = 700_000
"""Several election timeouts."""


# -- a silent disk -----------------------------------------------------------------------------------------------------


@contextmanager
def stalling(node: Node, trace: Path) -> Iterator[None]:
    """Every sync of this node takes `STALL_US` longer."""
    assert node.process is not None
    assert STRACE is not None
    rules = ["-e", "trace=fdatasync", "-e", f"inject=fdatasync:delay_enter={STALL_US}"]
    command = [STRACE, "-f", "-o", str(trace), *rules, "-p", str(node.process.pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: trace.exists() and trace.stat().st_size > 0, within_s=60, what="a sync that is delayed")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(timeout=60)


@pytest.mark.skipif(STRACE is None, reason="strace is not installed: a leader with a silent disk is NOT tested")
def test_a_leader_whose_disk_is_silent_leads_no_more(cluster: Cluster, tmp_path: Path) -> None:
    old = cluster.leader()
    others = [node for node in cluster if node is not old]
    with Writers(cluster.endpoints) as writers:
        with stalling(old, tmp_path / "trace"):
            eventually(lambda: cluster.leader() is not old, within_s=60, what="another leader")
            writers.until(100)
            assert cluster.leader(among=others) in others
        writers.until(100)
    assert writers.failures == []
    assert writers.lost() == []
    assert old.running


# -- a state that differs ----------------------------------------------------------------------------------------------


def alter_state(node: Node) -> None:
    """Another key in the node's store, all else to match, as a bad memory or a bug in one node might leave it."""
    path = node.data_path / "store"
    with lmdb.open(str(path), max_dbs=NAMED_DATABASES) as environment:
        meta_db, data = (environment.open_db(name, create=False) for name in (b"meta", b"data"))
        with environment.begin(db=meta_db, write=True) as transaction:
            stored = transaction.get(META_KEY)
            assert stored is not None
            meta = decode_meta(stored, path)
            odd = (b"odd", bytes(RECORD_HEADER_BYTES) + b"value")
            state_hash = (meta.state_hash + hash_of([odd])) % (1 << 64)
            transaction.put(*odd, db=data)
            changed = replace(meta, state_hash=state_hash, key_count=meta.key_count + 1)
            transaction.put(META_KEY, encode_meta(changed))


def test_a_node_whose_state_differs_serves_nothing_and_says_so(cluster: Cluster) -> None:
    odd = cluster.followers()[0]
    others = [node for node in cluster if node is not odd]
    assert odd.stop() == 0
    alter_state(odd)
    odd.start()
    cluster.leader()
    with fastkv.connect(cluster.endpoints, timeout=60) as kv:
        deadline = time.monotonic() + 60
        while "state" not in odd.request("GET", "/readyz")[1].get("failed", []):
            assert time.monotonic() < deadline, "no alarm"
            for number in range(200):
                kv.put(f"k{number}", "v")
    status, answer = odd.get("k1")
    assert (status, answer["code"]) == (503, "CORRUPT_STATE"), answer
    assert odd.put("k1", "x")[1]["code"] == "CORRUPT_STATE"
    for path in ("/kv/k1?consistency=stale", "/kv?consistency=stale", "/kv"):
        status, answer = odd.request("GET", path)
        assert (status, answer["code"]) == (503, "CORRUPT_STATE"), path
    assert any("differs" in problem for problem in odd.request("GET", "/health")[1]["problems"])
    assert "serving nothing from now on: this node's state at entry" in odd.log_text()
    for node in others:
        assert node.get("k1")[1]["value"] == "v"
        assert node.request("GET", "/readyz")[0] == 200
    with fastkv.connect(odd.endpoint, timeout=60) as kv:        # it says where the others are, and the client asks them
        assert kv.get("k1").value == b"v"


def test_nodes_at_one_index_say_one_hash_of_their_state(cluster: Cluster) -> None:
    def said(node: Node) -> tuple[int, str]:
        answer = node.request("GET", "/health")[1]
        return answer["applied_index"], answer["state_hash"]

    before = said(cluster.leader())
    for number in range(5):
        assert cluster.leader().put(f"k{number}", "v")[0] == 201
    after = said(cluster.leader())
    assert after[0] > before[0]
    assert after[1] != before[1]
    assert len(after[1]) == 16
    for node in cluster:
        eventually(lambda node=node: said(node) == said(cluster.leader()), within_s=30, what="equal hashes")
