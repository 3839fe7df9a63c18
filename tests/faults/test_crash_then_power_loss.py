"""First a process is killed, and its page cache lives; the next start reads what was never synced; then the power goes.

Whatever that start has relied on has to be there afterwards: it has acknowledged entries, voted, and cut the log on the
strength of it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import part_lives
from tests.faults.lossy_disk import Kind, Loss
from tests.faults.lossy_mount import LossyMount, mounted_or_skipped
from tests.faults.small_node import Plan, Promises, check, live, said_by, save_image
from tests.faults.storage_rounds import storage_round

BEFORE_THE_FIRST_ENTRY = 13
"""So many directory syncs has a first start. Then another thread's come as well, which may be late."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LossyMount]:
    """A lossy disk."""
    with mounted_or_skipped(tmp_path) as mount:
        yield mount


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of another node."""
    return save_image(tmp_path_factory.mktemp("image"))


def durable_directory(path: Path) -> Path:
    """A directory that no power loss takes away."""
    path.mkdir()
    fd = os.open(path.parent, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return path


def lose_power(disk: LossyMount, loss: Loss = Loss.ALL, seed: int = 0) -> None:
    disk.cut(loss, seed)
    disk.power_on()


def test_names_that_a_killed_start_had_not_synced(disk: LossyMount) -> None:
    """Killed before each of the first start's directory syncs: data directory, identity, log, store, `joins`."""
    lives = {}
    for number in range(1, 17):
        promises, data = Promises(), durable_directory(disk.path / str(number)) / "data"
        disk.arm_kill(number, [Kind.SYNC_NAMES])
        assert live(data, Plan(4, joins_at=1), promises)
        assert disk.changes()["fired"] or number > BEFORE_THE_FIRST_ENTRY
        assert live(data, Plan(3), promises)
        assert promises.index >= 6
        lives[data] = promises
    lose_power(disk)
    wrong = {str(data): check(data, promises) for data, promises in lives.items()}
    assert not any(wrong.values()), wrong


def test_a_segment_whose_name_a_killed_process_had_not_synced(disk: LossyMount) -> None:
    """The log goes on in a segment that is there under its name, and entries in it are acknowledged."""
    path = durable_directory(disk.path / "wal")
    # The first sync is the start's, the second the first segment's, the third the prepared one's.
    disk.arm_kill(3, [Kind.SYNC_NAMES])
    assert said_by(part_lives.prepare, path)[1] == -signal.SIGKILL
    assert disk.changes()["fired"]
    assert sorted(file.name for file in path.iterdir()) == [f"{1:016x}.wal", f"{2:016x}.wal"]
    said, _ = said_by(part_lives.roll, path)
    acknowledged = said[-1]["index"]
    lose_power(disk)
    assert said_by(part_lives.last_index, path) == ([{"index": acknowledged}], 0)


def test_a_checkpoint_that_was_killed_between_its_write_and_its_sync(disk: LossyMount) -> None:
    """The next start sees how far it goes, and would cut the log up to there."""
    believed = {}
    for number in range(6, 20):     # of syncs: those before made the store
        path = durable_directory(disk.path / str(number))
        disk.arm_kill(number, [Kind.SYNC])
        before, status = said_by(part_lives.checkpoints, path, 6)
        assert status == -signal.SIGKILL
        assert disk.changes()["fired"]
        said, _ = said_by(part_lives.checkpoints, path, 0)
        believed[path] = (before[-1]["applied"] if before else 0, said[0]["applied"])
    assert any(seen > completed for completed, seen in believed.values()), "none was cut short where it matters"
    lose_power(disk)
    for path, (_, seen) in believed.items():
        assert said_by(part_lives.checkpoints, path, 0)[0][0]["applied"] >= seen, path


def test_a_snapshot_whose_name_was_not_synced(disk: LossyMount, image: Path) -> None:
    """The log restarts behind it once a start has found it."""
    path = durable_directory(disk.path / "data") / "store"
    said_by(part_lives.checkpoints, path, 1)
    killed = 0
    while True:
        killed += 1
        disk.arm_kill(killed, [Kind.SYNC_NAMES])
        said_by(part_lives.receive, path, image)
        if path.with_name("store.ready").exists():
            break
        assert disk.changes()["fired"]
    assert disk.changes()["fired"], "it was not cut short between its rename and the sync of that"
    ((said,), _) = said_by(part_lives.pending, path)
    assert said["pending"]
    lose_power(disk)
    assert said_by(part_lives.pending, path) == ([said], 0)


def test_a_first_start_that_loses_power_starts_again(disk: LossyMount) -> None:
    """At the first sync of a new store, which may leave any part of its first pages: half a store is none."""
    for seed in range(8):
        path = durable_directory(disk.path / str(seed))
        disk.arm_cut(1, Loss.SECTORS, seed, [Kind.SYNC])
        said_by(part_lives.checkpoints, path, 1)
        assert disk.changes()["off"]
        disk.power_on()
        said, status = said_by(part_lives.checkpoints, path, 1)
        assert status == -signal.SIGKILL, "it did not start"
        assert said[-1]["applied"] >= 1


@pytest.mark.parametrize("power_goes", [False, True])
def test_a_snapshot_that_was_being_removed_does_not_stop_a_start(
    disk: LossyMount, image: Path, power_goes: bool
) -> None:
    """The log has overtaken it. Killed at each name that goes, with the power lost on top or not."""
    for number in range(1, 20):
        path = durable_directory(disk.path / str(number)) / "store"
        said_by(part_lives.checkpoints, path, 1)
        said_by(part_lives.receive, path, image, True)
        disk.arm_kill(number, [Kind.NAME])
        said_by(part_lives.pending, path)
        fired = disk.changes()["fired"]
        if power_goes:
            lose_power(disk, Loss.SECTORS, number)
        assert said_by(part_lives.pending, path) == ([{"pending": None}], 0), number
        if not fired:
            break
    assert not fired
    assert number > 2


@pytest.mark.parametrize("seed", range(4))
def test_any_kills_and_power_cuts(disk: LossyMount, image: Path, seed: int) -> None:
    """Rounds of them; `python -m tests.faults.power_loss storage` runs more."""
    outcome = storage_round(seed, disk, image)
    assert not outcome.wrong, "\n".join(outcome.wrong + outcome.told)
    assert outcome.cuts
