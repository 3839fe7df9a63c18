"""What is said of the process, beside what prometheus-client's own collector says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from fastkv.server import process_metrics
from fastkv.server.process_metrics import ProcessMetrics, open_file_count


def test_it_says_what_prometheus_client_says() -> None:
    registry = CollectorRegistry()
    registry.register(ProcessMetrics("fastkv"))
    ProcessCollector(namespace="client", registry=registry)
    for name, within in [
        ("cpu_seconds_total", 1.0),
        ("virtual_memory_bytes", 1 << 26),
        ("resident_memory_bytes", 1 << 26),
        ("start_time_seconds", 0.02),
        ("open_fds", 3),
        ("max_fds", 0),
    ]:
        ours, theirs = (registry.get_sample_value(f"{prefix}_process_{name}") for prefix in ("fastkv", "client"))
        assert ours == pytest.approx(theirs, abs=within), name


def test_open_files_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = open_file_count()
    opened = [os.open(tmp_path, os.O_RDONLY) for _ in range(50)]
    assert open_file_count() == before + 50
    for each in opened:
        os.close(each)
    # An older kernel, which does not say how many there are.
    stat_of = os.stat

    class Unsized:
        st_size = 0

    monkeypatch.setattr(process_metrics.os, "stat", lambda path: Unsized())
    counted = open_file_count()
    monkeypatch.setattr(process_metrics.os, "stat", stat_of)
    assert counted in (before, before + 1), "listing them takes one more"


def test_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_metrics, "_PROC", tmp_path)
    assert list(ProcessMetrics("fastkv").collect()) == []
