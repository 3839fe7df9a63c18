"""One TCP connection of the raw port, compiled from socket to batch and back.

Bytes land in the frame reader's own memory (asyncio.BufferedProtocol); every complete frame of a read is cut at once.
A client's GET, PUT, DELETE and SESSION go straight into the ingress, with no Python object for the operation; all
other frames go to the owner, as Python calls. Answers gather in `out` and leave with one `send` for each flush:
directly on the socket while the transport has nothing queued, through the transport when the kernel's buffer is full.
"""

import os
import socket

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport FRAME_HEADER_BYTES, FrameFlag, Opcode, Status
from fastkv._core.cursor cimport store_u16, store_u32, store_u64
from fastkv._core.frames cimport Frame, FrameReader
from fastkv._core.ingress cimport Ingress
from fastkv._core.replies cimport Outbox, Sink
from fastkv._core.tally cimport count_answer, look_at_clock

from fastkv._core.frames import FrameTooLarge
from fastkv._core.replies import text_for

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void* data, size_t nbytes, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

# Short questions may have long answers, so that one read of the socket can ask for gigabytes. Beyond this multiple of
# `output_limit_bytes` unread answers, reads are refused; at the limit itself nothing more is taken from the socket.
cdef Py_ssize_t UNREAD_FACTOR = 4


cpdef enum Role:
    UNKNOWN = 0     # before HELLO
    CLIENT = 1
    PEER = 2
    CLOSING = 3     # nothing more is read
    LEAVING = 4     # a client's: what was asked is still answered, but nothing more is taken


