# The log writer's thread: everything that runs without the GIL, and what it shares with the caller's side.
#
# Two sides share `Shared`, and only that:
#
#   the caller (wal_writer.pyx, holds the GIL)          the thread (here, never touches Python)
#   submit: fills `staged`, which is the caller's own
#   kick:   moves `staged` to `queued`, signals `work`  -> takes all of `queued` at once
#                                                          pwritev, run by run; fdatasync, file by file
#   notify_at: says which ticket is waited for
#   collect: reads the eventfd, drops references        <- publishes `durable`, signals `done`; and the eventfd, where
#                                                          that ticket is among them, or all is over
#
# The lock is held for a few stores and one memcpy on either side, never across a system call of the disk, and no
# function of these modules is called under it: a debug build's tracing would wait there for the GIL. Header only.

from libc.errno cimport EDQUOT, EFBIG, EINTR, EIO, ENOMEM, ENOSPC, errno
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport fdatasync, write

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
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

cdef extern from *:
    """
    #include <stdint.h>
    static const uint8_t FASTKV_WAL_ZEROS[8] = {0};
    static const uint64_t FASTKV_WAL_FSYNC_BOUNDS_NS[15] = {
        50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 25000000, 50000000,
        100000000, 250000000, 500000000, 1000000000, 5000000000
    };
    """
    const uint8_t* ZEROS "FASTKV_WAL_ZEROS"
    # From a fast NVMe drive to a disk that has lost its way.
    const uint64_t* FSYNC_BOUNDS_NS "FASTKV_WAL_FSYNC_BOUNDS_NS"

cdef enum:
    BOUNDS = 15             # upper bounds of a histogram's buckets
    BUCKETS = 16            # one bucket more takes all that lies above
    VECTORS = 768           # of one pwritev, three a job; Linux takes 1,024
    MAX_PADDING = 7         # so many zeros there are
    ROOM_RETRY_NS = 200_000_000     # how often a full disk is asked again

# One write: header, payload and padding, one after the other, at `offset` of `fd`.
cdef struct Job:
    int fd
    uint32_t padding
    uint32_t entries        # how many log entries are in it; for the statistics only
    uint64_t offset
    uint64_t ticket
    const uint8_t* header
    size_t header_bytes
    const uint8_t* payload
    size_t payload_bytes

cdef struct Jobs:
    Job* items
    size_t count
    size_t capacity

cdef struct Shared:
    pthread_mutex_t lock
    pthread_cond_t work
    pthread_cond_t done
    Jobs queued
    Jobs writing            # the thread's own
    uint64_t durable
    uint64_t notify_at      # signal the eventfd once this ticket is durable; 0: nobody waits for one
    uint64_t busy_since_ns  # 0 while there is nothing to write
    int error               # errno of the first failure, which is final
    bint sync_failed        # it was fdatasync that failed, not pwritev
    bint full               # a write has found no room, and is tried again
    bint stopping
    int event_fd
    uint64_t[BUCKETS] fsync_counts
    uint64_t fsync_total_ns
    uint64_t[BUCKETS] batch_counts
    uint64_t batch_total


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef inline void* run(void* argument) noexcept nogil:
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
        error = write_jobs(shared, taken.items, taken.count)
        write_failed = error != 0
        started_ns = now_ns()
        if error == 0:
            error = sync_files(taken.items, taken.count)
        synced_ns = now_ns()
        publish(shared, &taken, error, not write_failed, synced_ns - started_ns)
        if error:
            return NULL


cdef inline void set_busy(Shared* shared, uint64_t since_ns) noexcept nogil:
    pthread_mutex_lock(&shared.lock)
    shared.busy_since_ns = since_ns
    pthread_mutex_unlock(&shared.lock)


cdef inline int write_jobs(Shared* shared, const Job* jobs, size_t count) noexcept nogil:
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
        error = write_run(shared, jobs[first].fd, vectors, used, jobs[first].offset)
        if error:
            return error
    return 0


