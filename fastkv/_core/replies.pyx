"""Answers on their way back: who waits for what, and one flush for each sink and commit.

A request leaves no Python object behind while it waits: a waiter is a slot of a C array beside the batch that the
request is in. When the batch has been applied, `Waiters.deliver` walks results and waiters side by side and writes
each answer into its sink's buffer; the outbox then flushes every sink once, however many answers it got.
"""

from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from fastkv._core.codes cimport Opcode, RESULT_BYTES, Status
from fastkv._core.cursor cimport load_u16, load_u64
from fastkv._core.tally cimport Tally, look_at_clock


cdef enum:
    SINKS_A_FLUSH = 1024            # a send each: some 10 ms, well below any election timeout


cdef class Outbox:
    """The sinks that have answers to send. Flushed once for each turn of the node."""

    def __cinit__(self):
        self.dirty = []
        self.tally = Tally()

    cdef int mark(self, Sink sink) except -1:
        self.dirty.append(sink)
        return 0

    def flush(self):
        """Send what has been answered, also during the flush. True where that is not all of it: flush again soon.

        Thousands of connections with an answer each would make the turn of the loop longer than a heartbeat.
        """
        cdef Py_ssize_t left = SINKS_A_FLUSH
        cdef list sinks
        cdef Sink sink
        while self.dirty and left:
            sinks = self.dirty[:left]
            self.dirty = self.dirty[left:]
            left -= len(sinks)
            for sink in sinks:
                sink.marked = False
                sink.flush()
        return bool(self.dirty)

    def __len__(self):
        return len(self.dirty)


cdef class Sink:
    """Somewhere an answer can go. Subclasses implement `answer` and `flush`; `answer` calls `touch`."""

    def __init__(self, Outbox outbox not None):
        self.outbox = outbox
        self.tally = outbox.tally
        self.marked = False

    cdef int answer(
        self, uint64_t request_id, uint8_t opcode, uint16_t status, uint8_t flags, uint32_t asked_us,
        const uint8_t* head, Py_ssize_t head_bytes, const uint8_t* body, Py_ssize_t body_bytes,
    ) except -1:
        raise NotImplementedError(type(self).__name__)

    cdef int flush(self) except -1:
        raise NotImplementedError(type(self).__name__)

    cdef int touch(self) except -1:
        if not self.marked:
            self.marked = True
            self.outbox.mark(self)
        return 0

    def reply(
        self, uint64_t request_id, uint8_t opcode, uint16_t status, uint8_t flags, const uint8_t[::1] body not None,
        asked_us=None,
    ):
        """Answer one request from Python: what is not on the hot path.

        `asked_us` is what the tally's clock said when the request came; left out where it is answered on the spot.
        """
        cdef const uint8_t* at = &body[0] if body.shape[0] else NULL
        cdef uint32_t asked
        look_at_clock(&self.tally.counts)
        asked = self.tally.counts.now_us if asked_us is None else asked_us
        self.answer(request_id, opcode, status, flags, asked, NULL, 0, at, body.shape[0])


cdef class CallbackSink(Sink):
    """Answers for callers inside the process, such as the HTTP face.

    A caller takes an id with `expect(deliver)`; `deliver(status, flags, revision, payload)` is called once, from
    `flush`, so that no callback ever runs in the middle of an apply. An exception of a callback goes to `on_error` and
    does not reach the others.
    """

    def __init__(self, Outbox outbox not None, on_error):
        Sink.__init__(self, outbox)
        self.callbacks = {}
        self.answered = []
        self.last_id = 0
        self.on_error = on_error

    def expect(self, deliver):
        """An id under which `deliver` will be called once."""
        self.last_id += 1
        self.callbacks[self.last_id] = deliver
        return self.last_id

    cdef int answer(
        self, uint64_t request_id, uint8_t opcode, uint16_t status, uint8_t flags, uint32_t asked_us,
        const uint8_t* head, Py_ssize_t head_bytes, const uint8_t* body, Py_ssize_t body_bytes,
    ) except -1:
        cdef uint64_t revision = 0
        cdef bytes payload
        if opcode != Opcode.GET and head_bytes == 8:     # a result, whatever it was that was written
            revision = load_u64(head)
            head_bytes = 0
        payload = (<char*>head)[:head_bytes] if head_bytes else b""
        if body_bytes:
            payload = payload + (<char*>body)[:body_bytes]
        self.answered.append((self.callbacks.pop(request_id), status, flags, revision, payload))
        return self.touch()

    cdef int flush(self) except -1:
        cdef list answered = self.answered
        self.answered = []
        for deliver, status, flags, revision, payload in answered:
            try:
                deliver(status, flags, revision, payload)
            except Exception as error:
                self.on_error(error)
        return 0


