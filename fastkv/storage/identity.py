"""Whose data a directory holds: `identity.json`.

`{"format", "cluster", "node_id", "disk", "joins", "restored", "checksum"}`; the checksum is of all the rest. Every
later format keeps `format` and `checksum` as they are, so that one that is newer is told from one that is damaged.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from xxhash import xxh3_64_intdigest

from fastkv.errors import StorageError
from fastkv.storage.sync import write_durably

FORMAT = 1
"""Of the directory as a whole; its parts have versions of their own."""
IDENTITY_FILE = "identity.json"
MAX_IDENTITY_BYTES = 64 * 1024


def draw_disk() -> int:
    """A number for a new data directory."""
    return secrets.randbits(63) | 1


def read_identity(path: Path) -> dict[str, object]:
    """What a directory says of itself, without its checksum. StorageError where it cannot be believed."""
    with path.open("rb") as file:
        raw = file.read(MAX_IDENTITY_BYTES)
    try:
        identity = json.loads(raw)
    except ValueError as error:
        raise StorageError(f"{path} cannot be read: {error}{_ADVICE}") from error
    if not isinstance(identity, dict) or not identity.keys() >= {"format", "cluster", "node_id"}:
        raise StorageError(f"{path} does not say whose data this is{_ADVICE}")
    said = identity.pop("checksum", None)      # one of an older version has none
    as_written = said in (None, _checksum(identity)) and identity.keys() <= _KEYS
    if identity["format"] != FORMAT or not as_written:
        raise StorageError(f"{path} is damaged: it is not what was written{_ADVICE}")
    return identity


def newer_format(path: Path) -> int:
    """The format of a directory that a newer release has written; 0 of any other, also where that cannot be read."""
    try:
        with path.open("rb") as file:
            identity = json.loads(file.read(MAX_IDENTITY_BYTES))
        said, found = identity.pop("checksum", None), int(identity["format"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return 0
    return found if found > FORMAT and said in (None, _checksum(identity)) else 0


_KEYS = {"format", "cluster", "node_id", "disk", "joins", "restored"}
_ADVICE = ". `fastkv check` with the directory says more; to go on from the other nodes, use `fastkv repair`"


def write_identity(path: Path, identity: dict[str, object]) -> None:
    """Say durably whose directory it is."""
    write_durably(path, json.dumps({**identity, "checksum": _checksum(identity)}).encode() + b"\n")


def _checksum(identity: dict[str, object]) -> str:
    return f"{xxh3_64_intdigest(json.dumps(identity, sort_keys=True).encode()):016x}"
