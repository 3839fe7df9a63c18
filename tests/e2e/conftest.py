"""Fixtures of the end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import PATIENT, Cluster, running_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three fresh nodes with a leader."""
    with running_cluster(tmp_path) as started:
        yield started


@pytest.fixture
def patient_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The same, whose leader no pause of a busy machine puts in doubt."""
    with running_cluster(tmp_path, extra=PATIENT) as started:
        yield started
