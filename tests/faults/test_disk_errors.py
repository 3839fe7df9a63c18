"""Calls that fail, on each kind of file: a failed sync ends the node, a want of room does not; neither loses a write.

strace makes calls of a running node fail without doing anything, all of them or the first few.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, eventually
from tests.faults.crash_points import cluster_in
from tests.faults.injection import failing, injected, needs_strace
from tests.faults.journal import DEADLINE_S, Journal, settled

pytestmark = [pytest.mark.e2e, pytest.mark.slow, needs_strace]

EXIT_BROKEN = 70
REFUSED = 507
SEGMENTS = [f"wal/{number:016x}.{suffix}" for number in range(1, 60) for suffix in ("wal", "tmp")]


@dataclass(frozen=True)
class Kind:
    """Calls of one kind."""

    name: str
    calls: tuple[str, ...]
    files: tuple[str, ...]

    def __str__(self) -> str:
        return self.name


SYNCS = [
    Kind("log", ("fdatasync",), tuple(SEGMENTS)),
    Kind("new-segment", ("fdatasync", "fsync"), ("wal/prepared.tmp",)),
    Kind("recycled-segment", ("fsync", "fdatasync"), tuple(name for name in SEGMENTS if name.endswith(".tmp"))),
    Kind("log-directory", ("fsync",), ("wal",)),
    Kind("checkpoint", ("fdatasync",), ("store/data.mdb",)),
]
FATAL = [
    *[(kind, errno.EIO) for kind in SYNCS],
    # The checkpoint's is not among these: its next try is built upon nothing of one that failed.
    *[(kind, errno.ENOSPC) for kind in SYNCS if kind.name in ("log", "new-segment")],
    (Kind("log-append", ("pwritev",), tuple(SEGMENTS)), errno.EIO),
    (Kind("segment-rename", ("rename",), ("wal/prepared.tmp",)), errno.EIO),
    (Kind("checkpoint-write", ("writev", "pwrite64", "pwritev"), ("store/data.mdb",)), errno.EIO),
]
LOG_APPEND = Kind("log-append", ("pwritev",), tuple(SEGMENTS))
SEGMENT_RESERVE = Kind("segment-reserve", ("fallocate",), ("wal/prepared.tmp",))
CHECKPOINT_WRITE = Kind("checkpoint-write", ("writev", "pwritev"), ("store/data.mdb",))
REFUSING = [
    LOG_APPEND,
    SEGMENT_RESERVE,
    CHECKPOINT_WRITE,
    Kind("segment-create", ("openat",), ("wal/prepared.tmp",)),
    Kind("segment-rename", ("rename",), ("wal/prepared.tmp",)),
    Kind("recycled-fill", ("pwrite64",), tuple(name for name in SEGMENTS if name.endswith(".tmp"))),
    Kind("checkpoint-sync", ("fdatasync",), ("store/data.mdb",)),
]
RETIRE = Kind("segment-retire", ("rename", "unlink"), tuple(name for name in SEGMENTS if name.endswith(".wal")))
"""A file system may want room even to let go of a file. Nobody notices but the disk's owner."""


@pytest.fixture
def single(tmp_path: Path) -> Iterator[tuple[Node, Journal]]:
    """A node that has acknowledged a few writes."""
    with cluster_in(tmp_path, 1) as cluster:
        (node,) = cluster
        node.start()
        cluster.leader(within_s=DEADLINE_S)
        journal = Journal("run")
        assert [journal.write(node) for _ in range(3)] == [201] * 3
        yield node, journal


def faulty(
    node: Node, kind: Kind, error: int, output: Path, times: int | None = None
) -> AbstractContextManager[None]:
    assert node.process is not None
    files = [node.data_path / name for name in kind.files]
    return failing(node.process, kind.calls, files, error, output, times=times)


