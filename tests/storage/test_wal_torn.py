"""What a node makes of a log whose end is torn: it cuts it off, durably, and goes on.

The logs are copied while they are open, as a crash leaves them: without the seal that `close` writes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from fastkv.log_types import HardState
from fastkv.storage.wal_format import log_position
from tests.storage.logs import (
    SMALL_BYTES,
    copied,
    entries_of,
    found,
    indexes,
    opened,
    patch,
    records,
    reference,
    run,
    segment,
    snapshot,
    write,
)

GARBAGE = bytes(range(1, 256)) * 2


def cut(data: bytes, at: int, end: int) -> bytes:
    """Nothing from there on reached the disk."""
    return data[:at] + bytes(len(data) - at)


def scrambled(data: bytes, at: int, end: int) -> bytes:
    """Something else did."""
    return data[:at] + GARBAGE[: end - at] + data[end:]


def holed(data: bytes, at: int, end: int) -> bytes:
    """All did but the one byte."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


@pytest.mark.parametrize("tear", [cut, scrambled, holed])
def test_a_torn_last_record_is_found_at_every_byte(
    one: Path, tmp_path: Path, tear: Callable[[bytes, int, int], bytes]
) -> None:
    path = copied(one, tmp_path / "wal")
    start, end, _ = records(segment(path, 1))[-1]
    data = segment(one, 1).read_bytes()
    for at in range(start, end):
        torn = tear(data, at, end)
        segment(path, 1).write_bytes(torn)
        result = found(path)
        whole = torn[:end] == data[:end]        # the byte was zero already
        assert result.end == log_position(1, end if whole else start), at
        assert sorted(entries_of(result.tail)) == list(range(1, 6 if whole else 5)), at
        assert (result.torn is not None) == any(torn[end if whole else start :]), at


@pytest.mark.parametrize("tear", [cut, scrambled])
def test_what_is_appended_after_a_torn_end_is_there_after_a_reboot(
    one: Path, tmp_path: Path, tear: Callable[[bytes, int, int], bytes]
) -> None:
    """Truncate, append, reboot, append, reboot; for a tear at every byte that is not padding."""
    start, end, _ = records(segment(one, 1))[-1]
    data = segment(one, 1).read_bytes()
    for at in range(start, end, 3):
        path = copied(one, tmp_path / f"{at}")
        segment(path, 1).write_bytes(tear(data, at, end))
        with opened(path) as wal:
            assert wal.recovered.last_index == 4
            write(wal, run(5, 2, b"another fifth"), hard_state=HardState(2, "node-2", 0))
        with opened(path) as wal:
            assert wal.recovered.hard_state == HardState(2, "node-2", 0)
            assert entries_of(wal.recovered.segments)[5] == (2, b"another fifth")
            write(wal, run(6, 2, b"sixth"))
        log = reference(path)
        assert {index: body for index, (_, _, body) in log.entries.items()} == {
            **{index: b"entry %d" % index for index in range(1, 5)},
            5: b"another fifth",
            6: b"sixth",
        }


