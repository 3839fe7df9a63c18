"""Client sessions: a write that is tried again after a lost answer is applied exactly once (thesis, section 6.3).

A session is opened by an entry of the log, whose index is its id. Its commands carry sequence numbers, in any order. Of
each session the results of the newest SESSION_WINDOW sequences are remembered: a command that comes again gets its old
result and changes nothing, and one that is too old to know is refused. All this is part of the replicated state: it is
decided by the log alone, written by checkpoints, carried by images, and counted in the state hash.

When too many sessions are open, the one that was used longest ago goes. "Ago" is counted in entries of the log, as no
two nodes have the same clock.

What a checkpoint keeps of a session, under its id as a big-endian u64:
`u64 last used | u64 highest sequence | results`, and of each result, oldest first,
`u16 how far its sequence is below the highest | u16 status | u8 reply flags | u8 0 | u16 0 | u64 revision`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport SESSION_WINDOW
from fastkv._core.cursor cimport load_u16, load_u64, store_u16, store_u32, store_u64
from fastkv._core.digest cimport OF_SESSION, OF_SESSION_RESULT, digest_numbers

cdef enum:
    RECORD_HEAD_BYTES = 16
    RECORD_RESULT_BYTES = 16
    FIRST_CAPACITY = 4
    FIRST_BUCKETS = 64


cdef inline size_t bucket_of(uint64_t session_id, size_t bucket_count) noexcept nogil:
    """Ids are indexes of the log, which may have a regular distance: Knuth's multiplicative hashing."""
    return (session_id * <uint64_t>0x9E3779B97F4A7C15U >> 32) & (bucket_count - 1)


cdef inline uint64_t digest_of(Session* session) noexcept nogil:
    return digest_numbers(session.session_id, session.last_used, session.highest, 0, OF_SESSION)


cdef inline uint64_t digest_result(Session* session, uint64_t sequence, Remembered* result) noexcept nogil:
    return digest_numbers(
        session.session_id, sequence, result.revision, result.status | <uint64_t>result.flags << 16, OF_SESSION_RESULT)


cdef inline Remembered* result_at(Session* session, uint64_t sequence) noexcept nogil:
    return &session.results[sequence & (session.capacity - 1)]


