# Which of a client's writes have been applied already, and with what result. See sessions.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.cursor cimport load_u16, load_u64, store_u16, store_u64


# The result of a write, as it is answered again: the fields of a result (see apply.pyx) that are not always zero.
cdef struct Remembered:
    uint64_t revision
    uint16_t status
    uint8_t flags
    uint8_t present


# `results` is a ring: that of a sequence is at `sequence % capacity`. None is remembered outside lowest to highest.
cdef struct Session:
    uint64_t session_id             # index of the entry that opened it
    uint64_t last_used              # index of the newest entry that names it
    uint64_t lowest
    uint64_t highest                # 0: none yet
    uint64_t digest                 # of the above; each result has one of its own
    Remembered* results
    uint64_t capacity               # a power of two, at most SESSION_WINDOW
    bint changed                    # since the last checkpoint
    bint saved                      # some checkpoint has it
    Session* chained                # the next one in its bucket
    Session* less_recent
    Session* more_recent


cdef enum Recall:
    NEW = 0                         # not seen yet: apply it
    SEEN = 1                        # the result has been filled in
    FORGOTTEN = 2                   # too old to know


cdef class Sessions:
    cdef Session** buckets          # by session id; a power of two of them
    cdef size_t bucket_count
    cdef readonly Py_ssize_t count
    cdef Session* least_recent
    cdef Session* most_recent
    cdef readonly uint64_t digest   # the sum over all sessions: their part of the state hash
    cdef WriteBuffer dropped        # keys of sessions that a checkpoint has and that are gone since

    cdef Session* find(self, uint64_t session_id) noexcept nogil
    # Open the session that entry `index` asks for. The least recently used ones make room for it.
    cdef int open(self, uint64_t index, uint32_t limit) except -1
    # A command, entry `index`, names the session: what is known of its sequence. `settle` follows when it is done with.
    cdef Recall recall(self, Session* session, uint64_t sequence, uint64_t index, uint8_t* result) noexcept nogil
    # Keep the result of a command that was NEW.
    cdef int remember(self, Session* session, uint64_t sequence, const uint8_t* result) except -1
    cdef void settle(self, Session* session) noexcept nogil

    cdef Session* insert(self, uint64_t session_id, uint64_t last_used) except NULL
    cdef int remove(self, Session* session) except -1
    cdef int make_room(self, Session* session, uint64_t first, uint64_t last) except -1
    cdef void forget(self, Session* session, uint64_t sequence) noexcept nogil
    cdef void unlink(self, Session* session) noexcept nogil
    cdef void link(self, Session* session) noexcept nogil
    cdef int grow_buckets(self) except -1
    cdef bytes encode(self, Session* session)


cdef inline void recall_result(uint8_t* result, const Remembered* remembered) noexcept nogil:
    store_u16(result, remembered.status)
    result[2] = remembered.flags
    store_u64(result + 8, remembered.revision)


cdef inline Remembered remembered_result(const uint8_t* result) noexcept nogil:
    return Remembered(load_u64(result + 8), load_u16(result), result[2], True)