cdef class Waiters:
    """The requests of one batch, in the batch's order."""

    def __cinit__(self):
        self.items = NULL
        self.count = 0
        self.capacity = 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            Py_DECREF(<object>self.items[i].sink)
        free(self.items)

    cdef int add(self, Sink sink, uint64_t request_id, uint8_t opcode, uint32_t asked_us) except -1:
        cdef Py_ssize_t capacity
        cdef Waiter* grown
        if self.count == self.capacity:
            capacity = self.capacity * 2 if self.capacity else 16
            grown = <Waiter*>realloc(self.items, capacity * sizeof(Waiter))
            if grown == NULL:
                raise MemoryError(f"no memory for {capacity} waiters")
            self.items = grown
            self.capacity = capacity
        Py_INCREF(sink)
        self.items[self.count] = Waiter(<PyObject*>sink, request_id, asked_us, opcode)
        self.count += 1
        return 0

    def __len__(self):
        return self.count

    def append(self, Sink sink not None, uint64_t request_id, uint8_t opcode):
        """Add a waiter from Python."""
        self.add(sink, request_id, opcode, sink.tally.counts.now_us)

    cdef void begin(self) noexcept:
        if self.count:
            look_at_clock(&(<Sink>self.items[0].sink).tally.counts)

    def deliver(self, const uint8_t[::1] results not None, Py_ssize_t start, uint8_t extra_flags=0):
        """Answer waiters `start`, `start + 1`, … with the results of their commands (RESULT_BYTES each)."""
        cdef Py_ssize_t count = results.shape[0] // RESULT_BYTES
        cdef const uint8_t* at
        cdef Py_ssize_t i
        cdef Waiter* waiter
        cdef uint16_t status
        cdef bytes text
        if start < 0 or results.shape[0] % RESULT_BYTES or start + count > self.count:
            raise AssertionError(f"{results.shape[0]} bytes of results from {start} do not fit {self.count} waiters")
        self.begin()
        for i in range(count):
            at = &results[i * RESULT_BYTES]
            waiter = &self.items[start + i]
            status = load_u16(at)
            if status > Status.PRECONDITION_FAILED:
                text = KEY_REUSED if status == Status.INVALID_REQUEST else TEXTS.get(status, b"")
                (<Sink>waiter.sink).answer(
                    waiter.request_id, waiter.opcode, status, 0, waiter.asked_us,
                    NULL, 0, <const uint8_t*><char*>text, len(text))
                continue
            # Each of OK, KEY_NOT_FOUND and PRECONDITION_FAILED carries the revision that explains it.
            (<Sink>waiter.sink).answer(
                waiter.request_id, waiter.opcode, status, at[2] | extra_flags, waiter.asked_us, at + 8, 8, NULL, 0)

    def fail(self, uint16_t status, Py_ssize_t start=0):
        """Answer the waiters from `start` on with an error and its standing text."""
        cdef bytes text = TEXTS.get(status, b"")
        cdef Py_ssize_t i
        cdef Waiter* waiter
        self.begin()
        for i in range(start, self.count):
            waiter = &self.items[i]
            (<Sink>waiter.sink).answer(
                waiter.request_id, waiter.opcode, status, 0, waiter.asked_us,
                NULL, 0, <const uint8_t*><char*>text, len(text))


# What a person reads beside the code. The texts of requests that are wrong in themselves stand here as well, so that
# every face of the node says the same.
cdef dict TEXTS = {
    Status.INVALID_KEY: b"a key has 1 to 511 bytes",
    Status.KEY_TOO_LARGE: b"a key has at most 511 bytes",
    Status.VALUE_TOO_LARGE: b"the value is over limits.value_bytes",
    Status.INVALID_REQUEST: b"the request's body is not of the protocol",
    Status.UNKNOWN_OPCODE: b"this server does not know that opcode",
    Status.UNSUPPORTED: b"this server does not support that yet",
    Status.REMOVED: b"this node was removed from the cluster",
    Status.WRONG_DISK: b"the cluster knows this node with another disk",
    Status.WRONG_ADDRESS: b"the cluster knows this node at another address",
    Status.CHANGE_REFUSED: b"the change is not possible now; nothing has changed",
    Status.NO_LEADER: b"no leader in time; nothing was done, try again",
    Status.NOT_LEADER: b"not the leader; nothing was done",
    Status.OVERLOADED: b"more work than may be queued; nothing was done, try again a little later",
    Status.NO_SPACE: b"the disk is full; nothing was written, reads go on",
    Status.SHUTTING_DOWN: b"the node is shutting down; nothing was done, try another node",
    Status.SESSION_EXPIRED: b"that session is gone; this attempt was not done, an earlier one may have been",
    Status.CORRUPT_STATE: b"this node's state differs from the others'; nothing was done, try another node",
    Status.TIMEOUT: b"no answer in time; nothing was read",
    Status.CURSOR_EXPIRED: b"the scan's snapshot is gone; start the scan again",
    Status.OUTCOME_UNKNOWN: b"the write may or may not have been applied; read before trying again",
}


# What a request can only be told once it has been applied.
cdef bytes KEY_REUSED = b"that idempotency key came with another command before; nothing was changed"


def text_for(uint16_t status):
    """The standing text of an error status, UTF-8."""
    return TEXTS.get(status, b"")
