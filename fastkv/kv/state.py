"""The state machine: applies committed entries in memory, and decides when to write a checkpoint.

Applying touches memory only (a key that no memtable holds is read from the store). A checkpoint freezes the memtable,
hands it to the store to be written in the background, together with the applied index, and keeps serving from it until
that is durable. So at any moment the store has a whole state, and memory all that came after it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from fastkv._core.apply import Table
from fastkv._core.buffer import WriteBuffer
from fastkv._core.memtable import Memtable
from fastkv._core.snapshot import TableSnapshot
from fastkv.kv.snapshots import HeldSnapshots, decode_cursor, encode_cursor
from fastkv.kv.store import Changes, Store, StoreFull, StoreMeta, StorePinned
from fastkv.log_types import Segment

HARD_LIMIT = 2
"""Memtables may grow to this many times `memtable_bytes` while checkpoints fail; then writes are refused."""


class RangeQuestion(Protocol):
    """What `scan` reads of a SCAN request."""

    @property
    def start(self) -> bytes: ...
    @property
    def end(self) -> bytes: ...
    @property
    def limit(self) -> int: ...
    @property
    def limit_bytes(self) -> int: ...
    @property
    def reverse(self) -> bool: ...
    @property
    def keys_only(self) -> bool: ...
    @property
    def cursor(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing. `items` are encoded as in an answer to SCAN; an empty cursor: this is the last page."""

    revision: int
    count: int
    items: bytes
    cursor: bytes


