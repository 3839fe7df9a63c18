# A latency histogram with log-linear buckets: see histogram.pyx.

from libc.stdint cimport uint64_t

cdef enum:
    # Each power of two is cut into 128 equal buckets, so a bucket is at most 1/128 = 0.8 % wide.
    SUB_BUCKET_BITS = 7
    SUB_BUCKETS = 128
    BUCKETS = 7424          # (64 - 7 + 1) * 128: every 64-bit value has its bucket


cdef class Histogram:
    cdef uint64_t[BUCKETS] counts
    cdef readonly uint64_t count
    cdef readonly double total_ns
    cdef readonly uint64_t max_ns

    cdef void add(self, uint64_t value_ns) noexcept nogil
