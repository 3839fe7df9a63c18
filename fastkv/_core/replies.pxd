# Where answers go: sinks, the waiters of a batch, and the outbox of sinks with something to send. See replies.pyx.

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastkv._core.tally cimport Tally


cdef class Outbox:
    cdef list dirty
    cdef readonly Tally tally           # of what the raw port answers; HTTP counts by itself

    cdef int mark(self, Sink sink) except -1


cdef class Sink:
    cdef Outbox outbox
    cdef Tally tally                    # the outbox's
    cdef bint marked

    # Takes one answer, to what was asked at `asked_us`: the body is head followed by body, either of which may be empty
    # (NULL, 0).
    cdef int answer(
        self, uint64_t request_id, uint8_t opcode, uint16_t status, uint8_t flags, uint32_t asked_us,
        const uint8_t* head, Py_ssize_t head_bytes, const uint8_t* body, Py_ssize_t body_bytes,
    ) except -1
    # Sends what has been answered since the last flush.
    cdef int flush(self) except -1
    cdef int touch(self) except -1


cdef class CallbackSink(Sink):
    cdef dict callbacks
    cdef list answered
    cdef uint64_t last_id
    cdef object on_error


# One request that waits: who asked, under which id, and when by the tally's clock. The sink is owned (a counted
# reference).
cdef struct Waiter:
    PyObject* sink
    uint64_t request_id
    uint32_t asked_us
    uint8_t opcode


cdef class Waiters:
    cdef Waiter* items
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity

    cdef int add(self, Sink sink, uint64_t request_id, uint8_t opcode, uint32_t asked_us) except -1
    # The clock is looked at: whoever is answered next is answered now.
    cdef void begin(self) noexcept