cdef class Connection(Sink):
    """A connection of the raw-TCP port. `owner` is told of what is not hot:

    * `connection_made(connection)`, `connection_lost(connection)`;
    * `hello(connection, request_id, body)`: the owner answers and calls `become`;
    * `request(connection, opcode, request_id, body)`: a client's other requests;
    * `peer_frame(node_id, opcode, code, request_id, body)`: everything a peer says;
    * `broken(connection, status, text)`: the other side broke the protocol; the connection is closing.
    """

    cdef FrameReader reader
    cdef WriteBuffer out
    cdef Ingress ingress
    cdef object owner
    cdef object transport
    cdef int fd
    cdef bint queued                # the transport holds bytes that the kernel has not taken
    cdef bint reading
    cdef Py_ssize_t output_limit_bytes
    cdef readonly int role
    cdef readonly str peer_id

    def __init__(
        self, Outbox outbox not None, Ingress ingress not None, owner, *,
        Py_ssize_t hello_limit_bytes, Py_ssize_t output_limit_bytes,
    ):
        Sink.__init__(self, outbox)
        self.reader = FrameReader(hello_limit_bytes)
        self.out = WriteBuffer()
        self.ingress = ingress
        self.owner = owner
        self.transport = None
        self.fd = -1
        self.queued = False
        self.reading = True
        self.output_limit_bytes = output_limit_bytes
        self.role = UNKNOWN
        self.peer_id = ""

    # -- what asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport):
        self.transport = transport
        self.fd = transport.get_extra_info("socket").fileno()
        transport.set_write_buffer_limits(high=self.output_limit_bytes, low=self.output_limit_bytes // 4)
        self.owner.connection_made(self)

    def connection_lost(self, exc):
        self.role = CLOSING
        self.transport = None
        self.fd = -1
        self.out.clear()
        self.owner.connection_lost(self)

    def get_buffer(self, Py_ssize_t sizehint):
        return self.reader.get_buffer(sizehint)

    def buffer_updated(self, Py_ssize_t nbytes):
        cdef Frame frame
        if not self.ingress.timed:      # once a turn: all that is asked in it counts from then
            self.ingress.timed = True
            look_at_clock(&self.tally.counts)
        self.reader.received(nbytes)
        try:
            while self.role < CLOSING and self.reader.next(&frame):
                self.take(&frame)
        except FrameTooLarge as error:
            self.break_off(Status.FRAME_TOO_LARGE, str(error))
        self.reader.compact()
        if self.role == CLOSING:
            self.close()

    def eof_received(self):
        return False                # close; what is still unanswered has nobody to hear it

    def pause_writing(self):
        """The other side does not read its answers: take no more questions until it does."""
        self.set_reading(False)

    def resume_writing(self):
        self.set_reading(True)      # `queued` stays: below the low-water mark is not yet empty

    # -- frames ------------------------------------------------------------------------------------------------------

    cdef int take(self, Frame* frame) except -1:
        if self.role == CLIENT:
            if frame.opcode == Opcode.GET:
                return self.ingress.read(self, frame.request_id, frame.body, frame.length)
            if frame.opcode == Opcode.PUT or frame.opcode == Opcode.DELETE:
                return self.ingress.write(self, frame.request_id, frame.opcode, frame.body, frame.length)
            if frame.opcode == Opcode.SESSION:
                return self.ingress.open_session(self, frame.request_id, frame.body, frame.length)
        return self.take_slowly(frame)

    cdef int take_slowly(self, Frame* frame) except -1:
        cdef bytes body = (<char*>frame.body)[:frame.length]
        if frame.opcode == Opcode.PING:
            self.answer(
                frame.request_id, Opcode.PING, Status.OK, 0, self.tally.counts.now_us,
                NULL, 0, frame.body, frame.length)
            self.ingress.request_wake()
        elif self.role == PEER:
            self.owner.peer_frame(self.peer_id, frame.opcode, frame.code, frame.request_id, body)
        elif self.role == CLIENT:
            self.owner.request(self, frame.opcode, frame.request_id, body)
        elif frame.opcode == Opcode.HELLO:
            self.owner.hello(self, frame.request_id, body)
        else:
            self.break_off(Status.UNAUTHENTICATED, "the first frame of a connection is HELLO")
        return 0

    def become(self, int role, str peer_id, Py_ssize_t frame_limit_bytes):
        """HELLO was accepted: from now on frames are taken as this role's."""
        self.role = role
        self.peer_id = peer_id
        self.reader.limit_bytes = frame_limit_bytes

    def break_off(self, uint16_t status, str text):
        """Answer with an ERROR frame and close once it has been sent."""
        cdef bytes body = text.encode()
        self.answer(
            0, Opcode.ERROR, status, 0, self.tally.counts.now_us, NULL, 0, <const uint8_t*><char*>body, len(body))
        self.role = CLOSING
        self.owner.broken(self, status, text)
        self.close()

    # -- answers -----------------------------------------------------------------------------------------------------

    cdef int answer(
        self, uint64_t request_id, uint8_t opcode, uint16_t status, uint8_t flags, uint32_t asked_us,
        const uint8_t* head, Py_ssize_t head_bytes, const uint8_t* body, Py_ssize_t body_bytes,
    ) except -1:
        cdef uint8_t* at
        cdef bytes text
        if status == Status.OK and self.transport is not None and (
                opcode == Opcode.GET or opcode == Opcode.SCAN) and (
                self.unread_bytes() > UNREAD_FACTOR * self.output_limit_bytes):
            text = text_for(Status.OVERLOADED)
            return self.answer(
                request_id, opcode, Status.OVERLOADED, 0, asked_us, NULL, 0, <const uint8_t*><char*>text, len(text))
        if self.role != PEER:
            count_answer(&self.tally.counts, opcode, status, asked_us)
        if self.transport is None:
            return 0                # whoever asked is gone
        at = self.out.extend(FRAME_HEADER_BYTES + head_bytes + body_bytes)
        store_u32(at, <uint32_t>(head_bytes + body_bytes))
        at[4] = opcode
        at[5] = flags | <uint8_t>FrameFlag.RESPONSE
        store_u16(at + 6, status)
        store_u64(at + 8, request_id)
        if head_bytes:
            memcpy(at + FRAME_HEADER_BYTES, head, head_bytes)
        if body_bytes:
            memcpy(at + FRAME_HEADER_BYTES + head_bytes, body, body_bytes)
        return self.touch()

    cdef Py_ssize_t unread_bytes(self) except -1:
        """How much is answered that the kernel has not taken yet."""
        cdef Py_ssize_t nbytes = self.out.length
        if self.queued:
            nbytes += <Py_ssize_t>self.transport.get_write_buffer_size()
        return nbytes

    cdef int flush(self) except -1:
        cdef ssize_t sent = 0
        if self.transport is None or not self.out.length:
            return 0
        if self.queued and self.transport.get_write_buffer_size() == 0:
            self.queued = False
        if not self.queued:
            sent = send(self.fd, self.out.data, self.out.length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.out.clear()
                    self.transport.abort()      # connection_lost follows
                    return 0
                sent = 0
        if sent < self.out.length:
            self.queued = True
            self.transport.write((<char*>self.out.data)[sent:self.out.length])
        self.out.clear()
        return 0

    cdef int set_reading(self, bint reading) except -1:
        if self.transport is None or reading == self.reading or self.role >= CLOSING:
            return 0
        self.reading = reading
        if reading:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()
        return 0

    def stop_taking(self):
        """Execute nothing more of what a client sends; what was taken is still answered."""
        if self.role == CLIENT:
            self.set_reading(False)
            self.role = LEAVING

    def say_goodbye(self):
        """Everything that was taken is answered: say that nothing else was done, and close."""
        if self.role == LEAVING:
            self.answer(0, Opcode.GOODBYE, Status.OK, 0, self.tally.counts.now_us, NULL, 0, NULL, 0)
        self.close()

    def close(self):
        """Send what is answered, then close. Nothing more is read."""
        self.role = CLOSING
        if self.transport is not None:
            self.flush()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()

    def detach(self):
        """Hand the socket over, once all answers are with the kernel; None where they are not. Closed in any case.

        The socket is a duplicate, as the loop closes its own.
        """
        cdef object taken = None
        if self.transport is not None:
            self.flush()
        if self.transport is not None and not self.transport.is_closing() and self.unread_bytes() == 0:
            taken = socket.socket(fileno=os.dup(self.fd))
        self.abort()
        return taken

    def abort(self):
        """Close at once."""
        self.role = CLOSING
        if self.transport is not None:
            self.transport.abort()
