# The state of one run of the load generator. See loadgen.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastkv._core.codes cimport FRAME_HEADER_BYTES
from fastkv._core.histogram cimport Histogram

cdef enum:
    STATUSES = 64


# A place for one request in flight. Its number on the connection is the request's id.
cdef struct Slot:
    uint64_t started_ns             # 0: nothing in flight
    uint8_t opcode


cdef struct Link:
    int fd                          # -1 once it is closed
    bint blocked                    # the kernel took less than all: EPOLLOUT is being waited for
    uint32_t depth
    uint32_t head_have              # bytes of an incomplete header
    uint32_t body_left              # bytes of the current body still to skip
    uint8_t[FRAME_HEADER_BYTES] head
    uint8_t* out                    # room for a frame of each slot
    size_t out_bytes
    size_t out_sent
    Slot* slots


cdef class _Generator:
    # what is asked
    cdef uint64_t count
    cdef uint64_t keys
    cdef uint32_t depth
    cdef uint32_t key_bytes
    cdef uint32_t value_bytes
    cdef bytes value
    cdef const char* value_at       # into `value`, for use without the GIL
    cdef uint64_t read_threshold    # a random number below it makes a request a GET
    cdef uint8_t consistency
    cdef bint sequential
    cdef uint64_t random_state
    cdef object on_progress
    # the connections
    cdef int epoll
    cdef Link* links
    cdef int link_count
    cdef uint8_t* received
    # what came of it
    cdef Histogram latency
    cdef uint64_t[STATUSES] statuses
    cdef uint64_t asked
    cdef uint64_t answered
    cdef uint64_t in_flight
    cdef uint64_t lost
    cdef uint64_t forwarded
    cdef uint64_t unexpected
    cdef uint64_t started_ns
    cdef uint64_t deadline_ns
    cdef uint64_t ended_ns
    cdef uint64_t cpu_ns

    cdef int open_links(self, list sockets) except -1
    cdef uint64_t random(self) noexcept nogil
    cdef void write_key(self, uint8_t* at, uint64_t number) noexcept nogil
    cdef void ask(self, Link* link, uint32_t slot, uint64_t now_ns) noexcept nogil
    cdef void send_all(self, Link* link) noexcept nogil
    cdef void watch(self, Link* link, bint blocked) noexcept nogil
    cdef void drop(self, Link* link) noexcept nogil
    cdef void receive(self, Link* link) noexcept nogil
    cdef void parse(self, Link* link, const uint8_t* at, const uint8_t* end, uint64_t now_ns) noexcept nogil
    cdef void take_answer(self, Link* link, uint64_t now_ns) noexcept nogil
    cdef int turn(self) except -1 nogil
    cdef int loop(self) except -1 nogil
    cdef dict result(self)
