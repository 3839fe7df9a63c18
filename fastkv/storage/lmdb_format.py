"""What stands in an LMDB store besides the records: whose it is, and how far it goes."""

from __future__ import annotations

import struct
from pathlib import Path

from xxhash import xxh3_64_intdigest

from fastkv.errors import NewerVersion, StorageError
from fastkv.kv.store import StoreMeta
from fastkv.version import __version__

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


def newer_record(stored: bytes) -> int:
    """The format of a meta record that a newer release has written; 0 of any other, also of a damaged one.

    Every later format keeps its number at the beginning, and the checksum of all before at the end.
    """
    body, said = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
    version = int.from_bytes(body[:4], "little")
    return version if version > FORMAT and said == xxh3_64_intdigest(body).to_bytes(_CHECKSUM_BYTES, "little") else 0


def decode_meta(stored: bytes, path: Path) -> StoreMeta:
    """NewerVersion for that of a newer release; StorageError for what is no meta record, or a damaged one."""
    if newer := newer_record(stored):
        raise NewerVersion(
            f"the store in {path} has format {newer}, and this release (fastkv {__version__}) knows formats up to "
            f"{FORMAT}: a newer one wrote it"
        )
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
