"""The shell scripts: what they do before anything is installed, what they say of a machine that lacks something, and
what they keep in .venv. What comes after, `fastkv cluster`, has its tests in tests/cli."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.cli.conftest import free_range

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci/run"])
VENV = ROOT / ".venv"
LIMIT_S = 60

BASICS = ("bash", "basename", "cat", "cut", "dirname", "env", "id", "rm", "sed", "sha256sum")
"""What a script may use before it has looked for anything: bash and the coreutils."""


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A directory of commands with the basics and nothing else, to be a PATH; tests add what they want found."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in BASICS:
        (directory / name).symlink_to(str(shutil.which(name)))
    return directory


def add(directory: Path, name: str, body: str) -> None:
    command = directory / name
    command.write_text(f"#!/usr/bin/env bash\n{body}\n")
    command.chmod(0o755)


def bash(script: str, path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run lines of bash with the library loaded from a copy of the project at `path.parent/project`."""
    project = path.parent / "project"
    if not project.exists():
        (project / "fastkv").mkdir(parents=True)
        shutil.copytree(ROOT / "scripts", project / "scripts")
        for name in ("pyproject.toml", "setup.py", "fastkv/version.py"):
            shutil.copy(ROOT / name, project / name)
        (project / "fastkv/_core").mkdir()
        for name in ("codes.pyx", "codes.pxd"):
            shutil.copy(ROOT / "fastkv/_core" / name, project / "fastkv/_core" / name)
    return subprocess.run(
        ["bash", "-c", f'set -euo pipefail; source "$1/scripts/lib.sh"; {script}', "a-script", str(project)],
        env={"PATH": str(path), "HOME": str(path), **environ},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


GOOD_PYTHON = 'case "$*" in *ensurepip*) exit 0 ;; *Python.h*) exit 0 ;; *-dev*) echo python3.99-dev ;; esac'


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize(
    "name", ["benchmark.sh", "chaos-test.sh", "docs.sh", "start-cluster.sh", "stop-cluster.sh", "test.sh"]
)
def test_help_needs_nothing_and_builds_nothing(name: str, bare: Path) -> None:
    result = subprocess.run(
        [str(ROOT / "scripts" / name), "--help"], env={"PATH": str(bare)}, capture_output=True, text=True, check=True
    )
    assert f"scripts/{name}" in result.stdout
    assert "set -euo" not in result.stdout


def test_a_machine_without_python_or_compiler_is_told_so_in_one_line(bare: Path) -> None:
    result = bash("install_fastkv", bare)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "missing: Python 3.11 or newer, with pip and venv, a C compiler." in result.stderr
    assert "apt-get install python3 python3-venv python3-dev gcc libc6-dev" in result.stderr


def test_an_old_python_is_as_good_as_none(bare: Path) -> None:
    add(bare, "cc", "exit 0")
    add(bare, "python3", "exit 1")
    result = bash("install_fastkv", bare)
    assert result.returncode == 1
    assert "missing: Python 3.11 or newer, with pip and venv." in result.stderr


def test_a_newer_python_under_another_name_is_found(bare: Path) -> None:
    add(bare, "python3", "exit 1")
    add(bare, "python3.12", GOOD_PYTHON)
    assert bash('find_python && echo "$PYTHON"', bare).stdout == f"{bare}/python3.12\n"
    assert bash('find_python && echo "$PYTHON"', bare, PYTHON="/no/such/python").stdout == f"{bare}/python3.12\n"


def test_missing_headers_are_named_for_that_python(bare: Path) -> None:
    add(bare, "cc", "exit 0")
    add(bare, "python3", GOOD_PYTHON.replace("*Python.h*) exit 0", "*Python.h*) exit 1"))
    result = bash("install_fastkv", bare)
    assert result.returncode == 1
    assert "missing: Python's headers (Python.h)." in result.stderr
    assert "apt-get install python3.99-dev" in result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs")
def test_root_installs_what_is_missing(bare: Path) -> None:
    add(bare, "apt-get", f'echo "$*" >> {bare}/asked; case $1 in install) touch {bare}/jq; chmod +x {bare}/jq ;; esac')
    for name in ("touch", "chmod"):
        (bare / name).symlink_to(str(shutil.which(name)))
    lines = 'need jq "jq itself" command -v jq; provide; need jq "jq itself" command -v jq; provide; echo there'
    result = bash(lines, bare)
    assert result.stdout == "there\n", result.stderr
    assert (bare / "asked").read_text().splitlines() == ["update -qq", "install -y -qq --no-install-recommends jq"]
    assert "installing jq itself" in result.stderr


FAKE_VENV_PYTHON = """
case "$*" in
    -VV) echo 'Python 3.99' ;;
    '-m pip install'*) echo "$*" >> "$(dirname "$0")/installs" ;;
esac
"""


def test_an_installation_is_made_once_for_each_state_of_the_sources(bare: Path) -> None:
    add(bare, "cc", "exit 0")
    add(bare, "python3", GOOD_PYTHON)
    bash("true", bare)  # lays out the copy of the project
    project = bare.parent / "project"
    (project / ".venv/bin").mkdir(parents=True)
    add(project / ".venv/bin", "python", FAKE_VENV_PYTHON)

    def installs(script: str) -> list[str]:
        result = bash(script, bare)
        assert result.returncode == 0, result.stderr
        record = project / ".venv/bin/installs"
        lines = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return [line.rpartition("--editable ")[2] for line in lines]

    assert installs("install_fastkv") == [str(project)]
    assert installs("install_fastkv") == []
    assert installs("install_fastkv dev") == [f"{project}[dev]"], "the plain installation lacks what tests need"
    assert installs("install_fastkv dev; install_fastkv") == [], "the one for tests has all of the plain one"
    assert installs("install_fastkv chaos") == [], "and of the one for chaos runs"
    (project / "fastkv/config.py").touch()
    assert installs("install_fastkv dev") == [], "Python sources are used where they are"
    with (project / "fastkv/_core/codes.pyx").open("a") as source:
        source.write("\n# changed\n")
    assert installs("install_fastkv dev") == [f"{project}[dev]"]
    (project / ".venv/fastkv-stamp").unlink()
    assert installs("install_fastkv") == [str(project)]


def test_a_failed_installation_is_not_remembered(bare: Path) -> None:
    add(bare, "cc", "exit 0")
    add(bare, "python3", GOOD_PYTHON)
    bash("true", bare)
    venv = bare.parent / "project/.venv"
    (venv / "bin").mkdir(parents=True)
    add(venv / "bin", "python", FAKE_VENV_PYTHON.replace("echo \"$*\" >>", "exit 1 #"))
    result = bash("install_fastkv", bare)
    assert result.returncode == 1
    assert "building fastkv failed" in result.stderr
    assert not (venv / "fastkv-stamp").exists()


def test_stop_without_an_installation_has_nothing_to_stop(bare: Path) -> None:
    bash("true", bare)
    script = bare.parent / "project/scripts/stop-cluster.sh"
    result = subprocess.run([str(script)], env={"PATH": str(bare)}, capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "nothing to stop" in result.stderr


def test_start_hands_its_options_and_the_project_s_own_defaults_on(bare: Path, tmp_path: Path) -> None:
    add(bare, "cc", "exit 0")
    add(bare, "python3", GOOD_PYTHON)
    bash("true", bare)
    project = bare.parent / "project"
    (project / ".venv/bin").mkdir(parents=True)
    add(project / ".venv/bin", "python", FAKE_VENV_PYTHON)
    add(project / ".venv/bin", "fastkv", 'printf "%s\\n" "$@"')

    def given(*arguments: str, **environ: str) -> list[str]:
        elsewhere = tmp_path / "else where"
        elsewhere.mkdir(exist_ok=True)
        return subprocess.run(
            [str(project / "scripts/start-cluster.sh"), *arguments],
            cwd=elsewhere, env={"PATH": str(bare), **environ}, stdout=subprocess.PIPE, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip

    config, data = str(project / "config/multi-node-cluster.yaml"), str(project / "data/cluster")
    assert given() == ["cluster", "up", "--config", config, "--data-dir", data]
    assert given("--data-dir", "a b", "--clean")[6:] == ["--data-dir", "a b", "--clean"]
    assert given("--config", "own.yaml") == ["cluster", "up", "--config", "own.yaml"]
    assert given(KV_DATA_DIR="/d", KV_CONFIG="/c")[2:] == ["--config", "/c", "--data-dir", "/d"]


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(not VENV.exists(), reason="scripts/test.sh makes .venv")
def test_start_detached_talk_and_stop(tmp_path: Path) -> None:
    """The promise of the README, on other ports, from another directory: a cluster that answers, and is gone after."""
    base = free_range(10)
    data = tmp_path / "data"
    start = [
        str(ROOT / "scripts/start-cluster.sh"), "--detach", "--data-dir", "data",
        "--base-raft-port", str(base), "--base-http-port", str(base + 5),
    ]  # fmt: skip
    stop = [str(ROOT / "scripts/stop-cluster.sh"), "--data-dir", "data"]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("KV_", "RAFT_"))}
    try:
        up = subprocess.run(start, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=600, check=False)
        assert up.returncode == 0, up.stdout + up.stderr
        for i, method in enumerate(("PUT", "GET", "GET")):
            request = urllib.request.Request(
                f"http://127.0.0.1:{base + 5 + i}/kv/greeting", b"hello" if method == "PUT" else None, method=method
            )
            with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
                assert answer.status in (200, 201)
        assert (data / "node-1").is_dir()
    finally:
        down = subprocess.run(stop, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert down.returncode == 0
    assert [f"node-{i}: stopped" in down.stdout for i in (1, 2, 3)] == [True] * 3, down.stdout
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", base)) != 0, "somebody still listens"
