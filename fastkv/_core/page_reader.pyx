"""Reading a file page by page with pread: a page that is not there, or cannot be read, is an answer and not a signal.

A file that was written in the order in which it is now read - a compacted copy of a store, whose leaves stand in the
order of their keys, and values in that of their leaves - is read a window at a time, one for each kind of page. So it
can be read past the page cache (O_DIRECT), where every read goes to the disk: nothing else loses its place in memory to
a file that is looked at once.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.stdlib cimport posix_memalign

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void* into, size_t nbytes, long offset)


cdef class PageReader:
    """Of one file. `window_bytes`: how much to read at a time, a multiple of `page_bytes`; 0 for just what is asked."""

    def __cinit__(self):
        cdef int kind
        for kind in range(KINDS):
            self.windows[kind] = Window(NULL, 0, 0, 0)

    def __init__(self, int fd, size_t page_bytes, size_t window_bytes=0):
        self.fd = fd
        self.page_bytes = page_bytes
        self.ordered = window_bytes > 0
        if not self.ordered:
            return
        if window_bytes % page_bytes:
            raise ValueError(f"a window of {window_bytes} bytes has no whole number of pages of {page_bytes}")
        # Of branches there is one for a hundred leaves: those behind it are of no use.
        self.open_window(BRANCHES, page_bytes)
        self.open_window(LEAVES, window_bytes)
        self.open_window(VALUES, window_bytes)

    cdef int open_window(self, Kind kind, size_t nbytes) except -1:
        cdef Window* window = &self.windows[<int>kind]
        assert window.at == NULL
        if posix_memalign(<void**>&window.at, ALIGNMENT, nbytes):
            window.at = NULL
            raise MemoryError(f"no memory for a window of {nbytes} bytes")
        window.room = nbytes
        return 0

    def __dealloc__(self):
        cdef int kind
        for kind in range(KINDS):
            free(self.windows[kind].at)

    cdef int read(self, Kind kind, uint64_t page, uint8_t* into, size_t nbytes) noexcept nogil:
        """The first bytes of a page, and of those behind it. 0, an error number, or BEYOND where the file has ended."""
        cdef uint64_t offset = page * self.page_bytes
        cdef size_t had
        cdef Window* window = &self.windows[<int>kind]
        cdef int error
        if not self.ordered:
            return self.fetch(offset, into, nbytes, nbytes, &had)
        while nbytes:
            if not window.offset <= offset < window.offset + window.nbytes:
                window.nbytes = 0
                window.offset = offset - offset % self.page_bytes
                error = self.fetch(window.offset, window.at, window.room, offset - window.offset + 1, &window.nbytes)
                if error:
                    return error
            had = min(nbytes, <size_t>(window.offset + window.nbytes - offset))
            memcpy(into, window.at + (offset - window.offset), had)
            into += had
            offset += had
            nbytes -= had
        return 0

    cdef int fetch(self, uint64_t offset, uint8_t* into, size_t room, size_t least, size_t* had) noexcept nogil:
        """Read up to `room` bytes, and `least` of them. How many stands in `had`."""
        cdef ssize_t got
        had[0] = 0
        while had[0] < least:
            got = pread(self.fd, into + had[0], room - had[0], <long>(offset + had[0]))
            if got < 0 and errno == EINTR:
                continue
            if got < 0:
                return errno
            if got == 0:
                return BEYOND
            had[0] += got
        return 0
