"""`fastkv chaos` as a command: what it refuses, and that it ends cleanly when it is told to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastkv.chaos.modes import MODES
from fastkv.cli import cli
from fastkv.cli.chaos import chaos
from fastkv.cli.chaos_runs import MODES as COMMANDS
from fastkv.cli.chaos_runs import _directory

LIMIT_S = 60.0


def refused(*arguments: str) -> str:
    """The one line with which a command that cannot be run ends, with status 2."""
    result = CliRunner().invoke(cli, ["chaos", *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    return result.stderr


def test_every_mode_is_a_command_with_words_for_it() -> None:
    assert set(COMMANDS) == set(MODES)
    assert set(MODES) <= set(chaos.commands)


@pytest.mark.parametrize("mode", ["no-such", "random_failures", "network"])
def test_a_wrong_mode_is_one_line_that_names_the_modes(mode: str) -> None:
    line = refused(mode)
    assert line.count("\n") == 1
    assert repr(mode) in line
    assert all(each in line for each in MODES)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--seconds 0", "seconds"), ("--seconds soon", "seconds"), ("--seed -1", "seed"), ("--nodes 4", "nodes"),
        ("--network none", "network"), ("--no-such", "no-such"),
    ],
)  # fmt: skip
def test_bad_options_are_wrong_usage(arguments: str, says: str) -> None:
    assert says in refused("random-failures", *arguments.split())


def test_two_runs_are_not_mixed(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text("")
    line = refused("random-failures", "--output", str(tmp_path))
    assert "is not empty" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("has_tools", "user", "says"),
    [(False, 0, "sudo apt-get install iproute2 nftables util-linux"), (True, 1000, "needs root")],
)
def test_missing_tools_and_rights_are_said_in_one_line(
    has_tools: bool, user: int, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: "/usr/bin/it" if has_tools else None)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    line = refused("random-failures", "--network", "namespaces", "--output", str(tmp_path / "out"))
    assert says in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_an_output_each_run_has_a_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = [_directory(None, "split-7") for _ in range(3)]
    assert [path.relative_to(tmp_path) for path in made] == [
        Path("data/chaos/split-7"), Path("data/chaos/split-7-2"), Path("data/chaos/split-7-3")
    ]  # fmt: skip


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_judges_nothing_and_leaves_nobody(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fastkv", "chaos", "network-partition", "--seconds", "600", "--json"]
    run = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),     # as in the background of a shell
    )  # fmt: skip
    history = tmp_path / "out" / "history.jsonl"
    deadline = time.monotonic() + LIMIT_S
    while not (history.exists() and history.stat().st_size):
        assert run.poll() is None
        assert time.monotonic() < deadline, "it never began"
        time.sleep(0.02)
    nodes = _children(run.pid)
    assert len(nodes) == 3
    run.send_signal(number)
    said, _ = run.communicate(timeout=LIMIT_S)
    assert run.returncode == 1
    assert json.loads(said)["code"] == "INTERRUPTED"
    assert not (tmp_path / "out" / "verdict.json").exists()
    assert not any(_is_there(node) for node in nodes)
