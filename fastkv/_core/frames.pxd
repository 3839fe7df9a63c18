# Cutting frames out of a stream, in the memory that the stream was received into. See frames.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


# A complete frame. The body is borrowed: good until the reader's next compact() or reserve().
cdef struct Frame:
    const uint8_t* body
    uint64_t request_id
    uint32_t length
    uint16_t code
    uint8_t opcode
    uint8_t flags


cdef class FrameReader:
    cdef uint8_t* data
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start               # the first byte that no frame has been cut from
    cdef Py_ssize_t end                 # behind the last byte received
    cdef Py_ssize_t exports             # memoryviews of our memory that are alive
    cdef public Py_ssize_t limit_bytes
    cdef Py_ssize_t wanted              # capacity that the frame under way needs
    cdef bint filled                    # the last read filled all the room it was given

    cdef int reserve(self, Py_ssize_t hint) except -1
    cdef int received_bytes(self, Py_ssize_t nbytes) except -1
    # 1: out holds the next complete frame; 0: there is none. Raises FrameTooLarge.
    cdef int next(self, Frame* out) except -1
    cdef int compact(self) except -1
