# The state of one run of the load generator. See loadgen.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastkv._core.codes cimport FRAME_HEADER_BYTES
from fastkv._core.histogram cimport Histogram
from fastkv._core.schedule cimport Place, Schedule
from fastkv._core.workload cimport Workload

cdef enum:
    STATUSES = 64


# A place for one request in flight. Its number on the connection is the request's id.
cdef struct Slot:
    uint64_t started_ns             # when it was due; 0: nothing in flight
    uint64_t number                 # of the key
    uint8_t kind                    # Want
    uint8_t opcode                  # of the frame that is to be answered next


cdef struct Link:
    int fd                          # -1 once it is closed
    bint blocked                    # the kernel took less than all: EPOLLOUT is being waited for
    bint unsent                     # it is in the generator's list of those with something new to send
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
    cdef Workload workload
    cdef uint64_t count
    cdef uint32_t depth
    cdef object on_progress
    # in an open load
    cdef bint open
    cdef Schedule schedule          # when, and where
    cdef Link** to_send
    cdef int to_send_count
    # the connections
    cdef int epoll
    cdef Link* links
    cdef int link_count
    cdef int links_open             # not closed yet
    cdef uint8_t* received
    # what came of it
    cdef Histogram gets
    cdef Histogram puts
    cdef Histogram inserts
    cdef Histogram scans
    cdef Histogram modifies
    cdef uint64_t[STATUSES] statuses
    cdef uint64_t asked
    cdef uint64_t answered
    cdef uint64_t in_flight
    cdef uint64_t lost
    cdef uint64_t unsent
    cdef uint64_t forwarded
    cdef uint64_t unexpected
    cdef uint64_t started_ns
    cdef uint64_t deadline_ns
    cdef uint64_t ended_ns
    cdef uint64_t cpu_ns

    cdef int open_links(self, list sockets) except -1
    cdef int open_schedule(self, double rate, uint64_t seed) except -1
    cdef void ask(self, Link* link, uint32_t slot, uint64_t due_ns) noexcept nogil
    cdef void write_frame(self, Link* link, uint32_t slot) noexcept nogil
    cdef void ask_what_is_due(self, uint64_t now_ns) noexcept nogil
    cdef bint something_due(self, uint64_t now_ns) noexcept nogil
    cdef bint free_place(self, Place* place) noexcept nogil
    cdef void free_slot(self, Link* link, uint32_t slot, uint64_t now_ns) noexcept nogil
    cdef void send_all(self, Link* link) noexcept nogil
    cdef void watch(self, Link* link, bint blocked) noexcept nogil
    cdef void drop(self, Link* link) noexcept nogil
    cdef void receive(self, Link* link) noexcept nogil
    cdef void parse(self, Link* link, const uint8_t* at, const uint8_t* end, uint64_t now_ns) noexcept nogil
    cdef void take_answer(self, Link* link, uint64_t now_ns) noexcept nogil
    cdef void note(self, uint8_t kind, uint64_t took_ns) noexcept nogil
    cdef int turn(self) except -1 nogil
    cdef int begin(self) except -1 nogil
    cdef bint goes_on(self) noexcept nogil
    cdef int loop(self) except -1 nogil
    cdef int look_around(self, uint64_t now_ns) except -1 nogil
    cdef dict result(self)
