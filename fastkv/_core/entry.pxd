# How the log is written down - entries, batches of them, and the commands inside. See entry.pyx for the layout.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastkv._core.buffer cimport WriteBuffer


# A decoded command; key and value point into the body it was parsed from.
cdef struct Command:
    const uint8_t* key
    const uint8_t* value
    uint32_t value_len
    uint16_t key_len
    uint8_t kind
    uint8_t flags
    uint64_t compare
    uint64_t lease
    uint64_t client_id
    uint64_t sequence


# Reads a command body. Answers a Status: OK, or what is wrong with it (INVALID_KEY, KEY_TOO_LARGE, VALUE_TOO_LARGE,
# INVALID_REQUEST). Needs no GIL and touches nothing outside [body, body + nbytes).
cdef int parse_command(
    uint8_t kind, const uint8_t* body, size_t nbytes, size_t value_limit, Command* out) noexcept nogil


# Where the key of a command is, for whoever wants a look at it before the command is read; NULL where there is none.
cdef const uint8_t* peek_key(const uint8_t* body, size_t nbytes, Py_ssize_t* key_len) noexcept nogil


# Whether a command's client id is an idempotency key, the other half of which is its sequence; else it is a session's.
cdef inline bint is_idempotency_key(uint64_t client_id) noexcept nogil:
    return client_id >> 63


# Reads the body of an entry that opens a session. Answers a Status.
cdef int parse_session(const uint8_t* body, size_t nbytes, uint32_t* limit) noexcept nogil


cdef class EntryBatch:
    cdef readonly bytes data
    cdef readonly Py_ssize_t count
    cdef uint32_t* offsets          # count + 1 entry starts, built on first need by index_entries()
    cdef object _checksum           # int, or None until asked for

    cdef int index_entries(self) except -1
    # Length of the entries [start, stop). The caller keeps to the batch.
    cdef Py_ssize_t span_bytes(self, Py_ssize_t start, Py_ssize_t stop) except -1


cdef class BatchBuilder:
    cdef WriteBuffer buffer
    cdef readonly Py_ssize_t count

    cdef int add(self, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes) except -1
