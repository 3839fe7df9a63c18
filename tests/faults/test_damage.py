"""Real nodes on damaged files: each either has exactly what it acknowledged, or refuses, says what and what to do.

Never other data, and never an end by a signal. Many more places, in less time each: `test_damage_sweep.py`.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import fastkv
from fastkv.chaos.ports import free_ports
from tests.e2e.cluster import Node, eventually
from tests.faults.damage import BLOCK, CLUSTER, NODE, SEGMENT_BYTES, make

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

LIMIT_S = 60.0
REFUSED = 1
"""The exit status of a node that does not start."""

Damage = Callable[[Path, random.Random], None]


class Stopped(NamedTuple):
    """A node that was stopped cleanly, and everything that it had acknowledged."""

    node: Node
    data: Path
    acknowledged: dict[bytes, bytes]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """Its store has a part of it all, its log of several segments the whole."""
    path = tmp_path_factory.mktemp("damage")
    _, acknowledged = make(path / "made", entries=240, seed=5)
    raft_port, http_port = free_ports(2)
    config = path / "cluster.yaml"
    config.write_text(
        f'cluster:\n  name: "{CLUSTER}"\n  nodes:\n    {NODE}: {{raft: "127.0.0.1:{raft_port}", http: '
        f'"127.0.0.1:{http_port}"}}\nstorage:\n  segment_bytes: {SEGMENT_BYTES}\n'
    )
    (path / f"{NODE}.log").touch()
    return Stopped(Node(NODE, config, http_port, raft_port, path), path / "made" / NODE, acknowledged)


def newest_segment(path: Path) -> Path:
    """The last one that was begun."""
    return max(file for file in (path / "wal").glob("*.wal") if file.read_bytes()[:64].strip(b"\0"))


def store_of(path: Path) -> Path:
    return path / "store" / "data.mdb"


def altered(file: Path, change: Callable[[bytearray], None]) -> None:
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)


def end_of(data: bytes) -> int:
    return len(data.rstrip(b"\0"))


def flip(data: bytearray, at: int) -> None:
    data[at] ^= 0x10


def swap(data: bytearray, first: int, second: int) -> None:
    """Two blocks change places."""
    a, b = data[first : first + BLOCK], data[second : second + BLOCK]
    data[first : first + BLOCK], data[second : second + BLOCK] = b, a


def exchange(first: Path, second: Path) -> None:
    """Two files change places."""
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def segment(path: Path, number: int) -> Path:
    return path / "wal" / f"{number:016x}.wal"


LOG: dict[str, Damage] = {
    "cut in the last record": lambda path, rng: altered(
        newest_segment(path), lambda data: data.__delitem__(slice(end_of(data) - rng.randrange(1, 80), None))
    ),
    "cut behind the last record": lambda path, rng: altered(
        newest_segment(path), lambda data: data.__delitem__(slice(end_of(data) + 100, None))
    ),
    "cut to nothing": lambda path, rng: newest_segment(path).write_bytes(b"") and None,
    "a bit": lambda path, rng: altered(
        newest_segment(path), lambda data: flip(data, rng.randrange(end_of(data) - 200))
    ),
    "zeros to the end": lambda path, rng: altered(
        newest_segment(path), lambda data: data.__setitem__(slice(200, None), bytes(len(data) - 200))
    ),
    "blocks swapped": lambda path, rng: altered(segment(path, 2), lambda data: swap(data, BLOCK, 5 * BLOCK)),
    "a block doubled": lambda path, rng: altered(
        segment(path, 2), lambda data: data.__setitem__(slice(BLOCK, 2 * BLOCK), data[2 * BLOCK : 3 * BLOCK])
    ),
    "files swapped": lambda path, rng: exchange(segment(path, 2), segment(path, 3)),
    "a file is gone": lambda path, rng: newest_segment(path).unlink(),
}
STORE: dict[str, Damage] = {
    "cut": lambda path, rng: altered(store_of(path), lambda data: data.__delitem__(slice(len(data) - 9 * BLOCK, None))),
    "a meta page": lambda path, rng: altered(store_of(path), lambda data: flip(data, 16)),
    "zeros": lambda path, rng: altered(
        store_of(path), lambda data: data.__setitem__(slice(2 * BLOCK, None), bytes(len(data) - 2 * BLOCK))
    ),
    "every page's number": lambda path, rng: altered(
        store_of(path), lambda data: [flip(data, at) for at in range(2 * BLOCK, len(data), BLOCK)] and None
    ),
    "every page's bounds": lambda path, rng: altered(
        store_of(path), lambda data: [flip(data, at + 13) for at in range(2 * BLOCK, len(data), BLOCK)] and None
    ),
    "values": lambda path, rng: altered(
        store_of(path), lambda data: [flip(data, at + 4000) for at in range(2 * BLOCK, len(data), BLOCK)] and None
    ),
    "blocks turned round": lambda path, rng: altered(
        store_of(path),
        lambda data: [swap(data, at, at + BLOCK) for at in range(2 * BLOCK, len(data) - 2 * BLOCK, 2 * BLOCK)] and None,
    ),
    "no store": lambda path, rng: store_of(path).write_bytes(bytes(range(256)) * 64) and None,
    "a half-made installation": lambda path, rng: half_installed(path),
}
HARMLESS: dict[str, Damage] = {
    "nothing": lambda path, rng: None,
    "LMDB's lock file": lambda path, rng: (path / "store" / "lock.mdb").write_bytes(rng.randbytes(9000)) and None,
    "an image for others": lambda path, rng: stray(path / "snapshots" / "1-1.image"),
    "half an image from others": lambda path, rng: stray(path / "store.part" / "data.mdb"),
    "an unfinished segment": lambda path, rng: stray(path / "wal" / "prepared.tmp"),
    "the store before it was written": lambda path, rng: store_of(path).write_bytes(b"") and None,
    "the seal": lambda path, rng: (path / "wal" / "sealed").write_bytes(b"?" * 32) and None,
}


def half_installed(path: Path) -> None:
    """A snapshot that was ready to be installed, and is damaged."""
    shutil.copytree(path / "store", path / "store.ready")
    altered(
        path / "store.ready" / "data.mdb", lambda data: [flip(data, at) for at in range(0, len(data), BLOCK)] and None
    )


def stray(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"what a crash has left" * 1000)


def started(stopped: Stopped, tmp_path: Path, damage: Damage, seed: int) -> tuple[Node, str]:
    """Start the node on a damaged copy of its data, until it serves or has ended; what it said."""
    node = stopped.node
    shutil.copytree(stopped.data, tmp_path / node.node_id)
    damage(tmp_path / node.node_id, random.Random(seed))
    before = len(node.log_text())
    node.http_port, node.raft_port = free_ports(2)
    node.start(environment={"KV_DATA_DIR": str(tmp_path)})
    eventually(lambda: not node.running or node.status().get("is_leader"), within_s=LIMIT_S, what="a start or an end")
    return node, node.log_text()[before:]


def has_all(node: Node, acknowledged: dict[bytes, bytes]) -> None:
    with fastkv.connect(node.endpoint, timeout=30) as kv:
        assert {item.key: item.value for item in kv.scan()} == acknowledged


@pytest.mark.parametrize("name", [*(f"log: {name}" for name in LOG), *(f"store: {name}" for name in STORE)])
def test_what_is_damaged_is_refused(stopped: Stopped, tmp_path: Path, name: str) -> None:
    part, _, kind = name.partition(": ")
    node, said = started(stopped, tmp_path, (LOG if part == "log" else STORE)[kind], seed=len(name))
    try:
        assert not node.running, "it serves"
        assert node.process is not None
        assert node.process.returncode == REFUSED, said
        assert "fastkv check" in said
        assert "fastkv repair" in said
        assert "Traceback" not in said
    finally:
        if node.running:
            node.kill()


@pytest.mark.parametrize("name", HARMLESS)
def test_what_nothing_depends_on_costs_nothing(stopped: Stopped, tmp_path: Path, name: str) -> None:
    node, said = started(stopped, tmp_path, HARMLESS[name], seed=1)
    try:
        assert node.running, said
        has_all(node, stopped.acknowledged)
    finally:
        if node.running:
            node.kill()


def test_the_last_byte_that_was_not_acknowledged_is_not_missed(stopped: Stopped, tmp_path: Path) -> None:
    """kill -9 leaves a log without its seal: a torn end is cut off, and everything before it is there."""
    node, said = started(stopped, tmp_path / "first", HARMLESS["nothing"], seed=1)
    assert node.running, said
    node.kill()
    live = tmp_path / "first" / node.node_id
    altered(newest_segment(live), lambda data: data.__setitem__(slice(end_of(data), end_of(data) + 300), b"\xa5" * 300))
    node.start(environment={"KV_DATA_DIR": str(tmp_path / "first")})
    eventually(lambda: node.status().get("is_leader"), within_s=LIMIT_S, what="a start")
    try:
        has_all(node, stopped.acknowledged)
    finally:
        node.kill()
