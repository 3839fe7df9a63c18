"""When an open load sends its requests, and where: at random moments that do not depend on the server.

The moments are those of a Poisson process, which is what many independent clients make together: at the same average,
requests at fixed intervals would hide the queues that form when several come at once.
"""

from libc.errno cimport errno
from libc.math cimport log
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, itimerspec
from posix.unistd cimport close as close_fd
from posix.unistd cimport read as read_fd

from fastkv._core.epoll cimport TFD_NONBLOCK, TFD_TIMER_ABSTIME, timerfd_create, timerfd_settime
from fastkv._core.splitmix cimport splitmix64


cdef class Schedule:
    """See `schedule.pyi`.

    Counters are written `self.x = self.x + 1`: the debug build's None check of `self.x += 1` would need the GIL.
    """

    def __cinit__(self, double rate, uint32_t links, uint32_t depth, uint64_t seed, uint64_t start_ns):
        cdef Place place
        self.timer = -1
        if not rate > 0:
            raise ValueError("a rate is above 0")
        self.interval_ns = 1e9 / rate
        self.random_state = seed
        self.due_ns = start_ns
        self.place_count = links * <uint64_t>depth
        self.places = <Place*>calloc(self.place_count, sizeof(Place))
        if self.places == NULL:
            raise MemoryError
        for place.slot in range(depth):
            for place.link in range(links):
                self.give_back(place)
        self.timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)
        if self.timer < 0:
            raise OSError(errno, "timerfd_create")
        self.advance()

    def __dealloc__(self):
        free(self.places)
        if self.timer >= 0:
            close_fd(self.timer)

    cdef void advance(self) noexcept nogil:
        """On to the next moment."""
        cdef double drawn = (<double>(splitmix64(&self.random_state) >> 11) + 1) / 9007199254740992.0       # (0, 1]
        self.due_ns = self.due_ns + <uint64_t>(-log(drawn) * self.interval_ns)

    cdef void arm(self) noexcept nogil:
        """Make the timer readable when the next request is due."""
        cdef itimerspec when
        memset(&when, 0, sizeof(when))
        when.it_value.tv_sec = <long>(self.due_ns // 1_000_000_000)
        when.it_value.tv_nsec = <long>(self.due_ns % 1_000_000_000)
        timerfd_settime(self.timer, TFD_TIMER_ABSTIME, &when, NULL)

    cdef void rang(self) noexcept nogil:
        """The timer was readable: it shall not be until it is armed again."""
        cdef uint64_t expirations
        read_fd(self.timer, &expirations, sizeof(expirations))

    cdef void give_back(self, Place place) noexcept nogil:
        self.places[self.places_freed % self.place_count] = place
        self.places_freed = self.places_freed + 1

    cdef bint take(self, Place* place) noexcept nogil:
        """The place that has been free for longest; False where there is none."""
        if self.places_taken == self.places_freed:
            return False
        place[0] = self.places[self.places_taken % self.place_count]
        self.places_taken = self.places_taken + 1
        return True

    def moments(self, int count):
        """The next so many moments, for tests: nanoseconds of the monotonic clock."""
        found = []
        for _ in range(count):
            found.append(self.due_ns)
            self.advance()
        return found
