# Where answers go: sinks, the waiters of a batch, and the outbox of sinks with something to send. See replies.pyx.

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint64_t


cdef class Outbox:
    cdef list dirty

    cdef int mark(self, Sink sink) except -1


cdef class Sink:
    cdef Outbox outbox
    cdef bint marked

    # Takes one answer: the body is head followed by body, either of which may be empty (NULL, 0).
    cdef int answer(
        self, uint64_t request_id, uint8_t opcode, uint16_t status, uint8_t flags,
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


# One request that waits: who asked, and under which id. The sink is owned (a counted reference).
cdef struct Waiter:
    PyObject* sink
    uint64_t request_id
    uint8_t opcode


cdef class Waiters:
    cdef Waiter* items
    cdef Py_ssize_t count
    cdef Py_ssize_t capacity

    cdef int add(self, Sink sink, uint64_t request_id, uint8_t opcode) except -1
