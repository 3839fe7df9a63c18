# The newest idempotency keys, and the results of the commands that carried them. See idempotency.pyx.

from libc.stdint cimport uint32_t, uint64_t, uint8_t

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.entry cimport Command
from fastkv._core.sessions cimport Remembered


cdef enum:
    KEYS_KEPT = 1 << 16


cdef struct Keyed:
    uint64_t high               # the key: what stands in the command as client id and sequence
    uint64_t low
    uint64_t index              # of the entry that brought it
    uint64_t fingerprint        # of the command that carried it
    Remembered result
    uint32_t chained            # the next one in its bucket: place + 1, 0 at the end
    bint saved                  # some checkpoint has it


cdef enum KeyRecall:
    KEY_IS_NEW = 0
    KEY_SEEN = 1                # the result has been filled in
    KEY_REUSED = 2              # for another command


cdef class IdempotencyKeys:
    cdef Keyed* ring                # of key number n at n % capacity
    cdef uint32_t* buckets          # place + 1 of the first; as many as the ring has places
    cdef uint64_t capacity          # a power of two
    cdef readonly uint64_t count
    cdef uint64_t next_number       # keys are numbered in the order of their entries, in this process
    cdef uint64_t unsaved           # from this number on, no checkpoint has them
    cdef readonly uint64_t digest   # the sum over all keys: their part of the state hash
    cdef WriteBuffer dropped        # indexes of keys that a checkpoint has and that are gone since

    cdef KeyRecall recall(self, const Command* command, uint8_t* result) noexcept nogil
    # Keep the result of a command whose key is new. The oldest key makes room where there are KEYS_KEPT.
    cdef int remember(self, const Command* command, uint64_t index, const uint8_t* result) except -1

    cdef Keyed* find(self, uint64_t high, uint64_t low) noexcept nogil
    cdef int insert(self, const Keyed* key) except -1
    cdef int remove_oldest(self) except -1
    cdef int grow(self) except -1
    cdef size_t bucket_of(self, uint64_t high, uint64_t low) noexcept nogil
    cdef bytes encode(self, const Keyed* key)
