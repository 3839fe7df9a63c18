# What the load generator asks of Linux beyond Cython's own declarations: epoll, send and recv, timers, clocks.
# Header only.

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport clock_gettime, itimerspec, timespec

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int room, int timeout_ms)

cdef extern from "<sys/timerfd.h>" nogil:
    int TFD_NONBLOCK
    int TFD_TIMER_ABSTIME
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int timer, int flags, const itimerspec* when, itimerspec* before)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void* data, size_t nbytes, int flags)
    ssize_t recv(int fd, void* data, size_t nbytes, int flags)
    int MSG_NOSIGNAL


cdef inline uint64_t clock_ns(int which) noexcept nogil:
    """A clock of clock_gettime(2), in nanoseconds."""
    cdef timespec now
    clock_gettime(which, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec
