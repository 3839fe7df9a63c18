"""The commands of docs/backup.md, as they stand there and in their order, on a real cluster that archives its log."""

from __future__ import annotations

import re
import shlex
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

import fastkv
from fastkv.chaos.ports import free_ports
from fastkv.cli import cli
from fastkv.storage.archive import TIMES_FILE
from fastkv.storage.archive_read import find_runs
from tests.e2e.cluster import PATIENT, Cluster, Node, eventually, running_cluster
from tests.e2e.restoring import SMALL_SEGMENTS, new_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [shlex.split(line[2:]) for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]


class Operator:
    """Types the page's commands in a directory of its own, where it has the files that the page speaks of."""

    def __init__(self, old: Cluster, directory: Path) -> None:
        self.old = old
        self.directory = directory
        self.backups = directory / "backup"
        self.backups.mkdir()
        self.new = new_cluster(directory / "new-cluster")
        (directory / "new-cluster.yaml").symlink_to(self.new.config)
        self.started: list[Node] = []
        self.endpoints = old.endpoints
        self.ports: dict[str, tuple[int, int]] = {}
        self.revision = 0
        self.moment = ""

    def of_one_node(self, name: str) -> Node:
        """A node of a cluster of one, by that configuration, which is made where there is none."""
        config = self.directory / f"{name}.yaml"
        if not config.exists():
            raft, http = free_ports(2)
            config.write_text(
                f'cluster:\n  name: "{name}"\n  data_dir: "{self.directory / name / "data"}"\n'
                f'  nodes:\n    node-1: {{raft: "127.0.0.1:{raft}", http: "127.0.0.1:{http}"}}\n{SMALL_SEGMENTS}'
            )
            (self.directory / name).mkdir()
            self.ports[name] = (http, raft)
        http, raft = self.ports[name]
        return Node("node-1", config, http, raft, self.directory / name)

    def starts(self, config: str, node_id: str) -> None:
        node = self.new.nodes[node_id] if config == "new-cluster.yaml" else self.of_one_node(Path(config).stem)
        node.start()
        self.started.append(node)
        if config != "new-cluster.yaml":
            leads(node)
            self.endpoints = node.endpoint
        elif len(self.started) == 3:
            self.new.leader()
            self.endpoints = self.new.endpoints

    def write_on(self) -> None:
        """What happens between the backup and the moments to restore to."""
        with fastkv.connect(self.old.endpoints, timeout=60) as kv:
            self.revision = kv.put("moment", "that is wanted")
            self.until_archived()
            self.moment = datetime.fromtimestamp(time.time(), UTC).isoformat()
            kv.put("moment", "that comes too late")
            kv.put("last", "1")
            self.until_archived()

    def until_archived(self) -> None:
        """Wait until every node has looked at its log, and noted when, once more."""
        before = self.looks()
        eventually(
            lambda: len(looks := self.looks()) == len(self.old.nodes)
            and all(count > before.get(run, 0) for run, count in looks.items()),
            within_s=60, what="the archive to note the write",
        )  # fmt: skip

    def looks(self) -> dict[Path, int]:
        """How often each node has archived what was new; a node that has yet to begin has no file, or no run."""
        files = [run / TIMES_FILE for run in find_runs(self.directory / "archive")]
        return {file: len(file.read_text().splitlines()) for file in files if file.exists()}

    def types(self, command: list[str]) -> str:
        names = {"/backup": str(self.backups), "/archive": str(self.directory / "archive")}
        command = [names.get(word, word) for word in command]
        for option, value in (("--to-revision", str(self.revision)), ("--to-time", self.moment)):
            if option in command:
                command[command.index(option) + 1] = value
        if "--cluster" in command:
            command[command.index("--cluster") + 1] = f"test-{self.old.directory.name}"
        if "--config" in command and (name := Path(command[command.index("--config") + 1]).stem) != "new-cluster":
            self.of_one_node(name)
        if command[1] == "inspect" or command[2] == "save":
            command += ["--endpoints", self.endpoints]
        done = CliRunner().invoke(cli, command[1:])     # in this process: starting one takes longer than most of them
        assert done.exit_code == 0, f"{command}: {done.output}{done.exception!r}"
        return done.stdout

    def close(self) -> None:
        for node in self.started:
            if node.running:
                node.kill()


def test_the_page_s_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) >= 15
    archive = f'backup:\n  archive_dir: "{tmp_path / "archive"}"\n  archive_interval_s: 1\n{SMALL_SEGMENTS}{PATIENT}'
    (tmp_path / "old").mkdir()
    with running_cluster(tmp_path / "old", extra=archive) as old:
        operator = Operator(old, tmp_path)
        try:
            with fastkv.connect(old.endpoints, timeout=60) as kv:
                for number in range(20):
                    kv.put(f"key-{number}", str(number))
            for command in COMMANDS:
                if "--archive" in command and not operator.revision:
                    operator.write_on()
                if command[1] == "serve":
                    operator.starts(command[3], command[-1] if "--node-id" in command else "node-1")
                else:
                    said = operator.types(command)
                if command[1] == "inspect":
                    assert "key-3" in said
                if command[2] == "save":
                    operator.endpoints = old.endpoints
            for name, wanted in (("to-revision", "that is wanted"), ("to-time", "that is wanted")):
                check_moment(operator, name, wanted)
            check_moment(operator, "to-the-end", "that comes too late")
        finally:
            operator.close()


def leads(node: Node) -> None:
    """Wait until a node that is alone leads."""
    eventually(lambda: node.status().get("is_leader"), within_s=60, what=f"{node.data_path} to be served")


def check_moment(operator: Operator, name: str, wanted: str) -> None:
    """Start the node that was restored to a moment, and look what it has."""
    node = operator.of_one_node(name)
    node.start()
    operator.started.append(node)
    leads(node)
    with fastkv.connect(node.endpoint, timeout=60) as kv:
        assert kv.get("moment").value == wanted.encode()
        assert (kv.get("last").value is not None) == (name == "to-the-end")
