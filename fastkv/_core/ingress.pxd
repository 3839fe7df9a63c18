# What clients ask in one turn of the loop: the open proposal batch and the open read batches. See ingress.pyx.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastkv._core.apply cimport Table
from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.entry cimport BatchBuilder
from fastkv._core.replies cimport Sink, Waiters


cdef class ReadBatch:
    cdef WriteBuffer keys               # u16 length | key, one for each waiter
    cdef Waiters waiters
    cdef list tasks                     # (serve, fail) of reads that are not point reads

    cdef int join(self, ReadBatch other) except -1


cdef class Ingress:
    cdef readonly Table table
    cdef readonly object on_wake
    cdef BatchBuilder writes
    cdef Waiters write_waiters
    cdef ReadBatch reads
    cdef ReadBatch lease_reads
    cdef bint awake
    cdef bint timed                      # a connection has looked at the clock since the node last ran
    cdef Py_ssize_t value_limit_bytes
    cdef readonly Py_ssize_t open_limit_bytes
    cdef public uint32_t session_limit   # sessions that may be open once one has been opened here
    cdef public uint16_t refuse_writes   # Status that every write is answered with at once; OK to take them
    cdef public uint16_t refuse_reads    # likewise for reads of any consistency
    cdef public uint64_t applied_index   # what a stale read answers with
    cdef public uint32_t age_ms          # how old that state was at aged_ns; AGE_UNKNOWN where nobody knows
    cdef public int64_t aged_ns
    cdef public object clock             # answers nanoseconds, of which aged_ns are some

    cdef int wake(self) except -1
    cdef int64_t age_now(self) except -1
    cdef int refuse(self, Sink sink, uint64_t request_id, uint8_t opcode, uint16_t status) except -1
    # Take one request. A request that is wrong in itself is answered on the spot. Bodies are copied.
    cdef int write(
        self, Sink sink, uint64_t request_id, uint8_t opcode, const uint8_t* body, Py_ssize_t nbytes,
    ) except -1
    cdef int open_session(self, Sink sink, uint64_t request_id, const uint8_t* body, Py_ssize_t nbytes) except -1
    cdef int propose(
        self, Sink sink, uint64_t request_id, uint8_t opcode, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes,
    ) except -1
    cdef int read(self, Sink sink, uint64_t request_id, const uint8_t* body, Py_ssize_t nbytes) except -1
    cdef int answer_stale(self, Sink sink, uint64_t request_id, const uint8_t* key, Py_ssize_t key_bytes) except -1
