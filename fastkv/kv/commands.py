"""Entries of the log, for a person to read."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fastkv._core.codes import CommandFlag, Kind
from fastkv._core.entry import Entry

NAMES = {
    Kind.NOOP: "noop",
    Kind.ENTRY_PUT: "put",
    Kind.ENTRY_DELETE: "delete",
    Kind.ENTRY_CONFIG: "config",
    Kind.ENTRY_SESSION: "session",
    Kind.ENTRY_LEASE: "lease",
    Kind.ENTRY_TXN: "txn",
}
_HEADER = struct.Struct("<HBB")
_NUMBER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Command:
    """A PUT or DELETE taken apart; other kinds have their name and size only."""

    name: str
    nbytes: int
    key: bytes = b""
    value: bytes = b""
    compare: int | None = None


def describe(entry: Entry) -> Command:
    """What an entry says. ValueError where a PUT or DELETE cannot be read."""
    name = NAMES.get(Kind(entry.kind), f"kind {entry.kind}")
    if entry.kind not in (Kind.ENTRY_PUT, Kind.ENTRY_DELETE):
        return Command(name, len(entry.body))
    key_bytes, flags, _ = _HEADER.unpack_from(entry.body)
    at = _HEADER.size
    compare = None
    if flags & CommandFlag.COMPARE:
        compare = _NUMBER.unpack_from(entry.body, at)[0]
        at += _NUMBER.size
    at += _NUMBER.size if flags & CommandFlag.WITH_LEASE else 0
    at += 2 * _NUMBER.size if flags & CommandFlag.WITH_SESSION else 0
    if at + key_bytes > len(entry.body):
        raise ValueError(f"a {name} of {len(entry.body)} bytes ends within its key")
    return Command(name, len(entry.body), entry.body[at : at + key_bytes], entry.body[at + key_bytes :], compare)
