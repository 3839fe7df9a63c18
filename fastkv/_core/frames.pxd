# Cutting frames out of a stream, in the memory that the stream was received into. See frames.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


# A complete frame. The body is borrowed: good until the reader's next compact(), reserve() or get_buffer().
cdef struct Frame:
    const uint8_t* body
    uint64_t request_id
    uint32_t length
    uint16_t code
    uint8_t opcode
    uint8_t flags


cdef class FrameReader:
    cdef bytearray memory               # None while nothing has been received that is not taken yet
    cdef object view                    # of the whole memory, made on first need
    cdef uint8_t* data                  # the memory's bytes
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start               # the first byte that no frame has been cut from
    cdef Py_ssize_t end                 # behind the last byte received
    cdef public Py_ssize_t limit_bytes

    # Makes room at data + end: at least one byte, usually 64 KiB. Raises FrameTooLarge, or BufferError where complete
    # frames fill the memory.
    cdef int reserve(self) except -1
    cdef Py_ssize_t body_bytes(self) except -1
    # nbytes have been received at data + end. ValueError where there was less room.
    cpdef object received(self, Py_ssize_t nbytes)
    # 1: out holds the next complete frame; 0: there is none. Raises FrameTooLarge, and again at each call.
    cdef int next(self, Frame* out) except -1
    # Done with the frames cut so far: moves the incomplete rest to the front, lets go of the memory where all is cut.
    cdef void compact(self) noexcept
    cpdef object get_buffer(self, Py_ssize_t hint=*)
