"""What stands in an LMDB store besides the records: whose it is, and how far it goes."""

from __future__ import annotations

import struct
from pathlib import Path

from xxhash import xxh3_64_intdigest

from fastkv.errors import StorageError
from fastkv.kv.store import StoreMeta

FORMAT = 3
UNCHECKED_FORMAT = 2
"""As FORMAT, without a checksum."""
META_KEY = b"meta"
IDENTITY_KEY = b"identity"
DATA_FILE = "data.mdb"
DATABASES = (b"data", b"sessions", b"meta")
NAMED_DATABASES = 4
_META = struct.Struct("<IIQQQQQ")
_CHECKSUM_BYTES = 8


def identity_of(cluster: str, node_id: str) -> bytes:
    """Whose store it is: neither a cluster's nor a node's name contains a zero byte."""
    return f"{cluster}\0{node_id}".encode()


def encode_meta(meta: StoreMeta) -> bytes:
    """The meta record.

    `u32 format | u32 m | u64 applied index | u64 applied term | u64 revision | u64 key count | u64 state hash | m bytes
    of membership | u64 xxh3 of all before`
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
    body = header + meta.membership
    return body + xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little")


def knows_format(stored: bytes) -> bool:
    """Whether that may be a meta record of this version, whole or damaged, and not one of another version."""
    return len(stored) < 4 or int.from_bytes(stored[:4], "little") in (FORMAT, UNCHECKED_FORMAT)


def decode_meta(stored: bytes, path: Path) -> StoreMeta:
    """StorageError for a format that this version does not know, and for what is no meta record, or a damaged one."""
    version = int.from_bytes(stored[:4], "little")
    if version == FORMAT:
        stored, said = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
        if said != xxh3_64_intdigest(stored).to_bytes(_CHECKSUM_BYTES, "little"):
            raise StorageError(f"the store in {path} has a meta record with a wrong checksum")
    elif len(stored) >= 4 and version != UNCHECKED_FORMAT:
        raise StorageError(f"the store in {path} has format {version}; this version of fastkv reads format {FORMAT}")
    if len(stored) < _META.size:
        raise StorageError(f"the store in {path} has a meta record of {len(stored)} bytes")
    _, membership_bytes, applied_index, applied_term, revision, key_count, state_hash = _META.unpack_from(stored)
    membership = stored[_META.size :]
    if len(membership) != membership_bytes:
        raise StorageError(f"the store in {path} has a meta record of {len(stored)} bytes")
    return StoreMeta(applied_index, applied_term, revision, key_count, state_hash, membership)
