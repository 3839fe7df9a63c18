"""The seal of a log: the place up to which it was durable when it was last closed.

Damage that takes the whole end of a log (a block of zeros from some record on) leaves nothing behind it that could say
so: it would look like a log that ends earlier. The seal stands in a file of its own, and positions never go back, so it
is true for as long as the log lives: a log that ends before it has lost its end.

It is a witness and no more: a log without one, or with one that cannot be read, is believed as far as its records go.
32 bytes: `u64 magic | u64 position | u64 salt of the log | u64 checksum of the first 24 bytes`.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from fastkv.storage.sync import NO_SPACE, sync_directory, sync_file

FILE = "sealed"
VERSION = 1
_NAME = b"fkvseal"
_MAGIC = int.from_bytes(_NAME + b"1", "little")
_SEAL = struct.Struct("<QQQQ")
_CHECKED = _SEAL.size - 8


class Seal(NamedTuple):
    """What the file says."""

    position: int
    """Of the byte behind the last record."""
    salt: int
    """Of the log that it is the seal of."""


def read_seal(directory: Path) -> Seal | None:
    """The seal of the log in `directory`; None where there is none that can be read. OSError where the disk fails."""
    try:
        with (directory / FILE).open("rb") as file:
            stored = file.read(_SEAL.size + 1)
    except FileNotFoundError:
        return None
    if len(stored) != _SEAL.size:
        return None
    magic, position, salt, checksum = _SEAL.unpack(stored)
    whole = magic == _MAGIC and checksum == xxh3_64_intdigest(stored[:_CHECKED])
    return Seal(position, salt) if whole else None


def newer_seal(path: Path) -> int:
    """The version of a seal that a newer release has written; 0 of any other, also where that cannot be read.

    It is the last digit of the magic; every version keeps that, and the checksum of the first 24 bytes behind them.
    """
    try:
        stored = path.read_bytes()[: _SEAL.size]
    except FileNotFoundError:
        return 0
    digit = stored[len(_NAME) : len(_NAME) + 1]
    if len(stored) < _SEAL.size or not stored.startswith(_NAME) or not digit.isdigit() or int(digit) <= VERSION:
        return 0
    return int(digit) if _SEAL.unpack(stored)[3] == xxh3_64_intdigest(stored[:_CHECKED]) else 0


def write_seal(directory: Path, position: int, salt: int) -> None:
    """Say durably that the log goes up to `position`. OSError where the disk fails.

    On a full disk the former seal stays, or none: it says less, and nothing that is wrong.
    """
    path = directory / FILE
    is_new = not path.exists()
    body = _SEAL.pack(_MAGIC, position, salt, 0)[:_CHECKED]
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.pwrite(fd, body + xxh3_64_intdigest(body).to_bytes(8, "little"), 0)
            sync_file(fd)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
    if is_new:
        sync_directory(directory)

