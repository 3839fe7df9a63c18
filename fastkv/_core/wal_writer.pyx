"""The thread that makes the write-ahead log durable.

It takes everything that is queued, writes it with as few `pwritev` calls as there are contiguous runs, calls
`fdatasync` once for each file touched, publishes the ticket of the last job, and signals an eventfd that an event loop
can watch. What arrives while the disk works is the next batch: group commit without a timer. The thread never takes the
GIL, so neither a busy interpreter delays the disk nor a slow disk the interpreter.

The first error is final. After a failed `fdatasync` the kernel may have dropped the dirty pages and forgotten the
error, so a second call that succeeds proves nothing; and after a failed write nothing may be put over or behind the
residue. Nothing more is written, no ticket becomes durable, and `collect`, `submit` and `wait` raise. Only EINTR and
short writes, which are no errors, are gone on with.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, EIO, ENOMEM, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, fdatasync, read, write

import os
from collections import deque

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_condattr_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t* thread, const pthread_attr_t* attr, void* (*start)(void*) noexcept nogil, void* arg)
    int pthread_join(pthread_t thread, void** result)
    int pthread_mutex_init(pthread_mutex_t* mutex, const void* attr)
    int pthread_mutex_lock(pthread_mutex_t* mutex)
    int pthread_mutex_unlock(pthread_mutex_t* mutex)
    int pthread_mutex_destroy(pthread_mutex_t* mutex)
    int pthread_condattr_init(pthread_condattr_t* attr)
    int pthread_condattr_setclock(pthread_condattr_t* attr, int clock)
    int pthread_condattr_destroy(pthread_condattr_t* attr)
    int pthread_cond_init(pthread_cond_t* cond, const pthread_condattr_t* attr)
    int pthread_cond_wait(pthread_cond_t* cond, pthread_mutex_t* mutex)
    int pthread_cond_timedwait(pthread_cond_t* cond, pthread_mutex_t* mutex, const timespec* until)
    int pthread_cond_signal(pthread_cond_t* cond)
    int pthread_cond_broadcast(pthread_cond_t* cond)
    int pthread_cond_destroy(pthread_cond_t* cond)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int SIG_SETMASK
    int sigfillset(sigset_t* signals)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* old)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC
    int EFD_NONBLOCK
    int eventfd(unsigned int initial, int flags)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t pwritev(int fd, const iovec* vectors, int count, long long offset)

cdef enum:
    VECTORS = 768           # of one pwritev, three a job; Linux takes 1,024
    MAX_PADDING = 7

cdef uint64_t FOREVER_NS = 0xFFFF_FFFF_FFFF_FFFF
cdef uint64_t CHECK_SIGNALS_NS = 100_000_000

cdef uint8_t[8] ZEROS
memset(ZEROS, 0, sizeof(ZEROS))

# Upper bounds of the buckets, in ns and in entries: from a fast NVMe drive to a disk that has lost its way.
cdef uint64_t[BOUNDS] FSYNC_BOUNDS_NS = [
    50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000,
    100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 5_000_000_000,
]
FSYNC_BOUNDS_S = tuple(bound / 1e9 for bound in FSYNC_BOUNDS_NS)
BATCH_BOUNDS = tuple(float(1 << power) for power in range(BOUNDS))


# -- the thread's side: no Python from here to the class ---------------------------------------------------------------

cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef void* run(void* argument) noexcept nogil:
    """The thread: take, write, sync, publish, until it is told to stop or fails."""
    cdef Shared* shared = <Shared*>argument
    cdef Jobs taken
    cdef uint64_t started_ns, synced_ns
    cdef int error
    cdef bint write_failed
    while True:
        pthread_mutex_lock(&shared.lock)
        while shared.queued.count == 0 and not shared.stopping:
            pthread_cond_wait(&shared.work, &shared.lock)
        if shared.queued.count == 0:
            pthread_mutex_unlock(&shared.lock)
            return NULL
        taken = shared.queued
        shared.queued = shared.writing
        shared.queued.count = 0
        shared.writing = taken
        pthread_mutex_unlock(&shared.lock)

        set_busy(shared, now_ns())
        error = write_jobs(taken.items, taken.count)
        write_failed = error != 0
        started_ns = now_ns()
        if error == 0:
            error = sync_files(taken.items, taken.count)
        synced_ns = now_ns()
        publish(shared, &taken, error, not write_failed, synced_ns - started_ns)
        if error:
            return NULL


cdef void set_busy(Shared* shared, uint64_t since_ns) noexcept nogil:
    pthread_mutex_lock(&shared.lock)
    shared.busy_since_ns = since_ns
    pthread_mutex_unlock(&shared.lock)


cdef int write_jobs(const Job* jobs, size_t count) noexcept nogil:
    """Write all jobs, a pwritev for each contiguous run. 0 or an errno."""
    cdef iovec[VECTORS] vectors
    cdef size_t done = 0
    cdef size_t first
    cdef uint64_t end
    cdef int used, error
    while done < count:
        first = done
        end = jobs[first].offset
        used = 0
        while (done < count and jobs[done].fd == jobs[first].fd and jobs[done].offset == end
               and used + 3 <= VECTORS):
            used = add_vectors(vectors, used, &jobs[done])
            end += jobs[done].header_bytes + jobs[done].payload_bytes + jobs[done].padding
            done += 1
        error = write_run(jobs[first].fd, vectors, used, jobs[first].offset)
        if error:
            return error
    return 0


cdef int add_vectors(iovec* vectors, int used, const Job* job) noexcept nogil:
    """The job's non-empty parts, from `vectors[used]` on. The new number of vectors."""
    if job.header_bytes:
        vectors[used].iov_base = <void*>job.header
        vectors[used].iov_len = job.header_bytes
        used += 1
    if job.payload_bytes:
        vectors[used].iov_base = <void*>job.payload
        vectors[used].iov_len = job.payload_bytes
        used += 1
    if job.padding:
        vectors[used].iov_base = <void*>ZEROS
        vectors[used].iov_len = job.padding
        used += 1
    return used


