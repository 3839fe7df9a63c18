"""What commands mean, as one would write it down to explain it: the twin of `fastkv._core.apply`.

A dictionary, and copies of it where a snapshot is asked for. There are no generations and no store below.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from fastkv._core.codes import FrameFlag, Kind, Status
from tests.reference.digest import MODULUS, hash_of
from tests.reference.entry import Command, decode_command
from tests.reference.sessions import Keyed, Result, Sessions, fingerprint_of

NO_LIMIT = 2**32
RESULT = struct.Struct("<HBBIQ")
RECORD_HEADER = struct.Struct("<QQQQ")
ITEM_HEADER = struct.Struct("<HHI")


class Record(NamedTuple):
    """What is kept of a key."""

    mod_revision: int
    create_revision: int
    version: int
    lease: int
    value: bytes

    def encode(self) -> bytes:
        return RECORD_HEADER.pack(*self[:4]) + self.value


class State:
    """Keys and their records, the count of changes, and what is known of clients' writes."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.revision = 0
        self.applied_index = 0
        self.sessions = Sessions()

    def get(self, key: bytes) -> bytes | None:
        found = self.records.get(key)
        return None if found is None else found.encode()

    def apply(self, entries: Sequence[tuple[int, bytes]]) -> bytes:
        """The results of all the entries, 16 bytes each."""
        return b"".join(self.apply_one(kind, body) for kind, body in entries)

    def apply_one(self, kind: int, body: bytes) -> bytes:
        self.applied_index += 1
        if kind == Kind.ENTRY_SESSION:
            opened, limit = struct.unpack("<II", body)
            assert opened == 1
            self.sessions.open(self.applied_index, limit)
            return result(Status.OK, 0, self.applied_index)
        if kind not in (Kind.ENTRY_PUT, Kind.ENTRY_DELETE):
            return result(Status.OK, 0, self.revision)
        status, command = decode_command(kind, body, NO_LIMIT)
        assert status == Status.OK
        assert command is not None
        return result(*self.apply_once(command))

    def apply_once(self, command: Command) -> Result:
        """A command, if it has not been applied before."""
        if command.session is None:
            return self.apply_command(command)
        client, sequence = command.session
        if client >= 2**63:
            return self.apply_keyed(command, client, sequence)
        known = self.sessions.recall(client, sequence, self.applied_index)
        if known == "new":
            known = self.apply_command(command)
            self.sessions.remember(client, sequence, known)
        return known if isinstance(known, Result) else Result(Status.SESSION_EXPIRED, 0, 0)

    def apply_keyed(self, command: Command, high: int, low: int) -> Result:
        fingerprint = fingerprint_of(*command[:5])
        known = self.sessions.recall_key(high, low, fingerprint)
        if known == "new":
            known = self.apply_command(command)
            self.sessions.remember_key(Keyed(high, low, self.applied_index, fingerprint, known))
        return known if isinstance(known, Result) else Result(Status.INVALID_REQUEST, 0, 0)

    def apply_command(self, command: Command) -> Result:
        kind, key, value, compare, lease, _ = command
        old = self.records.get(key)
        current = old.mod_revision if old else 0
        if compare is not None and compare != current:
            return Result(Status.PRECONDITION_FAILED, 0, current)
        if kind == Kind.ENTRY_DELETE:
            if old is None:
                return Result(Status.KEY_NOT_FOUND, 0, self.revision)
            self.revision += 1
            del self.records[key]
            return Result(Status.OK, 0, self.revision)
        self.revision += 1
        if old is None:
            self.records[key] = Record(self.revision, self.revision, 1, lease or 0, value)
            return Result(Status.OK, FrameFlag.CREATED, self.revision)
        self.records[key] = Record(self.revision, old.create_revision, old.version + 1, lease or 0, value)
        return Result(Status.OK, 0, self.revision)

    @property
    def state_hash(self) -> int:
        data = hash_of((key, record.encode()) for key, record in self.records.items())
        return (data + self.sessions.digest()) % MODULUS

    def snapshot(self) -> Snapshot:
        return Snapshot(dict(self.records), self.revision)


class Snapshot:
    """A copy."""

    def __init__(self, records: dict[bytes, Record], revision: int) -> None:
        self.records = records
        self.revision = revision

    def items(self, start: bytes = b"", end: bytes = b"", reverse: bool = False) -> list[tuple[bytes, Record]]:
        chosen = [(key, record) for key, record in self.records.items() if key >= start and (not end or key < end)]
        return sorted(chosen, reverse=reverse)

    def scan(
        self, start: bytes, end: bytes, limit: int, limit_bytes: int, reverse: bool = False, keys_only: bool = False
    ) -> tuple[bytes, int, bytes, bool]:
        """Encoded items, their count, the last key, and whether there are more."""
        page, count, last = b"", 0, b""
        for key, record in self.items(start, end, reverse):
            if count == limit or len(page) >= limit_bytes > 0:
                return page, count, last, True
            page += encode_item(key, record, keys_only)
            count, last = count + 1, key
        return page, count, last, False


def result(status: int, flags: int, revision: int) -> bytes:
    return RESULT.pack(status, flags, 0, 0, revision)


def encode_item(key: bytes, record: Record, keys_only: bool) -> bytes:
    value = b"" if keys_only else record.value
    return ITEM_HEADER.pack(len(key), 0, len(value)) + RECORD_HEADER.pack(*record[:4]) + key + value