cdef inline int add_vectors(iovec* vectors, int used, const Job* job) noexcept nogil:
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


cdef inline int write_run(Shared* shared, int fd, iovec* vectors, int count, uint64_t offset) noexcept nogil:
    """Write the vectors at `offset`, however many calls it takes. 0 or an errno.

    Where there is no room, the same bytes are tried again at the same place until there is. No sync has failed then,
    nothing was promised, and nothing else is ever written over what may be there of them.
    """
    cdef ssize_t written
    cdef int error
    while count:
        written = pwritev(fd, vectors, count, <long long>offset)
        if written < 0:
            error = errno
            if error == EINTR:
                continue
            if (error == ENOSPC or error == EDQUOT or error == EFBIG) and wait_for_room(shared):
                continue
            return error
        if shared.full:         # only this thread sets it
            set_full(shared, False)
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


cdef inline void set_full(Shared* shared, bint full) noexcept nogil:
    pthread_mutex_lock(&shared.lock)
    shared.full = full
    pthread_mutex_unlock(&shared.lock)


cdef inline bint wait_for_room(Shared* shared) noexcept nogil:
    """Wait a while before a write that found no room is tried again. False where the writer is to end instead."""
    cdef uint64_t until_ns = now_ns() + ROOM_RETRY_NS
    cdef timespec until
    cdef bint stopping
    until.tv_sec = <long>(until_ns // 1_000_000_000)
    until.tv_nsec = <long>(until_ns % 1_000_000_000)
    set_full(shared, True)
    pthread_mutex_lock(&shared.lock)
    while not shared.stopping:          # a kick wakes it as well, and changes nothing
        if pthread_cond_timedwait(&shared.work, &shared.lock, &until):
            break
    stopping = shared.stopping
    pthread_mutex_unlock(&shared.lock)
    return not stopping


cdef inline int sync_files(const Job* jobs, size_t count) noexcept nogil:
    """fdatasync every file that the jobs touched, once for each run of jobs of one file. 0 or an errno."""
    cdef size_t i
    for i in range(count):
        if i + 1 < count and jobs[i + 1].fd == jobs[i].fd:
            continue
        while fdatasync(jobs[i].fd) < 0:
            if errno != EINTR:
                return errno
    return 0


cdef inline void publish(Shared* shared, const Jobs* taken, int error, bint syncing, uint64_t sync_ns) noexcept nogil:
    """Tell the other side that the jobs are durable, or that they never will be."""
    cdef uint64_t one = 1
    cdef uint64_t entries = 0
    cdef size_t i
    cdef int slowness = fsync_bucket(sync_ns)
    cdef int size = 0
    cdef bint signal = error != 0
    for i in range(taken.count):
        entries += taken.items[i].entries
    while size < BOUNDS and entries > <uint64_t>1 << size:
        size += 1
    pthread_mutex_lock(&shared.lock)
    shared.busy_since_ns = 0
    if error:
        shared.error = error
        shared.sync_failed = syncing
    else:
        shared.durable = taken.items[taken.count - 1].ticket
        if 0 < shared.notify_at <= shared.durable:
            shared.notify_at = 0
            signal = True
        shared.fsync_counts[slowness] += 1
        shared.fsync_total_ns += sync_ns
        if entries:
            shared.batch_counts[size] += 1
            shared.batch_total += entries
    pthread_cond_broadcast(&shared.done)
    pthread_mutex_unlock(&shared.lock)
    # EAGAIN needs 2^64 - 1 unread signals, and then the other side is awake anyway.
    while signal and write(shared.event_fd, &one, sizeof(one)) < 0 and errno == EINTR:
        pass


cdef inline int fsync_bucket(uint64_t duration_ns) noexcept nogil:
    cdef int bucket = 0
    while bucket < BOUNDS and duration_ns > FSYNC_BOUNDS_NS[bucket]:
        bucket += 1
    return bucket


cdef inline int reserve(Jobs* jobs, size_t count) noexcept nogil:
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
