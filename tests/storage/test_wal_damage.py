"""What a node does not put up with: damage to what had been durable. And what looks like a record and is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from fastkv.errors import DamagedLog, StorageError
from fastkv.storage.wal_format import RECORD_HEADER_BYTES, encode_record_header, log_position, parse_segment_header
from tests.storage.logs import (
    SMALL_BYTES,
    copied,
    entries_of,
    found,
    indexes,
    opened,
    patch,
    records,
    run,
    segment,
    snapshot,
    write,
)


def test_a_flipped_bit_in_what_had_been_durable_is_refused_at_every_byte(one: Path, tmp_path: Path) -> None:
    """From the first byte of the segment to the last one before the last record."""
    path = copied(one, tmp_path / "wal")
    data = segment(one, 1).read_bytes()
    end = records(segment(one, 1))[-1][0]
    for at in range(end):
        damaged = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
        segment(path, 1).write_bytes(damaged)
        with pytest.raises(DamagedLog, match="repair from peers"):
            found(path)
        assert segment(path, 1).read_bytes() == damaged, "it is left as it was found"


def test_the_message_says_where_what_and_what_to_do(one: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    start = next(start for start, _, record in records(segment(one, 1)) if record.first_index == 3 and record.kind == 1)
    patch(segment(path, 1), start + 5, b"\x01")
    with pytest.raises(DamagedLog) as raised, opened(path):
        pass
    text = str(raised.value)
    assert str(segment(path, 1)) in text
    assert f"at byte {start}" in text
    assert "entries 3 to 3 " in text, "the record of entry 4 is the witness"
    assert "repair from peers" in text


def test_a_lost_write_is_damage(one: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    start, end, _ = records(segment(one, 1))[3]
    patch(segment(path, 1), start, bytes(end - start))
    with pytest.raises(DamagedLog):
        found(path)


def test_a_sealed_end_is_not_taken_for_a_torn_one(tmp_path: Path) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"only"))
    start, end, _ = next(record for record in records(segment(tmp_path, 1)) if record[2].kind == 1)
    data = segment(tmp_path, 1).read_bytes()
    for at in range(start, end):
        segment(tmp_path, 1).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(DamagedLog):
            found(tmp_path)


@pytest.mark.parametrize("at", [3, 20, 50, 70, 130, 1000, 2000])
def test_damage_in_an_older_segment(three: Path, tmp_path: Path, at: int) -> None:
    path = copied(three, tmp_path / "wal")
    patch(segment(path, 2), at, bytes([segment(three, 2).read_bytes()[at] ^ 0x80]))
    with pytest.raises(DamagedLog, match="repair from peers"):
        found(path)


@pytest.mark.slow
def test_a_file_that_was_cut_is_damage_at_every_byte(one: Path, tmp_path: Path) -> None:
    """A segment has its full size from the moment that its name exists: a shorter one is no torn write."""
    path = copied(one, tmp_path / "wal")
    data = segment(one, 1).read_bytes()
    for at in range(len(data)):
        segment(path, 1).write_bytes(data[:at])
        with pytest.raises(DamagedLog, match=f"is damaged at byte {at}: it has {at} bytes"):
            found(path)


@pytest.mark.parametrize("nbytes", [8192, 3 * 4096 - 1, 5000, 12289])
def test_a_large_segment_that_was_cut_or_has_grown(tmp_path: Path, nbytes: int) -> None:
    with opened(tmp_path, segment_bytes=3 * 4096) as wal:
        write(wal, run(1, 1, b"only"))
    with segment(tmp_path, 1).open("r+b") as file:
        file.truncate(nbytes)
    with pytest.raises(DamagedLog, match=f"it has {nbytes} bytes of its 12288"):
        found(tmp_path)


def test_a_log_that_was_closed_and_has_lost_its_end(tmp_path: Path) -> None:
    """Zeros from any record on leave nothing behind that could say so, but for the seal in its file."""
    with opened(tmp_path / "wal") as wal:
        for index in range(1, 6):
            write(wal, run(index, 1, b"entry %d" % index))
    path = tmp_path / "wal"
    data = segment(path, 1).read_bytes()
    for start, _, _ in records(segment(path, 1))[1:]:
        segment(path, 1).write_bytes(data[:start] + bytes(len(data) - start))
        with pytest.raises(DamagedLog, match=rf"at byte {start}: the log went on to byte .* when it was closed"):
            found(path)
    for file in path.glob("*.wal"):
        file.unlink()
    with pytest.raises(DamagedLog, match=r"the segments of the log in .* are gone"), opened(path):
        pass


@pytest.mark.parametrize("stored", [b"", b"x", bytes(32), b"fkvseal1" + bytes(range(24)), bytes(33)], ids=repr)
def test_a_seal_that_cannot_be_read_says_nothing(tmp_path: Path, stored: bytes) -> None:
    with opened(tmp_path) as wal:
        write(wal, run(1, 1, b"only"))
    (tmp_path / "sealed").write_bytes(stored)
    assert indexes(tmp_path) == [1]


def test_a_missing_segment(three: Path, tmp_path: Path) -> None:
    path = copied(three, tmp_path / "wal")
    segment(path, 2).unlink()
    with pytest.raises(DamagedLog, match=r"0002\.wal is missing"):
        found(path)


def test_segments_that_changed_places(three: Path, tmp_path: Path) -> None:
    path = copied(three, tmp_path / "wal")
    segment(path, 2).rename(path / "aside")
    segment(path, 3).rename(segment(path, 2))
    (path / "aside").rename(segment(path, 3))
    with pytest.raises(DamagedLog, match="renamed or copied"):
        found(path)


def test_a_second_tail(three: Path, tmp_path: Path) -> None:
    """A copy of the last segment under the next name: two files that both say that they end the log."""
    path = copied(three, tmp_path / "wal")
    last = max(int(file.stem, 16) for file in path.glob("*.wal"))
    shutil.copyfile(segment(path, last), segment(path, last + 1))
    with pytest.raises(DamagedLog, match="renamed or copied"):
        found(path)


def test_a_segment_of_another_log_of_the_same_node(one: Path, three: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    shutil.copyfile(segment(three, 2), segment(path, 2))
    with pytest.raises(DamagedLog, match="another log"):
        found(path)


def test_leftover_files_are_removed(three: Path, tmp_path: Path) -> None:
    path = copied(three, tmp_path / "wal")
    (path / "prepared.tmp").write_bytes(bytes(100))
    (path / "0000000000000001.tmp").write_bytes(segment(path, 2).read_bytes())
    with opened(path) as wal:
        assert wal.recovered.last_index == 70
        assert not (path / "0000000000000001.tmp").exists()


def test_a_foreign_file(one: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    (path / "copy of 1.wal").write_bytes(b"")
    with pytest.raises(StorageError, match="no file of this log"):
        found(path)


def test_a_removal_that_a_crash_interrupted(tmp_path: Path) -> None:
    """Segments go one by one, oldest first; where a suffix was cut off, the one left may begin above the next."""
    with opened(tmp_path / "live") as wal:
        for index in range(1, 51):
            write(wal, run(index, 1, b"%09d " % index * 10))
        write(wal, run(10, 2, b"ten"))
        path = snapshot(wal, tmp_path / "live", tmp_path / "copy")
        last = wal._current.segment_id
        assert [item.base_index for item in wal._segments if item.base_index > 9], "one begins above the last's base"
    for number in range(1, last):
        segment(path, number).unlink()
        with opened(copied(path, tmp_path / f"{number}"), keep_above=9) as wal:
            assert wal.recovered.base_index == 9
            assert entries_of(wal.recovered.segments) == {10: (2, b"ten")}
            assert entries_of(wal.read(10, 10, 100)) == {10: (2, b"ten")}
            assert wal.recovered.last_index == 10


# -- records in the wrong place ----------------------------------------------------------------------------------------


def at_the_end(path: Path, content: bytes) -> None:
    """Put bytes behind the last record of segment 1."""
    patch(segment(path, 1), records(segment(path, 1))[-1][1], content)


def test_a_duplicated_record_does_not_count(one: Path, tmp_path: Path) -> None:
    path = copied(one, tmp_path / "wal")
    data = segment(path, 1).read_bytes()
    start, end, _ = records(segment(path, 1))[-1]
    at_the_end(path, data[start:end])
    assert indexes(path) == [1, 2, 3, 4, 5]
    assert found(path).torn is not None


def test_a_misdirected_record_does_not_count(one: Path, tmp_path: Path) -> None:
    """A write that went to the place of another is damage: what was there had been durable."""
    path = copied(one, tmp_path / "wal")
    data = segment(path, 1).read_bytes()
    third, fourth = records(segment(path, 1))[3:5]
    patch(segment(path, 1), third[0], data[fourth[0] : fourth[1]])
    with pytest.raises(DamagedLog):
        found(path)


def test_a_record_of_an_older_segment_does_not_count(three: Path, tmp_path: Path) -> None:
    """As in a recycled segment: the old record is at its old offset, behind the new end."""
    path = copied(three, tmp_path / "wal")
    last = max(int(file.stem, 16) for file in path.glob("*.wal"))
    end = records(segment(path, last))[-1][1]
    stale = next(record for record in records(segment(path, last - 1)) if record[0] >= end)
    patch(segment(path, last), stale[0], segment(path, last - 1).read_bytes()[stale[0] : stale[1]])
    result = found(path)
    assert result.end == log_position(last, end)
    assert result.index.last_index == 70


def test_a_record_of_an_earlier_end_does_not_count(one: Path, tmp_path: Path) -> None:
    """The right place in the right log, once; but what follows it now does not follow it."""
    path = copied(one, tmp_path / "wal")
    start, end, _ = records(segment(path, 1))[-1]
    stale = segment(path, 1).read_bytes()[start:end]
    patch(segment(path, 1), start, bytes(end - start))
    with opened(path) as wal:
        for index in range(5, 8):
            write(wal, run(index, 2, b"entry V"))
        path = snapshot(wal, path, tmp_path / "again")
    assert indexes(path) == list(range(1, 8))
    patch(segment(path, 1), start, stale)
    with pytest.raises(DamagedLog):
        found(path)


# -- numbers that ask for too much -------------------------------------------------------------------------------------


def forged(path: Path, *, payload: bytes = b"", kind: int = 1, **fields: int) -> bytes:
    """A record with a true checksum, whatever it says, for the end of segment 1."""
    header = parse_segment_header(segment(path, 1).read_bytes())
    assert header is not None
    _, end, last = records(segment(path, 1))[-1]
    defaults = {"first_index": 6, "entry_count": 1, "term": 1, "durable_position": 0, "commit": 0}
    length = fields.pop("length", len(payload))
    encoded, _ = encode_record_header(
        kind,
        length,
        xxh3_64_intdigest(payload),
        position=log_position(1, end),
        previous_chain=last.chain,
        salt=header.salt,
        **{**defaults, **fields},
    )
    assert len(encoded) == RECORD_HEADER_BYTES
    return encoded + payload


ENTRY = run(1, 1, b"entry").batch.data


@pytest.mark.parametrize("length", [SMALL_BYTES, (1 << 30) + 1, 0xFFFF_FFFF])
def test_a_length_beyond_the_file(one: Path, tmp_path: Path, length: int) -> None:
    path = copied(one, tmp_path / "wal")
    at_the_end(path, forged(path, length=length))
    assert indexes(path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "fields",
    [{"entry_count": 0}, {"entry_count": 1 << 31}, {"first_index": 0}, {"first_index": 1 << 63}, {"kind": 3}],
    ids=str,
)
def test_numbers_that_no_record_has(one: Path, tmp_path: Path, fields: dict[str, int]) -> None:
    path = copied(one, tmp_path / "wal")
    at_the_end(path, forged(path, payload=ENTRY, **fields))
    assert indexes(path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("fields", "payload"),
    [
        ({"first_index": 7}, ENTRY),                            # a gap
        ({"term": 0}, ENTRY),                                   # back in term
        ({"entry_count": 2}, ENTRY + b"\0" * 4),                # other entries than announced
        ({"kind": 2, "entry_count": 0}, b"short"),
        ({"kind": 2, "entry_count": 0}, b"\1" * 34),            # a state of a log that this is not
    ],
    ids=str,
)
def test_a_record_in_sequence_that_contradicts_the_log(
    one: Path, tmp_path: Path, fields: dict[str, int], payload: bytes
) -> None:
    """The chain vouches for it, so it is no torn write, and nothing to be cut off silently."""
    path = copied(one, tmp_path / "wal")
    at_the_end(path, forged(path, payload=payload, **fields))
    with pytest.raises(DamagedLog, match=r"contradicts|are none"):
        found(path)


def test_a_value_that_looks_like_a_record_is_none(tmp_path: Path) -> None:
    """A client can put anything into a value but the salt: what it forges for a later place does not count."""
    with opened(tmp_path / "live") as wal:
        write(wal, run(1, 1, b"a"))
        path = snapshot(wal, tmp_path / "live", tmp_path / "copy")
        _, end, last = records(segment(path, 1))[-1]
        # The value begins 88 bytes behind the record's start: header of the record, header of the entry.
        fake, _ = encode_record_header(
            1,
            0,
            xxh3_64_intdigest(b""),
            position=log_position(1, end + 88),
            first_index=3,
            entry_count=1,
            term=1,
            durable_position=log_position(1, end + 80),
            commit=0,
            previous_chain=last.chain,
            salt=0,
        )
        write(wal, run(2, 1, fake))
        torn = snapshot(wal, tmp_path / "live", tmp_path / "torn")
    assert segment(torn, 1).read_bytes()[end + 88 : end + 168] == fake
    patch(segment(torn, 1), end + 4, b"\xff")
    assert indexes(torn) == [1], "torn, and not damage with the fake as its witness"
