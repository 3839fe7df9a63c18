"""A state machine over a store in memory, and short ways to ask it for something."""

from __future__ import annotations

from dataclasses import dataclass

from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Kind
from fastkv._core.entry import BatchBuilder, encode_command
from fastkv.kv.state import Page, StateMachine
from fastkv.log_types import Segment
from fastkv.storage.memory_store import MemoryStore, StoredState

FIRST_SNAPSHOT_ID = 1000
NEVER = 10**9


@dataclass(frozen=True)
class Question:
    """A SCAN request."""

    start: bytes = b""
    end: bytes = b""
    limit: int = 0
    limit_bytes: int = 0
    reverse: bool = False
    keys_only: bool = False
    cursor: bytes = b""


def put(key: bytes, value: bytes = b"") -> tuple[int, bytes]:
    return Kind.ENTRY_PUT, encode_command(Kind.ENTRY_PUT, key, value)


def delete(key: bytes) -> tuple[int, bytes]:
    return Kind.ENTRY_DELETE, encode_command(Kind.ENTRY_DELETE, key)


def segment(first_index: int, *entries: tuple[int, bytes], term: int = 1) -> Segment:
    builder = BatchBuilder()
    for kind, body in entries:
        builder.append(kind, body)
    return Segment(first_index, term, builder.take())


class Harness:
    """The machine, its store, and the disk below, which outlives both."""

    def __init__(
        self,
        disk: StoredState | None = None,
        *,
        memtable_bytes: int = NEVER,
        checkpoint_log_bytes: int = NEVER,
        checkpoint_age_ticks: int = NEVER,
        retry_ticks: int = 10,
        snapshots: int = 4,
        snapshot_ttl_ticks: int = 5,
    ) -> None:
        self.disk = disk or StoredState()
        self.store = MemoryStore(self.disk)
        self.machine = StateMachine(
            self.store,
            memtable_bytes=memtable_bytes,
            checkpoint_log_bytes=checkpoint_log_bytes,
            checkpoint_age_ticks=checkpoint_age_ticks,
            retry_ticks=retry_ticks,
            snapshots=snapshots,
            snapshot_ttl_ticks=snapshot_ttl_ticks,
            first_snapshot_id=FIRST_SNAPSHOT_ID,
        )

    def apply(self, *entries: tuple[int, bytes], term: int = 1) -> bytes:
        """Apply entries as the next ones of the log; their results."""
        results = WriteBuffer()
        run = segment(self.machine.applied_index + 1, *entries, term=term)
        self.machine.apply(run, run.first_index, run.last_index, results)
        return results.take()

    def fill(self, *named: bytes) -> None:
        self.apply(*(put(key, b"v-" + key) for key in named))

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.machine.tick()

    def checkpoint(self) -> None:
        self.machine.start_checkpoint()
        self.store.complete()

    def scan(self, *, max_items: int = 1000, max_bytes: int = 1 << 20, **question: object) -> Page:
        return self.machine.scan(Question(**question), max_items=max_items, max_bytes=max_bytes)  # type: ignore[arg-type]

    def contents(self) -> list[tuple[bytes, bytes]]:
        with self.machine.open_snapshot() as snapshot:
            return list(snapshot.items())


def keys_of(page: Page) -> list[bytes]:
    """The keys on a page."""
    found: list[bytes] = []
    at = 0
    while at < len(page.items):
        key_bytes = int.from_bytes(page.items[at : at + 2], "little")
        value_bytes = int.from_bytes(page.items[at + 4 : at + 8], "little")
        found.append(page.items[at + 40 : at + 40 + key_bytes])
        at += 40 + key_bytes + value_bytes
    assert len(found) == page.count
    return found
