"""The door of a node: what clients ask during one turn of the event loop, gathered into one batch.

Writes go into the open *proposal batch* already in the bytes that the log stores; linearizable reads go into the open
*read batch*, which one round of confirmation serves as a whole; reads that a lease may serve have a batch of their own,
and share the round where there is no lease. The first request of a turn wakes the node once; when the node runs, it
takes the batches and everything that arrives from then on opens the next ones. That is the whole of group commit: no
timer, and nothing allocated for an operation.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastkv._core.apply cimport APPROACHED, Table
from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport (
    CommandFlag, Consistency, FrameFlag, Kind, MAX_KEY_BYTES, OPEN_SESSION, Opcode, SESSION_ENTRY_BYTES, Status,
)
from fastkv._core.cursor cimport load_u16, store_u32, store_u64
from fastkv._core.entry cimport BatchBuilder, Command, parse_command
from fastkv._core.memtable cimport hash_of
from fastkv._core.replies cimport Sink, Waiter, Waiters

from fastkv._core.replies import text_for

cdef enum:
    GET_HEADER_BYTES = 4
    STALE_PREFIX_BYTES = 16
    SESSION_LIMIT = 4096

cdef uint32_t AGE_UNKNOWN = 0xFFFFFFFF


cdef class ReadBatch:
    """Reads that one confirmation of leadership serves together."""

    def __cinit__(self):
        self.keys = WriteBuffer()
        self.waiters = Waiters()
        self.tasks = []

    def __len__(self):
        return self.waiters.count + len(self.tasks)

    cdef int join(self, ReadBatch other) except -1:
        """Take another batch's reads, to be served together with these."""
        cdef Py_ssize_t i
        cdef Waiter* waiter
        self.keys.put(other.keys.data, other.keys.length)
        for i in range(other.waiters.count):
            waiter = &other.waiters.items[i]
            self.waiters.add(<Sink>waiter.sink, waiter.request_id, waiter.opcode, waiter.asked_us)
        self.tasks += other.tasks
        return 0

    def serve(self, Table table not None):
        """Answer every read from the state as it is now."""
        cdef const uint8_t* at = self.keys.data
        cdef const uint8_t* record = NULL
        cdef Py_ssize_t record_bytes = 0
        cdef Py_ssize_t i
        cdef uint16_t key_bytes
        cdef Waiter* waiter
        self.waiters.begin()
        for i in range(self.waiters.count):
            if not i % APPROACHED:
                approach_keys(table, at, min(self.waiters.count - i, APPROACHED))
            waiter = &self.waiters.items[i]
            key_bytes = load_u16(at)
            if table.lookup(at + 2, key_bytes, &record, &record_bytes):
                (<Sink>waiter.sink).answer(
                    waiter.request_id, waiter.opcode, Status.OK, 0, waiter.asked_us, NULL, 0, record, record_bytes)
            else:
                (<Sink>waiter.sink).answer(
                    waiter.request_id, waiter.opcode, Status.KEY_NOT_FOUND, 0, waiter.asked_us, NULL, 0, NULL, 0)
            at += 2 + key_bytes
        for serve, _ in self.tasks:
            serve()

    def fail(self, uint16_t status):
        """Answer every read with an error."""
        self.waiters.fail(status)
        for _, fail in self.tasks:
            fail(status)


cdef int approach_keys(Table table, const uint8_t* at, int count) except -1:
    """Of `count` keys, each behind its length, that are about to be looked up."""
    cdef uint32_t[APPROACHED] hashes
    cdef int i
    if count == 1:
        return 0
    for i in range(count):
        hashes[i] = hash_of(at + 2, load_u16(at))
        at += 2 + load_u16(at)
    table.approach(hashes, count)
    return 0


