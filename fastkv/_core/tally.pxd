# What has been answered, counted in plain C as it is answered. See tally.pyx.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from *:
    """
    static const uint32_t FASTKV_TALLY_BOUNDS_US[16] = {
        100, 250, 500, 1000, 2500, 5000, 10000, 25000,
        50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000
    };
    """
    const uint32_t* LIMITS_US "FASTKV_TALLY_BOUNDS_US"

cdef enum:
    BOUNDS = 16             # upper bounds of a histogram's buckets
    BUCKETS = 17            # one more for what is above them
    OPCODES = 64            # what a client may ask is below; the rest counts as opcode 0
    STATUSES = 48           # what a node may answer is below; the rest counts as the last


# One clock for all: it is read into `now_us` once for a turn of the loop and once for a batch of answers, never for an
# operation. It counts microseconds and goes round in 71 minutes, so that it fits beside whoever waits.
cdef struct Counts:
    uint64_t[64][48] answered           # by opcode and status
    uint64_t[64][17] took               # by opcode and bucket
    uint64_t[64] took_us                # the sums
    uint32_t now_us
    uint32_t last_us                    # the duration counted last, and its bucket: a batch's are often all the same
    uint32_t last_bucket


cdef inline void look_at_clock(Counts* counts) noexcept nogil:
    """What arrives or is answered from here on does so now."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    counts.now_us = <uint32_t>(<uint64_t>now.tv_sec * 1000000 + <uint64_t>now.tv_nsec // 1000)


cdef inline void count_answer(Counts* counts, uint8_t opcode, uint16_t status, uint32_t asked_us) noexcept nogil:
    """One answer, to what was asked when the clock said `asked_us`."""
    cdef uint32_t took_us = counts.now_us - asked_us
    cdef uint32_t bucket = 0
    if <int32_t>took_us < 0:
        took_us = 0                     # asked after the clock was looked at last
    if opcode >= OPCODES:
        opcode = 0
    if status >= STATUSES:
        status = STATUSES - 1
    if took_us == counts.last_us:
        bucket = counts.last_bucket
    else:
        while bucket < BOUNDS and took_us > LIMITS_US[bucket]:
            bucket += 1
        counts.last_us = took_us
        counts.last_bucket = bucket
    counts.answered[opcode][status] += 1
    counts.took[opcode][bucket] += 1
    counts.took_us[opcode] += took_us


cdef class Tally:
    cdef Counts counts
