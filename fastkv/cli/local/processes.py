"""Processes that were started earlier, perhaps by another command, and must not be mistaken for others.

A process id is reused once its process is gone. A process is therefore known by its id, its start time and the boot it
belongs to, and is signalled through a pidfd, which keeps meaning the same process between the check and the signal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

STARTTIME_FIELD = 19
"""Of /proc/<pid>/stat, counted from the state, which is the first field after the name; see proc(5)."""


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; None where it is not running (a zombie is not)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name in parentheses may itself hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[STARTTIME_FIELD])


@dataclass(frozen=True)
class ProcessRecord:
    """Enough to find a process again, and to know when it is another one."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessRecord:
        """The record of a process that was just started. A process that has already ended gets one that fits none."""
        return cls(pid, start_ticks(pid) or 0, boot_id())

    @property
    def running(self) -> bool:
        """Whether that very process is still there."""
        return self.boot == boot_id() and self.started != 0 and start_ticks(self.pid) == self.started


class Handle:
    """A pidfd of a process that was the recorded one when it was opened; closed with `close`."""

    def __init__(self, record: ProcessRecord) -> None:
        """ProcessLookupError where the process is gone."""
        self._fd = os.pidfd_open(record.pid)
        if not record.running:  # looked at after the pidfd was opened: from here on it cannot become another one
            os.close(self._fd)
            raise ProcessLookupError(record.pid)

    def fileno(self) -> int:
        """Readable once the process has ended."""
        return self._fd

    def send(self, number: signal.Signals) -> None:
        """Signal the process; nothing happens where it has ended meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def close(self) -> None:
        """Release the pidfd."""
        os.close(self._fd)


def wait_any(handles: Mapping[str, Handle], timeout_s: float) -> set[str]:
    """Wait until a process ends, or for the time given. Returns those that have ended."""
    poll = select.poll()
    names = {handle.fileno(): name for name, handle in handles.items()}
    for descriptor in names:
        poll.register(descriptor, select.POLLIN)
    return {names[descriptor] for descriptor, _ in poll.poll(max(0.0, timeout_s) * 1000)}


def stop_all(records: Mapping[str, ProcessRecord], *, deadline_s: float) -> dict[str, str]:
    """SIGTERM to all, SIGKILL to those that are still there after the deadline.

    Returns what became of each: `stopped`, `killed`, or `not running` where it had ended before.
    """
    outcome = dict.fromkeys(records, "not running")
    handles: dict[str, Handle] = {}
    try:
        for name, record in records.items():
            with contextlib.suppress(ProcessLookupError):
                handles[name] = Handle(record)
        for number, word in ((signal.SIGTERM, "stopped"), (signal.SIGKILL, "killed")):
            for handle in handles.values():
                handle.send(number)
            deadline = time.monotonic() + deadline_s
            while handles and time.monotonic() < deadline:
                for name in wait_any(handles, deadline - time.monotonic()):
                    handles.pop(name).close()
                    outcome[name] = word
    finally:
        for name, handle in handles.items():
            handle.close()
            outcome[name] = "still running"
    return outcome
