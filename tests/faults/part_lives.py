"""Lives of single parts of a node's storage, for `small_node.said_by`: each says what a node would rely on."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fastkv._core.state_hash import hash_of
from fastkv.kv.store import Changes, StoreMeta
from fastkv.storage.lmdb_format import DATA_FILE
from fastkv.storage.lmdb_image import pending_install, read_meta
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.storage.wal import Wal
from fastkv.storage.wal_segments import SegmentPreparer
from tests.faults.small_node import LIFE_TIMEOUT_S, entries, load_image

CLUSTER, NODE_ID = "cluster", "node-1"
SEGMENT_BYTES = 4096
LONG_ENTRIES = 40
"""So many of `small_node.entries` are more than a segment."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Store:
    """An open store, and the loop's side of it."""

    def __init__(self, path: Path) -> None:
        self._posted: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.store = LmdbStore(
            path,
            cluster="fastkv",
            node_id=NODE_ID,
            map_bytes=16 << 20,
            poster=lambda callback, *arguments: self._posted.put((callback, arguments)),
        )

    def until(self, outcome: list[BaseException | None]) -> None:
        """Run what is posted until there is an outcome; raise it where it is an error."""
        while not outcome:
            callback, arguments = self._posted.get(timeout=LIFE_TIMEOUT_S)
            callback(*arguments)
        if outcome[0] is not None:
            raise outcome[0]


def checkpoints(path: Path, pipe: Connection, count: int) -> None:
    """Say how far the store goes, write checkpoints, and be killed."""
    opened = _Store(path)
    applied = opened.store.meta.applied_index
    pipe.send_bytes(json.dumps({"applied": applied}).encode())
    for index in range(applied + 1, applied + count + 1):
        outcome: list[BaseException | None] = []
        items = [(b"%04d" % number, b"%d " % index * 20) for number in range(50)]
        meta = StoreMeta(index, 1, index, len(items), hash_of(items))
        opened.store.checkpoint(Changes(lambda items=items: items), meta, outcome.append)  # type: ignore[misc]
        opened.until(outcome)
        pipe.send_bytes(json.dumps({"applied": index}).encode())
    _die()


def receive(path: Path, pipe: Connection, image: Path, overtaken: bool = False) -> None:
    """Take in a snapshot, as far as it comes before the installation; or else go past it by the log meanwhile."""
    opened = _Store(path)
    info, content = load_image(image)
    incoming = opened.store.receive(info)
    incoming.write(content[incoming.offset :])
    outcome: list[BaseException | None] = []
    incoming.finish(outcome.append)
    opened.until(outcome)
    if overtaken:
        outcome.clear()
        meta = replace(opened.store.meta, applied_index=info.applied_index + 1, applied_term=1)
        opened.store.checkpoint(Changes(tuple), meta, outcome.append)
        opened.until(outcome)
    _die()


def pending(path: Path, pipe: Connection) -> None:
    """Say which snapshot is to be installed."""
    pipe.send_bytes(json.dumps({"pending": pending_install(path)}).encode())


def roll(path: Path, pipe: Connection) -> None:
    """Write entries until the log goes on in its second segment; a third is never prepared."""
    make = SegmentPreparer._make

    def make_only_the_second(self: SegmentPreparer, segment_id: int, nbytes: int) -> None:
        if segment_id > 2:
            threading.Event().wait()
        make(self, segment_id, nbytes)

    SegmentPreparer._make = make_only_the_second  # type: ignore[method-assign]
    wal = Wal(path, cluster=CLUSTER, node_id=NODE_ID, segment_bytes=SEGMENT_BYTES)
    while wal._current.segment_id < 2:
        index = wal.last_index + 1
        wal.wait(wal.append(None, [entries(index, 1, 1)]))
        pipe.send_bytes(json.dumps({"index": index}).encode())
    _die()


def prepare(path: Path, pipe: Connection) -> None:
    """Open a log, and let its second segment be prepared."""
    wal = Wal(path, cluster=CLUSTER, node_id=NODE_ID, segment_bytes=SEGMENT_BYTES)
    while not wal._preparer.ready_bytes:
        wal.poll()
    _die()


def last_index(path: Path, pipe: Connection) -> None:
    """Say which the log's last entry is."""
    wal = Wal(path, cluster=CLUSTER, node_id=NODE_ID, segment_bytes=SEGMENT_BYTES)
    pipe.send_bytes(json.dumps({"index": wal.last_index}).encode())
    wal.close()


def store_meta(path: Path, pipe: Connection) -> None:
    """Say how far the store of a node goes that is running, and has nothing to do."""
    meta, _ = read_meta(path / DATA_FILE)
    pipe.send_bytes(json.dumps([meta.applied_index, meta.revision, meta.key_count, meta.state_hash]).encode())
