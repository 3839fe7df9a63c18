"""A real disk that real writes fill, and that has room again; and a limit on the size of files.

A file system of 32 MiB in a file, mounted by its loop device: ENOSPC comes from the kernel, wherever it comes.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually
from tests.faults.crash_points import SETTINGS, Receiver, cluster_in
from tests.faults.journal import DEADLINE_S, Journal, settled

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DISK_BYTES = 32 << 20
REFUSED = 507
ROOM_BYTES = 400_000
"""For an empty log and store, and not for a snapshot."""
BIG_MEMTABLE = SETTINGS.replace("memtable_bytes: 65536", "memtable_bytes: 1048576")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    missing = [tool for tool in ("mount", "umount", "mkfs.ext4") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"a full disk is NOT tested: only root can mount one, with {', '.join(missing) or 'mount'}")
    image, mounted = tmp_path / "disk.img", tmp_path / "disk"
    image.write_bytes(b"")
    os.truncate(image, DISK_BYTES)
    mounted.mkdir()
    try:
        run("mkfs.ext4", "-q", "-m", "0", str(image))
        run("mount", "-o", "loop", str(image), str(mounted))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"a full disk is NOT tested, no loop device can be mounted here: {error.stderr.strip()}")
    yield mounted
    run("umount", str(mounted))


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("ab", buffering=0) as file:
        piece = bytes(1 << 20)
        while piece:
            try:
                file.write(piece)
            except OSError:
                piece = piece[: len(piece) // 2]


def refused(node: Node, journal: Journal) -> bool:
    """One more write: whether it was refused for want of room."""
    status = journal.write(node)
    assert node.running, f"a full disk has ended {node.node_id}: {node.log_text()[-2000:]}"
    assert status in (200, 201, 503, 504, REFUSED), f"status {status}"
    return status == REFUSED


def reads_go_on(node: Node, journal: Journal) -> None:
    for write in (journal.acknowledged[0], journal.acknowledged[-1]):
        assert settled(node, write.key)[1]["value"] == write.value


@pytest.mark.parametrize("settings", [SETTINGS, BIG_MEMTABLE], ids=["small-memtable", "large-memtable"])
def test_a_disk_that_writes_fill_refuses_more_and_recovers(disk: Path, settings: str) -> None:
    """Filled by writes alone but for some ballast, which then goes; in between, a restart on the full disk."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(20 << 20))
    cluster = Cluster(disk, 1, extra=settings)
    (node,) = cluster
    journal = Journal("run", value_bytes=60_000)
    try:
        node.start()
        cluster.leader(within_s=DEADLINE_S)
        eventually(lambda: refused(node, journal), within_s=DEADLINE_S, what="a write that is refused")
        reads_go_on(node, journal)
        fill(disk / "more")             # whatever else there is: not a block is left
        for _ in range(3):
            refused(node, journal)
        reads_go_on(node, journal)
        node.kill()
        node.start()                    # a restart on a full disk serves what is there
        cluster.leader(within_s=DEADLINE_S)
        journal.check(node)
        (disk / "more").unlink()
        ballast.unlink()
        journal.check_and_go_on(node)   # without another restart
        for _ in range(20):             # now and then one is refused while the store catches up
            eventually(lambda: journal.write(node) == 201, within_s=DEADLINE_S, what="a write that is taken")
        assert node.stop() == 0
        node.start()
        journal.check_and_go_on(node)
    finally:
        cluster.close()


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_full_disk_of_one_node_of_three(tmp_path: Path, disk: Path, role: str) -> None:
    """What its votes need of the log waits for room, and ends nothing."""
    cluster = Cluster(tmp_path, 3, extra=SETTINGS)
    journal = Journal("run", value_bytes=30_000)
    try:
        first, second, _ = cluster
        victim, other = (first, second) if role == "leader" else (second, first)
        victim.data_path.parent.mkdir()
        victim.data_path.symlink_to(disk / "node")
        (disk / "node").mkdir()
        for node in cluster:
            node.start()
        cluster.leader(within_s=DEADLINE_S)
        eventually(lambda: journal.write(other) in (200, 201), within_s=DEADLINE_S, what="a first write")
        fill(disk / "ballast")

        def writes_go_on() -> bool:
            status = journal.write(other)
            assert victim.running, f"a full disk has ended {victim.node_id}: {victim.log_text()[-2000:]}"
            return status in (200, 201)

        for _ in range(12):
            eventually(writes_go_on, within_s=DEADLINE_S, what="a write that the others acknowledge")
        (disk / "ballast").unlink()
        for node in cluster:
            journal.check_and_go_on(node)
        assert victim.stop() == 0
    finally:
        cluster.close()


def test_no_room_for_a_snapshot_is_said_and_passes(tmp_path: Path, disk: Path) -> None:
    """A member needs half a megabyte of snapshot, and its disk has less: it waits, and has it once there is room."""
    scenario = Receiver()
    scenario.prepare(tmp_path)
    before = json.loads((tmp_path / "before.json").read_text())
    with cluster_in(tmp_path, 3, before["ports"]) as cluster:
        first, second, receiver = cluster
        first.start()
        second.start()
        (disk / "node").mkdir()
        receiver.data_path.symlink_to(disk / "node")
        (disk / "kept").write_bytes(bytes(ROOM_BYTES))
        fill(disk / "ballast")
        (disk / "kept").unlink()
        receiver.start()

        def says_so() -> bool:
            assert receiver.running, f"a full disk has ended it: {receiver.log_text()[-2000:]}"
            try:
                _, health = receiver.request("GET", "/health")
            except (OSError, http.client.HTTPException):
                return False
            return any("snapshot" in problem and "No space" in problem for problem in health["problems"])

        eventually(says_so, within_s=DEADLINE_S, what="word of the want of room")
        (disk / "ballast").unlink()
        eventually(lambda: scenario.caught_up(receiver, before["kept"]), within_s=DEADLINE_S, what="the snapshot")
        journal = Journal("run")
        for node in cluster:
            journal.check_and_go_on(node)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is missing: a limit on file sizes is NOT tested")
def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    """Of 400 kB: the store's file may not grow beyond it. The limit is lifted while the node runs."""
    cluster = Cluster(tmp_path, 1, extra=SETTINGS)
    (node,) = cluster
    journal = Journal("run")
    try:
        node.start(wrap=("prlimit", "--fsize=400000:unlimited"))
        cluster.leader(within_s=DEADLINE_S)
        eventually(lambda: refused(node, journal), within_s=DEADLINE_S, what="a write that is refused")
        reads_go_on(node, journal)
        assert node.process is not None
        run("prlimit", f"--pid={node.process.pid}", "--fsize=unlimited:unlimited")
        journal.check_and_go_on(node)
        assert node.stop() == 0
        node.start()
        journal.check_and_go_on(node)
    finally:
        cluster.close()
