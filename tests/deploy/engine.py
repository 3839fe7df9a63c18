"""A Docker engine to test with: the one that runs, or one of our own, as root, which leaves nothing behind.

Everything of an engine of our own is in one temporary directory. It is told to leave the machine's packet filter and
routing alone: containers of one network reach each other without, and ports that are published on 127.0.0.1 are
forwarded by a process of the engine. Mounts and interfaces go with the containers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cluster import eventually

START_LIMIT_S = 120.0
COMMAND_LIMIT_S = 300.0
GENTLE = ("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")


class EngineUnavailable(Exception):
    """There is no engine, and none can be started. The text says why, and what would help."""


class Engine:
    """The docker command against one engine."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = {**os.environ, **environment}

    def run(self, *command: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S,
            **environment: str) -> subprocess.CompletedProcess[str]:
        """Run any command with this engine as its DOCKER_HOST. AssertionError with its output where it fails."""
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit_s, check=False, stdin=subprocess.DEVNULL,
            env={**self.environment, **environment},
        )  # fmt: skip
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def docker(self, *arguments: str, check: bool = True, limit_s: float = COMMAND_LIMIT_S) -> str:
        """What a docker command prints on its standard output."""
        return self.run("docker", *arguments, check=check, limit_s=limit_s).stdout.strip()

    @property
    def answers(self) -> bool:
        """Whether the engine is there."""
        return self.run("docker", "info", "--format", "{{.ServerVersion}}", check=False).returncode == 0


def compose_command(engine: Engine) -> list[str]:
    """How Compose is called here. EngineUnavailable where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and engine.run(*command, "version", check=False).returncode == 0:
            return command
    raise EngineUnavailable("no Docker Compose: apt-get install docker-compose")


@contextmanager
def running_engine(directory: Path) -> Iterator[Engine]:
    """An engine that answers. EngineUnavailable where that is impossible."""
    if not shutil.which("docker"):
        raise EngineUnavailable("no docker command: apt-get install docker.io docker-compose")
    present = Engine({})
    if present.answers:
        yield present
        return
    # The engine sets up the names within a container's network by iptables, in the container's own namespace.
    for needed in ("dockerd", "iptables"):
        if not shutil.which(needed):
            raise EngineUnavailable(f"no Docker engine runs, and no {needed}: apt-get install docker.io iptables")
    if os.geteuid() != 0:
        raise EngineUnavailable("no Docker engine runs, and only root can start one")
    with _own_engine(directory) as engine:
        yield engine


@contextmanager
def _own_engine(directory: Path) -> Iterator[Engine]:
    address = f"unix://{directory / 'docker.sock'}"
    log_path = directory / "dockerd.log"
    command = ["dockerd", "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec")]
    command += ["--pidfile", str(directory / "dockerd.pid"), "--host", address, *GENTLE]
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    engine = Engine({"DOCKER_HOST": address})
    try:
        eventually(lambda: process.poll() is not None or engine.answers, within_s=START_LIMIT_S, what="dockerd")
        if process.poll() is not None:
            said = " | ".join(log_path.read_text(errors="replace").splitlines()[-3:])
            raise EngineUnavailable(f"dockerd does not start here: {said}")
        yield engine
    finally:
        process.terminate()
        try:
            process.wait(COMMAND_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _unmount(directory)


def _unmount(directory: Path) -> None:
    """Whatever is still mounted below the directory, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for point in reversed([line.split()[4] for line in lines]):
        if point.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
