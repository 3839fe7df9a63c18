"""Ways in which a disk gives back something else than what was written, and a data directory that they are tried on."""

from __future__ import annotations

import queue
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, encode_command
from fastkv.config import NodeConfig, load_config
from fastkv.log_types import HardState, Segment
from fastkv.server.assembly import Assembly
from fastkv.storage.directory import DataDirectory

CLUSTER, NODE = "damaged", "node-1"
BLOCK = 4096
SEGMENT_BYTES = 64 * 1024


class State(NamedTuple):
    """What a node has once all that its directory holds is applied."""

    index: int
    state_hash: int
    keys: int
    term: int
    vote: str
    disk: int


def config_for(path: Path) -> NodeConfig:
    """A single node's configuration, whose data is in `path`."""
    config = path.parent / f"{path.name}.yaml"
    config.write_text(
        f'cluster:\n  name: "{CLUSTER}"\n  data_dir: "{path}"\n  nodes:\n    {NODE}: "127.0.0.1:9001"\n'
        f"storage:\n  segment_bytes: {SEGMENT_BYTES}\n  checkpoint_wal_bytes: 1048576\n"
    )
    return load_config(config, {}, {"node_id": NODE})


class Posted:
    """The loop's side: what other threads post is run when it is waited for."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = queue.SimpleQueue()

    def __call__(self, callback: Callable[..., object], *arguments: Any) -> None:
        self._calls.put((callback, arguments))

    def run_one(self) -> None:
        callback, arguments = self._calls.get(timeout=60)
        callback(*arguments)


def opened(config: NodeConfig, directory: DataDirectory, posted: Posted) -> Assembly:
    """What a start makes of the directory."""
    return Assembly(config, directory, poster=posted, on_checkpoint=lambda seconds: None)


def closed(parts: Assembly) -> None:
    parts.log.close()
    parts.machine.close()
    parts.store.close()


def start(path: Path) -> State:
    """Open a node's data directory as a start does, apply its whole log, and say what it has. StorageError, OSError."""
    config = config_for(path)
    with DataDirectory.open(config.data_dir, cluster=CLUSTER, node_id=NODE) as directory:
        parts = opened(config, directory, Posted())
        try:
            machine, log = parts.machine, parts.log
            hard_state, last = log.recovered.hard_state, log.recovered.last_index
            while machine.applied_index < last:
                for segment in log.read(machine.applied_index + 1, last, 1 << 20):
                    machine.apply(segment, segment.first_index, segment.last_index, None)
            return State(
                machine.applied_index, machine.state_hash, machine.key_count, hard_state.term, hard_state.vote,
                directory.disk,
            )
        finally:
            closed(parts)


def make(path: Path, *, entries: int, seed: int) -> tuple[State, dict[bytes, bytes]]:
    """A directory whose log has several segments, whose store is behind its log, and that was closed cleanly.

    What a start makes of it, and every key with its value.
    """
    acknowledged: dict[bytes, bytes] = {}
    rng = random.Random(seed)
    config = config_for(path)
    posted = Posted()
    with DataDirectory.open(config.data_dir, cluster=CLUSTER, node_id=NODE) as directory:
        parts = opened(config, directory, posted)
        machine, log = parts.machine, parts.log
        term = 1
        for index in range(1, entries + 1):
            term += rng.random() < 0.02
            builder = BatchBuilder()
            key, value = b"key %04d" % rng.randrange(entries), rng.randbytes(rng.choice([10, 100, 900, 6000]))
            acknowledged[key] = value
            builder.append(Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key, value))
            segment = Segment(index, term, builder.take())
            assert log.wait(log.append(HardState(term, NODE, index - 1), [segment]), 60)
            machine.apply(segment, index, index, None)
            if index in (entries // 3, entries // 2, 2 * entries // 3):
                machine.start_checkpoint()
                posted.run_one()
        closed(parts)
    return start(path), acknowledged


# -- what happens to it ------------------------------------------------------------------------------------------------


class Mutation(NamedTuple):
    """What was done to a file."""

    kind: str
    file: str
    at: int
    other: int = 0


def _block(rng: random.Random, nbytes: int, block: int) -> int:
    return rng.randrange(max(1, nbytes // block)) * block


def mutate(path: Path, rng: random.Random, files: list[Path]) -> Mutation:
    """Damage one of the files, somewhere; what was done."""
    file = rng.choice(files)
    data = bytearray(file.read_bytes())
    kind = rng.choice(["cut", "flip", "flip", "zero", "swap", "copy", "garbage", "old sector"])
    used = max(1, len(data.rstrip(b"\0")))
    at, other, block = rng.randrange(used), 0, rng.choice([512, BLOCK, BLOCK])
    if kind == "cut":
        del data[at:]
    elif kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        at = _block(rng, used, block)
        data[at : at + block] = bytes(len(data[at : at + block]))
    elif kind == "garbage":
        at = _block(rng, used, block)
        data[at : at + block] = rng.randbytes(len(data[at : at + block]))
    else:
        at, other = _block(rng, used, block), _block(rng, len(data), block)
        first, second = bytes(data[at : at + block]), bytes(data[other : other + block])
        if len(first) == len(second):
            data[at : at + block] = second
            if kind == "swap":
                data[other : other + block] = first
    file.write_bytes(data)
    return Mutation(kind, str(file.relative_to(path)), at, other)


def copied(source: Path, target: Path) -> Path:
    """A fresh copy of a directory."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def files_of(path: Path) -> list[Path]:
    """Every file that a node has written, but for its lock."""
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in ("LOCK", "lock.mdb"))
