"""Free port ranges, and the `fastkv` command as a process with stand-ins for nodes."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DRIVE = Path(__file__).with_name("drive.py")
LIMIT_S = 60.0


def free_range(count: int) -> int:
    """The first of `count` consecutive ports on which nobody listens."""
    for _ in range(200):
        base = random.randrange(20_000, 32_000)
        with ExitStack() as held:
            try:
                for port in range(base, base + count):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


class Running:
    """A command under way; its output can be waited for line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line that contains `text`, once there is one."""

        def found() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._news:
            self._news.wait_for(lambda: found() or self._ended, LIMIT_S)
            line = found()
        assert line is not None, f"{text!r} is not in:\n" + self.text
        return line

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def finish(self) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        return status


class Fastkv:
    """Runs `fastkv` commands in one directory, on ports of its own, with real nodes or with stand-ins for them."""

    def __init__(self, directory: Path, program: tuple[str, ...]) -> None:
        self.directory = directory
        self.program = program
        self.data = directory / "data"
        self.base = free_range(10)
        self.ports = ("--base-raft-port", str(self.base), "--base-http-port", str(self.base + 5))
        self._started: list[subprocess.Popen[str]] = []

    def open(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *self.program, *arguments],
            cwd=self.directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._started.append(process)
        return process

    def start(self, *arguments: str, **environ: str) -> Running:
        return Running(self.open(*arguments, **environ))

    def run(self, *arguments: str, **environ: str) -> tuple[int, str]:
        """Exit status and output."""
        running = self.start(*arguments, **environ)
        return running.finish(), running.text

    def up(self, *arguments: str, **environ: str) -> Running:
        return self.start("cluster", "up", *self.ports, "--data-dir", str(self.data), *arguments, **environ)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.terminate()
            process.wait(LIMIT_S)
        self.run("cluster", "stop", "--data-dir", str(self.data))


@pytest.fixture
def fastkv(tmp_path: Path) -> Iterator[Fastkv]:
    """`fastkv` with stand-ins for nodes."""
    command = Fastkv(tmp_path, (str(DRIVE),))
    yield command
    command.close()


@pytest.fixture
def real_fastkv(tmp_path: Path) -> Iterator[Fastkv]:
    """`fastkv` itself."""
    command = Fastkv(tmp_path, ("-m", "fastkv"))
    yield command
    command.close()
