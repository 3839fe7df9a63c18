"""Both log stores against a plain mapping: whatever happens in whatever order, they say what the model says."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fastkv._core.codes import Kind
from fastkv.log_types import HardState, Segment
from fastkv.storage.memory_log import MemoryDisk, MemoryLogStore
from fastkv.storage.wal import Wal
from tests.storage.logs import CLUSTER, NODE, Model, configuration, entries_of, reference, run, snapshot

Store = Wal | MemoryLogStore


class Driver:
    """Does the same to a store and to the model, and compares."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.model = Model()
        self.base = 0
        self.applied = 0
        self.store: Store
        self.actions = [self.append, self.read, self.compact, self.restart]

    def append(self) -> None:
        rng, model = self.rng, self.model
        hard_state = None
        if rng.random() < 0.3:
            hard_state = HardState(model.hard_state.term + rng.randint(0, 2), rng.choice(["", "node-1", "n" * 60]), 0)
        first = model.last_index + 1
        if rng.random() < 0.15 and first > self.applied + 1:
            first = rng.randint(self.applied + 1, first - 1)        # a conflict; never below what is applied
        term = max(hard_state.term if hard_state else model.hard_state.term, self._term_before(first))
        segments = []
        for _ in range(rng.choice([0, 1, 1, 1, 3])):
            if rng.random() < 0.1:
                segments.append(configuration(first, term, rng.randbytes(5)))
                first += 1
                continue
            segments.append(run(first, term, *(rng.randbytes(rng.randint(0, 120)) for _ in range(rng.randint(1, 6)))))
            first = segments[-1].last_index + 1
        self.store.append(hard_state, segments)
        model.append(hard_state, segments)

    def _term_before(self, index: int) -> int:
        return self.model.entries[index - 1][0] if index - 1 in self.model.entries else 0

    def restart(self) -> None:
        """A snapshot takes the place of the log, unless the log has its last entry."""
        rng, model = self.rng, self.model
        index = rng.randint(self.applied + 1, max(self.applied + 1, model.last_index + 20))
        term = rng.choice([self._term_before(index + 1) or 1, model.hard_state.term, model.hard_state.term + 1])
        term = max(term, self._term_before(self.base + 1))
        self.store.restart(index, term)
        if index not in model.entries or model.entries[index][0] != term:
            if term > model.hard_state.term:
                model.hard_state = HardState(term, "", 0)
            model.entries = {index: (term, b"")}    # of the base only the term counts
            self.base = index
        self.applied = index

    def settle(self) -> None:
        """Everything written so far is durable."""
        store = self.store
        ticket = store.append(None, [])
        if isinstance(store, Wal):
            assert store.wait(ticket, 30)
            store.collect()
        else:
            store.complete(ticket)
        assert store.durable_ticket == ticket

    def compact(self) -> None:
        self.settle()
        self.applied = self.rng.randint(self.applied, self.model.last_index)
        self.store.compact(self.applied)
        assert self.base + 1 <= self.store.first_index <= self.applied + 1, "whole segments only, and never too much"
        self.base = self.store.first_index - 1
        for behind in (0, 1, 1000, 1 << 30):
            assert self.base <= self.store.index_behind(behind) <= self.model.last_index

    def read(self) -> None:
        model, first = self.model, self.base + 1
        if model.last_index < first:
            return
        at, budget = self.rng.randint(first, model.last_index), self.rng.choice([0, 50, 500, 1 << 30])
        last = self.rng.randint(at, model.last_index + 3)
        found = self.store.read(at, last, budget)
        entries = entries_of(found)
        assert entries
        assert sorted(entries) == list(range(at, at + len(entries)))
        assert all(model.entries[index] == entry for index, entry in entries.items())
        assert len(found) == 1 or sum(segment.nbytes for segment in found) <= budget
        if budget == 1 << 30:
            assert len(entries) == min(last, model.last_index) - at + 1
        assert self.store.term_at(at) == model.entries[at][0]

    def check(self) -> None:
        """Everything, entry by entry, after a start."""
        store, recovered, model = self.store, self.store.recovered, self.model
        assert (recovered.hard_state.term, recovered.hard_state.vote) == model.hard_state[:2]
        assert (recovered.first_index, recovered.last_index) == (self.base + 1, max(model.last_index, self.base))
        assert recovered.base_index == self.base
        assert store.term_at(self.base) == recovered.base_term == self._term_before(self.base + 1)
        assert [(i, body) for i, body in recovered.configurations if i > self.applied] == [
            (i, model.entries[i][1]) for i in sorted(model.configurations) if i > self.applied
        ]
        for segment in recovered.segments:
            kinds = [entry.kind for entry in segment.batch.entries()]
            assert Kind.ENTRY_CONFIG not in kinds or len(kinds) == 1, "a configuration has a run of its own"
        kept = entries_of(recovered.segments)
        assert set(kept) >= {index for index in model.entries if index > self.applied}
        assert all(model.entries[index] == entry for index, entry in kept.items())
        if recovered.last_index > self.base:
            everything = entries_of(store.read(self.base + 1, recovered.last_index, 1 << 30))
            assert everything == {index: entry for index, entry in model.entries.items() if index > self.base}


