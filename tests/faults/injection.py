"""System calls that kill a process or fail, by strace: how a run is watched, and how one call of it is chosen.

A *place* is a system call on one file of a data directory. Names there do not depend on chance, so a run without any
injection shows which places there are and how often each is come by; a second run is then cut short at the n-th time.
strace counts the calls of each thread for itself; all calls but a few (of the start) of one place are made by one.
"""

from __future__ import annotations

import errno
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed: failing calls are NOT tested")

MUTATING = (
    "write", "writev", "pwrite64", "pwritev", "fdatasync", "fsync", "msync", "rename", "unlink", "unlinkat", "rmdir",
    "ftruncate", "fallocate", "mkdir",
)  # fmt: skip
"""All that changes what is in a data directory, but for files that are created: see `PLACES`."""
PLACES = (*MUTATING, "openat")
_CALL = re.compile(r"(\d+) +(\w+)\((.*)")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One kind of call on one file. `path` is relative to the data directory that all nodes share."""

    call: str
    path: str


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """The n-th time, in one thread, that a process comes by a place."""

    place: Place
    number: int

    def __str__(self) -> str:
        return f"{self.place.call} {self.number} of {self.place.path or '.'}"


def watching(output: Path) -> tuple[str, ...]:
    """The command to run a process under whose places are to be counted with `places`."""
    return (str(STRACE), "-D", "-f", "-y", "-s", "0", "-e", f"trace={','.join(PLACES)}", "-o", str(output))


def places(output: Path, data: Path) -> Counter[Place]:
    """How often each place was come by, in the thread that did so most."""
    counts: dict[str, Counter[Place]] = {}
    for line in output.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None or (match[2] == "openat" and "O_CREAT" not in match[3]):
            continue
        for path in paths_within(match[3], data):
            counts.setdefault(match[1], Counter())[Place(match[2], path)] += 1
    most: Counter[Place] = Counter()
    for of_thread in counts.values():
        most |= of_thread
    return most


def paths_within(arguments: str, data: Path) -> list[str]:
    """The paths in a call's arguments, relative to `data`; a rename has two."""
    return re.findall(rf'[<"]{re.escape(str(data))}(?:/([^>"]*))?[>"]', arguments)


def killing(point: Point, data: Path, output: Path) -> tuple[str, ...]:
    """The command to run a process under that is killed as it enters that call, which is not carried out any more."""
    return _injecting(point.place, data, output, f"signal=SIGKILL:when={point.number}")


def failing_at(place: Place, error: int, when: str, data: Path, output: Path) -> tuple[str, ...]:
    """The command to run a process under whose calls at that place fail: `when` is "3", "1..4" or "3+"."""
    return _injecting(place, data, output, f"error={errno.errorcode[error]}:when={when}")


def _injecting(place: Place, data: Path, output: Path, what: str) -> tuple[str, ...]:
    injection = f"inject={place.call}:{what}"
    options = ("-P", str(data / place.path), "-e", f"trace={place.call}", "-e", injection, "-o", str(output))
    return (str(STRACE), "-D", "-f", "-y", "-s", "0", *options)


@contextmanager
def failing(
    process: subprocess.Popen[bytes], calls: Iterable[str], paths: Iterable[Path], error: int, output: Path,
    *, times: int | None = None,
) -> Iterator[None]:
    """From now on, those calls of a running process on those files fail without doing anything; or so many `times`.

    The process has ended when the context does. A tracer that lets go of one whose call it is about to fail would
    leave it with another error, which no disk has.
    """  # fmt: skip
    names = ",".join(calls)
    command = [str(STRACE), "-f", "-y", "-s", "0", "-p", str(process.pid), "-o", str(output)]
    command += [word for path in paths for word in ("-P", str(path))]
    when = "" if times is None else f":when=1..{times}"
    command += ["-e", f"trace={names}", "-e", f"inject={names}:error={errno.errorcode[error]}{when}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        said = tracer.stderr.readline()
        assert "attached" in said, said
        try:
            yield
        finally:
            if process.poll() is None:
                process.kill()
            tracer.communicate()


def injected(output: Path) -> list[str]:
    """The calls that were made to fail, as strace wrote them down."""
    return [line for line in output.read_text(errors="replace").splitlines() if "(INJECTED)" in line]
