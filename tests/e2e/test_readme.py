"""The commands and the example of the README, run as they stand, on other ports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import Cluster, Node, running_cluster

pytestmark = pytest.mark.e2e

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    # Patient, so that a busy machine costs no leader in the middle of a measurement: `fastkv bench` tells every error.
    with running_cluster(tmp_path, extra="raft: {election_timeout_ms: 3000, heartbeat_timeout_ms: 300}\n") as started:
        yield started


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands(block: str) -> list[str]:
    """The commands of a console block: continued lines joined, comments left out."""
    joined = block.replace("\\\n", " ")
    return [line[2:].split("  #")[0].strip() for line in joined.splitlines() if line.startswith("$ ")]


def elsewhere(text: str, nodes: Iterable[Node]) -> str:
    """The text with these nodes' ports in place of the default ones."""
    for number, node in enumerate(nodes, 1):
        text = text.replace(f"localhost:{8080 + number}", f"127.0.0.1:{node.http_port}")
        text = text.replace(f"localhost:{9000 + number}", node.endpoint)
    return text


def walk_through(nodes: Iterable[Node]) -> None:
    """Every command of the walk, against these three nodes."""
    nodes = list(nodes)
    (walk,) = [block for block in blocks("console") if "curl" in block]
    answers = []
    for command in commands(walk):
        done = subprocess.run(
            ["bash", "-c", elsewhere(command.replace("curl ", "curl -sS --fail-with-body "), nodes)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answers.append(done.stdout)
    assert len(answers) == 9
    assert answers[2] == answers[3] == answers[4]
    assert "John Doe, Software Engineer" in answers[2]
    assert answers[0].count('"Follower"') == 2


def test_the_walk_s_curl_commands(cluster: Cluster) -> None:
    walk_through(cluster)


def test_the_python_example(cluster: Cluster) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", elsewhere(example, cluster)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "b'user:john' b'J. Doe'\n"


def test_the_shell_commands(cluster: Cluster, tmp_path: Path) -> None:
    (shell,) = [block for block in blocks("console") if "fastkv put" in block]
    first: Node = next(iter(cluster))
    for command in commands(shell):
        command = command.replace("--seconds 5", "--seconds 1") + f" --endpoints {cluster.endpoints}"
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=tmp_path,       # one of them writes a file
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if command.startswith("fastkv get"):
            assert done.stdout == "hello\n"
    assert first.get("greeting")[1]["value"] == "hello"
