"""The archive of the log: nothing leaves the log before it is there, and what is there can be read or is refused."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastkv.errors import BadArchive
from fastkv.log_types import HardState
from fastkv.storage.archive import TIMES_FILE, LogArchive
from fastkv.storage.archive_read import ArchivedLog, find_runs, prune
from fastkv.storage.wal import Wal
from fastkv.storage.wal_recovery import find_segments
from tests.storage.logs import CLUSTER, NODE, entries_of, fill, opened, patch, run, write

DISK = 77


def eventually(true: Callable[[], object], what: str) -> None:
    """A thread of the archive's own works, and there is nothing to wait for."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


class Kept:
    """A log and its archive, as a node joins them."""

    def __init__(self, wal: Wal, archive: LogArchive) -> None:
        self.wal = wal
        self.archive = archive
        self.commit = 0

    def fill(self, count: int) -> None:
        fill(self.wal, count, first=self.wal.last_index + 1)
        self.commit = self.wal.last_index
        write(self.wal, hard_state=HardState(1, "", self.commit))

    def offer(self) -> None:
        self.archive.offer(self.wal.durable_position, self.commit)

    def until_closed_ones_are_there(self) -> None:
        self.offer()
        last = self.wal.durable_position >> 32
        eventually(lambda: self.archive.next_segment == last, f"segment {last - 1} in the archive")


@contextmanager
def archived(
    log: Path, root: Path, *, disk: int = DISK, interval_s: float = 0.01, keep_above: int = 0
) -> Iterator[Kept]:
    with opened(log, keep_above=keep_above) as wal:
        archive = LogArchive(root, cluster=CLUSTER, node_id=NODE, disk=disk, interval_s=interval_s)
        archive.begin(log, wal.first_segment)
        wal.kept_from = lambda: archive.next_segment
        kept = Kept(wal, archive)
        try:
            yield kept
        finally:
            kept.offer()
            archive.close()


def the_run(root: Path) -> Path:
    (found,) = find_runs(root)
    return found


