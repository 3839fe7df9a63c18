"""What a process asked of the kernel, and when, read from strace's output.

The tracer stamps a call before it lets the process enter it, and again when it has returned but the process has not yet
gone on. So of two calls in different processes of one machine, where one is the cause of the other, the cause has the
earlier stamps, and never the other way round by an accident of scheduling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WRITES = ("pwritev",)
"""The log's. Files that are filled with zeros, and the store's, are written by other calls."""
SYNCS = ("fdatasync", "fsync")
SENDS = ("sendto", "sendmsg", "write", "writev")
STRING_LIMIT_BYTES = 1 << 16

_BEGUN = re.compile(r"(\d+) +(\d+\.\d+) (\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+) +(\d+\.\d+) <\.\.\. (\w+) resumed>(.*)\) += (-?\d+).*<(\d+\.\d+)>$")
_WHOLE = re.compile(r"(\d+) +(\d+\.\d+) (\w+)\((.*)\) += (-?\d+).*<(\d+\.\d+)>$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that returned. Times are seconds of the machine's clock, to the microsecond."""

    thread: int
    name: str
    fd: int
    """-1 where its first argument is none."""
    texts: tuple[bytes, ...]
    """All that it was given to write, or the names that it was given."""
    result: int
    began: float
    ended: float
    arguments: str = ""

    @property
    def data(self) -> bytes:
        """All that it was given to write, in one piece."""
        return b"".join(self.texts)


def wrapping(output: Path, *more: str) -> tuple[str, ...]:
    """The command to run a process under; `more` calls may be traced. The tracer is detached: signals reach the process
    itself."""
    traced = ",".join((*WRITES, *SYNCS, *SENDS, *more))
    options = ("-ttt", "-T", "-xx", "-s", str(STRING_LIMIT_BYTES), "-e", f"trace={traced}", "-o", str(output))
    return ("strace", "-D", "-f", *options)


def calls(output: Path) -> list[Call]:
    """What was traced, by the time when it began."""
    return sorted(_read(output.read_text().splitlines()), key=lambda call: call.began)


def _read(lines: list[str]) -> Iterator[Call]:
    begun: dict[int, tuple[float, str]] = {}
    for line in lines:
        if match := _BEGUN.match(line):
            begun[int(match[1])] = float(match[2]), match[4]
        elif match := _RESUMED.match(line):
            began, arguments = begun.pop(int(match[1]))
            yield _call(int(match[1]), match[3], arguments + match[4], match[5], began, float(match[6]))
        elif match := _WHOLE.match(line):
            yield _call(int(match[1]), match[3], match[4], match[5], float(match[2]), float(match[6]))


def _call(thread: int, name: str, arguments: str, result: str, began: float, took: float) -> Call:
    texts = tuple(bytes.fromhex(text.replace("\\x", "")) for text in _TEXT.findall(arguments))
    first = arguments.partition(",")[0].strip()
    fd = int(first) if first.isdigit() else -1
    return Call(thread, name, fd, texts, int(result), began, began + took, _TEXT.sub("", arguments))


def sent_at(traced: list[Call], data: bytes) -> float | None:
    """When the process was about to send something that holds `data`, for the first time."""
    return next((call.began for call in traced if call.name in SENDS and data in call.data), None)


def durable_at(traced: list[Call], data: bytes) -> float | None:
    """When a sync had returned that began after `data` had been written to the same file; None where none has."""
    written = [call for call in traced if call.name in WRITES and data in call.data]
    if not written:
        return None
    first = written[0]
    syncs = (call for call in traced if call.name in SYNCS and call.fd == first.fd and call.began >= first.ended)
    return next((call.ended for call in syncs if call.result == 0), None)