class StateMachine:
    """Keys, values and revisions at `applied_index`. All times are ticks."""

    def __init__(
        self,
        store: Store,
        *,
        memtable_bytes: int,
        checkpoint_log_bytes: int,
        checkpoint_age_ticks: int,
        retry_ticks: int,
        snapshots: int,
        snapshot_ttl_ticks: int,
        first_snapshot_id: int,
    ) -> None:
        self._store = store
        self._memtable_bytes = memtable_bytes
        self._checkpoint_log_bytes = checkpoint_log_bytes
        self._checkpoint_age_ticks = checkpoint_age_ticks
        self._retry_ticks = retry_ticks
        meta = store.meta
        self.table = Table(store.get, meta.revision, meta.key_count, meta.state_hash, store.sessions())
        self.applied_index = meta.applied_index
        self.applied_term = meta.applied_term
        self.membership = meta.membership
        """The body of the newest ENTRY_CONFIG that has been applied; empty before the first."""
        self.durable_applied_index = meta.applied_index
        """What the store has: the log up to here is not needed to recover this node."""
        self.held = HeldSnapshots(limit=snapshots, ttl_ticks=snapshot_ttl_ticks, first_id=first_snapshot_id)
        self.checkpoints = 0
        self.checkpoint_error: BaseException | None = None
        self._fatal: BaseException | None = None
        self._log_bytes = 0
        self._age = 0
        self._frozen: _Frozen | None = None
        self._writing = False
        self._retry_in = 0
        self._wanted: deque[tuple[int, Callable[[BaseException | None], None]]] = deque()

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """How many commands have changed something, in the whole life of the cluster."""
        return self.table.revision

    @property
    def key_count(self) -> int:
        """Live keys."""
        return self.table.key_count

    @property
    def state_hash(self) -> int:
        """Equal on all nodes whose `applied_index` is equal, or their states have parted."""
        return self.table.state_hash

    def apply(self, segment: Segment, first: int, last: int, results: WriteBuffer | None) -> None:
        """Apply entries `first` to `last` of a committed run, and append a 16-byte result for each where asked to.

        AssertionError where they do not follow what has been applied, or cannot be read: the node has to stop.
        """
        if first != self.applied_index + 1:
            raise AssertionError(f"entry {first} is applied after entry {self.applied_index}")
        batch = segment.batch
        self.table.apply(batch, first - segment.first_index, last - segment.first_index + 1, first, results)
        if (membership := batch.config) is not None:
            self.membership = membership
        self.applied_index = last
        self.applied_term = segment.term
        # A run is often applied in pieces: each counts for its share.
        self._log_bytes += segment.nbytes * (last - first + 1) // batch.count

    def open_snapshot(self) -> TableSnapshot:
        """The state as it is now, until closed."""
        return self.table.snapshot(self._store.view())

    def scan(self, question: RangeQuestion, *, max_items: int, max_bytes: int) -> Page:
        """A page of a range; all pages of a cursor show one state. CursorExpired where that is gone."""
        limit = min(question.limit or max_items, max_items)
        limit_bytes = min(question.limit_bytes or max_bytes, max_bytes)
        start, end = question.start, question.end
        snapshot_id = 0
        if question.cursor:
            snapshot_id, last_key = decode_cursor(question.cursor)
            snapshot = self.held.get(snapshot_id)
            if question.reverse:
                end = last_key
            else:
                start = last_key + b"\0"
        else:
            snapshot = self.open_snapshot()
        items, count, last_key, more = snapshot.scan(
            start, end, limit, limit_bytes, question.reverse, question.keys_only
        )
        revision = snapshot.revision
        if not more:
            self.held.release(snapshot_id) if question.cursor else snapshot.close()
            return Page(revision, count, items, b"")
        if not question.cursor:
            snapshot_id = self.held.hold(snapshot)
        return Page(revision, count, items, encode_cursor(snapshot_id, last_key))

    # -- checkpoints -------------------------------------------------------------------------------------------------

    @property
    def over_limit(self) -> bool:
        """Checkpoints cannot keep up, or fail: refuse writes until they do not."""
        return self.table.active_bytes > HARD_LIMIT * self._memtable_bytes

    @property
    def checkpoint_due(self) -> bool:
        """Whether it is time to write one: for the memtable's size, the log's length, or its age."""
        if self._fatal is not None:
            return False            # what failed is not tried again
        if self._frozen is not None:
            return not self._writing and self._retry_in <= 0
        if self.applied_index == self.durable_applied_index:
            return False
        return (
            bool(self._wanted)
            or self.table.active_bytes >= self._memtable_bytes
            or self._log_bytes >= self._checkpoint_log_bytes
            or self._age >= self._checkpoint_age_ticks
        )

    def checkpoint_soon(self, done: Callable[[BaseException | None], None]) -> None:
        """Begin a checkpoint at the next occasion. `done` is called once the store has all that is applied now.

        With StoreFull where there is no room for it.
        """
        self._wanted.append((self.applied_index, done))
        self._settle(None)

    def _settle(self, full: StoreFull | None) -> None:
        """Tell those whose checkpoint is there; where there is no room, all of them."""
        while self._wanted and (full or self._wanted[0][0] <= self.durable_applied_index):
            index, done = self._wanted.popleft()
            done(full if index > self.durable_applied_index else None)

    def tick(self) -> None:
        """One tick of time."""
        if self._fatal is not None:
            raise self._fatal
        self.held.tick()
        self._retry_in -= 1
        self._age = self._age + 1 if self.applied_index != self.durable_applied_index else 0

    def start_checkpoint(self) -> None:
        """Write what has been applied into the store. The caller has made sure that it is durable in the log."""
        if self._frozen is None:
            meta = StoreMeta(
                self.applied_index,
                self.applied_term,
                self.revision,
                self.key_count,
                self.state_hash,
                self.membership,
            )
            self._frozen = _Frozen(self.table.rotate(), self.table.take_session_changes(), self._is_behind, meta)
            self._log_bytes = self._age = 0
        self._writing = True
        self._store.checkpoint(self._frozen.changes, self._frozen.meta, self._checkpoint_done)

    def _is_behind(self) -> bool:
        """Whether the next checkpoint is half due already."""
        return 2 * self.table.active_bytes > self._memtable_bytes

    def _checkpoint_done(self, error: BaseException | None) -> None:
        assert self._frozen is not None
        self._writing = False
        self.checkpoint_error = error
        if error is None:
            self.durable_applied_index = self._frozen.meta.applied_index
            self._frozen = None
            self.table.flushed()
            self.checkpoints += 1
            self._settle(None)
        elif isinstance(error, StoreFull):
            self._retry_in = self._retry_ticks      # what was frozen is still served from, and tried again
            self._settle(error)
            if isinstance(error, StorePinned) and self.over_limit:
                self.held.close()                   # listings may begin again; writes have nowhere else to go
                self._retry_in = 0
        else:
            self._fatal = error                     # the disk cannot be trusted: the next tick stops the node

    # -- snapshots of other nodes ------------------------------------------------------------------------------------

    @property
    def checkpointing(self) -> bool:
        """Whether a checkpoint is being written. So long nothing can be installed."""
        return self._writing

    def install(self) -> None:
        """Go over to the snapshot that the store has taken in and finished: state, sessions, members, applied index.

        What was here is forgotten, listings with it; a state that is behind the snapshot's has nothing to add. The
        caller has made sure that the log restarts behind it, and waits while this machine is `checkpointing`.
        """
        if self._writing:
            raise AssertionError("a checkpoint is being written into the store that is about to go")
        self.held.close()
        meta = self._store.install()
        self.table.restart(meta.revision, meta.key_count, meta.state_hash, self._store.sessions())
        self.applied_index = self.durable_applied_index = meta.applied_index
        self.applied_term = meta.applied_term
        self.membership = meta.membership
        self.checkpoint_error = None
        self._frozen = None
        self._log_bytes = self._age = self._retry_in = 0
        self._settle(None)

    def close(self) -> None:
        """Let go of snapshots, so that the store can be closed."""
        self.held.close()


class _Frozen(NamedTuple):
    """What a checkpoint writes, for as many tries as it takes."""

    data: Memtable
    sessions: list[tuple[bytes, bytes | None]]
    urgent: Callable[[], bool]
    meta: StoreMeta

    @property
    def changes(self) -> Changes:
        return Changes(self.data.items, lambda: self.sessions, self.urgent)
