"""The thread that makes the write-ahead log durable.

It takes everything that is queued, writes it with as few `pwritev` calls as there are contiguous runs, calls
`fdatasync` once for each file touched, and publishes the ticket of the last job; where the caller waits for that
ticket, it signals an eventfd that an event loop can watch. What arrives while the disk works is the next batch: group
commit without a timer. The thread never takes the GIL, so neither a busy interpreter delays the disk nor a slow disk
the interpreter.

The first error is final. After a failed `fdatasync` the kernel may have dropped the dirty pages and forgotten the
error, so a second call that succeeds proves nothing; and after a failed write nothing may be put over or behind the
residue. Nothing more is written, no ticket becomes durable, and `collect`, `submit` and `wait` raise. Only EINTR and
short writes, which are no errors, are gone on with; and a write (never a sync) that finds no room is waited with, and
then made in the same place with the same bytes: meanwhile the writer is `full`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, timespec
from posix.unistd cimport close, read

from fastkv._core.wal_thread cimport (
    BOUNDS, BUCKETS, EFD_CLOEXEC, EFD_NONBLOCK, FSYNC_BOUNDS_NS, Job, MAX_PADDING, SIG_SETMASK, Shared, eventfd, now_ns,
    pthread_cond_destroy, pthread_cond_init, pthread_cond_signal, pthread_cond_timedwait, pthread_condattr_destroy,
    pthread_condattr_init, pthread_condattr_setclock, pthread_condattr_t, pthread_create, pthread_join,
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock, pthread_sigmask, reserve, run,
    sigfillset, sigset_t,
)

import os
from collections import deque

cdef uint64_t FOREVER_NS = 0xFFFF_FFFF_FFFF_FFFF
cdef uint64_t CHECK_SIGNALS_NS = 100_000_000

FSYNC_BOUNDS_S = tuple([FSYNC_BOUNDS_NS[i] / 1e9 for i in range(BOUNDS)])
BATCH_BOUNDS = tuple([float(1 << power) for power in range(BOUNDS)])


# Not cleared by the cycle collector: the thread borrows what `_held` holds until __dealloc__ has joined it.
@cython.no_gc_clear
cdef class WalWriter:
    """Writes jobs and makes them durable, in order, on a thread of its own.

    One caller: submit, kick, collect, wait and close belong to one thread. Files must stay open until the jobs on them
    are durable or the writer is closed. `close` it, or use it as a context manager.
    """

    def __cinit__(self):
        cdef pthread_condattr_t attributes
        cdef sigset_t everything, before
        cdef int error
        memset(&self.shared, 0, sizeof(self.shared))
        memset(&self.staged, 0, sizeof(self.staged))
        self.running = False
        self.last_ticket = 0
        self._held = deque()
        self.shared.event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.shared.event_fd < 0:
            raise OSError(errno, os.strerror(errno))
        pthread_mutex_init(&self.shared.lock, NULL)
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(&self.shared.work, NULL)
        pthread_cond_init(&self.shared.done, &attributes)
        pthread_condattr_destroy(&attributes)
        # The thread inherits this mask: signals are for the interpreter's main thread.
        sigfillset(&everything)
        pthread_sigmask(SIG_SETMASK, &everything, &before)
        error = pthread_create(&self.thread, NULL, run, &self.shared)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if error:
            close(self.shared.event_fd)
            self.shared.event_fd = -1
            raise OSError(error, f"no thread for the write-ahead log: {os.strerror(error)}")
        self.running = True

    def __dealloc__(self):
        with nogil:
            self.shut()
        if self.shared.event_fd >= 0:
            close(self.shared.event_fd)
        pthread_cond_destroy(&self.shared.work)
        pthread_cond_destroy(&self.shared.done)
        pthread_mutex_destroy(&self.shared.lock)
        free(self.shared.queued.items)
        free(self.shared.writing.items)
        free(self.staged.items)

    cdef int shut(self) noexcept nogil:
        """Let the thread finish what is queued, and wait for its end."""
        if not self.running:
            return 0
        self.running = False
        pthread_mutex_lock(&self.shared.lock)
        self.shared.stopping = True
        pthread_cond_signal(&self.shared.work)
        pthread_mutex_unlock(&self.shared.lock)
        pthread_join(self.thread, NULL)
        return 0

    cdef int check(self) except -1:
        """Raise where the writer cannot be used any more."""
        error = self.error
        if error is not None:
            raise error
        if not self.running:
            raise ValueError("the log writer is closed")
        return 0

    cdef int stage(self, Job* job) except -1:
        if reserve(&self.staged, self.staged.count + 1):
            raise MemoryError("no memory to queue a log record")
        self.staged.items[self.staged.count] = job[0]
        self.staged.count += 1
        return 0

    def submit(self, int fd, uint64_t offset, bytes header not None, bytes payload not None, uint32_t padding,
               uint64_t ticket, uint32_t entries=0):
        """Queue one write: header, payload and `padding` zero bytes, one after the other, at `offset` of `fd`.

        Nothing is written before `kick`, so that what is submitted in one go shares one sync. Both byte strings are
        kept alive until their ticket is durable, and are not copied. Tickets increase; `entries` is how many log
        entries the payload has, for the statistics. ValueError for a ticket or padding out of bounds; OSError after
        the first failure.
        """
        cdef Job job
        self.check()
        if padding > MAX_PADDING:
            raise ValueError(f"at most {MAX_PADDING} bytes of padding, not {padding}")
        if ticket <= self.last_ticket:
            raise ValueError(f"ticket {ticket} does not follow {self.last_ticket}")
        job.fd = fd
        job.offset = offset
        job.header = <const uint8_t*>PyBytes_AS_STRING(header)
        job.header_bytes = PyBytes_GET_SIZE(header)
        job.payload = <const uint8_t*>PyBytes_AS_STRING(payload)
        job.payload_bytes = PyBytes_GET_SIZE(payload)
        job.padding = padding
        job.ticket = ticket
        job.entries = entries
        self._held.append((ticket, header, payload))
        self.stage(&job)
        self.last_ticket = ticket

    def kick(self):
        """Hand everything that was submitted to the thread. Returns at once."""
        cdef Shared* shared = &self.shared
        cdef uint64_t durable
        cdef int error
        if self.staged.count == 0:
            return
        pthread_mutex_lock(&shared.lock)
        durable = shared.durable
        error = reserve(&shared.queued, shared.queued.count + self.staged.count)
        if error == 0:
            memcpy(shared.queued.items + shared.queued.count, self.staged.items, self.staged.count * sizeof(Job))
            shared.queued.count += self.staged.count
        pthread_mutex_unlock(&shared.lock)
        if error:
            raise MemoryError("no memory to queue log records")
        pthread_cond_signal(&shared.work)       # behind the lock, or the thread wakes up to wait for it
        self.staged.count = 0
        self.let_go(durable)

    cdef int let_go(self, uint64_t durable) except -1:
        """Drop the bytes of what is on the disk."""
        held = self._held
        while held and held[0][0] <= durable:
            held.popleft()
        return 0

    def notify_at(self, uint64_t ticket):
        """Signal the eventfd, once, as soon as `ticket` is durable. False where it is already: then there is no signal.

        Of several that are asked for before the signal the lowest ticket counts. A failure is signalled in any case.
        """
        cdef Shared* shared = &self.shared
        cdef bint waits
        pthread_mutex_lock(&shared.lock)
        waits = shared.durable < ticket
        if waits and (shared.notify_at == 0 or ticket < shared.notify_at):
            shared.notify_at = ticket
        pthread_mutex_unlock(&shared.lock)
        return waits

    def fileno(self):
        """The eventfd: readable when what `notify_at` was asked for is there, or has failed: then `collect`."""
        return self.shared.event_fd

    def collect(self):
        """Take the signal, let go of what is durable by now, and return the durable ticket.

        OSError with the first errno where a write or sync has failed.
        """
        cdef uint64_t signals
        if self.shared.event_fd < 0:
            raise ValueError("the log writer is closed")
        while read(self.shared.event_fd, &signals, sizeof(signals)) < 0:
            if errno == EAGAIN:
                break
            if errno != EINTR:
                raise OSError(errno, os.strerror(errno))
        durable = self.durable_ticket
        self.let_go(durable)
        error = self.error
        if error is not None:
            raise error
        return durable

    def wait(self, uint64_t ticket, timeout_s=None):
        """Wait until the ticket is durable. False when `timeout_s` seconds (None: no bound) have not been enough.

        OSError with the first errno where a write or sync has failed; ValueError for a ticket that nobody has kicked.
        """
        cdef Shared* shared = &self.shared
        cdef uint64_t until_ns = FOREVER_NS if timeout_s is None else now_ns() + <uint64_t>(timeout_s * 1e9)
        cdef uint64_t slice_ns
        cdef timespec until
        cdef bint reached, failed
        if ticket > self.last_ticket or self.staged.count and ticket >= self.staged.items[0].ticket:
            raise ValueError(f"ticket {ticket} has not been handed to the log writer")
        while True:
            # In slices, so that Ctrl-C is heard while a disk hangs.
            slice_ns = min(until_ns, now_ns() + CHECK_SIGNALS_NS)
            until.tv_sec = <long>(slice_ns // 1_000_000_000)
            until.tv_nsec = <long>(slice_ns % 1_000_000_000)
            with nogil:
                pthread_mutex_lock(&shared.lock)
                while shared.durable < ticket and not shared.error:
                    if pthread_cond_timedwait(&shared.done, &shared.lock, &until):
                        break
                reached = shared.durable >= ticket
                failed = shared.error != 0
                pthread_mutex_unlock(&shared.lock)
            if reached:
                return True
            if failed:
                raise self.error
            if now_ns() >= until_ns:
                return False
            PyErr_CheckSignals()

    @property
    def durable_ticket(self):
        """Every job up to this ticket is on disk. True at this moment: it may be ahead of the last `collect`."""
        cdef uint64_t durable
        pthread_mutex_lock(&self.shared.lock)
        durable = self.shared.durable
        pthread_mutex_unlock(&self.shared.lock)
        return durable

    @property
    def error(self):
        """The first failure, or None. It is final."""
        cdef int error
        cdef bint syncing
        pthread_mutex_lock(&self.shared.lock)
        error = self.shared.error
        syncing = self.shared.sync_failed
        pthread_mutex_unlock(&self.shared.lock)
        if not error:
            return None
        what = "fdatasync" if syncing else "pwritev"
        return OSError(error, f"{what} of the write-ahead log failed, nothing more is written: {os.strerror(error)}")

    @property
    def full(self):
        """Whether a write has found no room: it is tried again until there is, or until the writer is closed."""
        cdef bint full
        pthread_mutex_lock(&self.shared.lock)
        full = self.shared.full
        pthread_mutex_unlock(&self.shared.lock)
        return full

    def stalled_ns(self):
        """How long the write and sync under way have taken so far, in ns; 0 when there are none."""
        cdef uint64_t since
        pthread_mutex_lock(&self.shared.lock)
        since = self.shared.busy_since_ns
        pthread_mutex_unlock(&self.shared.lock)
        return now_ns() - since if since else 0

    @property
    def fsync_seconds(self):
        """How long syncs took: a counter for each bucket of FSYNC_BOUNDS_S and one above, and the sum in seconds.

        A sync that failed is not counted.
        """
        return [self.shared.fsync_counts[i] for i in range(BUCKETS)], self.shared.fsync_total_ns / 1e9

    @property
    def batch_entries(self):
        """Log entries in one group commit: a counter for each bucket of BATCH_BOUNDS and one above, and the sum.

        Group commits without entries (a vote, say) are not counted.
        """
        return [self.shared.batch_counts[i] for i in range(BUCKETS)], float(self.shared.batch_total)

    def close(self):
        """Write and sync what was kicked, end the thread, close the eventfd. Waits for the disk. Idempotent.

        Says nothing of success: ask `error` and `durable_ticket`, which stay readable.
        """
        with nogil:
            self.shut()
        if self.shared.event_fd >= 0:
            close(self.shared.event_fd)
            self.shared.event_fd = -1
        self.staged.count = 0
        self._held.clear()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
