"""Server processes of one run: started here, watched here, stopped here, and no other process is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

STOP_TIMEOUT_S = 45.0
POLL_S = 0.05
TICKS = os.sysconf("SC_CLK_TCK")


class Servers:
    """The processes of one run; a context manager that stops them whatever happens."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end)     # as Ctrl-C does: what was started is stopped
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """Start a server; what it prints goes to a file beside its data."""
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env={**os.environ, **(environ or {})},
                start_new_session=True,  # a Ctrl-C is for us: we stop them
            )

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def terminate(self, name: str) -> int:
        """SIGTERM one server; its exit status."""
        process = self._processes.pop(name)
        process.terminate()
        return process.wait(STOP_TIMEOUT_S)

    def kill(self, name: str) -> None:
        """kill -9 one server."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def until(self, ready: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Poll until `ready()`; TimeoutError with the end of the logs where a server ends or time does."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self._log(name).read_text()[-1500:]}" for name in self._processes)
                raise TimeoutError(f"{', '.join(ended) or 'the servers'}: not ready\n{logs}")
            time.sleep(POLL_S)

    def cpu_seconds(self) -> dict[str, float]:
        """User and system time of each process so far."""
        return {name: _cpu_seconds(process.pid) for name, process in self._processes.items()}

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of each process."""
        return {name: _resident_bytes(process.pid) for name, process in self._processes.items()}

    def stop(self) -> None:
        """End every process: politely, then not."""
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _cpu_seconds(pid: int) -> float:
    # Behind the command's name, which may hold anything: field 14 is user time, 15 system time (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
