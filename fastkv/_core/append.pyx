"""The AppendEntries batcher: fills a message to its budgets, writes its body, and parses one in place.

A message carries batches, each with its term and the checksum that was computed when the batch was made. A follower
verifies that checksum, keeps the payload as it came, and writes those same bytes to its log: encode once, sum once.

Body: `u64 term | u64 prev_index | u64 prev_term | u64 commit | u64 low_water | u64 context | u32 batch count | u32 0`,
then for each batch `u64 term | u32 count | u32 bytes | u64 xxh3_64 of the payload | payload`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport ENTRY_HEADER_BYTES
from fastkv._core.cursor cimport Cursor, cursor_init, cursor_left, read_span, read_u32, read_u64
from fastkv._core.entry cimport EntryBatch


def encode_append(
    uint64_t term, uint64_t prev_index, uint64_t prev_term, uint64_t commit, uint64_t low_water, uint64_t context,
    list batches not None,
):
    """The body of an APPEND frame; `batches` is a list of (term, EntryBatch)."""
    cdef WriteBuffer out = WriteBuffer()
    cdef EntryBatch batch
    out.put_u64(term)
    out.put_u64(prev_index)
    out.put_u64(prev_term)
    out.put_u64(commit)
    out.put_u64(low_water)
    out.put_u64(context)
    out.put_u32(<uint32_t>len(batches))
    out.put_u32(0)
    for batch_term, batch in batches:
        out.put_u64(batch_term)
        out.put_u32(<uint32_t>batch.count)
        out.put_u32(<uint32_t>PyBytes_GET_SIZE(batch.data))
        out.put_u64(batch.checksum)
        out.put(<const uint8_t*>PyBytes_AS_STRING(batch.data), PyBytes_GET_SIZE(batch.data))
    return out.take()


def parse_append(bytes body not None):
    """(term, prev_index, prev_term, commit, low_water, context, [(term, EntryBatch)]) of an APPEND frame's body.

    ValueError where the body is not exactly that, or where a payload does not have its checksum.
    """
    cdef Cursor cursor
    cdef uint64_t term = 0, prev_index = 0, prev_term = 0, commit = 0, low_water = 0, context = 0
    cdef uint32_t count = 0, reserved = 0, i
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
    for i in range(count):
        batches.append(parse_batch(&cursor, i))
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
    if count == 0 or count > nbytes // ENTRY_HEADER_BYTES:
        raise ValueError(f"batch {number} cannot hold {count} entries in {nbytes} bytes")
    # The one copy on this side: from the receive buffer into the bytes that the log and the memory keep.
    return term, EntryBatch(PyBytes_FromStringAndSize(<const char*>payload, nbytes), count, checksum)


def fill(list segments not None, uint64_t first_index, Py_ssize_t max_bytes, Py_ssize_t max_entries):
    """What one message takes of a log, from `first_index` on: slices of `segments`, within both budgets.

    `segments` are consecutive runs of entries (`fastkv.log_types.Segment`), the first of which holds `first_index`. At
    least one entry is taken, however long it is, so that no entry is ever too large to be sent.
    """
    cdef list taken = []
    cdef Py_ssize_t left_bytes = max_bytes, left_entries = max_entries
    cdef Py_ssize_t start, stop
    cdef EntryBatch batch
    cdef uint64_t index = first_index
    for segment in segments:
        batch = segment.batch
        start = index - <uint64_t>segment.first_index
        if start >= batch.count:
            continue
        if taken and (left_entries <= 0 or left_bytes <= 0):
            break
        stop = batch.fit(start, max(left_bytes, 1))
        if stop - start > left_entries > 0:
            stop = start + left_entries
        piece = segment.slice(index, index + (stop - start) - 1)
        if taken and piece.nbytes > left_bytes:
            break
        taken.append(piece)
        left_bytes -= piece.nbytes
        left_entries -= stop - start
        index += stop - start
        if stop < batch.count:
            break
    return taken
