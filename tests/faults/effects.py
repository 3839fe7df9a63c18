"""The order of effects, from outside: does every promise that leaves a node come after the syncs that it relies on?

A *promise* is a vote, a request for votes, or an acknowledgement of entries, in a frame that is sent to another node.
What it relies on is a record of the log: written, then covered by a sync of its file that began after the write had
ended; and the file's name, which a sync of its directory has to cover in the same way. And whoever creates, renames or
removes what is to stay in a data directory syncs that directory before he does anything else with names.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from fastkv._core.codes import Opcode
from fastkv._core.frames import FrameReader
from fastkv.raft.messages import APPEND_REPLY, VOTE, VOTE_REPLY
from fastkv.storage.wal_format import (
    ENTRIES,
    MAGIC,
    RECORD_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    parse_state,
    record_bytes,
)
from fastkv.wire.peer import RAFT_BODY, REJECT
from tests.e2e.trace import SENDS, SYNCS, WRITES, Call

TRACED = ("openat", "close", "rename", "mkdir", "unlink")
"""What is traced besides writes, syncs and sends."""
NAMES = ("rename", "mkdir", "unlink")
FOR_A_WHILE = (".tmp", "store.part", "store.old", "LOCK")
"""Names that nothing depends on: a start removes them, or makes them anew."""
_RECORD = struct.Struct("<IBBHQQIIQ")


@dataclass(frozen=True, slots=True)
class Promise:
    """What a frame says that is on the disk."""

    at: float
    """When the last of its bytes was about to be sent."""
    kind: int
    term: int
    index: int


@dataclass(frozen=True, slots=True)
class Durable:
    """A record of the log, and since when it is on the disk under a name that is."""

    since: float
    is_state: bool
    term: int
    vote: str
    last_index: int


@dataclass(slots=True)
class Verdict:
    """How much was looked at, and what was wrong."""

    promises: Counter[int] = field(default_factory=Counter)
    names: int = 0
    violations: list[str] = field(default_factory=list)


class Files:
    """Which file each call is about: descriptors are used again and again."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.path: dict[Call, Path] = {}
        opened: dict[int, Path] = {}
        for call in calls:
            if call.name == "openat" and call.result >= 0:
                opened[call.result] = Path(call.texts[0].decode())
            elif call.name == "close":
                opened.pop(call.fd, None)
            elif call.fd in opened and call.name in (*WRITES, *SYNCS, *SENDS):
                self.path[call] = opened[call.fd]


def judge(calls: Sequence[Call], data: Path, node_id: str) -> Verdict:
    """Look at all that one process did, from its first start on; `calls` are by the time when they began."""
    verdict, files = Verdict(), Files(calls)
    left = deque(sorted(durable_records(calls, files), key=lambda record: record.since))
    votes: dict[int, str] = {}
    last_index = 0
    for promise in sorted(promises(calls, files), key=lambda promise: promise.at):
        while left and left[0].since <= promise.at:
            record = left.popleft()
            if record.is_state:
                votes[record.term] = record.vote
            last_index = record.last_index
        verdict.promises[promise.kind] += 1
        vote = votes.get(promise.term, "")
        if promise.kind == VOTE and vote != node_id:
            verdict.violations.append(f"asked for votes of term {promise.term} before its own was durable")
        elif promise.kind == VOTE_REPLY and not vote:
            verdict.violations.append(f"voted in term {promise.term} before that was durable")
        elif promise.kind == APPEND_REPLY and promise.index > last_index:
            verdict.violations.append(f"acknowledged entry {promise.index} while {last_index} was durable")
    verdict.names, unsynced = judge_names(calls, files, data)
    verdict.violations += unsynced
    return verdict


