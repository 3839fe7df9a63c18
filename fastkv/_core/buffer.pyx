"""Growable bytes for the encoders: every frame, entry and result is written here first, without an object for each."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastkv._core.cursor cimport store_u16, store_u32, store_u64

cdef Py_ssize_t FIRST_CAPACITY = 512
# A buffer that once held a burst gives the memory back, so that ten thousand quiet connections stay small.
cdef Py_ssize_t KEPT_CAPACITY = 1 << 20


cdef class WriteBuffer:
    """An append-only byte buffer. Growth doubles; `take` hands out all bytes and empties the buffer."""

    def __cinit__(self):
        self.data = NULL
        self.length = 0
        self.capacity = 0

    def __dealloc__(self):
        free(self.data)

    cdef int _grow(self, Py_ssize_t needed) except -1:
        cdef Py_ssize_t capacity = self.capacity if self.capacity else FIRST_CAPACITY
        cdef uint8_t* grown
        while capacity < needed:
            capacity *= 2
        grown = <uint8_t*>realloc(self.data, capacity)
        if grown == NULL:
            raise MemoryError(f"no memory for a buffer of {capacity} bytes")
        self.data = grown
        self.capacity = capacity
        return 0

    cdef uint8_t* extend(self, Py_ssize_t nbytes) except NULL:
        cdef Py_ssize_t start = self.length
        assert nbytes >= 0
        if start + nbytes > self.capacity or self.data == NULL:
            self._grow(start + nbytes)
        self.length = start + nbytes
        return self.data + start

    cdef int put(self, const uint8_t* data, Py_ssize_t nbytes) except -1:
        cdef uint8_t* at = self.extend(nbytes)
        if nbytes:
            memcpy(at, data, nbytes)
        return 0

    cdef int put_u8(self, uint8_t value) except -1:
        self.extend(1)[0] = value
        return 0

    cdef int put_u16(self, uint16_t value) except -1:
        store_u16(self.extend(2), value)
        return 0

    cdef int put_u32(self, uint32_t value) except -1:
        store_u32(self.extend(4), value)
        return 0

    cdef int put_u64(self, uint64_t value) except -1:
        store_u64(self.extend(8), value)
        return 0

    cpdef bytes take(self):
        """All bytes written so far; the buffer is empty afterwards."""
        cdef bytes taken = PyBytes_FromStringAndSize(<char*>self.data, self.length) if self.length else b""
        self.clear()
        return taken

    cpdef object clear(self):
        """Forget the bytes; give memory back when there was much."""
        self.length = 0
        if self.capacity > KEPT_CAPACITY:
            free(self.data)
            self.data = NULL
            self.capacity = 0
        return None

    def write(self, const uint8_t[::1] data not None):
        """Append bytes."""
        if data.shape[0]:
            self.put(&data[0], data.shape[0])

    def write_u8(self, uint8_t value):
        """Append one byte."""
        self.put_u8(value)

    def write_u16(self, uint16_t value):
        """Append a little-endian 16-bit number."""
        self.put_u16(value)

    def write_u32(self, uint32_t value):
        """Append a little-endian 32-bit number."""
        self.put_u32(value)

    def write_u64(self, uint64_t value):
        """Append a little-endian 64-bit number."""
        self.put_u64(value)

    def __len__(self):
        return self.length

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<char*>self.data, self.length) if self.length else b""
