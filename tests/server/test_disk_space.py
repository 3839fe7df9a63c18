"""The room on a disk: true, and never waited for."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from fastkv.server import disk_space
from fastkv.server.disk_space import DiskSpace
from tests.e2e.cluster import eventually


def test_it_says_what_the_file_system_says(tmp_path: Path) -> None:
    space = DiskSpace(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    assert space.total_bytes == usage.total
    assert 0 < space.free_bytes < usage.total


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        DiskSpace(tmp_path / "nowhere")


def test_a_disk_that_does_not_answer_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = DiskSpace(tmp_path)
    monkeypatch.setattr(disk_space, "MAX_AGE_S", 0.0)
    answers, asked = threading.Event(), []
    known = space.free_bytes

    def silent(path: Path) -> os.statvfs_result:
        asked.append(path)
        answers.wait(30)
        return os.statvfs_result((4096, 4096, 100, 50, 7, 0, 0, 0, 0, 255))

    monkeypatch.setattr(disk_space.os, "statvfs", silent)
    for _ in range(3):
        space.refresh()
    assert (space.free_bytes, len(asked)) == (known, 1), "one question at a time"
    answers.set()
    eventually(lambda: space.free_bytes == 7 * 4096 and space.total_bytes == 100 * 4096, within_s=30, what="its answer")


def test_a_fresh_answer_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = DiskSpace(tmp_path)
    monkeypatch.setattr(disk_space, "MAX_AGE_S", 3600.0)
    before = threading.active_count()
    space.refresh()
    assert threading.active_count() == before
