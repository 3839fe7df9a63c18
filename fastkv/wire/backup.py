"""BACKUP: a client asks a node for a snapshot, part by part. The answers are those of SNAPSHOT_CHUNK between nodes.

The first question names no snapshot: the node makes one, of everything that was acknowledged before it was asked, and
answers with its first bytes. The others name that one and a place in it. The layouts are in docs/protocol.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from fastkv.wire.peer import SnapshotChunk as SnapshotChunk
from fastkv.wire.peer import decode_snapshot_chunk as decode_snapshot_chunk
from fastkv.wire.peer import encode_snapshot_chunk_body as encode_snapshot_chunk_body

_ASK = struct.Struct("<QQQII")
STALE_FLAG = 0x01


@dataclass(frozen=True, slots=True)
class BackupAsk:
    """Please send bytes of a snapshot: of the one with that index and checksum, or, with index 0, of a new one."""

    index: int
    checksum: int
    offset: int
    nbytes: int
    stale: bool = False
    """Of what the node has, without asking anybody whether that is all: where there is no majority any more."""


def encode_backup_ask(ask: BackupAsk) -> bytes:
    """The body of BACKUP."""
    return _ASK.pack(ask.index, ask.checksum, ask.offset, ask.nbytes, STALE_FLAG if ask.stale else 0)


def decode_backup_ask(body: bytes) -> BackupAsk:
    """ValueError where the body is no BACKUP."""
    if len(body) != _ASK.size:
        raise ValueError(f"a BACKUP body has {_ASK.size} bytes, not {len(body)}")
    index, checksum, offset, nbytes, flags = _ASK.unpack(body)
    if flags & ~STALE_FLAG or not nbytes or ((offset or checksum) and not index):
        raise ValueError("a BACKUP body that asks for nothing that there can be")
    return BackupAsk(index, checksum, offset, nbytes, bool(flags & STALE_FLAG))