cdef class Ingress:
    """Gathers requests and wakes the node, once a turn, through `on_wake`.

    `value_limit_bytes` bounds one value, `open_limit_bytes` the open proposal batch and, separately, the keys of the
    open read batches: beyond them a request is answered OVERLOADED at once.
    """

    def __init__(self, Table table not None, on_wake, *, Py_ssize_t value_limit_bytes, Py_ssize_t open_limit_bytes):
        self.table = table
        self.on_wake = on_wake
        self.writes = BatchBuilder()
        self.write_waiters = Waiters()
        self.reads = ReadBatch()
        self.lease_reads = ReadBatch()
        self.awake = self.timed = False
        self.value_limit_bytes = value_limit_bytes
        self.open_limit_bytes = open_limit_bytes
        self.session_limit = SESSION_LIMIT
        self.refuse_writes = Status.OK
        self.refuse_reads = Status.OK
        self.applied_index = 0
        self.age_ms = 0
        self.aged_ns = 0
        self.clock = None

    cdef int wake(self) except -1:
        if not self.awake:
            self.awake = True
            self.on_wake()
        return 0

    cdef int refuse(self, Sink sink, uint64_t request_id, uint8_t opcode, uint16_t status) except -1:
        cdef bytes text = text_for(status)
        sink.answer(
            request_id, opcode, status, 0, sink.tally.counts.now_us, NULL, 0, <const uint8_t*><char*>text, len(text))
        return self.wake()      # so that the node flushes the answer at the end of this turn

    cdef int write(
        self, Sink sink, uint64_t request_id, uint8_t opcode, const uint8_t* body, Py_ssize_t nbytes,
    ) except -1:
        cdef Command command
        cdef uint8_t kind = Kind.ENTRY_PUT if opcode == Opcode.PUT else Kind.ENTRY_DELETE
        cdef int status = parse_command(kind, body, nbytes, self.value_limit_bytes, &command)
        if status == Status.OK and command.flags & CommandFlag.WITH_LEASE:
            status = Status.UNSUPPORTED
        if status != Status.OK:
            return self.refuse(sink, request_id, opcode, status)
        return self.propose(sink, request_id, opcode, kind, body, nbytes)

    cdef int open_session(self, Sink sink, uint64_t request_id, const uint8_t* body, Py_ssize_t nbytes) except -1:
        cdef uint8_t[SESSION_ENTRY_BYTES] entry
        memset(entry, 0, SESSION_ENTRY_BYTES)
        entry[0] = OPEN_SESSION
        if nbytes != SESSION_ENTRY_BYTES or memcmp(body, entry, SESSION_ENTRY_BYTES):
            return self.refuse(sink, request_id, Opcode.SESSION, Status.INVALID_REQUEST)
        # This node's limit goes into the log, so that all nodes apply the entry alike.
        store_u32(entry + 4, self.session_limit)
        return self.propose(sink, request_id, Opcode.SESSION, Kind.ENTRY_SESSION, entry, SESSION_ENTRY_BYTES)

    cdef int propose(
        self, Sink sink, uint64_t request_id, uint8_t opcode, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes,
    ) except -1:
        """Take an entry into the open proposal batch."""
        cdef uint16_t status = self.refuse_writes
        if status == Status.OK and self.writes.buffer.length + nbytes > self.open_limit_bytes and self.writes.count:
            status = Status.OVERLOADED
        if status != Status.OK:
            return self.refuse(sink, request_id, opcode, status)
        self.writes.add(kind, body, nbytes)
        self.write_waiters.add(sink, request_id, opcode, sink.tally.counts.now_us)
        return self.wake()

    cdef int read(self, Sink sink, uint64_t request_id, const uint8_t* body, Py_ssize_t nbytes) except -1:
        cdef ReadBatch batch
        cdef uint16_t key_bytes
        cdef uint16_t status = self.refuse_reads
        if nbytes < GET_HEADER_BYTES:
            return self.refuse(sink, request_id, Opcode.GET, Status.INVALID_REQUEST)
        key_bytes = load_u16(body + 2)
        if body[0] > Consistency.STALE_READ or body[1] != 0 or nbytes != GET_HEADER_BYTES + key_bytes:
            status = Status.INVALID_REQUEST
        elif key_bytes == 0:
            status = Status.INVALID_KEY
        elif key_bytes > MAX_KEY_BYTES:
            status = Status.KEY_TOO_LARGE
        if status == Status.OK and body[0] == Consistency.STALE_READ:
            return self.answer_stale(sink, request_id, body + GET_HEADER_BYTES, key_bytes)
        if status != Status.OK:
            return self.refuse(sink, request_id, Opcode.GET, status)
        batch = self.lease_reads if body[0] == Consistency.LEASE_READ else self.reads
        if batch.waiters.count and batch.keys.length + 2 + key_bytes > self.open_limit_bytes:
            return self.refuse(sink, request_id, Opcode.GET, Status.OVERLOADED)
        batch.keys.put_u16(key_bytes)
        batch.keys.put(body + GET_HEADER_BYTES, key_bytes)
        batch.waiters.add(sink, request_id, Opcode.GET, sink.tally.counts.now_us)
        return self.wake()

    cdef int64_t age_now(self) except -1:
        """How old the state is, in milliseconds. After a pause of the process it answers before the node runs again."""
        cdef int64_t passed_ns
        if self.age_ms == AGE_UNKNOWN or self.clock is None:
            return self.age_ms
        passed_ns = max(0, <int64_t>self.clock() - self.aged_ns)
        return min(<int64_t>self.age_ms + passed_ns // 1_000_000, <int64_t>AGE_UNKNOWN - 1)

    cdef int answer_stale(self, Sink sink, uint64_t request_id, const uint8_t* key, Py_ssize_t key_bytes) except -1:
        cdef uint8_t[STALE_PREFIX_BYTES] prefix
        cdef const uint8_t* record = NULL
        cdef Py_ssize_t record_bytes = 0
        cdef uint16_t status = Status.OK
        store_u64(prefix, self.applied_index)
        store_u32(prefix + 8, <uint32_t>self.age_now())
        store_u32(prefix + 12, 0)
        if not self.table.lookup(key, key_bytes, &record, &record_bytes):
            status = Status.KEY_NOT_FOUND
            record_bytes = 0
        sink.answer(
            request_id, Opcode.GET, status, FrameFlag.STALE, sink.tally.counts.now_us,
            prefix, STALE_PREFIX_BYTES, record, record_bytes)
        return self.wake()      # so that the node flushes the answer at the end of this turn

    def submit(self, Sink sink not None, uint64_t request_id, uint8_t opcode, const uint8_t[::1] body not None):
        """Take one GET, PUT, DELETE or SESSION from Python: what the HTTP face and the tests use."""
        cdef const uint8_t* at = &body[0] if body.shape[0] else NULL
        if opcode == Opcode.GET:
            self.read(sink, request_id, at, body.shape[0])
        elif opcode == Opcode.PUT or opcode == Opcode.DELETE:
            self.write(sink, request_id, opcode, at, body.shape[0])
        elif opcode == Opcode.SESSION:
            self.open_session(sink, request_id, at, body.shape[0])
        else:
            raise ValueError(f"opcode {opcode:#x} is neither GET, PUT, DELETE nor SESSION")

    def add_read_task(self, serve, fail):
        """Have `serve()` called once the state is confirmed, or `fail(status)`: reads other than point reads."""
        self.reads.tasks.append((serve, fail))
        self.wake()

    def request_wake(self):
        """Have the node run once more at the end of this turn."""
        self.wake()

    def take_writes(self):
        """The open proposal batch and its waiters, or None where it is empty. Opens the next one."""
        cdef Waiters waiters
        if not self.writes.count:
            return None
        waiters = self.write_waiters
        self.write_waiters = Waiters()
        return self.writes.take(), waiters

    @property
    def reads_waiting(self):
        """How many reads are open, of either batch."""
        return len(self.reads) + len(self.lease_reads)

    def take_reads(self):
        """All open reads, those that a lease might have served too, or None where there are none."""
        if self.lease_reads.waiters.count:
            self.reads.join(self.lease_reads)
            self.lease_reads = ReadBatch()
        return self.take_unleased_reads()

    def take_unleased_reads(self):
        """The open reads that are not content with a lease, or None where there are none."""
        cdef ReadBatch batch = self.reads
        if not len(batch):
            return None
        self.reads = ReadBatch()
        return batch

    def take_lease_reads(self):
        """The open reads that a lease may serve, or None where there are none."""
        cdef ReadBatch batch = self.lease_reads
        if not len(batch):
            return None
        self.lease_reads = ReadBatch()
        return batch

    def asleep(self):
        """Called by the node as it begins to run: the next request wakes it anew."""
        self.awake = self.timed = False
