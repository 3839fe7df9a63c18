"""docs/quickstart.md, from its first command to its last, as they stand there, in a shell, on other ports."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastkv.cli.local.detached import read_record
from tests.cli.conftest import free_range
from tests.e2e.cluster import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "quickstart.md").read_text()
STEPS = re.findall(r"^```(console|bash|python)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PATIENT = "raft: {election_timeout_ms: 2000, heartbeat_timeout_ms: 200}\n"
"""So that a busy machine costs no leader where the page does not expect it."""
LIMIT_S = 120.0


class Reader:
    """Somebody who follows the page in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = free_range(10)
        self.second_terminal: subprocess.Popen[bytes] | None = None
        self.said: dict[str, str] = {}
        config = directory / "patient.yaml"
        nodes = "".join(f'    node-{i}: "localhost:900{i}"\n' for i in (1, 2, 3))
        config.write_text(f'cluster:\n  name: "quickstart"\n  data_dir: "./data/cluster"\n  nodes:\n{nodes}{PATIENT}')
        self.start = f"cluster up --config {config} --base-raft-port {self.base} --base-http-port {self.base + 5}"
        self.endpoints = ",".join(f"localhost:{self.base + i}" for i in range(3))
        command = directory / "fastkv"
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m fastkv "$@"\n')
        command.chmod(0o755)
        self.environ = {
            **os.environ,
            "PATH": f"{directory}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FASTKV_ENDPOINTS": self.endpoints,
        }

    def elsewhere(self, text: str) -> str:
        """The text with this cluster's ports and files in place of the page's."""
        for i in range(3):
            text = text.replace(f"localhost:{9001 + i}", f"localhost:{self.base + i}")
            text = text.replace(f"localhost:{8081 + i}", f"localhost:{self.base + 5 + i}")
        return text.replace("config/multi-node-cluster.yaml", "data/cluster/cluster.yaml")

    def type(self, command: str) -> None:
        """One command in the first terminal."""
        if command == ". .venv/bin/activate":
            return
        # The script installs, and then is `fastkv cluster up`; what it installs is what runs this test.
        typed = self.elsewhere(command).replace("./scripts/start-cluster.sh", f"fastkv {self.start}")
        if typed.startswith("curl "):
            typed = typed.replace("curl ", "curl -sS --fail-with-body ")
        done = self.run(["bash", "-c", typed])
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        self.said[command] = done.stdout
        if command.startswith("kill "):
            eventually(lambda: self.run(["fastkv", "cluster", "status"]).returncode == 0, within_s=90, what="a leader")

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.directory, env=self.environ, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )

    def open_second_terminal(self, command: str) -> None:
        """A command that goes on, until its node answers."""
        self.second_terminal = subprocess.Popen(
            shlex.split(self.elsewhere(command)),
            cwd=self.directory,
            env=self.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        own = ["fastkv", "get", "during", "--endpoints", f"localhost:{self.base + 1}"]
        eventually(lambda: self.run(own).returncode == 0, within_s=90, what="node-2 is back")

    def close(self) -> None:
        if self.second_terminal is not None:
            self.second_terminal.send_signal(signal.SIGINT)
            assert self.second_terminal.wait(timeout=LIMIT_S) == 0
        self.run(["fastkv", "cluster", "stop"])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    somebody = Reader(tmp_path)
    yield somebody
    somebody.close()


def test_the_page_works_from_beginning_to_end(reader: Reader) -> None:
    for language, block in STEPS:
        if language == "python":
            done = reader.run([sys.executable, "-c", reader.elsewhere(block)])
            assert (done.returncode, done.stdout) == (0, "node-b\n"), done.stderr
        elif language == "bash":
            reader.open_second_terminal(block.strip())
        else:
            for line in block.splitlines():
                if line.startswith("$ "):
                    reader.type(line[2:].split("  #")[0].strip())
    said = reader.said
    assert said["fastkv get user:john"] == "John Doe\n"
    assert said["fastkv mget user:john user:mary"] == said["fastkv scan user:"]
    assert [said["fastkv incr visits"], said["fastkv incr visits --by 10"]] == ["1\n", "11\n"]
    assert '"value":"the outage"' in said["curl http://localhost:8082/kv/during"]
    assert "the nodes agree" in said["fastkv inspect data"]
    assert not read_record(reader.directory / "data" / "cluster"), "nothing of it runs any more"
