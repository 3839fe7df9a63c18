# WriteBuffer: growable bytes that encoders append to. See buffer.pyx.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef class WriteBuffer:
    cdef uint8_t* data
    cdef Py_ssize_t length
    cdef Py_ssize_t capacity

    cdef int _grow(self, Py_ssize_t needed) except -1
    # Lengthens the buffer by nbytes and returns where they start; the caller fills them. The pointer is good until
    # the next call that may grow the buffer.
    cdef uint8_t* extend(self, Py_ssize_t nbytes) except NULL
    cdef int put(self, const uint8_t* data, Py_ssize_t nbytes) except -1
    cdef int put_u8(self, uint8_t value) except -1
    cdef int put_u16(self, uint16_t value) except -1
    cdef int put_u32(self, uint32_t value) except -1
    cdef int put_u64(self, uint64_t value) except -1
    cpdef bytes take(self)
    cpdef object clear(self)