def durable_records(calls: Sequence[Call], files: Files) -> Iterator[Durable]:
    """Every record that became durable. A file's first sync behind a write counts, if it succeeded."""
    syncs: dict[Path, list[Call]] = defaultdict(list)
    for call in calls:
        if call.name in SYNCS and call.result == 0 and call in files.path:
            syncs[files.path[call]].append(call)

    def synced(path: Path, after: float) -> float | None:
        return next((sync.ended for sync in syncs[path] if sync.began >= after), None)

    named = {Path(call.texts[-1].decode()): call.ended for call in calls if call.name == "rename" and call.result == 0}
    for call in calls:
        if call.name not in WRITES or call not in files.path:
            continue
        path = files.path[call]
        since = [synced(path, call.ended), synced(path.parent, named[path]) if path in named else 0.0]
        if None not in since:
            for record in records(call.data):
                yield Durable(max(at for at in since if at is not None), *record)


def records(data: bytes) -> Iterator[tuple[bool, int, str, int]]:
    """The records of one write, as (is it a state, term, vote, the log's last index from then on)."""
    offset = SEGMENT_HEADER_BYTES if data.startswith(MAGIC) else 0
    while offset < len(data):
        length, kind, _, _, _, first_index, count, _, term = _RECORD.unpack_from(data, offset)
        if kind == ENTRIES:
            yield False, term, "", first_index + count - 1
        else:
            state = parse_state(data[offset + RECORD_HEADER_BYTES :][:length])
            yield True, state.hard_state.term, state.hard_state.vote, state.end_index
        offset += record_bytes(length)


def promises(calls: Sequence[Call], files: Files) -> Iterator[Promise]:
    """The promises in all that was sent; streams that are none of fastkv's frames have none."""
    readers: dict[int, FrameReader] = {}
    for call in calls:
        if call.name == "close":
            readers.pop(call.fd, None)
        elif call.name in SENDS and call not in files.path and call.result > 0:
            reader = readers.setdefault(call.fd, FrameReader(1 << 26))
            try:
                frames = reader.feed(call.data[: call.result])
            except ValueError:
                readers[call.fd] = FrameReader(1 << 26)     # HTTP, or a signal for a loop
                continue
            for opcode, _, _, _, body in frames:
                if opcode == Opcode.RAFT and len(body) == RAFT_BODY.size:
                    kind, flags, _, _, term, index, *_ = RAFT_BODY.unpack(body)
                    if kind in (VOTE, VOTE_REPLY, APPEND_REPLY) and not flags & REJECT:
                        yield Promise(call.began, kind, term, index)


def judge_names(calls: Sequence[Call], files: Files, data: Path) -> tuple[int, list[str]]:
    """How many names came or went for good, and those whose directory its thread did not sync before the next."""
    changes: dict[int, list[tuple[Call, Path]]] = defaultdict(list)
    seen: set[Path] = set()
    for call in calls:
        path = Path(call.texts[-1].decode()) if call.texts and call.name in (*NAMES, "openat") else None
        if path is None or call.result < 0 or data not in (path, *path.parents):
            continue
        lasting = not any(part.endswith(FOR_A_WHILE) for part in path.relative_to(data).parts)
        made = call.name == "openat" and "O_CREAT" in call.arguments and path not in seen
        if lasting and (call.name in NAMES or made):
            changes[call.thread].append((call, path))
        seen.add(path)
    wrong = []
    for thread, made_by_it in changes.items():
        ends = [call.began for call, _ in made_by_it[1:]] + [float("inf")]
        for (call, path), end in zip(made_by_it, ends, strict=True):
            synced = any(
                sync.thread == thread and call.ended <= sync.began and sync.ended <= end and sync.result == 0
                and files.path.get(sync) == path.parent
                for sync in calls if sync.name in SYNCS
            )  # fmt: skip
            # One sync is enough for all names of a directory that come one after the other.
            follows_in_place = any(
                one is call and another.name == "openat" and beside.parent == path.parent
                for (one, _), (another, beside) in pairwise(made_by_it)
            )
            if not synced and not follows_in_place:
                wrong.append(f"{call.name} of {path.relative_to(data)} was not followed by a sync of its directory")
    return sum(map(len, changes.values())), wrong
