# The thread that makes the write-ahead log durable: one group commit after the other, without the GIL.
#
# Two sides share `Shared`, and only that:
#
#   the caller (holds the GIL)                          the thread (never touches Python)
#   submit: fills `staged`, which is the caller's own
#   kick:   moves `staged` to `queued`, signals `work`  -> takes all of `queued` at once
#                                                          pwritev, run by run; fdatasync, file by file
#   collect: reads the eventfd, drops references        <- publishes `durable`, signals `done` and the eventfd
#
# The bytes of a job are borrowed from `bytes` objects that the caller keeps in `_held` until their ticket is durable.
# The lock is held for a few stores and one memcpy on either side, never across a system call of the disk.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BOUNDS = 15             # upper bounds of a histogram's buckets
    BUCKETS = 16            # one bucket more takes all that lies above

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass

# One write: header, payload and padding, one after the other, at `offset` of `fd`.
cdef struct Job:
    int fd
    uint32_t padding
    uint32_t entries        # how many log entries are in it; for the statistics only
    uint64_t offset
    uint64_t ticket
    const uint8_t* header
    size_t header_bytes
    const uint8_t* payload
    size_t payload_bytes

cdef struct Jobs:
    Job* items
    size_t count
    size_t capacity

cdef struct Shared:
    pthread_mutex_t lock
    pthread_cond_t work
    pthread_cond_t done
    Jobs queued
    Jobs writing            # the thread's own
    uint64_t durable
    uint64_t busy_since_ns  # 0 while there is nothing to write
    int error               # errno of the first failure, which is final
    bint sync_failed        # it was fdatasync that failed, not pwritev
    bint stopping
    int event_fd
    uint64_t[BUCKETS] fsync_counts
    uint64_t fsync_total_ns
    uint64_t[BUCKETS] batch_counts
    uint64_t batch_total


cdef class WalWriter:
    cdef Shared shared
    cdef pthread_t thread
    cdef bint running
    cdef Jobs staged
    cdef uint64_t last_ticket
    cdef object _held       # deque of (ticket, header, payload)

    cdef int stage(self, Job* job) except -1
    cdef int check(self) except -1
    cdef int shut(self) noexcept nogil
