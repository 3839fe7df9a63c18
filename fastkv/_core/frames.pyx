"""Frames of the raw-TCP port, cut from the stream: every complete frame of a read at once, without a copy.

The reader owns the memory that the socket receives into (asyncio.BufferedProtocol): `get_buffer` hands out its free
tail, `received` says how much of it was filled, `next` cuts frames in place, `compact` moves the incomplete rest to
the front.

Memory is held only while there is something in it. A connection that says nothing costs none, however much it said
before; and since the allocator hands the same block out again, busy connections in effect share the blocks they
receive into. What is held is bounded by what was received: a length is checked against `limit_bytes` first, and even
a length within it gets memory only as its bytes arrive.

The memory is a bytearray that is replaced and never resized. Event loops keep a view of it while they call us back;
the view keeps its bytearray alive, so that nothing here has to know when the loop is done with it.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from fastkv._core.codes cimport FRAME_HEADER_BYTES
from fastkv._core.cursor cimport load_u16, load_u32, load_u64, store_u16, store_u32, store_u64

cdef enum:
    READ_BYTES = 65536      # room for one read of the socket
    GROWTH = 4              # a long frame's memory is at most this multiple of what has arrived of it


class FrameTooLarge(ValueError):
    """A frame announces a body over the limit."""


cdef class FrameReader:
    """Cuts frames out of a stream. `limit_bytes` bounds the body of one frame and may change at any time."""

    def __init__(self, Py_ssize_t limit_bytes):
        self.limit_bytes = limit_bytes

    cdef int reserve(self) except -1:
        # Before a HELLO the limit is small, and then so is this.
        cdef Py_ssize_t wanted = FRAME_HEADER_BYTES + min(max(self.limit_bytes, 0), READ_BYTES - FRAME_HEADER_BYTES)
        cdef bytearray larger
        self.compact()
        if self.end >= FRAME_HEADER_BYTES:
            wanted = max(wanted, min(FRAME_HEADER_BYTES + self.body_bytes(), GROWTH * self.end))
        if self.capacity < wanted:
            larger = PyByteArray_FromStringAndSize(NULL, wanted)
            if self.end:
                memcpy(PyByteArray_AS_STRING(larger), self.data, self.end)
            self.memory = larger
            self.view = None
            self.data = <uint8_t*>PyByteArray_AS_STRING(larger)
            self.capacity = wanted
        if self.end == self.capacity:
            raise BufferError(f"{self.end} bytes of complete frames have not been taken yet")
        return 0

    cpdef object received(self, Py_ssize_t nbytes):
        """`nbytes` of the memory handed out last have been filled. ValueError where there was less of it."""
        if not 0 <= nbytes <= self.capacity - self.end:
            raise ValueError(f"{nbytes} bytes cannot have been received into {self.capacity - self.end}")
        self.end += nbytes
        return None

    cdef Py_ssize_t body_bytes(self) except -1:
        """The length that the header at `start` announces, within the limit."""
        cdef Py_ssize_t nbytes = load_u32(self.data + self.start)
        if nbytes > self.limit_bytes:
            raise FrameTooLarge(f"a frame of {nbytes} bytes is over the limit of {self.limit_bytes}")
        return nbytes

    cdef int next(self, Frame* out) except -1:
        cdef const uint8_t* at = self.data + self.start
        cdef Py_ssize_t left = self.end - self.start - FRAME_HEADER_BYTES
        cdef Py_ssize_t nbytes
        if left < 0:
            return 0
        nbytes = self.body_bytes()
        if left < nbytes:
            return 0
        out.length = <uint32_t>nbytes
        out.opcode = at[4]
        out.flags = at[5]
        out.code = load_u16(at + 6)
        out.request_id = load_u64(at + 8)
        out.body = at + FRAME_HEADER_BYTES
        self.start += FRAME_HEADER_BYTES + nbytes
        return 1

    cdef void compact(self) noexcept:
        cdef Py_ssize_t rest = self.end - self.start
        if rest == 0:
            self.memory = None
            self.view = None
            self.data = NULL
            self.capacity = 0
        elif self.start:
            memmove(self.data, self.data + self.start, rest)
        self.start = 0
        self.end = rest

    cpdef object get_buffer(self, Py_ssize_t hint=-1):
        """Writable memory to receive into: what asyncio.BufferedProtocol.get_buffer returns, whatever the hint.

        FrameTooLarge where the frame under way is too large; BufferError where complete frames have not been taken.
        """
        self.reserve()
        if self.view is None:
            self.view = PyMemoryView_FromObject(self.memory)
        return self.view[self.end:] if self.end else self.view

    def frames(self):
        """Every complete frame, as (opcode, flags, code, request id, body).

        FrameTooLarge where one announces too much. The stream is of no use from there on, and frames cut by the same
        call are lost with it.
        """
        cdef Frame frame
        cdef list frames = []
        while self.next(&frame):
            frames.append((
                frame.opcode, frame.flags, frame.code, frame.request_id,
                PyBytes_FromStringAndSize(<const char*>frame.body, frame.length)))
        self.compact()
        return frames

    def feed(self, const uint8_t[::1] data not None):
        """Take bytes that were received elsewhere; answers as `frames` does."""
        cdef Py_ssize_t at = 0, part
        cdef list frames = []
        while at < data.shape[0]:
            self.reserve()
            part = min(self.capacity - self.end, data.shape[0] - at)
            memcpy(self.data + self.end, &data[at], part)
            self.end += part
            at += part
            frames += self.frames()
        return frames

    @property
    def pending_bytes(self):
        """How much has been received of frames that were not taken yet."""
        return self.end - self.start

    @property
    def held_bytes(self):
        """The memory that is held."""
        return self.capacity


def encode_frame(uint8_t opcode, uint8_t flags, uint16_t code, uint64_t request_id, bytes body not None=b""):
    """One frame, header and body. ValueError for a body of 4 GiB or more."""
    cdef Py_ssize_t nbytes = PyBytes_GET_SIZE(body)
    cdef bytes frame
    cdef uint8_t* at
    if nbytes > 0xFFFF_FFFF:
        raise ValueError(f"a frame's body has less than 4 GiB, not {nbytes} bytes")
    frame = PyBytes_FromStringAndSize(NULL, FRAME_HEADER_BYTES + nbytes)
    at = <uint8_t*>PyBytes_AS_STRING(frame)
    store_u32(at, <uint32_t>nbytes)
    at[4] = opcode
    at[5] = flags
    store_u16(at + 6, code)
    store_u64(at + 8, request_id)
    memcpy(at + FRAME_HEADER_BYTES, PyBytes_AS_STRING(body), nbytes)
    return frame
