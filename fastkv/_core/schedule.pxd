# When an open load sends its requests, and on which connection. See schedule.pyx.

from libc.stdint cimport uint32_t, uint64_t


# Where a request may be in flight: a slot of a connection.
cdef struct Place:
    uint32_t link
    uint32_t slot


cdef class Schedule:
    cdef double interval_ns         # between two requests, on average
    cdef readonly uint64_t due_ns   # when the next one is due, by CLOCK_MONOTONIC
    cdef uint64_t random_state
    cdef int timer                  # a timerfd
    cdef Place* places              # the free ones, a ring: all connections get their turn
    cdef uint64_t place_count
    cdef uint64_t places_taken
    cdef uint64_t places_freed

    cdef void advance(self) noexcept nogil
    cdef void arm(self) noexcept nogil
    cdef void rang(self) noexcept nogil
    cdef void give_back(self, Place place) noexcept nogil
    cdef bint take(self, Place* place) noexcept nogil
