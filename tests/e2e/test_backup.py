"""Backups of a running cluster, and the restore drill: a new cluster with everything that had been acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastkv
from fastkv._core.codes import Opcode, Status
from fastkv.client.addresses import Address
from fastkv.client.backup import Download
from fastkv.client.connection import Connection
from fastkv.client.settings import Settings
from fastkv.errors import Overloaded, Unavailable
from fastkv.server.backup import MAX_BACKUPS
from fastkv.wire.backup import BackupAsk, encode_backup_ask
from tests.e2e.cluster import PATIENT, Cluster, eventually, running_cluster
from tests.e2e.load import Writers
from tests.e2e.restoring import new_cluster, restore, restored_cluster, save, snapshot
from tests.storage.logs import patch
from tests.storage.test_backup_file import files_no_longer_than

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KEYS = 100
BUMP = 1_000_000_000


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with some content."""
    with running_cluster(tmp_path_factory.mktemp("old"), extra=PATIENT) as cluster:
        with fastkv.connect(cluster.endpoints, timeout=60) as kv:
            for number in range(KEYS):
                kv.put(f"key-{number}", b"%d " % number * 20)
            kv.delete("key-7")
        yield cluster


@pytest.fixture(scope="module")
def backup(old: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it, from before all that the tests do."""
    path = tmp_path_factory.mktemp("backup") / "old.fkvbackup"
    save(path, old.endpoints)
    return path


def with_key(cluster: Cluster, key: str) -> tuple[int, str]:
    status, answer = cluster.nodes["node-2"].request(
        "PUT", f"/kv/{key}", b"once", {"Content-Type": "text/plain", "Idempotency-Key": key}
    )
    return status, str(answer.get("revision"))


def configurations(cluster: Cluster) -> int:
    """Entries of the log that say who the members are: one for each disk that was met, one that raises the version."""
    page = cluster.nodes["node-1"].request("GET", "/cluster/log?limit=1000")[1]
    return sum(entry["kind"] == "config" for entry in page["entries"])


def problems(cluster: Cluster, node_id: str) -> str:
    try:
        return " ".join(cluster.nodes[node_id].request("GET", "/health", timeout_s=5)[1]["problems"])
    except OSError:
        return ""


def test_restore_drill(old: Cluster, tmp_path: Path) -> None:
    """The whole way: back up under load, lose everything, restore three nodes, and go on with another life."""
    path = tmp_path / "drill.fkvbackup"
    assert with_key(old, "first")[0] == 201
    before = with_key(old, "first")
    with Writers(old.endpoints, 4) as writers:
        writers.until(50)
        acknowledged = dict(writers.acknowledged)
        saved = save(path, old.endpoints)
        writers.until(50)
    assert writers.failures == []
    status, described = snapshot("status", str(path))
    assert (status, described) == (0, {name: value for name, value in saved.items() if name != "removed"})

    new, said = restored_cluster(path, tmp_path / "new")
    assert {answer["state_hash"] for answer in said} == {saved["state_hash"]}
    assert len({answer["restored"] for answer in said}) == 1
    assert len({answer["disk"] for answer in said}) == 3
    try:
        new.start()
        with fastkv.connect(new.endpoints, timeout=60) as kv:
            there = {item.key.decode(): item.value for item in kv.scan("key-")}
            assert there == {f"key-{number}": b"%d " % number * 20 for number in range(KEYS) if number != 7}
            for key, number in acknowledged.items():
                value = kv.get(key).value
                assert value is not None
                assert int(value) >= number, "what was acknowledged before the backup began is in it"
            revision = kv.put("life", "1")
        assert revision == saved["revision"] + BUMP + 1
        assert with_key(new, "first") == before, "a write that is in the backup is not carried out again"
        members = new.nodes["node-1"].request("GET", "/cluster/members")[1]["members"]
        assert {member["raft"] for member in members} == {node.endpoint for node in new}
        restarted = new.nodes["node-3"]
        assert restarted.stop() == 0
        restarted.start()
        new.leader()
        assert restarted.get("life")[1]["revision"] == revision
    finally:
        new.close()


def test_every_node_can_be_asked_and_says_the_same(old: Cluster, tmp_path: Path) -> None:
    said = [save(tmp_path / node.node_id, node.endpoint) for node in old]
    assert [answer["node"] for answer in said] == ["node-1", "node-2", "node-3"]
    assert len({(answer["state_hash"], answer["revision"]) for answer in said}) == 1
    assert save(tmp_path / "any", old.endpoints)["node"] != old.leader().node_id


def test_dated_backups_are_kept_up_to_a_number(old: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    made = []
    for number in range(4):
        with fastkv.connect(old.endpoints, timeout=60) as kv:
            kv.put("counter", str(number))
        status, said = snapshot("save", "--directory", str(tmp_path), "--keep", "2", "--endpoints", old.endpoints)
        assert status == 0
        made.append(Path(said["file"]))
        assert [Path(path) for path in said["removed"]] == made[number - 2 : number - 1] * (number >= 2)
    assert sorted(tmp_path.iterdir()) == sorted([*made[2:], other])
    for path in made[2:]:
        assert snapshot("status", str(path))[0] == 0


def test_what_is_refused_leaves_everything_as_it_was(old: Cluster, backup: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    status, said = snapshot("save", str(taken), "--endpoints", old.endpoints)
    assert (status, said["code"], taken.read_text()) == (1, "BACKUP_EXISTS", "mine")
    status, said = snapshot("save", str(tmp_path / "b"), "--endpoints", old.endpoints, "--cluster", "till")
    assert (status, said["code"]) == (1, "WRONG_CLUSTER")
    status, said = snapshot("save", str(tmp_path / "gone" / "b"), "--endpoints", old.endpoints)
    assert (status, said["code"]) == (1, "STORAGE_ERROR")
    status, said = snapshot("save", str(tmp_path / "b"), "--endpoints", "127.0.0.1:1")
    assert (status, said["code"]) == (4, "NO_LEADER")

    with files_no_longer_than(20_000):
        status, said = snapshot("save", str(tmp_path / "b"), "--endpoints", old.endpoints)
    assert (status, said["code"]) == (1, "NO_SPACE")
    assert list(tmp_path.iterdir()) == [taken]

    new = new_cluster(tmp_path / "new")
    data = new.nodes["node-1"].data_path
    for limit_bytes in (20_000, backup.stat().st_size - 4096):      # while it is copied, and behind that
        with files_no_longer_than(limit_bytes):
            status, said = restore(backup, new, "node-1")
        assert (status, said["code"]) == (1, "NO_SPACE")
    for spoil in ("cut", "altered"):
        spoilt = Path(shutil.copyfile(backup, tmp_path / spoil))
        with spoilt.open("r+b") as file:
            file.truncate(backup.stat().st_size - 5000) if spoil == "cut" else patch(spoilt, 9000, b"altered")
        for command in (["status"], ["restore", "--config", str(new.config), "--node-id", "node-1"]):
            status, said = snapshot(command[0], str(spoilt), *command[1:])
            assert (status, said["code"]) == (1, "BAD_BACKUP")
    status, said = restore(backup, new, "node-1", "--from-cluster", "till")
    assert (status, said["code"]) == (1, "RESTORE_REFUSED")
    status, said = restore(backup, new, "node-1", "--keep-name")
    assert (status, said["code"]) == (1, "RESTORE_REFUSED")
    assert not data.parent.exists() or list(data.parent.iterdir()) == []

    same = tmp_path / "same.yaml"
    same.write_text(new.config.read_text().replace(f'"test-{new.directory.name}"', f'"test-{old.directory.name}"'))
    status, said = snapshot("restore", str(backup), "--config", str(same), "--node-id", "node-1")
    assert (status, said["code"]) == (1, "RESTORE_REFUSED")
    assert "same name" in said["error"]
    status, _ = snapshot("restore", str(backup), "--config", str(same), "--node-id", "node-1", "--keep-name")
    assert status == 0
    shutil.rmtree(data)

    data.mkdir(parents=True)
    assert restore(backup, new, "node-1")[0] == 0, "an empty directory will do"
    files = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    status, said = restore(backup, new, "node-1")
    assert (status, said["code"]) == (1, "RESTORE_REFUSED")
    assert "not empty" in said["error"]
    assert files == {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    running = old.nodes["node-1"]
    status, said = snapshot(
        "restore", str(backup), "--config", str(new.config), "--node-id", "node-1", "--data-dir",
        str(running.data_path.parent),
    )  # fmt: skip
    assert (status, said["code"]) == (1, "RESTORE_REFUSED")
    assert "runs" in said["error"]
    assert running.get("key-1")[0] == 200


def test_nodes_of_different_restores_do_not_mix(old: Cluster, backup: Path, tmp_path: Path) -> None:
    later = tmp_path / "later.fkvbackup"
    with fastkv.connect(old.endpoints, timeout=60) as kv:
        kv.put("since", "1")
    save(later, old.endpoints)
    new, _ = restored_cluster(backup, tmp_path / "new")
    third = new.nodes["node-3"]
    shutil.rmtree(third.data_path)
    assert restore(later, new, "node-3")[0] == 0
    try:
        for node in new:
            node.start()
        new.leader(among=[new.nodes["node-1"], new.nodes["node-2"]])
        eventually(lambda: "another backup" in problems(new, "node-3"), within_s=60, what="node-3 to be refused")
        with fastkv.connect(new.nodes["node-1"].endpoint, timeout=60) as kv:
            kv.put("written", "1")
            assert kv.get("since").value is None
        third.kill()

        # The right backup, but the cluster has gone on without it: what its disk had acknowledged is lost.
        shutil.rmtree(third.data_path)
        assert restore(backup, new, "node-3")[0] == 0
        third.start()
        new.leader()
        assert third.get("written")[0] == 200, "one that was never met is let in, and catches up"
        eventually(lambda: configurations(new) == 4, within_s=60, what="every member's disk to be noted")
        third.kill()
        shutil.rmtree(third.data_path)
        assert restore(backup, new, "node-3")[0] == 0
        third.start()
        text = "another data directory"
        eventually(lambda: text in problems(new, "node-3"), within_s=60, what="node-3 to be refused")
    finally:
        new.close()


def test_without_a_majority_only_a_stale_backup_can_be_taken(old: Cluster, tmp_path: Path) -> None:
    first, second, third = old
    for node in (first, second):
        node.kill()
    try:
        path = tmp_path / "stale"
        assert snapshot("save", str(path), "--endpoints", third.endpoint)[0] == 4
        assert not path.exists()
        assert save(path, third.endpoint, "--stale")["node"] == "node-3"
        assert snapshot("status", str(path))[1]["keys"] >= KEYS - 1
    finally:
        for node in (first, second):
            node.start()
        old.leader()


def test_a_node_that_dies_while_it_sends_is_passed_over(old: Cluster, tmp_path: Path) -> None:
    """The one that is asked first is gone; the next one makes a backup of its own."""
    leader = old.leader()
    dead = old.followers()[0]
    dead.kill()
    try:
        endpoints = ",".join(node.endpoint for node in (dead, leader))
        assert save(tmp_path / "b", endpoints)["node"] == leader.node_id
    finally:
        dead.start()
        old.leader()


def test_a_node_serves_a_few_backups_at_a_time_and_goes_on_serving(old: Cluster) -> None:
    async def ask() -> None:
        address, settings = Address.parse(old.nodes["node-1"].endpoint), Settings(connect_timeout_s=60)
        downloads = [await Download.open(address, settings, stale=False, timeout_s=60) for _ in range(MAX_BACKUPS)]
        with pytest.raises(Overloaded, match="already"):
            await Download.open(address, settings, stale=False, timeout_s=60)
        memory = memoryview(bytearray(1 << 20))
        assert sum(downloads[0].pieces(lambda: memory)) == downloads[0].offer.nbytes
        for one in downloads:
            one.close()

        while True:                     # a connection that is gone is noticed in its turn
            with contextlib.suppress(Overloaded):
                other = await Download.open(address, settings, stale=True, timeout_s=60)
                break
        other.close()

        connection = await Connection.open(address, settings, lambda _: None)
        deadline = asyncio.get_running_loop().time() + 60
        for body, status in (
            (b"", Status.INVALID_REQUEST),
            (encode_backup_ask(BackupAsk(other.offer.index, other.offer.state_hash)), Status.KEY_NOT_FOUND),
        ):
            reply = await connection.request(Opcode.BACKUP, body, deadline)
            assert reply.status == status
        connection.retire()
        await connection.closed

    asyncio.run(ask())


PACE = 2 << 20


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Cluster]:
    """One node with three seconds' worth of content at its pace."""
    with running_cluster(tmp_path, 1, extra=f"backup: {{max_bytes_per_s: {PACE}}}\n") as cluster:
        with fastkv.connect(cluster.endpoints, timeout=60) as kv:
            for number in range(6):
                kv.put(f"key-{number}", bytes(1_000_000))
        yield cluster


def test_a_backup_goes_no_faster_than_the_node_allows(slow: Cluster, tmp_path: Path) -> None:
    """The kernel keeps a connection's pace."""
    began = time.monotonic()
    saved = save(tmp_path / "b", slow.endpoints)
    assert time.monotonic() - began >= 0.9 * saved["bytes"] / PACE


def test_a_node_that_stops_while_it_sends_ends_it_and_itself(slow: Cluster) -> None:
    (node,) = slow
    settings = Settings(connect_timeout_s=60)
    download = asyncio.run(Download.open(Address.parse(node.endpoint), settings, stale=False, timeout_s=60))
    memory = memoryview(bytearray(1 << 20))
    pieces = download.pieces(lambda: memory)
    assert next(pieces)
    assert node.stop() == 0
    with pytest.raises(Unavailable, match=r"before the last byte|is gone"):
        list(pieces)
    download.close()
    assert "Traceback" not in node.log_text()


def test_a_backup_that_is_interrupted_leaves_nothing(slow: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    directory.mkdir()
    command = [sys.executable, "-m", "fastkv", "snapshot", "save", str(directory / "b"), "--endpoints", slow.endpoints]
    # A shell's background jobs ignore the signal, and whatever they start does.
    with subprocess.Popen(["env", "--default-signal=INT", *command], stderr=subprocess.PIPE) as saving:
        eventually(lambda: any(directory.iterdir()), within_s=60, what="the first bytes")
        saving.send_signal(signal.SIGINT)
        _, error = saving.communicate(timeout=60)
    assert saving.returncode == 1
    assert b"Traceback" not in error
    assert not list(directory.iterdir())
