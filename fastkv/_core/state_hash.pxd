# When the state hash is noted down. See state_hash.pyx.

from libc.stdint cimport uint64_t


cdef enum:
    LEVELS = 3
    KEPT = 8                    # of each level
    FINEST_STEP = 1 << 6
    STEP_BITS = 6               # each level's step is 2^6 of the one below


cdef struct HashPoint:
    uint64_t index
    uint64_t state_hash


cdef class HashPoints:
    cdef HashPoint[LEVELS][KEPT] points

    # The state's hash after entry `index`, a multiple of FINEST_STEP. Indexes go up by no more than that.
    cdef int note(self, uint64_t index, uint64_t state_hash) noexcept nogil