cdef class Sessions:
    """The sessions that are open."""

    def __cinit__(self):
        self.buckets = NULL
        self.bucket_count = 0
        self.count = 0
        self.least_recent = self.most_recent = NULL
        self.digest = 0
        self.dropped = WriteBuffer()
        self.grow_buckets()

    def __dealloc__(self):
        cdef Session* session = self.most_recent
        cdef Session* other
        while session != NULL:
            other = session
            session = session.less_recent
            free(other.results)
            free(other)
        free(self.buckets)

    def __len__(self):
        return self.count

    # -- what an entry does ------------------------------------------------------------------------------------------

    cdef int open(self, uint64_t index, uint32_t limit) except -1:
        cdef Session* session
        while self.count and self.count >= <Py_ssize_t>limit:
            self.remove(self.least_recent)
        session = self.insert(index, index)
        session.changed = True
        self.settle(session)
        return 0

    cdef Recall recall(self, Session* session, uint64_t sequence, uint64_t index, uint8_t* result) noexcept nogil:
        cdef Remembered* known
        session.last_used = index
        session.changed = True
        self.unlink(session)
        self.link(session)
        if session.highest >= SESSION_WINDOW and sequence <= session.highest - SESSION_WINDOW:
            return FORGOTTEN
        if sequence < session.lowest or sequence > session.highest:
            return NEW
        known = result_at(session, sequence)
        if not known.present:
            return NEW
        recall_result(result, known)
        return SEEN

    cdef int remember(self, Session* session, uint64_t sequence, const uint8_t* result) except -1:
        cdef uint64_t first = sequence, last = sequence
        cdef Remembered* made
        if session.highest:
            first = min(sequence, session.lowest)
            last = max(sequence, session.highest)
            if last - first >= SESSION_WINDOW:
                first = last - SESSION_WINDOW + 1
        self.make_room(session, first, last)
        made = result_at(session, sequence)
        made[0] = remembered_result(result)
        self.digest += digest_result(session, sequence, made)
        return 0

    cdef void settle(self, Session* session) noexcept nogil:
        self.digest -= session.digest
        session.digest = digest_of(session)
        self.digest += session.digest

    cdef int make_room(self, Session* session, uint64_t first, uint64_t last) except -1:
        """Have the ring reach from sequence `first` to `last`, at most SESSION_WINDOW; forget what is before."""
        cdef uint64_t capacity = FIRST_CAPACITY
        cdef uint64_t sequence
        cdef Remembered* before
        cdef Remembered* grown
        for sequence in range(session.lowest, min(first, session.highest + 1)):
            self.forget(session, sequence)
        if last - first >= session.capacity:
            while last - first >= capacity:
                capacity *= 2
            grown = <Remembered*>calloc(capacity, sizeof(Remembered))
            if grown == NULL:
                raise MemoryError(f"no memory for the results of {capacity} commands")
            for sequence in range(max(first, session.lowest), session.highest + 1):
                grown[sequence & (capacity - 1)] = result_at(session, sequence)[0]
            before = session.results
            session.results = grown
            session.capacity = capacity
            free(before)
        session.lowest = first
        session.highest = last
        return 0

    cdef void forget(self, Session* session, uint64_t sequence) noexcept nogil:
        cdef Remembered* known = result_at(session, sequence)
        if known.present:
            self.digest -= digest_result(session, sequence, known)
            known.present = False

    # -- the table, and the order of use -----------------------------------------------------------------------------

    cdef Session* find(self, uint64_t session_id) noexcept nogil:
        cdef Session* session = self.buckets[bucket_of(session_id, self.bucket_count)]
        while session != NULL and session.session_id != session_id:
            session = session.chained
        return session

    cdef Session* insert(self, uint64_t session_id, uint64_t last_used) except NULL:
        """A new session, as the one used last."""
        cdef Session* session
        cdef Session** bucket
        if <size_t>self.count >= self.bucket_count:
            self.grow_buckets()
        session = <Session*>calloc(1, sizeof(Session))
        if session == NULL:
            raise MemoryError("no memory for a session")
        session.session_id = session_id
        session.last_used = last_used
        session.lowest = 1              # lowest to highest: none yet
        bucket = &self.buckets[bucket_of(session_id, self.bucket_count)]
        session.chained = bucket[0]
        bucket[0] = session
        self.link(session)
        self.count += 1
        return session

    cdef int remove(self, Session* session) except -1:
        cdef Session** bucket = &self.buckets[bucket_of(session.session_id, self.bucket_count)]
        cdef uint64_t sequence
        if session.saved:
            self.dropped.put_u64(session.session_id)
        for sequence in range(session.lowest, session.highest + 1):
            self.forget(session, sequence)
        self.digest -= session.digest
        while bucket[0] != session:
            bucket = &bucket[0].chained
        bucket[0] = session.chained
        self.unlink(session)
        self.count -= 1
        free(session.results)
        free(session)
        return 0

    cdef void unlink(self, Session* session) noexcept nogil:
        if session.less_recent != NULL:
            session.less_recent.more_recent = session.more_recent
        else:
            self.least_recent = session.more_recent
        if session.more_recent != NULL:
            session.more_recent.less_recent = session.less_recent
        else:
            self.most_recent = session.less_recent

    cdef void link(self, Session* session) noexcept nogil:
        session.less_recent = self.most_recent
        session.more_recent = NULL
        if self.most_recent != NULL:
            self.most_recent.more_recent = session
        else:
            self.least_recent = session
        self.most_recent = session

    cdef int grow_buckets(self) except -1:
        cdef size_t count = self.bucket_count * 4 if self.bucket_count else FIRST_BUCKETS
        cdef Session** grown = <Session**>calloc(count, sizeof(Session*))
        cdef Session* session = self.least_recent
        cdef size_t at
        if grown == NULL:
            raise MemoryError(f"no memory for a table of {count} sessions")
        while session != NULL:
            at = bucket_of(session.session_id, count)
            session.chained = grown[at]
            grown[at] = session
            session = session.more_recent
        free(self.buckets)
        self.buckets = grown
        self.bucket_count = count
        return 0

    # -- checkpoints -------------------------------------------------------------------------------------------------

    cdef bytes encode(self, Session* session):
        cdef uint64_t room = session.highest - session.lowest + 1
        cdef bytes record = PyBytes_FromStringAndSize(NULL, RECORD_HEAD_BYTES + room * RECORD_RESULT_BYTES)
        cdef uint8_t* begin = <uint8_t*>PyBytes_AS_STRING(record)
        cdef uint8_t* at = begin + RECORD_HEAD_BYTES
        cdef Remembered* known
        cdef uint64_t sequence
        store_u64(begin, session.last_used)
        store_u64(begin + 8, session.highest)
        for sequence in range(session.lowest, session.highest + 1):
            known = result_at(session, sequence)
            if known.present:
                store_u16(at, <uint16_t>(session.highest - sequence))
                store_u16(at + 2, known.status)
                store_u32(at + 4, known.flags)
                store_u64(at + 8, known.revision)
                at += RECORD_RESULT_BYTES
        return record if at == begin + PyBytes_GET_SIZE(record) else record[:at - begin]

    def records(self):
        """Every session as (key, record), the least recently used first."""
        cdef Session* session = self.least_recent
        cdef list found = []
        while session != NULL:
            found.append((session.session_id.to_bytes(8, "big"), self.encode(session)))
            session = session.more_recent
        return found

    def take_changes(self):
        """What has changed since the last time: (key, record), or (key, None) of a session that is gone."""
        cdef Session* session = self.most_recent
        cdef list found = []
        cdef Py_ssize_t i
        for i in range(0, self.dropped.length, 8):
            found.append((load_u64(self.dropped.data + i).to_bytes(8, "big"), None))
        self.dropped.clear()
        # Using a session moves it to this end: behind the first one that has not changed, none has.
        while session != NULL and session.changed:
            found.append((session.session_id.to_bytes(8, "big"), self.encode(session)))
            session.changed = False
            session.saved = True
            session = session.less_recent
        return found

    def load(self, records):
        """Take sessions from (key, record) pairs, in any order. ValueError for bytes that are none."""
        for key, record in sorted(records, key=last_used_of):
            self.decode(key, record)

    def decode(self, bytes key not None, bytes record not None):
        """Take one session that was used later than all that are here."""
        cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(record)
        cdef const uint8_t* end = at + PyBytes_GET_SIZE(record)
        cdef uint64_t highest, behind, above = SESSION_WINDOW
        cdef uint8_t[16] result
        cdef Session* session
        if len(key) != 8 or len(record) % RECORD_RESULT_BYTES or len(record) < RECORD_HEAD_BYTES:
            raise ValueError(f"{len(record)} bytes under a key of {len(key)} are no session")
        session = self.insert(int.from_bytes(key, "big"), load_u64(at))
        session.saved = True
        highest = load_u64(at + 8)
        at += RECORD_HEAD_BYTES
        while at < end:
            behind = load_u16(at)
            if behind >= above or behind >= highest:
                raise ValueError(f"a session with a result {behind} below sequence {highest}")
            above = behind
            store_u16(result, load_u16(at + 2))
            result[2] = at[4]
            store_u64(result + 8, load_u64(at + 8))
            self.remember(session, highest - behind, result)
            at += RECORD_RESULT_BYTES
        if session.highest != highest:
            raise ValueError(f"a session without the result of its sequence {highest}")
        self.settle(session)


def last_used_of(pair):
    """By what sessions are put into the order of their use."""
    return int.from_bytes(pair[1][:8], "little")
