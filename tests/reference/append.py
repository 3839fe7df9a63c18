"""The APPEND body, read and written slowly: the twin of `fastkv._core.append`."""

from __future__ import annotations

import struct

from xxhash import xxh3_64_intdigest

from tests.reference.entry import decode_batch

HEADER = struct.Struct("<QQQQQQII")
BATCH_HEADER = struct.Struct("<QIIQ")
LAST_INDEX = 2**64 - 1

Batch = tuple[int, int, bytes]
"""Term, count, payload."""
Append = tuple[int, int, int, int, int, int, list[Batch]]
"""Term, prev_index, prev_term, commit, low_water, context, batches."""


def encode_append(append: Append) -> bytes:
    *numbers, batches = append
    parts = [HEADER.pack(*numbers, len(batches), 0)]
    for term, count, payload in batches:
        parts.append(BATCH_HEADER.pack(term, count, len(payload), xxh3_64_intdigest(payload)) + payload)
    return b"".join(parts)


def parse_append(body: bytes) -> Append:
    """ValueError for every body that a leader would not send."""
    if len(body) < HEADER.size:
        raise ValueError("half a header")
    term, prev_index, prev_term, commit, low_water, context, count, reserved = HEADER.unpack_from(body)
    rest = body[HEADER.size :]
    batches: list[Batch] = []
    while len(rest) >= BATCH_HEADER.size and len(batches) < count:
        batch_term, entry_count, nbytes, checksum = BATCH_HEADER.unpack_from(rest)
        payload, rest = rest[BATCH_HEADER.size :][:nbytes], rest[BATCH_HEADER.size + nbytes :]
        if len(payload) != nbytes or xxh3_64_intdigest(payload) != checksum:
            raise ValueError("half a payload, or another one")
        decode_batch(payload, entry_count)
        batches.append((batch_term, entry_count, payload))
    if rest or len(batches) != count or reserved:
        raise ValueError("another number of batches, or reserved bits")
    terms = [prev_term, *(batch_term for batch_term, _, _ in batches), term]
    if terms != sorted(terms):
        raise ValueError("no log has these terms")
    if prev_index + sum(entry_count for _, entry_count, _ in batches) > LAST_INDEX:
        raise ValueError("no log has these indexes")
    return term, prev_index, prev_term, commit, low_water, context, batches
