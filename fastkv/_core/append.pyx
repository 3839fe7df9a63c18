"""The AppendEntries batcher: fills a message to its budgets, writes its body, and takes one apart.

A message carries batches, each with its term and the checksum that was computed when the batch was made. A follower
verifies that checksum, keeps the payload as it came, and writes those same bytes to its log: encode once, sum once.

Body: `u64 term | u64 prev_index | u64 prev_term | u64 commit | u64 low_water | u64 context | u32 batch count | u32 0`,
then for each batch `u64 term | u32 count | u32 bytes | u64 xxh3_64 of the payload | payload`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastkv._core.cursor cimport Cursor, cursor_init, cursor_left, read_span, read_u32, read_u64, store_u32, store_u64
from fastkv._core.entry cimport EntryBatch

cdef enum:
    HEADER_BYTES = 56
    BATCH_HEADER_BYTES = 24


def encode_append(
    uint64_t term, uint64_t prev_index, uint64_t prev_term, uint64_t commit, uint64_t low_water, uint64_t context,
    list batches not None,
):
    """The body of an APPEND frame; `batches` is a list of (term, EntryBatch)."""
    cdef Py_ssize_t nbytes = HEADER_BYTES
    cdef EntryBatch batch
    cdef bytes body
    cdef uint8_t* at
    for _, batch in batches:
        nbytes += BATCH_HEADER_BYTES + PyBytes_GET_SIZE(batch.data)
    body = PyBytes_FromStringAndSize(NULL, nbytes)
    at = <uint8_t*>PyBytes_AS_STRING(body)
    store_u64(at, term)
    store_u64(at + 8, prev_index)
    store_u64(at + 16, prev_term)
    store_u64(at + 24, commit)
    store_u64(at + 32, low_water)
    store_u64(at + 40, context)
    store_u32(at + 48, <uint32_t>len(batches))
    store_u32(at + 52, 0)
    at += HEADER_BYTES
    for batch_term, batch in batches:
        nbytes = PyBytes_GET_SIZE(batch.data)
        store_u64(at, batch_term)
        store_u32(at + 8, <uint32_t>batch.count)
        store_u32(at + 12, <uint32_t>nbytes)
        store_u64(at + 16, batch.checksum)
        memcpy(at + BATCH_HEADER_BYTES, PyBytes_AS_STRING(batch.data), nbytes)
        at += BATCH_HEADER_BYTES + nbytes
    return body


def parse_append(bytes body not None):
    """(term, prev_index, prev_term, commit, low_water, context, [(term, EntryBatch)]) of an APPEND frame's body.

    ValueError where the body is not exactly that: a length or count that does not fit, a payload without its checksum,
    an index beyond 64 bits, or terms that no log has (they run from `prev_term` up to `term` and never back).
    """
    cdef Cursor cursor
    cdef uint64_t term = 0, prev_index = 0, prev_term = 0, commit = 0, low_water = 0, context = 0
    cdef uint64_t last_index, batch_term, last_term
    cdef uint32_t count = 0, reserved = 0, i
    cdef EntryBatch batch
    cdef list batches = []
    cursor_init(&cursor, <const uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    if (
        read_u64(&cursor, &term) < 0 or read_u64(&cursor, &prev_index) < 0 or read_u64(&cursor, &prev_term) < 0
        or read_u64(&cursor, &commit) < 0 or read_u64(&cursor, &low_water) < 0 or read_u64(&cursor, &context) < 0
        or read_u32(&cursor, &count) < 0 or read_u32(&cursor, &reserved) < 0
    ):
        raise ValueError(f"an APPEND body of {len(body)} bytes ends within its header")
    if reserved:
        raise ValueError("an APPEND body has reserved bits set")
    last_index, last_term = prev_index, prev_term
    for i in range(count):
        batch_term, batch = parse_batch(&cursor, i)
        if batch_term < last_term:
            raise ValueError(f"batch {i} goes back from term {last_term} to {batch_term}")
        if <uint64_t>batch.count > 0xFFFF_FFFF_FFFF_FFFF - last_index:
            raise ValueError(f"batch {i} has no indexes left behind {last_index}")
        last_term = batch_term
        last_index += <uint64_t>batch.count
        batches.append((batch_term, batch))
    if last_term > term:
        raise ValueError(f"an append of term {term} has an entry of term {last_term}")
    if cursor_left(&cursor):
        raise ValueError(f"{cursor_left(&cursor)} bytes follow the last of {count} batches")
    return term, prev_index, prev_term, commit, low_water, context, batches


cdef tuple parse_batch(Cursor* cursor, uint32_t number):
    cdef uint64_t term = 0, checksum = 0
    cdef uint32_t count = 0, nbytes = 0
    cdef const uint8_t* payload = NULL
    if (
        read_u64(cursor, &term) < 0 or read_u32(cursor, &count) < 0 or read_u32(cursor, &nbytes) < 0
        or read_u64(cursor, &checksum) < 0 or read_span(cursor, nbytes, &payload) < 0
    ):
        raise ValueError(f"the body ends within batch {number}")
    # The one copy on this side: from the frame into the bytes that the log and the memory keep.
    return term, EntryBatch(PyBytes_FromStringAndSize(<const char*>payload, nbytes), count, checksum)


def fill(segments, uint64_t first_index, Py_ssize_t max_bytes, Py_ssize_t max_entries):
    """What one message takes of a log, from `first_index` on: slices of `segments`, within both budgets.

    `segments` are consecutive runs of entries (`fastkv.log_types.Segment`); those before `first_index` are passed over.
    At least one entry is taken where there is one, however long it is, so that no entry is ever too large to be sent.
    """
    cdef list taken = []
    cdef Py_ssize_t start, stop
    cdef EntryBatch batch
    for segment in segments:
        batch = segment.batch
        start = <Py_ssize_t>(first_index - <uint64_t>segment.first_index)
        if start >= batch.count:
            continue
        if taken and max_entries <= 0:
            break
        stop = min(batch.fit(start, max_bytes), start + max(max_entries, 1))
        max_bytes -= batch.span_bytes(start, stop)
        if taken and max_bytes < 0:
            break
        taken.append(segment.slice(first_index, first_index + <uint64_t>(stop - start) - 1))
        max_entries -= stop - start
        first_index += <uint64_t>(stop - start)
        if stop < batch.count:
            break
    return taken