def test_the_archive_has_what_the_log_has(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(90)
        kept.until_closed_ones_are_there()
        segments = [path for _, path in find_segments(log)][: kept.archive.next_segment - 1]
        assert len(segments) >= 3
        for path in segments:
            assert (the_run(root) / path.name).read_bytes() == path.read_bytes()
    read = ArchivedLog(the_run(root), 0)
    assert (read.cluster, read.node_id, read.first, read.last) == (CLUSTER, NODE, 1, 90)
    assert sorted(entries_of(read.entries(1, 90))) == list(range(1, 91))
    assert sorted(entries_of(read.entries(40, 41))) == [40, 41]
    assert read.term_at(90) == 1


def test_the_segment_that_grows_is_archived_too(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        for count in (3, 2, 1):
            kept.fill(count)
            kept.offer()
            last = kept.wal.last_index
            eventually(lambda: (the_run(root) / TIMES_FILE).exists(), "a first look")
            eventually(lambda last=last: ArchivedLog(the_run(root), 0).last == last, f"entry {last} in the archive")  # type: ignore[misc]


def test_only_what_was_committed_is_read(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(5)
        write(kept.wal, run(6, 1, b"nobody knows"))
    assert ArchivedLog(the_run(root), 0).last == 5
    with pytest.raises(BadArchive, match="has entries 1 to 5, not 1 to 6"):
        list(ArchivedLog(the_run(root), 0).entries(1, 6))


def test_what_was_cut_off_and_written_anew_is_read_as_it_is_now(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(30)
        kept.until_closed_ones_are_there()
        write(kept.wal, run(11, 2, b"new 11", b"new 12"))
        kept.commit = 12
        write(kept.wal, hard_state=HardState(2, "", 12))
    read = ArchivedLog(the_run(root), 0)
    entries = entries_of(read.entries(1, read.last))
    assert read.last == 12
    assert entries[10][0] == 1
    assert (entries[11], entries[12]) == ((2, b"new 11"), (2, b"new 12"))


def test_nothing_leaves_the_log_before_it_is_archived(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root, interval_s=3600) as kept:
        kept.fill(90)
        kept.wal.compact(90)
        assert kept.wal.first_index == 1
        kept.until_closed_ones_are_there()
        kept.wal.compact(90)
        assert kept.wal.first_index > 40
    assert ArchivedLog(the_run(root), 0).first == 1


def test_an_archive_that_cannot_be_written_is_said_and_the_log_is_kept(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(30)
        kept.until_closed_ones_are_there()
        run_directory = the_run(root)
        away = run_directory.with_name("away")
        run_directory.rename(away)
        kept.fill(60)
        kept.offer()
        eventually(lambda: "cannot be archived" in kept.archive.problem, "a problem")
        kept.wal.compact(kept.wal.last_index)
        assert kept.wal.first_segment <= kept.archive.next_segment
        assert kept.wal.first_index < 60, "a file that was open could still be written, and no more"
        away.rename(run_directory)
        kept.until_closed_ones_are_there()
        eventually(lambda: not kept.archive.problem, "no problem any more")
    read = ArchivedLog(the_run(root), 0)
    assert sorted(entries_of(read.entries(1, read.last))) == list(range(1, 91))


def test_the_next_start_goes_on_with_the_run(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    for _ in range(3):
        with archived(log, root) as kept:
            kept.fill(35)
    read = ArchivedLog(the_run(root), 0)
    assert sorted(entries_of(read.entries(1, read.last))) == list(range(1, 106))


def test_what_a_killed_process_left_unsynced_is_copied_again(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(10)
    newest = find_segments(the_run(root))[-1][1]
    patch(newest, 200, bytes(300))
    with archived(log, root) as kept:
        kept.fill(1)
    assert sorted(entries_of(ArchivedLog(the_run(root), 0).entries(1, 11))) == list(range(1, 12))


def test_a_part_that_was_missed_begins_another_run(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(30)
    with opened(log) as wal:
        fill(wal, 90, first=31)
        wal.compact(110)
        first = wal.first_index
    with archived(log, root, keep_above=first) as kept:
        kept.fill(30)
    old, new = (ArchivedLog(found, 0) for found in find_runs(root))
    assert (old.first, old.last) == (1, 30)
    assert (new.first, new.last) == (first, 150)


def test_another_data_directory_begins_another_run(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    for disk in (5, 6):
        with archived(tmp_path / f"wal-{disk}", root, disk=disk) as kept:
            kept.fill(disk)
    assert sorted(ArchivedLog(found, 0).last for found in find_runs(root)) == [5, 6]


def test_times_say_what_was_committed_when(tmp_path: Path) -> None:
    log, root = tmp_path / "wal", tmp_path / "archive"
    with archived(log, root) as kept:
        kept.fill(90)
    path = the_run(root) / TIMES_FILE
    # A line that was torn, a clock that was set back, and a line that is not whole yet.
    path.write_text("100.0 10\n200.5 20\nneither\n150.0 25\n300.0 90\n400.0 8")
    read = ArchivedLog(the_run(root), 0)
    assert [read.index_at(at) for at in (99.9, 100.0, 199.0, 201.0, 299.0, 1e12)] == [0, 10, 25, 25, 25, 90]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of several segments."""
    path = tmp_path_factory.mktemp("whole")
    with archived(path / "wal", path / "archive") as kept:
        kept.fill(90)
    return the_run(path / "archive")


def test_only_the_segments_that_are_needed_are_read(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "run"))
    patch(find_segments(copy)[0][1], 300, b"damage")
    read = ArchivedLog(copy, 60)
    assert read.first <= 61
    assert sorted(entries_of(read.entries(61, 90))) == list(range(61, 91))


def test_damage_is_refused(whole: Path, tmp_path: Path) -> None:
    spoilt = {
        "bit": lambda files: patch(files[1], 300, b"damage"),
        "gap": lambda files: files[1].unlink(),
        "cut": lambda files: os.truncate(files[1], 2000),
        "head": lambda files: patch(files[0], 10, b"damage"),
        "about": lambda files: (files[0].parent / "archive.json").write_text("{}"),
        "nothing": lambda files: [path.unlink() for path in files],
    }
    for name, spoil in spoilt.items():
        copy = Path(shutil.copytree(whole, tmp_path / name))
        spoil([path for _, path in find_segments(copy)])
        with pytest.raises(BadArchive):
            ArchivedLog(copy, 0)


def test_what_no_backup_needs_goes(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "run"))
    segments = len(find_segments(copy))
    removed = prune(copy, 60)
    assert 0 < len(removed) < segments
    assert sorted(entries_of(ArchivedLog(copy, 60).entries(61, 90))) == list(range(61, 91))
    assert prune(copy, 60) == []
    assert len(prune(copy, 1 << 40)) == segments - len(removed) - 1       # the newest stays: it grows