@pytest.mark.parametrize(("kind", "error"), FATAL, ids=lambda value: str(value))
def test_what_cannot_be_trusted_any_more_ends_the_node_and_is_not_tried_again(
    tmp_path: Path, single: tuple[Node, Journal], kind: Kind, error: int
) -> None:
    node, journal = single
    output = tmp_path / "strace"
    with faulty(node, kind, error, output):
        eventually(
            lambda: journal.write(node) == 0 and not node.running,
            within_s=DEADLINE_S, what="the end of a node whose disk fails",
        )  # fmt: skip
    assert node.process is not None
    assert node.process.returncode == EXIT_BROKEN, node.log_text()[-2000:]
    assert len(injected(output)) == 1, "what failed is not tried again"
    node.start()
    journal.check_and_go_on(node)


@pytest.mark.parametrize("kind", REFUSING, ids=str)
def test_a_want_of_room_is_said_and_reads_go_on(tmp_path: Path, single: tuple[Node, Journal], kind: Kind) -> None:
    """And a crash while the disk is full costs nothing either."""
    node, journal = single
    with faulty(node, kind, errno.ENOSPC, tmp_path / "strace"):
        write_until_refused(node, journal)
        kept = journal.acknowledged[0]
        assert settled(node, kept.key)[1]["value"] == kept.value, "reads go on"
        write_until_refused(node, journal)      # a segment that a checkpoint has given back may have taken some
        node.kill()
    node.start()
    journal.check_and_go_on(node)


@pytest.mark.parametrize(
    ("kind", "times"), [(LOG_APPEND, 20), (SEGMENT_RESERVE, 4), (CHECKPOINT_WRITE, 4), (RETIRE, 2)], ids=str
)
def test_a_want_of_room_passes(tmp_path: Path, single: tuple[Node, Journal], kind: Kind, times: int) -> None:
    """Each of these calls is made again: some seconds later there is room."""
    node, journal = single
    output = tmp_path / "strace"
    with faulty(node, kind, errno.ENOSPC, output, times):
        eventually(
            lambda: answered(node, journal) and len(injected(output)) >= times,
            within_s=DEADLINE_S, what="the end of the want of room",
        )  # fmt: skip
        journal.check_and_go_on(node)
        assert node.stop() == 0
    node.start()
    journal.check_and_go_on(node)


def write_until_refused(node: Node, journal: Journal) -> None:
    """Write until it is refused, in so many words."""
    eventually(lambda: answered(node, journal) == REFUSED, within_s=DEADLINE_S, what="a write that is refused")


def answered(node: Node, journal: Journal) -> int:
    """The answer to one more write: done, unknown where it was under way, or refused for want of room."""
    status = journal.write(node)
    assert node.running, f"a full disk has ended the node: {node.log_text()[-2000:]}"
    assert status in (201, 504, REFUSED), f"status {status}"
    return status


# -- in a cluster ------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_in(tmp_path, 3) as cluster:
        for node in cluster:
            node.start()
        cluster.leader(within_s=DEADLINE_S)
        yield cluster


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_node_whose_log_fails_costs_the_cluster_nothing(
    tmp_path: Path, three: Cluster, role: str, error: int
) -> None:
    leader = three.leader(within_s=DEADLINE_S)
    victim = leader if role == "leader" else next(node for node in three if node is not leader)
    other = next(node for node in three if node is not victim)
    journal = Journal("run")
    output = tmp_path / "strace"
    with faulty(victim, LOG_APPEND, error, output, times=20):
        eventually(
            lambda: journal.write(other) in (200, 201) and injected(output),
            within_s=DEADLINE_S, what="a write that the others acknowledge",
        )  # fmt: skip
        for _ in range(5):
            eventually(lambda: journal.write(other) in (200, 201), within_s=DEADLINE_S, what="one more")
        if error == errno.EIO:
            eventually(lambda: not victim.running, within_s=DEADLINE_S, what="the end of the node whose disk failed")
            assert victim.process is not None
            assert victim.process.returncode == EXIT_BROKEN
        else:
            journal.check_and_go_on(victim)
            assert victim.stop() == 0
    victim.start()
    for node in three:
        journal.check_and_go_on(node)
