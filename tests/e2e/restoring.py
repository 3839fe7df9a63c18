"""The `fastkv snapshot` command as an operator types it, and new clusters that are made of what it has saved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.cluster import Cluster

SMALL_SEGMENTS = "storage:\n  segment_bytes: 65536\n"


def snapshot(*arguments: str, before: Callable[[], None] | None = None) -> tuple[int, dict[str, Any]]:
    """Exit status and answer of `fastkv snapshot …`; `before` runs in the process that becomes it."""
    command = [sys.executable, "-m", "fastkv", "snapshot", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, preexec_fn=before)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def save(path: Path, endpoints: str, *more: str) -> dict[str, Any]:
    """A backup in that file."""
    status, said = snapshot("save", str(path), "--endpoints", endpoints, *more)
    assert status == 0, said
    return said


def new_cluster(directory: Path, nodes: int = 3) -> Cluster:
    """One that has not been restored yet."""
    directory.mkdir(parents=True)
    return Cluster(directory, nodes, extra=SMALL_SEGMENTS)


def restore(
    path: Path, cluster: Cluster, node_id: str, *more: str, before: Callable[[], None] | None = None
) -> tuple[int, dict[str, Any]]:
    """Restore one of the cluster's nodes."""
    arguments = ("restore", str(path), "--config", str(cluster.config), "--node-id", node_id, *more)
    return snapshot(*arguments, before=before)


def restored_cluster(path: Path, directory: Path, *more: str) -> tuple[Cluster, list[dict[str, Any]]]:
    """A cluster of three that is restored from the file, and not started yet; what each restore has said."""
    cluster = new_cluster(directory)
    said = []
    for node in cluster:
        status, answer = restore(path, cluster, node.node_id, *more)
        assert status == 0, answer
        said.append(answer)
    return cluster, said
