"""What stands in an LMDB store besides the records: whose it is, and how far it goes."""

from __future__ import annotations

import struct
from pathlib import Path

from fastkv.errors import StorageError
from fastkv.kv.store import StoreMeta

FORMAT = 2
META_KEY = b"meta"
IDENTITY_KEY = b"identity"
DATA_FILE = "data.mdb"
DATABASES = (b"data", b"sessions", b"meta")
NAMED_DATABASES = 4
_META = struct.Struct("<IIQQQQQ")


def identity_of(cluster: str, node_id: str) -> bytes:
    """Whose store it is: neither a cluster's nor a node's name contains a zero byte."""
    return f"{cluster}\0{node_id}".encode()


def encode_meta(meta: StoreMeta) -> bytes:
    """The meta record.

    `u32 format | u32 m | u64 applied index | u64 applied term | u64 revision | u64 key count | u64 state hash | m bytes
    of membership`
    """
    header = _META.pack(
        FORMAT,
        len(meta.membership),
        meta.applied_index,
        meta.applied_term,
        meta.revision,
        meta.key_count,
        meta.state_hash,
    )
    return header + meta.membership


def decode_meta(stored: bytes, path: Path) -> StoreMeta:
    """StorageError for a format that this version does not know, and for what is no meta record."""
    version = int.from_bytes(stored[:4], "little")
    if len(stored) >= 4 and version != FORMAT:
        raise StorageError(f"the store in {path} has format {version}; this version of fastkv reads format {FORMAT}")
    if len(stored) < _META.size:
        raise StorageError(f"the store in {path} has a meta record of {len(stored)} bytes")
    _, membership_bytes, applied_index, applied_term, revision, key_count, state_hash = _META.unpack_from(stored)
    membership = stored[_META.size :]
    if len(membership) != membership_bytes:
        raise StorageError(f"the store in {path} has a meta record of {len(stored)} bytes")
    return StoreMeta(applied_index, applied_term, revision, key_count, state_hash, membership)
