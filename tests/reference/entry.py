"""The log's encoding as one would write it down to explain it: the twin of `fastkv._core.entry`."""

from __future__ import annotations

import struct
from typing import NamedTuple

from fastkv._core.codes import Kind, Status

ENTRY_HEADER = struct.Struct("<IBBH")
COMMAND_HEADER = struct.Struct("<HBB")
COMPARE, WITH_LEASE, WITH_SESSION = 1, 2, 4
MAX_KEY_BYTES = 511

LAST_SEQUENCE = 2**63 - 1


class Command(NamedTuple):
    """A PUT or DELETE."""

    kind: int
    key: bytes
    value: bytes
    compare: int | None
    lease: int | None
    session: tuple[int, int] | None


def encode_entry(kind: int, body: bytes) -> bytes:
    return ENTRY_HEADER.pack(len(body), kind, 0, 0) + body


def encode_batch(entries: list[tuple[int, bytes]]) -> bytes:
    return b"".join(encode_entry(kind, body) for kind, body in entries)


def decode_batch(data: bytes, count: int) -> list[tuple[int, bytes]]:
    """The entries, where `data` is exactly `count` of them and at least one; ValueError otherwise."""
    entries: list[tuple[int, bytes]] = []
    while data:
        if len(data) < ENTRY_HEADER.size:
            raise ValueError("half a header")
        nbytes, kind, zero, more_zero = ENTRY_HEADER.unpack_from(data)
        body, data = data[ENTRY_HEADER.size :][:nbytes], data[ENTRY_HEADER.size + nbytes :]
        if len(body) != nbytes or zero or more_zero:
            raise ValueError("half a body, or reserved bits")
        entries.append((kind, body))
    if not entries or len(entries) != count:
        raise ValueError("another number of entries")
    return entries


def encode_command(
    key: bytes,
    value: bytes,
    compare: int | None = None,
    lease: int | None = None,
    session: tuple[int, int] | None = None,
) -> bytes:
    flags = 0
    numbers: list[int] = []
    if compare is not None:
        flags |= COMPARE
        numbers.append(compare)
    if lease is not None:
        flags |= WITH_LEASE
        numbers.append(lease)
    if session is not None:
        flags |= WITH_SESSION
        numbers.extend(session)
    return COMMAND_HEADER.pack(len(key), flags, 0) + struct.pack(f"<{len(numbers)}Q", *numbers) + key + value


def decode_command(kind: int, body: bytes, value_limit_bytes: int) -> tuple[Status, Command | None]:
    """What is wrong with the body first, in the order that clients may rely on."""
    if len(body) < COMMAND_HEADER.size:
        return Status.INVALID_REQUEST, None
    key_len, flags, reserved = COMMAND_HEADER.unpack_from(body)
    if reserved or flags > COMPARE + WITH_LEASE + WITH_SESSION:
        return Status.INVALID_REQUEST, None
    count = bool(flags & COMPARE) + bool(flags & WITH_LEASE) + 2 * bool(flags & WITH_SESSION)
    rest = body[COMMAND_HEADER.size :]
    if len(rest) < 8 * count:
        return Status.INVALID_REQUEST, None
    numbers = list(struct.unpack_from(f"<{count}Q", rest))
    rest = rest[8 * count :]
    if flags & WITH_SESSION and numbers[-2] < 2**63 and not 1 <= numbers[-1] <= LAST_SEQUENCE:
        return Status.INVALID_REQUEST, None
    if key_len == 0:
        return Status.INVALID_KEY, None
    if key_len > MAX_KEY_BYTES:
        return Status.KEY_TOO_LARGE, None
    if len(rest) < key_len:
        return Status.INVALID_REQUEST, None
    key, value = rest[:key_len], rest[key_len:]
    if len(value) > value_limit_bytes:
        return Status.VALUE_TOO_LARGE, None
    if kind == Kind.ENTRY_DELETE and value:
        return Status.INVALID_REQUEST, None
    compare = numbers.pop(0) if flags & COMPARE else None
    lease = numbers.pop(0) if flags & WITH_LEASE else None
    session = (numbers[0], numbers[1]) if flags & WITH_SESSION else None
    return Status.OK, Command(kind, key, value, compare, lease, session)


def may_be_asked_for(kind: int, body: bytes, value_limit_bytes: int) -> bool:
    """Whether a client may have this entry written."""
    if kind == Kind.ENTRY_SESSION:
        return len(body) == 8 and body[:4] == b"\1\0\0\0" and 1 <= int.from_bytes(body[4:], "little") <= 65_536
    if kind in (Kind.ENTRY_PUT, Kind.ENTRY_DELETE):
        return decode_command(kind, body, value_limit_bytes)[0] == Status.OK
    return False