cdef int write_run(int fd, iovec* vectors, int count, uint64_t offset) noexcept nogil:
    """Write the vectors at `offset`, however many calls it takes. 0 or an errno."""
    cdef ssize_t written
    while count:
        written = pwritev(fd, vectors, count, <long long>offset)
        if written < 0:
            if errno == EINTR:
                continue
            return errno
        if written == 0:
            return EIO          # never for a regular file; and no reason to try for ever
        offset += <uint64_t>written
        while count and <size_t>written >= vectors[0].iov_len:
            written -= <ssize_t>vectors[0].iov_len
            vectors += 1
            count -= 1
        if written:
            vectors[0].iov_base = <uint8_t*>vectors[0].iov_base + written
            vectors[0].iov_len -= <size_t>written
    return 0


cdef int sync_files(const Job* jobs, size_t count) noexcept nogil:
    """fdatasync every file that the jobs touched, once for each run of jobs of one file. 0 or an errno."""
    cdef size_t i
    for i in range(count):
        if i + 1 < count and jobs[i + 1].fd == jobs[i].fd:
            continue
        while fdatasync(jobs[i].fd) < 0:
            if errno != EINTR:
                return errno
    return 0


cdef void publish(Shared* shared, const Jobs* taken, int error, bint sync_failed, uint64_t sync_ns) noexcept nogil:
    """Tell the other side that the jobs are durable, or that they never will be."""
    cdef uint64_t one = 1
    cdef uint64_t entries = 0
    cdef size_t i
    cdef int slowness = fsync_bucket(sync_ns)
    cdef int size = 0
    for i in range(taken.count):
        entries += taken.items[i].entries
    while size < BOUNDS and entries > <uint64_t>1 << size:
        size += 1
    # Nothing below calls a function of this module: a debug build's tracing would wait for the GIL with the lock held.
    pthread_mutex_lock(&shared.lock)
    shared.busy_since_ns = 0
    if error:
        shared.error = error
        shared.sync_failed = sync_failed
    else:
        shared.durable = taken.items[taken.count - 1].ticket
        shared.fsync_counts[slowness] += 1
        shared.fsync_total_ns += sync_ns
        if entries:
            shared.batch_counts[size] += 1
            shared.batch_total += entries
    pthread_cond_broadcast(&shared.done)
    pthread_mutex_unlock(&shared.lock)
    # EAGAIN needs 2^64 - 1 unread signals, and then the other side is awake anyway.
    while write(shared.event_fd, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


cdef int fsync_bucket(uint64_t duration_ns) noexcept nogil:
    cdef int bucket = 0
    while bucket < BOUNDS and duration_ns > FSYNC_BOUNDS_NS[bucket]:
        bucket += 1
    return bucket


cdef int reserve(Jobs* jobs, size_t count) noexcept nogil:
    """Room for `count` jobs. 0 or ENOMEM."""
    cdef size_t capacity = jobs.capacity if jobs.capacity else 64
    cdef Job* items
    if count <= jobs.capacity:
        return 0
    while capacity < count:
        capacity *= 2
    items = <Job*>realloc(jobs.items, capacity * sizeof(Job))
    if items == NULL:
        return ENOMEM
    jobs.items = items
    jobs.capacity = capacity
    return 0


# -- the caller's side -------------------------------------------------------------------------------------------------

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
        cdef int error
        if self.staged.count == 0:
            return
        pthread_mutex_lock(&shared.lock)
        error = reserve(&shared.queued, shared.queued.count + self.staged.count)
        if error == 0:
            memcpy(shared.queued.items + shared.queued.count, self.staged.items, self.staged.count * sizeof(Job))
            shared.queued.count += self.staged.count
            pthread_cond_signal(&shared.work)
        pthread_mutex_unlock(&shared.lock)
        if error:
            raise MemoryError("no memory to queue log records")
        self.staged.count = 0

    def fileno(self):
        """The eventfd: readable when there is something to `collect`."""
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
        held = self._held
        while held and held[0][0] <= durable:
            held.popleft()
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
