"""Entries of the log, for a person to read."""

from __future__ import annotations

from dataclasses import dataclass

from fastkv._core.codes import Kind
from fastkv._core.entry import Entry, decode_command

NAMES: dict[int, str] = {
    Kind.NOOP: "noop",
    Kind.ENTRY_PUT: "put",
    Kind.ENTRY_DELETE: "delete",
    Kind.ENTRY_CONFIG: "config",
    Kind.ENTRY_SESSION: "session",
    Kind.ENTRY_LEASE: "lease",
    Kind.ENTRY_TXN: "txn",
}


@dataclass(frozen=True, slots=True)
class Description:
    """What an entry is; only a PUT or DELETE has a key, and only a PUT a value."""

    name: str
    nbytes: int
    key: bytes = b""
    value: bytes = b""
    compare: int | None = None


def describe(entry: Entry) -> Description:
    """What an entry says. ValueError where a PUT or DELETE cannot be read."""
    name = NAMES.get(entry.kind, f"kind {entry.kind}")
    if entry.kind not in (Kind.ENTRY_PUT, Kind.ENTRY_DELETE):
        return Description(name, len(entry.body))
    command = decode_command(entry.kind, entry.body)
    return Description(name, len(entry.body), command.key, command.value, command.compare)
