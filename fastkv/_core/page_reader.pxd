# Pages of a file, for walks over them: see page_reader.pyx.

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    BEYOND = -1                     # what was asked for lies behind the end of the file
    ALIGNMENT = 4096                # of memory that is read into past the page cache
    KINDS = 3

cdef enum Kind:
    BRANCHES
    LEAVES
    VALUES

cdef struct Window:
    uint8_t* at
    size_t room
    uint64_t offset                 # in the file, of what is in it
    size_t nbytes


cdef class PageReader:
    cdef int fd
    cdef size_t page_bytes
    cdef bint ordered
    cdef Window[KINDS] windows

    cdef int open_window(self, Kind kind, size_t nbytes) except -1
    cdef int read(self, Kind kind, uint64_t page, uint8_t* into, size_t nbytes) noexcept nogil
    cdef int fetch(self, uint64_t offset, uint8_t* into, size_t room, size_t least, size_t* had) noexcept nogil
