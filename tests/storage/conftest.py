"""Logs that the recovery tests copy and do things to, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastkv.log_types import HardState
from tests.storage.logs import NODE, opened, run, snapshot, write


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five entries, each durable before the next was written, in one segment."""
    path = tmp_path_factory.mktemp("one")
    with opened(path / "live") as wal:
        write(wal, hard_state=HardState(1, NODE, 0))
        for index in range(1, 6):
            write(wal, run(index, 1, b"entry %d" % index))
        return snapshot(wal, path / "live", path / "copy")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventy entries in several segments."""
    path = tmp_path_factory.mktemp("three")
    with opened(path / "live") as wal:
        for index in range(1, 71):
            write(wal, run(index, 1, b"%09d " % index * 10))
        return snapshot(wal, path / "live", path / "copy")
