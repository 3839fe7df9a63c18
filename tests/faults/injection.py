"""System calls that kill a process or fail, by strace: how a run is watched, and how one call of it is chosen.

A *place* is a system call on one file of a data directory. Names there do not depend on chance, so a run without any
injection shows which places there are and how often each is come by; a second run is then cut short at the n-th time.
strace counts the calls of each thread for itself; all calls but a few (of the start) of one place are made by one.
"""

from __future__ import annotations

import errno
import re
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed: faults of system calls are NOT tested")

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
    return re.findall(rf'[<"]{re.escape(str(data))}/?([^>"]*)[>"]', arguments)


def killing(point: Point, data: Path, output: Path) -> tuple[str, ...]:
    """The command to run a process under that is killed as it enters that call, which is not carried out any more."""
    return _injecting(point.place, data, output, f"signal=SIGKILL:when={point.number}")


def failing(place: Place, data: Path, output: Path, error: int, when: str = "1+") -> tuple[str, ...]:
    """The command to run a process under whose calls at that place fail, without having done anything.

    `when` as for strace: "3" for the third, "3+" from the third on.
    """
    return _injecting(place, data, output, f"error={errno.errorcode[error]}:when={when}")


def _injecting(place: Place, data: Path, output: Path, what: str) -> tuple[str, ...]:
    injection = f"inject={place.call}:{what}"
    options = ("-P", str(data / place.path), "-e", f"trace={place.call}", "-e", injection, "-o", str(output))
    return (str(STRACE), "-D", "-f", "-y", "-s", "0", *options)


def failing_anywhere(calls: Iterable[str], output: Path, error: int, when: str, trace: Iterable[str] = ()) -> tuple[str, ...]:
    """The same for all calls of some kinds, wherever they go; `trace` names what else is to be seen in the output."""
    names = tuple(calls)
    injection = f"inject={','.join(names)}:error={errno.errorcode[error]}:when={when}"
    traced = ",".join(dict.fromkeys((*names, *trace)))
    return (str(STRACE), "-D", "-f", "-y", "-s", "0", "-e", f"trace={traced}", "-e", injection, "-o", str(output))