def open_wal(path: Path, applied: int, segment_bytes: int) -> Wal:
    return Wal(path, cluster=CLUSTER, node_id=NODE, segment_bytes=segment_bytes, keep_above=applied)


@pytest.mark.parametrize("seed", range(12))
def test_the_log_on_disk(tmp_path: Path, seed: int) -> None:
    driver = Driver(random.Random(seed))
    path, segment_bytes = tmp_path / "wal", 4096 << seed % 3
    driver.store = open_wal(path, 0, segment_bytes)
    for life in range(8):
        for _ in range(driver.rng.randint(0, 60)):
            driver.rng.choices(driver.actions, [10, 3, 0.7, 0.3])[0]()
        driver.settle()
        assert isinstance(driver.store, Wal)
        if life % 2:
            driver.store.close()
        else:
            path = snapshot(driver.store, path, tmp_path / f"life {life}")      # what a kill leaves: no seal, no spare
            driver.store.close()
        driver.store = open_wal(path, driver.applied, segment_bytes)
        driver.check()
        log = reference(path)
        assert (log.term, log.vote) == driver.model.hard_state[:2]
        assert {index: (term, body) for index, (term, _, body) in log.entries.items()} == {
            index: entry for index, entry in driver.model.entries.items() if index > driver.base
        }
    driver.store.close()


@pytest.mark.parametrize("seed", range(20))
def test_the_log_in_memory(seed: int) -> None:
    driver = Driver(random.Random(seed))
    disk = MemoryDisk()
    driver.store = MemoryLogStore(disk)
    for _ in range(10):
        for _ in range(driver.rng.randint(0, 60)):
            driver.rng.choices(driver.actions, [10, 3, 0.7, 0.3])[0]()
        driver.settle()
        disk.crash(driver.rng)
        driver.store = MemoryLogStore(disk, keep_above=driver.applied)
        driver.check()


@pytest.mark.parametrize("seed", range(8))
def test_the_two_agree_on_what_they_refuse(tmp_path: Path, seed: int) -> None:
    """Gaps, entries below the base and falling terms: refused by both, and nothing else is."""
    rng = random.Random(seed)
    on_disk, in_memory = open_wal(tmp_path, 0, 4096), MemoryLogStore(MemoryDisk())
    stores: list[Store] = [on_disk, in_memory]
    for store in stores:
        store.append(None, [run(1, 2, b"a", b"b", b"c"), run(4, 4, b"d")])
    segment = Segment(rng.randint(0, 7), rng.randint(0, 6), run(1, 1, b"x").batch)
    outcomes = []
    for store in stores:
        try:
            store.append(None, [segment])
            outcomes.append("taken")
        except ValueError:
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1], segment
    if outcomes[0] == "taken":
        assert on_disk.last_index == in_memory.last_index == segment.first_index
    on_disk.close()
