# What a load asks for: which operation on which key, and the frame for it. See workload.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

# The operations a workload mixes.
cdef enum Want:
    WANT_GET
    WANT_PUT                        # of a key that is there
    WANT_INSERT                     # of the next key that is not
    WANT_SCAN
    WANT_MODIFY                     # a GET, and once it is answered a PUT of the same key
    WANTS

cdef enum Distribution:
    UNIFORM
    ZIPFIAN                         # some keys are asked for far more often, wherever they lie
    LATEST                          # the newer a key, the more often


cdef struct Wanted:
    uint64_t number                 # of the key
    uint8_t kind


cdef class Workload:
    cdef double[WANTS] up_to        # a random number in [0, 1) below it, and not below the one before, is this kind
    cdef int distribution
    cdef uint64_t keys              # that are there from the beginning
    cdef uint64_t inserted          # that were asked for on top
    cdef uint64_t visible           # of `keys + inserted`, those whose writes were answered
    cdef uint32_t key_bytes
    cdef uint32_t value_bytes
    cdef bytes value
    cdef const char* value_at       # into `value`, for use without the GIL
    cdef uint8_t consistency
    cdef uint64_t random_state
    cdef uint64_t written           # PUT frames so far
    # Zipf's law over `zipf_keys` ranks
    cdef uint64_t zipf_keys
    cdef double zeta
    cdef double eta

    cdef size_t frame_limit_bytes(self) noexcept nogil
    cdef double uniform(self) noexcept nogil
    cdef uint64_t rank(self) noexcept nogil
    cdef void grow(self, uint64_t keys) noexcept nogil
    cdef void draw(self, Wanted* wanted) noexcept nogil
    cdef void answered_insert(self) noexcept nogil
    cdef void write_key(self, uint8_t* at, uint64_t number) noexcept nogil
    cdef size_t write_get(self, uint8_t* at, uint64_t request_id, uint64_t number) noexcept nogil
    cdef size_t write_put(self, uint8_t* at, uint64_t request_id, uint64_t number) noexcept nogil
    cdef size_t write_scan(self, uint8_t* at, uint64_t request_id, uint64_t number) noexcept nogil