def test_the_residue_of_a_torn_write_is_zeroed(one: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    start, end, _ = records(segment(path, 1))[-1]
    patch(segment(path, 1), start, b"\x5a" * 1000)
    opened(path).__enter__().close()
    assert not any(segment(path, 1).read_bytes()[end + 200 :])
    assert sorted(reference(path).entries) == [1, 2, 3, 4]


def test_garbage_behind_the_end_is_cut_and_nothing_is_lost(one: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    end = records(segment(path, 1))[-1][1]
    patch(segment(path, 1), end + 16, b"\x5a" * 100)
    assert found(path).torn is not None
    with opened(path) as wal:
        assert wal.recovered.last_index == 5
    assert sorted(reference(path).entries) == [1, 2, 3, 4, 5]


def test_a_zero_tail_is_a_clean_end(one: Path) -> None:
    result = found(one)
    assert result.torn is None
    assert result.surplus == []
    assert indexes(one) == [1, 2, 3, 4, 5]


def test_several_records_of_one_torn_write(tmp_path: Path) -> None:
    """A disk may write the last sync's records in any order: a torn one, and a whole one behind it."""
    with opened(tmp_path / "live", segment_bytes=1 << 16) as wal:
        write(wal, run(1, 1, b"durable"))
        write(wal, run(2, 1, b"a" * 100), run(3, 1, b"b" * 100), run(4, 1, b"c" * 100))
        path = snapshot(wal, tmp_path / "live", tmp_path / "copy")
    first, second, third = records(segment(path, 1))[-3:]
    assert third[2].durable_position == log_position(1, first[0]), "none of the three knew of another's sync"
    patch(segment(path, 1), second[0], bytes(second[1] - second[0]))
    assert indexes(path) == [1, 2]
    with opened(path, segment_bytes=1 << 16) as wal:
        assert wal.recovered.last_index == 2
        write(wal, run(3, 2, b"new"))
    assert sorted(reference(path).entries) == [1, 2, 3], "what was behind the tear is gone"


def test_a_torn_write_over_segments(tmp_path: Path) -> None:
    """One write may roll over several segments. All of them belong to it, and so does what was prepared behind."""
    with opened(tmp_path / "live") as wal:
        write(wal, run(1, 1, b"durable"))
        write(wal, *(run(index, 1, b"x" * 1500) for index in range(2, 9)))
        path = snapshot(wal, tmp_path / "live", tmp_path / "copy")
        last = wal._current.segment_id
    assert last >= 4
    segment(path, last + 1).write_bytes(bytes(SMALL_BYTES))
    start, _, _ = next(record for record in records(segment(path, 1)) if record[2].first_index == 2)
    patch(segment(path, 1), start + 90, b"torn")
    result = found(path)
    assert [item.name for item in result.surplus] == [segment(path, n).name for n in range(2, last + 2)]
    with opened(path) as wal:
        assert wal.recovered.last_index == 1
        write(wal, *(run(index, 2, b"y" * 1500) for index in range(2, 9)))
    log = reference(path)
    assert {term for term, _, _ in log.entries.values()} == {1, 2}
    assert sorted(log.entries) == list(range(1, 9))


@pytest.mark.parametrize("seed", range(40))
def test_any_sectors_of_the_last_sync_may_be_missing(tmp_path: Path, seed: int) -> None:
    """Power fails during a sync: what was synced before is whole, of the rest the disk has any sectors or none."""
    rng = random.Random(seed)
    groups: list[tuple[int, int]] = []      # last index, end position: after each sync
    with opened(tmp_path / "live") as wal:
        index = 0
        for _ in range(12):
            runs = [run(index + n, 1, rng.randbytes(rng.randint(0, 900))) for n in range(1, rng.randint(2, 8))]
            index += len(runs)
            write(wal, *runs)
            groups.append((index, log_position(wal._current.segment_id, wal._offset)))
        whole = entries_of(wal.read(1, index, 1 << 30))
        path = snapshot(wal, tmp_path / "live", tmp_path / "copy")
    number = rng.randrange(1, len(groups))
    (synced_index, synced), (torn_index, torn) = groups[number - 1 : number + 1]
    for file in path.glob("*.wal"):
        data = bytearray(file.read_bytes())
        segment_start = log_position(int(file.stem, 16), 0)
        for sector in range(0, len(data), 512):
            reached = torn - segment_start if rng.random() < 0.7 else 0
            gone = min(max(sector, synced - segment_start, reached), sector + 512)
            data[gone : sector + 512] = bytes(sector + 512 - gone)
        file.write_bytes(data)
    with opened(path) as wal:
        last = wal.recovered.last_index
        assert synced_index <= last <= torn_index
        assert entries_of(wal.recovered.segments) == {index: whole[index] for index in range(1, last + 1)}
        write(wal, run(last + 1, 2, b"after"))
    assert sorted(reference(path).entries) == list(range(1, last + 2))


@pytest.mark.parametrize("at", [0, 9, 60, 64, 100, 200])
def test_a_torn_beginning_of_a_segment(tmp_path: Path, at: int) -> None:
    """The roll itself was the write that tore."""
    with opened(tmp_path / "live") as wal:
        write(wal, *(run(index, 1, b"x" * 1100) for index in range(1, 4)))
        write(wal, run(4, 1, b"y" * 1100))
        assert wal._current.segment_id == 2
        path = snapshot(wal, tmp_path / "live", tmp_path / "copy")
    data = segment(path, 2).read_bytes()
    segment(path, 2).write_bytes(data[:at] + bytes(len(data) - at))
    with opened(path) as wal:
        assert wal.recovered.last_index == 3
        write(wal, run(4, 2, b"z" * 1100), run(5, 2, b"z" * 1100))
    assert sorted(reference(path).entries) == [1, 2, 3, 4, 5]


def test_a_record_that_only_the_page_cache_had_is_written_again(
    one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After kill -9, or a failed sync, what is read may not be on the disk: recovery makes it durable itself."""
    path = copied(one, tmp_path / "wal")
    start, end, last = records(segment(path, 1))[-1]
    assert last.durable_position == log_position(1, start)
    calls: list[tuple[int, int] | str] = []
    pwrite, fsync = os.pwrite, os.fsync

    def note_write(fd: int, data: memoryview, offset: int) -> int:
        calls.append((offset, len(data)))
        return pwrite(fd, data, offset)

    def note_sync(fd: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        fsync(fd)

    monkeypatch.setattr(os, "pwrite", note_write)
    monkeypatch.setattr(os, "fsync", note_sync)
    with opened(path):
        assert calls[:3] == [path.name, (start, end - start), segment(path, 1).name], "names first, then records"


