# The caller's side of the log writer: see wal_writer.pyx, and wal_thread.pxd for the thread's.

from libc.stdint cimport uint64_t

from fastkv._core.wal_thread cimport Job, Jobs, Shared, pthread_t


cdef class WalWriter:
    cdef Shared shared
    cdef pthread_t thread
    cdef bint running
    cdef Jobs staged
    cdef uint64_t last_ticket
    cdef object _held       # deque of (ticket, header, payload)

    cdef int stage(self, Job* job) except -1
    cdef int let_go(self, uint64_t durable) except -1
    cdef int check(self) except -1
    cdef int shut(self) noexcept nogil
