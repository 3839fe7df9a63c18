"""Lives of the storage half of a node, each in a process of its own that may be killed at any moment.

Directory, log, store and state machine are the production ones, opened as `Assembly` opens them; consensus is left out,
as if this node were a cluster of its own: what its log has is committed. Entry i puts key i, so that the state at any
index is known. Whatever a life promises (an entry acknowledged, a vote, the number of its disk, that it founds no
cluster) it says on a pipe, after it has become durable; a later life has to keep it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, encode_command
from fastkv.config import ClusterConfig, NodeConfig, StorageSettings
from fastkv.kv.store import Image, ImageInfo
from fastkv.log_types import HardState, Segment
from fastkv.server.assembly import Assembly
from fastkv.storage.directory import DataDirectory

NODE_ID = "node-1"
LIFE_TIMEOUT_S = 60.0
STORAGE = StorageSettings(
    segment_bytes=8192, memtable_bytes=4096, checkpoint_wal_bytes=16_384, lmdb_map_bytes=16 << 20
)
"""Small, so that a hundred entries roll segments, recycle them, and write checkpoints."""


def key_of(index: int) -> bytes:
    """What entry `index` puts."""
    return b"key %08d" % index


def value_of(index: int) -> bytes:
    """The value that it puts there."""
    return b"%d " % index * (1 + index * 7 % 40)


def entries(first: int, count: int, term: int) -> Segment:
    """Entries `first` and so on."""
    builder = BatchBuilder()
    for index in range(first, first + count):
        builder.append(Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key_of(index), value_of(index)))
    return Segment(first, term, builder.take())


@dataclass
class Promises:
    """What has been promised, by all lives so far."""

    index: int = 0
    term: int = 0
    disk: int = 0
    joins: bool = False

    def take(self, said: dict[str, Any]) -> None:
        """One more."""
        self.index = max(self.index, said.get("index", 0))
        self.term = max(self.term, said.get("term", 0))
        self.disk = self.disk or said.get("disk", 0)
        self.joins = self.joins or said.get("joins", False)


@dataclass(frozen=True)
class Plan:
    """What a life does, and how it ends: killed, unless something else has killed it before."""

    steps: int
    batch: int = 2
    joins_at: int = -1
    """The step at which it is told that it founds no cluster."""
    image: str = ""
    """A snapshot to install, as `save_image` wrote it."""
    image_at: int = -1
    idle: bool = field(default=False)
    """Whether it writes nothing of its own."""


class SmallNode:
    """The storage half of a node, from its start on."""

    def __init__(self, path: Path, node_id: str = NODE_ID) -> None:
        self._posted: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
        config = NodeConfig(node_id, cluster=ClusterConfig(data_dir=path), storage=STORAGE)
        self.directory = DataDirectory.open(config.data_dir, cluster=config.cluster.name, node_id=node_id)
        parts = Assembly(
            config,
            self.directory,
            poster=lambda callback, *arguments: self._posted.put((callback, arguments)),
            on_checkpoint=lambda seconds: None,
        )
        self.log, self.store, self.machine = parts.log, parts.store, parts.machine
        self.hard_state = self.log.recovered.hard_state
        for run in self.log.recovered.segments:
            if run.last_index > self.machine.applied_index:
                self.machine.apply(run, self.machine.applied_index + 1, run.last_index, None)

    def vote(self, term: int) -> None:
        """Vote in a term."""
        self.hard_state = HardState(term, NODE_ID, 0)
        self.log.wait(self.log.append(self.hard_state, []))

    def write(self, count: int) -> None:
        """Append entries, and apply them once they are durable."""
        run = entries(self.log.last_index + 1, count, self.hard_state.term)
        self.log.wait(self.log.append(None, [run]))
        self.machine.apply(run, run.first_index, run.last_index, None)
        self.turn()

    def turn(self) -> None:
        """What a node does besides."""
        self.machine.tick()
        self.log.poll()
        while not self._posted.empty():
            self._run_posted()
        if self.machine.checkpoint_due:
            self.machine.start_checkpoint()
        self.log.compact(self.machine.durable_applied_index)

    def _run_posted(self) -> None:
        callback, arguments = self._posted.get(timeout=LIFE_TIMEOUT_S)
        callback(*arguments)

    def settle(self) -> None:
        """Wait for the checkpoint under way."""
        while self.machine.checkpointing:
            self._run_posted()

    def install(self, info: ImageInfo, content: bytes) -> None:
        """Take in a snapshot and go on from there, where it is ahead: as `node.installation` does."""
        self.settle()
        if info.applied_index <= self.machine.applied_index:
            return
        incoming = self.store.receive(info)
        while incoming.offset < len(content):
            incoming.write(content[incoming.offset :][:16_384])
        outcome: list[BaseException | None] = []
        incoming.finish(outcome.append)
        while not outcome:
            self._run_posted()
        if outcome[0] is not None:
            raise outcome[0]
        self.log.wait(self.log.restart(info.applied_index, info.applied_term))
        self.hard_state = HardState(max(self.hard_state.term, info.applied_term), "", 0)
        self.machine.install()

    def image(self) -> Image:
        """A snapshot of the newest checkpoint."""
        made: list[Image] = []

        def take(image: Image | None, error: BaseException | None) -> None:
            assert image is not None, error
            made.append(image)

        self.store.image(take)
        while not made:
            self._run_posted()
        return made[0]

    def contents(self) -> list[tuple[bytes, bytes]]:
        """Keys and values."""
        with self.machine.open_snapshot() as snapshot:
            return [(key, record[len(record) - len(value_of(int(key[4:]))) :]) for key, record in snapshot.items()]


# -- lives -------------------------------------------------------------------------------------------------------------


def _live(path: Path, pipe: Connection, plan: Plan) -> None:
    """Start, promise, write, and be killed."""

    def say(**what: object) -> None:
        pipe.send_bytes(json.dumps(what).encode())

    node = SmallNode(path)
    # A node that is a cluster of its own counts as committed what its log has, and says so.
    say(disk=node.directory.disk, joins=node.directory.joins, index=node.log.last_index, term=node.hard_state.term)
    node.vote(node.hard_state.term + 1)
    say(term=node.hard_state.term)
    for step in range(plan.steps):
        if step == plan.joins_at:
            node.directory.note_joins()
            say(joins=True)
        if step == plan.image_at:
            node.install(*load_image(Path(plan.image)))
            say(index=node.machine.applied_index)
        if plan.idle:
            node.turn()
        else:
            node.write(plan.batch)
            say(index=node.log.last_index)
    os.kill(os.getpid(), signal.SIGKILL)


def _check(path: Path, pipe: Connection, promises: Promises) -> None:
    """Start, and say what is not as was promised."""
    node = SmallNode(path)
    wrong = []
    last = node.machine.applied_index
    if last < promises.index:
        wrong.append(f"entry {promises.index} was acknowledged, and there are {last}")
    if node.hard_state.term < promises.term:
        wrong.append(f"term {promises.term} was promised, and this is {node.hard_state.term}")
    if promises.disk and node.directory.disk != promises.disk:
        wrong.append("the directory has another number")
    if promises.joins and not node.directory.joins:
        wrong.append("that it founds no cluster is forgotten")
    if node.contents() != [(key_of(index), value_of(index)) for index in range(1, last + 1)]:
        wrong.append(f"the state is not that of entry {last}")
    pipe.send_bytes(json.dumps({"wrong": wrong}).encode())


def _save(path: Path, pipe: Connection, target: Path, steps: int) -> None:
    node = SmallNode(path, "node-2")
    node.vote(100)
    for _ in range(steps):
        node.write(4)
    node.settle()
    image = node.image()
    target.write_bytes(json.dumps(asdict(image.info)).encode() + b"\n" + image.read(0, image.info.nbytes))
    pipe.send_bytes(b"{}")


def load_image(path: Path) -> tuple[ImageInfo, bytes]:
    """A snapshot that `save_image` has written."""
    info, _, content = path.read_bytes().partition(b"\n")
    return ImageInfo(**json.loads(info)), content


# -- how a test drives them --------------------------------------------------------------------------------------------

_processes = multiprocessing.get_context("forkserver")
# Each process imports the main module again: what that needs is there already.
_processes.set_forkserver_preload(["pytest", "tests.faults.part_lives", "tests.faults.node_rounds"])


@contextmanager
def _process(
    work: Callable[..., None], path: Path, *arguments: object
) -> Iterator[tuple[Iterator[dict[str, Any]], Any]]:
    """What a process says on its pipe until it ends, and the process."""
    here, there = _processes.Pipe(duplex=False)
    process = _processes.Process(target=work, args=(path, there, *arguments), daemon=True)
    process.start()
    there.close()

    def said() -> Iterator[dict[str, Any]]:
        while here.poll(LIFE_TIMEOUT_S):
            try:
                yield json.loads(here.recv_bytes())
            except EOFError:
                process.join(LIFE_TIMEOUT_S)
                return
        raise AssertionError(f"nothing was heard from a life for {LIFE_TIMEOUT_S} s")

    try:
        yield said(), process
    finally:
        process.kill()
        process.join()
        here.close()


def said_by(work: Callable[..., None], path: Path, *arguments: object) -> tuple[list[dict[str, Any]], int]:
    """Run `work(path, pipe, *arguments)` in a process of its own: what it said, and its exit status."""
    with _process(work, path, *arguments) as (said, process):
        return list(said), process.exitcode


def live(path: Path, plan: Plan, promises: Promises) -> bool:
    """One life, until it is killed. What it promised is added. False where it did not start, or broke by itself."""
    with _process(_live, path, plan) as (said, process):
        for promise in said:
            promises.take(promise)
        return process.exitcode == -signal.SIGKILL


def check(path: Path, promises: Promises) -> list[str]:
    """Start once more; what is not as was promised."""
    said, status = said_by(_check, path, promises)
    return said[0]["wrong"] if said else [f"it did not start (exit status {status})"]


def save_image(directory: Path, steps: int = 60) -> Path:
    """A snapshot of another node with 4 entries a step, as a file."""
    target = directory / "image"
    said, status = said_by(_save, directory / "sender", target, steps)
    assert said, status
    return target
