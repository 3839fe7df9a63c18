"""The write-ahead log, read slowly and plainly by docs/architecture/wal.md alone.

Shares no code with the production reader. Takes whole logs only: what is torn or damaged raises `Unreadable`, so a test
that has both read the same directory knows that what production wrote is what the document says.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from xxhash import xxh3_64_intdigest


class Unreadable(Exception):
    """The directory does not hold a whole log."""


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Unreadable(what)


@dataclass
class Log:
    """What a log says. `entries` maps each index to (term, kind, body)."""

    term: int = 0
    vote: str = ""
    commit: int = 0
    base_index: int = 0
    base_term: int = 0
    entries: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    records: list[tuple[str, int, int]] = field(default_factory=list)
    """File name, offset and kind of every record."""
    chain: int = 0
    position: int = 0
    durable_position: int = 0

    def last(self) -> tuple[int, int]:
        """Index and term of the last entry."""
        if not self.entries:
            return self.base_index, self.base_term
        index = max(self.entries)
        return index, self.entries[index][0]

    def cut(self, last_index: int) -> None:
        """Forget all entries above an index."""
        for index in [index for index in self.entries if index > last_index]:
            del self.entries[index]


def read_log(directory: Path, cluster: str, node_id: str) -> Log:
    """Read every segment of a log, in order."""
    log = Log()
    paths = sorted(directory.glob("*.wal"))
    expect(bool(paths), "no segments")
    first_id = int(paths[0].stem, 16)
    salt = 0
    for number, path in enumerate(paths):
        data = path.read_bytes()
        if not any(data[:64]):
            expect(path == paths[-1] and number > 0, f"{path} is not begun and not the last")
            expect(not any_record(data, first_id + number, 0, salt), f"{path} holds records, and was not begun")
            break
        identity = xxh3_64_intdigest(cluster.encode() + b"\0" + node_id.encode())
        header = struct.unpack("<8sIIQQQQQQ", data[:64])
        if number == 0:
            log.chain, salt = header[4], header[6]
        expected = (b"fkvwal1\0", 1, 0, first_id + number, log.chain, identity, salt, len(data),
                    xxh3_64_intdigest(data[:56]))
        expect(header == expected, f"{path}: header {header}, expected {expected}")
        expect(path.name == f"{first_id + number:016x}.wal", f"{path} has a wrong name")
        read_segment(log, path, data, first_id + number, salt)
    return log


def read_segment(log: Log, path: Path, data: bytes, segment_id: int, salt: int) -> None:
    """Read the records of one segment."""
    offset = 64
    while record_at(data, offset, segment_id * 2**32 + offset, salt) is not None:
        where = f"{path} at byte {offset}"
        length, kind, zero8, zero16 = struct.unpack_from("<IBBH", data, offset)
        position, first_index = struct.unpack_from("<QQ", data, offset + 8)
        count, zero32 = struct.unpack_from("<II", data, offset + 24)
        term, durable, commit, payload_checksum, previous, chain = struct.unpack_from("<QQQQQQ", data, offset + 32)
        payload = data[offset + 80 : offset + 80 + length]
        expect((zero8, zero16, zero32) == (0, 0, 0), f"{where}: reserved bits are set")
        expect(position == segment_id * 2**32 + offset, f"{where}: position {position:#x}")
        expect(len(payload) == length, f"{where}: the payload passes the end of the file")
        expect(payload_checksum == xxh3_64_intdigest(payload), f"{where}: payload checksum")
        expect(previous == log.chain, f"{where}: previous chain")
        expect(chain == xxh3_64_intdigest(data[offset : offset + 72], seed=salt), f"{where}: chain")
        expect(log.durable_position <= durable <= position, f"{where}: durable position {durable:#x}")
        expect((kind in (2, 3)) == (count == 0), f"{where}: kind {kind} with {count} entries")
        expect(kind in (2, 3) or offset > 64, f"{where}: a segment begins with a state record")
        expect(kind != 3 or offset == 64, f"{where}: a log restarts where a segment begins")
        if kind in (2, 3):
            read_state(log, payload, where, first_index, term, begins=kind == 3 or not log.records)
        else:
            expect(kind == 1, f"{where}: kind {kind}")
            read_entries(log, payload, where, first_index, count, term)
        log.chain, log.commit, log.durable_position = chain, commit, durable
        log.records.append((path.name, offset, kind))
        offset += 80 + length + -length % 8
        log.position = segment_id * 2**32 + offset
    # Zeros, or what a recycled segment held before.
    expect(not any_record(data, segment_id, offset, salt), f"{path}: a record lies behind the last, at byte {offset}")


def any_record(data: bytes, segment_id: int, start: int, salt: int) -> bool:
    """Whether a self-valid record of this segment stands at `start` or behind."""
    places = range(start + -start % 8, len(data), 8)
    return any(record_at(data, offset, segment_id * 2**32 + offset, salt) is not None for offset in places)


def record_at(data: bytes, offset: int, position: int, salt: int) -> tuple[int, ...] | None:
    """The fields of a self-valid record, or None: what `_core.wal_record.parse_record` answers."""
    if offset < 0 or len(data) < offset + 80:
        return None
    fields = struct.unpack_from("<IBBHQQIIQQQQQQ", data, offset)
    length, kind, zero8, zero16, at, first_index, count, zero32, *_, payload_checksum, _, chain = fields
    end = offset + 80 + length + -length % 8
    payload = data[offset + 80 : offset + 80 + length]
    sound = (
        at == position
        and length <= 2**30
        and end <= len(data)
        and chain == xxh3_64_intdigest(data[offset : offset + 72], seed=salt)
        and payload_checksum == xxh3_64_intdigest(payload)
        and not any(data[offset + 80 + length : end])
        and zero8 == zero16 == zero32 == 0
        and ((kind == 1 and 1 <= count <= length // 8 and 0 < first_index < 2**63) or (kind in (2, 3) and count == 0))
    )
    return (length, kind, at, first_index, count, *fields[8:]) if sound else None


def read_state(log: Log, payload: bytes, where: str, first_index: int, term: int, *, begins: bool) -> None:
    """A STATE record."""
    log.term, _, end_index, end_term, vote_bytes = struct.unpack_from("<QQQQH", payload)
    log.vote = payload[34:].decode()
    expect(len(payload) == 34 + vote_bytes, f"{where}: length of the vote")
    expect(first_index == end_index + 1 and term == log.term, f"{where}: header and payload differ")
    if begins or end_index < log.base_index:
        log.base_index, log.base_term = end_index, end_term
        log.entries.clear()
    expect(log.base_index <= end_index <= log.last()[0], f"{where}: ends with {end_index}")
    log.cut(end_index)
    expect(log.last() == (end_index, end_term), f"{where}: the log ends with {log.last()}")


def read_entries(log: Log, payload: bytes, where: str, first_index: int, count: int, term: int) -> None:
    """An ENTRIES record."""
    expect(log.base_index < first_index <= log.last()[0] + 1, f"{where}: entries from {first_index}")
    log.cut(first_index - 1)
    expect(term >= log.last()[1], f"{where}: term {term} after {log.last()[1]}")
    at = 0
    for index in range(first_index, first_index + count):
        body_bytes, kind = struct.unpack_from("<IB", payload, at)
        log.entries[index] = (term, kind, payload[at + 8 : at + 8 + body_bytes])
        at += 8 + body_bytes
    expect(at == len(payload), f"{where}: {len(payload)} bytes hold {at} bytes of entries")
