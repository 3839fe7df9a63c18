"""The bytes of the write-ahead log: segment headers and records. `docs/architecture/wal.md` is the specification.

A *log position* is one number: segment id in the upper 32 bits, byte offset in that segment in the lower. Positions
order all records of a log, and a record carries its own, so that one that was written to another place never passes.

A record is believed (it is *self-valid*) when its header's checksum, its position and its payload's checksum are
right. The header's checksum is seeded with the log's salt, a random number that clients never see: nobody can put bytes
into a value that look like a record. It covers the checksum of the record before (the *chain*), so that in sequence
each record vouches for all before it.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from fastkv._core import wal_record
from fastkv.log_types import HardState

Buffer = bytes | bytearray | memoryview

MAGIC = b"fkvwal1\0"
VERSION = 1

ENTRIES = wal_record.ENTRIES
"""A record whose payload is an `EntryBatch`: it cuts the log behind `first_index - 1` and appends to it."""
STATE = wal_record.STATE
"""A record of term, vote and commit index, and of where the log ends."""

RESTART = wal_record.RESTART
"""A STATE record that drops every entry: a snapshot ends where it says that the log ends."""

SEGMENT_HEADER_BYTES = 64
RECORD_HEADER_BYTES = wal_record.RECORD_HEADER_BYTES
ALIGNMENT = 8

MAX_PAYLOAD_BYTES = wal_record.MAX_PAYLOAD_BYTES
"""Of one record: far above any batch, and low enough that no length read from a disk can ask for much."""
MAX_SEGMENT_BYTES = 1 << 32
"""An offset has 32 bits."""
MIN_SEGMENT_BYTES = 4096
MAX_VOTE_BYTES = 0xFFFF

_SEGMENT_HEADER = struct.Struct("<8sIIQQQQQQ")
_SEGMENT_CHECKED = SEGMENT_HEADER_BYTES - 8
_RECORD_HEADER = struct.Struct("<IBBHQQIIQQQQQ")     # without its own checksum
_STATE = struct.Struct("<QQQQH")
_CHECKSUM = struct.Struct("<Q")


def log_position(segment_id: int, offset: int) -> int:
    """The position of a byte in the whole log."""
    return segment_id << 32 | offset


def padding_of(nbytes: int) -> int:
    """How many zero bytes follow a payload of that length."""
    return -nbytes % ALIGNMENT


def record_bytes(payload_bytes: int) -> int:
    """Length of a record on disk."""
    return RECORD_HEADER_BYTES + payload_bytes + padding_of(payload_bytes)


def log_identity(cluster: str, node_id: str) -> int:
    """What binds a segment to its node: neither a cluster's nor a node's name contains a zero byte."""
    return xxh3_64_intdigest(f"{cluster}\0{node_id}".encode())


class SegmentHeader(NamedTuple):
    """The first 64 bytes of a segment."""

    version: int
    segment_id: int
    previous_chain: int
    """Chain of the last record of the segment before; 0 in the first segment of a log."""
    identity: int
    salt: int
    """Seed of the record checksums; the same in all segments of a log."""
    capacity: int
    """Length of the file, so that one that was cut is told from a torn write; 0 in segments of older versions."""


def encode_segment_header(segment_id: int, previous_chain: int, identity: int, salt: int, capacity: int) -> bytes:
    """The header of a new segment, whose file has `capacity` bytes."""
    fields = (MAGIC, VERSION, 0, segment_id, previous_chain, identity, salt, capacity, 0)
    body = _SEGMENT_HEADER.pack(*fields)[:_SEGMENT_CHECKED]
    return body + _CHECKSUM.pack(xxh3_64_intdigest(body))


def parse_segment_header(data: Buffer) -> SegmentHeader | None:
    """The header at the start of `data`, or None where there is none that is whole.

    Every version of the format keeps magic, version and checksum in their places, so that a header of a version not
    known here is told from a damaged one.
    """
    if len(data) < SEGMENT_HEADER_BYTES:
        return None
    magic, version, _, segment_id, chain, identity, salt, capacity, checksum = _SEGMENT_HEADER.unpack_from(data)
    if magic != MAGIC or checksum != xxh3_64_intdigest(memoryview(data)[:_SEGMENT_CHECKED]):
        return None
    return SegmentHeader(version, segment_id, chain, identity, salt, capacity)


def newer_segment(path: Path) -> int:
    """The version of a segment that a newer release has written; 0 of any other, also where that cannot be read."""
    with path.open("rb") as file:
        header = parse_segment_header(file.read(SEGMENT_HEADER_BYTES))
    return header.version if header is not None and header.version > VERSION else 0


class RecordHeader(NamedTuple):
    """What stands before a payload, as `_core.wal_record` reads it."""

    length: int
    kind: int
    position: int
    """Where the record stands in the log."""
    first_index: int
    """Of the first entry; of a STATE record, the index that the next entry will have."""
    entry_count: int
    """Entries in the payload; 0 for STATE."""
    term: int
    durable_position: int
    """Everything before this position was known to be durable when the record was encoded."""
    commit: int
    payload_checksum: int
    previous_chain: int
    chain: int

    @property
    def end(self) -> int:
        """The position behind the record."""
        return self.position + record_bytes(self.length)

    @property
    def end_offset(self) -> int:
        """The byte of the segment behind the record."""
        return self.end & 0xFFFF_FFFF

    @property
    def last_index(self) -> int:
        """The log's last index once the record has been written."""
        return self.first_index + self.entry_count - 1


