"""The `fastkv snapshot` command as an operator types it, and new clusters that are made of what it has saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from fastkv.cli import cli
from tests.e2e.cluster import Cluster

SMALL_SEGMENTS = "storage:\n  segment_bytes: 65536\n"


def snapshot(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit status and answer of `fastkv snapshot …`, in this process: starting one takes longer than most of them."""
    done = CliRunner().invoke(cli, ["snapshot", *arguments, "--json"])
    assert done.stdout, (done.output, done.exception)
    return done.exit_code, json.loads(done.stdout)


def save(path: Path, endpoints: str, *more: str) -> dict[str, Any]:
    """A backup in that file."""
    status, said = snapshot("save", str(path), "--endpoints", endpoints, *more)
    assert status == 0, said
    return said


def new_cluster(directory: Path, nodes: int = 3) -> Cluster:
    """One that has not been restored yet."""
    directory.mkdir(parents=True)
    return Cluster(directory, nodes, extra=SMALL_SEGMENTS)


def restore(path: Path, cluster: Cluster, node_id: str, *more: str) -> tuple[int, dict[str, Any]]:
    """Restore one of the cluster's nodes."""
    return snapshot("restore", str(path), "--config", str(cluster.config), "--node-id", node_id, *more)


def restored_cluster(path: Path, directory: Path, *more: str) -> tuple[Cluster, list[dict[str, Any]]]:
    """A cluster of three that is restored from the file, and not started yet; what each restore has said."""
    cluster = new_cluster(directory)
    said = []
    for node in cluster:
        status, answer = restore(path, cluster, node.node_id, *more)
        assert status == 0, answer
        said.append(answer)
    return cluster, said
