"""A store as the tests drive it, and what a writer of many checkpoints writes."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from fastkv._core.state_hash import hash_of
from fastkv.kv.store import Changes, StoreMeta
from fastkv.storage.lmdb_store import LmdbStore

MAP_BYTES = 1 << 26
Items = dict[bytes, bytes | None]


class Opened:
    """A store, and the loop's side of it: what is posted runs when the test says so."""

    def __init__(
        self,
        path: Path,
        *,
        cluster: str = "c",
        node_id: str = "node-1",
        map_bytes: int = MAP_BYTES,
        snapshots: int = 64,
    ) -> None:
        self.posted: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
        self.checkpoint_seconds: list[float] = []
        self.store = LmdbStore(
            path,
            cluster=cluster,
            node_id=node_id,
            map_bytes=map_bytes,
            poster=lambda callback, *arguments: self.posted.put((callback, arguments)),
            snapshots=snapshots,
            on_checkpoint=self.checkpoint_seconds.append,
        )

    def __enter__(self) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.close()

    def start(self, changes: Items, meta: StoreMeta) -> list[BaseException | None]:
        """Begin a checkpoint, which says the truth of keys and content; the list gets its outcome."""
        outcome: list[BaseException | None] = []
        state = {**self.contents(), **changes}
        whole = {key: record for key, record in state.items() if record is not None}
        meta = replace(meta, key_count=len(whole), state_hash=hash_of(whole.items()))
        self.store.checkpoint(Changes(lambda: sorted(changes.items())), meta, outcome.append)
        return outcome

    def run_one(self) -> None:
        callback, arguments = self.posted.get(timeout=60)
        callback(*arguments)

    def checkpoint(self, changes: Items, meta: StoreMeta) -> BaseException | None:
        """Write a checkpoint and wait for its outcome."""
        outcome = self.start(changes, meta)
        while not outcome:
            self.run_one()
        assert len(outcome) == 1
        return outcome[0]

    def write(self, changes: Items, applied_index: int) -> None:
        assert self.checkpoint(changes, StoreMeta(applied_index, 1, applied_index, 0)) is None

    def contents(self) -> dict[bytes, bytes]:
        view = self.store.view()
        try:
            return dict(view.range(b"", b"", False))
        finally:
            view.close()


def changes_of(applied_index: int) -> Items:
    """What checkpoint `applied_index` writes: some keys, some deletions, one value longer than a page."""
    rng = random.Random(applied_index)
    changes: Items = {b"%03d" % rng.randrange(300): b"%d" % applied_index for _ in range(30)}
    changes.update({b"%03d" % rng.randrange(300): None for _ in range(10)})
    changes[b"long"] = b"%d" % applied_index * 3000
    return dict(sorted(changes.items()))


def state_at(applied_index: int) -> dict[bytes, bytes]:
    """What the store holds after checkpoints 1 to `applied_index`."""
    state: dict[bytes, bytes] = {}
    for index in range(1, applied_index + 1):
        for key, record in changes_of(index).items():
            if record is None:
                state.pop(key, None)
            else:
                state[key] = record
    return state


def meta_at(applied_index: int) -> StoreMeta:
    """What checkpoint `applied_index` says of itself."""
    state = state_at(applied_index)
    return StoreMeta(applied_index, 1, applied_index, len(state), hash_of(state.items()))
