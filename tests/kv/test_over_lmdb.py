"""The state machine over the durable store itself: restarts, and a map that has to grow under it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastkv._core.buffer import WriteBuffer
from fastkv._core.codes import Kind
from fastkv.errors import CursorExpired
from fastkv.kv.state import Page, StateMachine
from tests.kv.machine import NEVER, Question, delete, put, segment
from tests.reference.state_machine import Snapshot, State
from tests.storage.stores import MAP_BYTES, Opened


class Life:
    """A state machine over its store, from a start to a stop."""

    def __init__(
        self,
        path: Path,
        *,
        map_bytes: int = MAP_BYTES,
        memtable_bytes: int = NEVER,
        retry_ticks: int = 1,
        cluster: str = "c",
    ) -> None:
        self.opened = Opened(path, map_bytes=map_bytes, cluster=cluster)
        self.machine = StateMachine(
            self.opened.store,
            memtable_bytes=memtable_bytes,
            checkpoint_log_bytes=NEVER,
            checkpoint_age_ticks=NEVER,
            retry_ticks=retry_ticks,
            snapshots=4,
            snapshot_ttl_ticks=NEVER,
            first_snapshot_id=1,
        )
        self.writing = False

    def apply(self, *entries: tuple[int, bytes]) -> bytes:
        results = WriteBuffer()
        run = segment(self.machine.applied_index + 1, *entries)
        self.machine.apply(run, run.first_index, run.last_index, results)
        return results.take()

    def start_checkpoint(self) -> None:
        before = self.machine.checkpoint_error
        self.machine.start_checkpoint()
        refused = self.machine.checkpoint_error is not before  # answered on the spot: nothing will be posted
        self.writing = not refused

    def finish_checkpoint(self) -> None:
        if self.writing:
            self.opened.run_one()
            self.writing = False

    def page(self, cursor: bytes, limit: int, reverse: bool) -> Page:
        return self.machine.scan(
            Question(cursor=cursor, limit=limit, reverse=reverse), max_items=1000, max_bytes=1 << 20
        )

    def contents(self) -> list[tuple[bytes, bytes]]:
        with self.machine.open_snapshot() as snapshot:
            return list(snapshot.items())

    def stop(self) -> None:
        self.machine.close()
        self.opened.store.close()


def random_entry(rng: random.Random) -> tuple[int, bytes]:
    key = rng.choice([b"", b"shared-prefix/", b"k" * 508]) + bytes(rng.choices(b"ab\0", k=rng.randint(1, 3)))
    dice = rng.random()
    if dice < 0.05:
        return Kind.NOOP, b""
    return delete(key) if dice < 0.35 else put(key, bytes(rng.choice([0, 20, 9000])))


@pytest.mark.parametrize("seed", range(8))
def test_any_life_is_the_twins(tmp_path: Path, seed: int) -> None:
    """Random work, checkpoints, listings and restarts; a restart replays the log from the applied index it finds."""
    rng = random.Random(seed)
    twin, log = State(), list[tuple[int, bytes]]()
    life = Life(tmp_path)
    listing: tuple[bytes, bool, list[bytes], Snapshot] | None = None
    for _ in range(120):
        dice = rng.random()
        if dice < 0.6:
            entries = [random_entry(rng) for _ in range(rng.randint(1, 5))]
            log += entries
            assert life.apply(*entries) == twin.apply(entries)
        elif dice < 0.7 and not life.writing:
            life.start_checkpoint()
        elif dice < 0.78:
            life.finish_checkpoint()
        elif dice < 0.95:
            if listing is None:
                listing = b"", rng.random() < 0.5, [], twin.snapshot()
            cursor, reverse, items, state = listing
            page = life.page(cursor, rng.randint(1, 4), reverse)
            items.append(page.items)
            assert page.revision == state.revision
            listing = (page.cursor, reverse, items, state) if page.cursor else None
            if not page.cursor:
                assert b"".join(items) == state.scan(b"", b"", NEVER, 0, reverse)[0]
        else:
            life.stop()  # a checkpoint under way may be in the store now, or not
            life, listing = Life(tmp_path), None
            assert life.machine.applied_index <= len(log)
            if rest := log[life.machine.applied_index :]:
                life.apply(*rest)
        assert (life.machine.revision, life.machine.key_count) == (twin.revision, len(twin.records))
    assert life.contents() == [(key, record.encode()) for key, record in twin.snapshot().items()]
    life.stop()


def test_writes_go_on_beside_a_client_that_never_stops_listing(tmp_path: Path) -> None:
    """The map grows only while nothing is read through it; but there is always a listing that is not finished."""
    life = Life(tmp_path, map_bytes=1 << 17, memtable_bytes=300_000, retry_ticks=10)
    refused = expired = 0
    cursor = b""
    for _ in range(400):
        life.machine.tick()
        try:
            cursor = life.page(cursor, 1, reverse=False).cursor
        except CursorExpired:
            cursor = b""
            expired += 1
        if life.machine.over_limit:
            refused += 1
        else:
            start = life.machine.applied_index
            life.apply(*(put(b"%06d" % (start + number), bytes(1000)) for number in range(10)))
        if life.machine.checkpoint_due:
            life.start_checkpoint()
            life.finish_checkpoint()
    # 4 MB through a map of 128 KiB: it doubles some five times, each time after one try and at most a listing's end.
    assert life.machine.durable_applied_index > 2500
    assert 1 <= expired <= 8
    assert refused <= 8 * 12
    life.stop()
