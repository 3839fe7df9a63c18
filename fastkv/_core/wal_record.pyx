"""Reading the records of the write-ahead log: is what stands here a record, and how far does a run of them go?

docs/architecture/wal.md is the specification, `storage.wal_format` writes them. A quiet cluster's log has one small
entry a record, a million of them in a few segments, so a start walks along them here and hands out whole runs.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport Kind
from fastkv._core.cursor cimport load_u16, load_u32, load_u64

from xxhash import xxh3_64_intdigest

cdef enum:
    HEADER_BYTES = 80
    CHECKED_BYTES = 72          # of the header, by its own checksum
    KIND_ENTRIES = 1
    KIND_STATE = 2
    KIND_RESTART = 3
    MAX_BYTES = 1 << 30
    ALIGNMENT = 8               # of every record
    ENTRY_BYTES = 8             # the least that an entry takes
    ENTRY_KIND = 4              # where its kind stands

RECORD_HEADER_BYTES = HEADER_BYTES
MAX_PAYLOAD_BYTES = MAX_BYTES
ENTRIES = KIND_ENTRIES
STATE = KIND_STATE
RESTART = KIND_RESTART


cdef struct Record:
    uint32_t length
    uint8_t kind
    uint64_t position
    uint64_t first_index
    uint32_t entry_count
    uint64_t term
    uint64_t durable_position
    uint64_t commit
    uint64_t payload_checksum
    uint64_t previous_chain
    uint64_t chain


cdef inline uint64_t digest(const uint8_t* data, Py_ssize_t nbytes, object seed) except? 0:
    return xxh3_64_intdigest(PyMemoryView_FromMemory(<char*>data, nbytes, PyBUF_READ), seed)


cdef int load(const uint8_t[::1] data, Py_ssize_t offset, uint64_t position, object salt, Record* out) except -1:
    """1 and the record's fields where `data[offset:]` begins with a record that is self-valid there, else 0."""
    cdef const uint8_t* at
    cdef Py_ssize_t end, padded
    if offset < 0 or data.shape[0] - offset < HEADER_BYTES:
        return 0
    at = &data[offset]
    out.length = load_u32(at)
    out.kind = at[4]
    out.position = load_u64(at + 8)
    # Everything is cheap until the position has matched, and the length is bounded before it is used.
    if out.position != position or out.length > MAX_BYTES:
        return 0
    end = offset + HEADER_BYTES + <Py_ssize_t>out.length
    padded = end + (-<Py_ssize_t>out.length & 7)
    if padded > data.shape[0]:
        return 0
    out.first_index = load_u64(at + 16)
    out.entry_count = load_u32(at + 24)
    out.term = load_u64(at + 32)
    out.durable_position = load_u64(at + 40)
    out.commit = load_u64(at + 48)
    out.payload_checksum = load_u64(at + 56)
    out.previous_chain = load_u64(at + 64)
    out.chain = load_u64(at + CHECKED_BYTES)
    if out.chain != digest(at, CHECKED_BYTES, salt):
        return 0
    if out.payload_checksum != digest(at + HEADER_BYTES, out.length, 0):
        return 0
    while end < padded:
        if data[end]:
            return 0
        end += 1
    if at[5] or load_u16(at + 6) or load_u32(at + 28):
        return 0
    if out.kind == KIND_STATE or out.kind == KIND_RESTART:
        return out.entry_count == 0
    return (
        out.kind == KIND_ENTRIES
        and 0 < out.entry_count <= out.length // ENTRY_BYTES
        and 0 < out.first_index < <uint64_t>1 << 63
    )


def parse_record(const uint8_t[::1] data not None, Py_ssize_t offset, uint64_t position, uint64_t salt):
    """The fields of the record at `data[offset:]`, or None unless it is self-valid there, at `position` of the log.

    Says nothing of the record before: compare the previous chain for that. Fields: length, kind, position, first
    index, entry count, term, durable position, commit, payload checksum, previous chain, chain.
    """
    cdef Record record
    memset(&record, 0, sizeof(record))
    if not load(data, offset, position, salt, &record):
        return None
    return (
        record.length, record.kind, record.position, record.first_index, record.entry_count, record.term,
        record.durable_position, record.commit, record.payload_checksum, record.previous_chain, record.chain,
    )


def find_header(const uint8_t[::1] data not None, Py_ssize_t offset, uint64_t position):
    """The first place, from `offset` on in steps of 8 bytes, where a header may stand that states its own position.

    `position` is that of `data[offset]` in the log. -1 where there is none. Says nothing else of what stands there.
    """
    while data.shape[0] - offset >= HEADER_BYTES:
        if load_u64(&data[offset + 8]) == position:
            return offset
        offset += ALIGNMENT
        position += ALIGNMENT
    return -1


def follow_run(const uint8_t[::1] data not None, Py_ssize_t offset, uint64_t position, uint64_t salt, uint64_t chain,
               uint64_t last_index, uint64_t term, *, Py_ssize_t max_bytes):
    """Walk along the records of entries that go on with `last_index + 1` in the same term, each chained to the last.

    Ends before a record that does anything else, is not valid, holds an ENTRY_CONFIG, which has a run of its own, or
    would make the run longer than `max_bytes`. Returns
    (offset behind the run, its last index, chain, durable position and commit of its last record, payloads one after
    the other). Where there is no such record, the offset is the one given.
    """
    cdef Record record
    cdef Py_ssize_t start = offset
    cdef Py_ssize_t nbytes
    cdef uint64_t durable_position = 0
    cdef uint64_t commit = 0
    cdef object seed = salt
    cdef WriteBuffer payloads = WriteBuffer()
    memset(&record, 0, sizeof(record))
    while load(data, offset, position + <uint64_t>(offset - start), seed, &record):
        nbytes = HEADER_BYTES + ((<Py_ssize_t>record.length + 7) & ~<Py_ssize_t>7)
        if record.kind != KIND_ENTRIES or record.previous_chain != chain or record.term != term:
            break
        if record.first_index != last_index + 1 or offset - start + nbytes > max_bytes:
            break
        if record.entry_count == 1 and data[offset + HEADER_BYTES + ENTRY_KIND] == Kind.ENTRY_CONFIG:
            break
        payloads.put(&data[offset + HEADER_BYTES], record.length)
        last_index += record.entry_count
        chain, durable_position, commit = record.chain, record.durable_position, record.commit
        offset += nbytes
    return offset, last_index, chain, durable_position, commit, payloads.take()
