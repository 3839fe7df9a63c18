"""Frames of the raw-TCP port, cut from the stream: every complete frame of a read at once, without a copy.

The reader owns the memory that the socket receives into (asyncio.BufferedProtocol): `get_buffer` hands out its free
tail, `received` says how much of it was filled, `next` cuts frames in place, `compact` moves the incomplete rest to
the front. A length is checked against `limit_bytes` before any memory is reserved for it.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from fastkv._core.codes cimport FRAME_HEADER_BYTES
from fastkv._core.cursor cimport load_u16, load_u32, load_u64, store_u16, store_u32, store_u64

cdef enum:
    # An idle connection keeps this much; a busy one grows towards ROOM_BYTES at each full read.
    IDLE_BYTES = 4096
    ROOM_BYTES = 65536


class FrameTooLarge(ValueError):
    """A frame announces more bytes than the limit allows; nothing was reserved for it."""


cdef class FrameReader:
    """Cuts frames. `limit_bytes` bounds the body of one frame and may change at any time."""

    def __cinit__(self):
        self.data = NULL
        self.capacity = self.start = self.end = self.exports = self.wanted = 0
        self.filled = False

    def __init__(self, Py_ssize_t limit_bytes):
        self.limit_bytes = limit_bytes

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        # The free tail, for the socket to receive into. Our memory does not move while a view is out.
        PyBuffer_FillInfo(view, self, self.data + self.end, self.capacity - self.end, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.exports -= 1

    cdef int reserve(self, Py_ssize_t hint) except -1:
        """Make room for a read: for the rest of the frame under way, or for `hint` bytes where nothing is known."""
        cdef Py_ssize_t needed = self.end + min(max(hint, IDLE_BYTES), ROOM_BYTES)
        cdef uint8_t* grown
        if self.start == 0 and self.wanted > needed:
            needed = self.wanted
        if self.capacity >= needed or (self.capacity > self.end and self.capacity >= ROOM_BYTES + self.wanted):
            return 0
        if self.exports:
            raise BufferError("the receive buffer cannot grow while a view of it is out")
        grown = <uint8_t*>realloc(self.data, needed)
        if grown == NULL:
            raise MemoryError(f"no memory for a receive buffer of {needed} bytes")
        self.data = grown
        self.capacity = needed
        return 0

    cdef int received_bytes(self, Py_ssize_t nbytes) except -1:
        if not 0 <= nbytes <= self.capacity - self.end:
            raise ValueError(f"{nbytes} bytes received into {self.capacity - self.end}")
        self.filled = nbytes == self.capacity - self.end
        self.end += nbytes
        return 0

    cdef int next(self, Frame* out) except -1:
        cdef const uint8_t* at = self.data + self.start
        cdef Py_ssize_t left = self.end - self.start
        if left < FRAME_HEADER_BYTES:
            return 0
        out.length = load_u32(at)
        if out.length > self.limit_bytes:
            raise FrameTooLarge(f"a frame of {out.length} bytes is over the limit of {self.limit_bytes}")
        if left - FRAME_HEADER_BYTES < <Py_ssize_t>out.length:
            self.wanted = FRAME_HEADER_BYTES + <Py_ssize_t>out.length
            return 0
        out.opcode = at[4]
        out.flags = at[5]
        out.code = load_u16(at + 6)
        out.request_id = load_u64(at + 8)
        out.body = at + FRAME_HEADER_BYTES
        self.start += FRAME_HEADER_BYTES + <Py_ssize_t>out.length
        self.wanted = 0
        return 1

    cdef int compact(self) except -1:
        cdef Py_ssize_t left = self.end - self.start
        if self.start:
            if left:
                memmove(self.data, self.data + self.start, left)
            self.start = 0
            self.end = left
        if left == 0 and self.capacity > ROOM_BYTES and not self.exports:
            free(self.data)
            self.data = NULL
            self.capacity = 0
        return 0

    # -- the Python face ---------------------------------------------------------------------------------------------

    def get_buffer(self, Py_ssize_t hint=-1):
        """Writable memory to receive into; what asyncio.BufferedProtocol.get_buffer returns."""
        # A full last read means that more is waiting: offer more room. An idle connection stays small.
        self.reserve(self.capacity * 2 if self.filled else IDLE_BYTES)
        return memoryview(self)

    def received(self, Py_ssize_t nbytes):
        """`nbytes` of the memory handed out last have been filled."""
        self.received_bytes(nbytes)

    def frames(self):
        """Every complete frame, as (opcode, flags, code, request id, body). FrameTooLarge where one is."""
        cdef Frame frame
        cdef list frames = []
        try:
            while self.next(&frame):
                frames.append((
                    frame.opcode, frame.flags, frame.code, frame.request_id,
                    PyBytes_FromStringAndSize(<const char*>frame.body, frame.length)))
        finally:
            self.compact()
        return frames

    def feed(self, const uint8_t[::1] data not None):
        """Take bytes that were received elsewhere; answers as `frames` does."""
        cdef Py_ssize_t at = 0, room
        cdef list frames = []
        while at < data.shape[0]:
            self.reserve(data.shape[0] - at)
            room = min(self.capacity - self.end, data.shape[0] - at)
            memcpy(self.data + self.end, &data[at], room)
            self.end += room
            at += room
            frames += self.frames()
        return frames

    @property
    def pending_bytes(self):
        """How much of an incomplete frame is here."""
        return self.end - self.start


def encode_frame(uint8_t opcode, uint8_t flags, uint16_t code, uint64_t request_id, const uint8_t[::1] body not None=b""):
    """One frame, header and body."""
    cdef Py_ssize_t nbytes = body.shape[0]
    if nbytes >= <Py_ssize_t>1 << 32:
        raise ValueError("a frame's body has less than 4 GiB")
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, FRAME_HEADER_BYTES + nbytes)
    cdef uint8_t* at = <uint8_t*>PyBytes_AS_STRING(frame)
    store_u32(at, <uint32_t>nbytes)
    at[4] = opcode
    at[5] = flags
    store_u16(at + 6, code)
    store_u64(at + 8, request_id)
    if nbytes:
        memcpy(at + FRAME_HEADER_BYTES, &body[0], nbytes)
    return frame