def encode_record_header(
    kind: int,
    payload_bytes: int,
    payload_checksum: int,
    *,
    position: int,
    first_index: int,
    entry_count: int,
    term: int,
    durable_position: int,
    commit: int,
    previous_chain: int,
    salt: int,
) -> tuple[bytes, int]:
    """A record's header, and its chain for the record after it."""
    body = _RECORD_HEADER.pack(
        payload_bytes,
        kind,
        0,
        0,
        position,
        first_index,
        entry_count,
        0,
        term,
        durable_position,
        commit,
        payload_checksum,
        previous_chain,
    )
    chain = xxh3_64_intdigest(body, salt)
    return body + _CHECKSUM.pack(chain), chain


def parse_record(data: Buffer, offset: int, position: int, salt: int) -> RecordHeader | None:
    """The record at `data[offset:]`, or None unless it is self-valid there: see `_core.wal_record.parse_record`."""
    fields = wal_record.parse_record(data, offset, position, salt)
    return None if fields is None else RecordHeader._make(fields)


class StateRecord(NamedTuple):
    """The payload of a STATE record."""

    hard_state: HardState
    end_index: int
    """The log ends here: entries above, if there were any, are cut off."""
    end_term: int
    """The term of that entry; 0 where the index is 0."""


def encode_state(hard_state: HardState, end_index: int, end_term: int) -> bytes:
    """The payload of a STATE record. ValueError for a node id of more than 65535 bytes."""
    vote = hard_state.vote.encode()
    if len(vote) > MAX_VOTE_BYTES:
        raise ValueError(f"a node id has at most {MAX_VOTE_BYTES} bytes, not {len(vote)}")
    return _STATE.pack(hard_state.term, hard_state.commit, end_index, end_term, len(vote)) + vote


def parse_state(payload: Buffer) -> StateRecord:
    """Take a STATE record's payload apart. ValueError where it is none."""
    if len(payload) < _STATE.size:
        raise ValueError(f"a state record of {len(payload)} bytes")
    term, commit, end_index, end_term, vote_bytes = _STATE.unpack_from(payload)
    vote = bytes(payload[_STATE.size :])
    if len(vote) != vote_bytes:
        raise ValueError(f"a state record with a vote of {len(vote)} bytes announces {vote_bytes}")
    return StateRecord(HardState(term, vote.decode(), commit), end_index, end_term)


def first_records(segment_id: int, identity: int, capacity: int) -> bytes:
    """How a new log begins: a segment's header, and a record of an empty state. The log's salt is drawn here."""
    salt = int.from_bytes(os.urandom(8), "little")
    payload = encode_state(HardState(), 0, 0)
    header, _ = encode_record_header(
        STATE,
        len(payload),
        xxh3_64_intdigest(payload),
        position=log_position(segment_id, SEGMENT_HEADER_BYTES),
        first_index=1,
        entry_count=0,
        term=0,
        durable_position=log_position(segment_id, 0),
        commit=0,
        previous_chain=0,
        salt=salt,
    )
    return encode_segment_header(segment_id, 0, identity, salt, capacity) + header + payload


def is_zero(data: memoryview) -> bool:
    """Whether all bytes are zero. In pieces, so that a mismatch at the front is found at once."""
    step = len(_ZEROS)
    # bytes against bytes is a memcmp; a memoryview would be compared element by element.
    return all(bytes(data[at : at + step]) == _ZEROS[: len(data) - at] for at in range(0, len(data), step))


_ZEROS = bytes(1 << 16)
