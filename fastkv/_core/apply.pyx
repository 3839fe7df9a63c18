"""The apply loop: what a committed command does to the keys. No clock, no randomness, no Python object an operation.

The table is three generations of memtables over a store. A key is looked for in `active`, then in `flushing` (frozen
while a checkpoint writes it), then in `recent` (what the checkpoint before wrote, kept as a cache), then in the store.
A checkpoint is `rotate` … `flushed`: nothing is ever in none of them.

A record, as kept, stored and answered: `u64 mod revision | u64 create revision | u64 version | u64 lease | value`.
A result: `u16 status | u8 reply flags | u8 0 | u32 0 | u64 revision`.

A command of a session, or with an idempotency key, is applied once however often it is in the log: `sessions` and
`idempotency` know the results of those that were.

The *state hash* is the sum of a digest of every key with its record, and of every session, modulo 2^64. A sum has no
order, so it is kept up by subtracting what goes and adding what comes, and checkpoints, images and replays do not
change it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport (
    CommandFlag, ENTRY_HEADER_BYTES, FrameFlag, Kind, RECORD_HEADER_BYTES, RESULT_BYTES, Status,
)
from fastkv._core.cursor cimport load_u32, load_u64, store_u16, store_u64
from fastkv._core.digest cimport digest_record
from fastkv._core.entry cimport Command, EntryBatch, is_idempotency_key, parse_command, parse_session, peek_key
from fastkv._core.idempotency cimport KEY_IS_NEW, KEY_REUSED, KeyRecall
from fastkv._core.memtable cimport Memtable, Record, Slot, hash_of, record_bytes
from fastkv._core.sessions cimport FORGOTTEN, NEW, Recall, Session
from fastkv._core.state_hash cimport FINEST_STEP, HashPoints

from fastkv._core.snapshot import TableSnapshot
from fastkv._core.state_hash import load_sessions

cdef size_t NO_VALUE_LIMIT = 1 << 32      # limits hold at the door; what is committed is applied


class CorruptEntry(AssertionError):
    """A committed entry cannot be read: the node has to stop."""


cdef class Table:
    """Keys and their records; `store_get(key)` finds what no memtable holds (a record, or None).

    `revision`, `key_count`, `state_hash` and `sessions` are those of the store at the start: the cluster's count of
    changes, live keys, the sum of the state's digests, which is equal on all nodes that have applied as much, and the
    (key, record) pairs of sessions and idempotency keys.
    """

    def __init__(self, store_get, uint64_t revision=0, uint64_t key_count=0, uint64_t state_hash=0, sessions=()):
        self.store_get = store_get
        self.snapshots = []
        self.newest_snapshot = 0
        self.restart(revision, key_count, state_hash, sessions)

    def restart(self, uint64_t revision, uint64_t key_count, uint64_t state_hash, sessions):
        """Begin anew with what the store has now. Snapshots have to be closed before.

        ValueError where `sessions` are none.
        """
        if self.snapshots:
            raise AssertionError(f"{len(self.snapshots)} snapshots are open")
        self.active = Memtable()
        self.flushing = None
        self.recent = None
        self.borrowed = None
        self.revision = revision
        self.key_count = key_count
        self.sessions, self.keys = load_sessions(sessions)
        self.data_hash = state_hash - self.sessions.digest - self.keys.digest
        self.points = HashPoints()

    # -- one key -----------------------------------------------------------------------------------------------------

    cdef Record* find_older(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
        cdef Record* found = NULL
        if self.flushing is not None:
            found = self.flushing.find(key, key_len)
        if found == NULL and self.recent is not None:
            found = self.recent.find(key, key_len)
        return found

    cdef int fetch(
        self, const uint8_t* key, Py_ssize_t key_len, const uint8_t** record, Py_ssize_t* nbytes,
    ) except -1:
        self.borrowed = self.store_get(PyBytes_FromStringAndSize(<const char*>key, key_len))
        if self.borrowed is None:
            return 0
        record[0] = <const uint8_t*>PyBytes_AS_STRING(<bytes?>self.borrowed)
        nbytes[0] = PyBytes_GET_SIZE(<bytes>self.borrowed)
        return 1

    cdef void approach(self, const uint32_t* hashes, int count) noexcept nogil:
        self.active.approach(hashes, count)
        if self.flushing is not None:
            self.flushing.approach(hashes, count)
        if self.recent is not None:
            self.recent.approach(hashes, count)

    cdef int lookup(
        self, const uint8_t* key, Py_ssize_t key_len, const uint8_t** record, Py_ssize_t* nbytes,
    ) except -1:
        cdef Record* found = self.active.find(key, key_len)
        if found == NULL:
            found = self.find_older(key, key_len)
        if found == NULL:
            return self.fetch(key, key_len, record, nbytes)
        record[0] = record_bytes(found)
        nbytes[0] = found.nbytes
        return not found.deleted

    def get(self, const uint8_t[::1] key not None):
        """A key's record, or None."""
        cdef const uint8_t* record = NULL
        cdef Py_ssize_t nbytes = 0
        if not key.shape[0] or not self.lookup(&key[0], key.shape[0], &record, &nbytes):
            return None
        return PyBytes_FromStringAndSize(<const char*>record, nbytes)

    # -- applying ----------------------------------------------------------------------------------------------------

    def apply(
        self, EntryBatch batch not None, Py_ssize_t start, Py_ssize_t stop, uint64_t first_index,
        WriteBuffer results=None,
    ):
        """Apply entries `start` to `stop - 1` of a committed batch; append a result for each where asked to.

        `first_index` is the log index of entry `start`. Raises CorruptEntry where an entry cannot be read.
        """
        cdef uint8_t[RESULT_BYTES] unwanted
        cdef uint8_t* result = unwanted
        cdef const uint8_t* at
        cdef uint64_t index = first_index
        cdef Py_ssize_t i
        if not 0 <= start <= stop <= batch.count:
            raise IndexError(f"no entries {start} to {stop} in a batch of {batch.count}")
        batch.index_entries()
        for i in range(start, stop):
            if not (i - start) % APPROACHED:
                self.approach_entries(batch, i, min(stop, i + APPROACHED))
            at = <const uint8_t*>PyBytes_AS_STRING(batch.data) + batch.offsets[i]
            if results is not None:
                result = results.extend(RESULT_BYTES)
            self.apply_entry(at[4], at + ENTRY_HEADER_BYTES, load_u32(at), index, result)
            if not index % FINEST_STEP:
                self.points.note(index, self.hash_now())
            index += 1

    cdef int approach_entries(self, EntryBatch batch, Py_ssize_t start, Py_ssize_t stop) except -1:
        cdef uint32_t[APPROACHED] hashes
        cdef const uint8_t* at
        cdef const uint8_t* key
        cdef Py_ssize_t i, key_len = 0
        cdef int count = 0
        for i in range(start, stop):
            at = <const uint8_t*>PyBytes_AS_STRING(batch.data) + batch.offsets[i]
            if at[4] != Kind.ENTRY_PUT and at[4] != Kind.ENTRY_DELETE:
                continue
            key = peek_key(at + ENTRY_HEADER_BYTES, load_u32(at), &key_len)
            if key != NULL:
                hashes[count] = hash_of(key, key_len)
                count += 1
        if count > 1:
            self.approach(hashes, count)
        return 0

    cdef int apply_entry(
        self, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes, uint64_t index, uint8_t* result,
    ) except -1:
        cdef Command command
        cdef uint32_t limit = 0
        cdef int status = Status.OK
        memset(result, 0, RESULT_BYTES)
        if kind == Kind.ENTRY_PUT or kind == Kind.ENTRY_DELETE:
            status = parse_command(kind, body, nbytes, NO_VALUE_LIMIT, &command)
            if status == Status.OK:
                if command.flags & CommandFlag.WITH_SESSION:
                    return self.apply_once(&command, index, result)
                return self.apply_command(&command, result)
        elif kind == Kind.ENTRY_SESSION:
            status = parse_session(body, nbytes, &limit)
            if status == Status.OK:
                store_u64(result + 8, index)
                return self.sessions.open(index, limit)
        if status != Status.OK:
            raise CorruptEntry(f"entry {index}, of kind {kind} and {nbytes} bytes, is committed and cannot be read")
        store_u64(result + 8, self.revision)
        return 0                    # a no-op, or what concerns consensus alone

    cdef int apply_once(self, const Command* command, uint64_t index, uint8_t* result) except -1:
        """Apply a command that may be there for the second time: then its first result is its result."""
        cdef Session* session
        cdef Recall known
        if is_idempotency_key(command.client_id):
            return self.apply_keyed(command, index, result)
        session = self.sessions.find(command.client_id)
        known = FORGOTTEN
        if session != NULL:
            known = self.sessions.recall(session, command.sequence, index, result)
            if known == NEW:
                self.apply_command(command, result)
                self.sessions.remember(session, command.sequence, result)
            self.sessions.settle(session)
        if known == FORGOTTEN:
            store_u16(result, Status.SESSION_EXPIRED)
        return 0

    cdef int apply_keyed(self, const Command* command, uint64_t index, uint8_t* result) except -1:
        """The same for one that carries an idempotency key."""
        cdef KeyRecall known = self.keys.recall(command, result)
        if known == KEY_IS_NEW:
            self.apply_command(command, result)
            self.keys.remember(command, index, result)
        elif known == KEY_REUSED:
            store_u16(result, Status.INVALID_REQUEST)
        return 0

    cdef int apply_command(self, const Command* command, uint8_t* result) except -1:
        cdef Slot* slot = self.active.find_slot(command.key, command.key_len)
        cdef Record* found = slot.newest if slot != NULL else self.find_older(command.key, command.key_len)
        cdef const uint8_t* record = NULL
        cdef Py_ssize_t record_nbytes = 0
        cdef uint64_t current = 0, created = 0, version = 0, digest = 0
        cdef bint exists
        if found != NULL:
            exists = not found.deleted
            record = record_bytes(found)
            digest = found.digest
        else:
            exists = self.fetch(command.key, command.key_len, &record, &record_nbytes)
            if exists:
                digest = digest_record(command.key, command.key_len, record, record_nbytes)
        if exists:
            current = load_u64(record)
            created = load_u64(record + 8)
            version = load_u64(record + 16)
        if command.flags & CommandFlag.COMPARE and command.compare != current:
            store_u16(result, Status.PRECONDITION_FAILED)
            store_u64(result + 8, current)
            return 0
        if command.kind == Kind.ENTRY_DELETE and not exists:
            store_u16(result, Status.KEY_NOT_FOUND)
            store_u64(result + 8, self.revision)
            return 0
        self.revision += 1
        store_u64(result + 8, self.revision)
        if not exists:
            created = self.revision
            result[2] = FrameFlag.CREATED
            self.key_count += 1
        if slot == NULL:
            slot = self.active.add_slot(command.key, command.key_len)
        self.data_hash -= digest
        if command.kind == Kind.ENTRY_DELETE:
            self.key_count -= 1
            self.write_tombstone(slot)
        else:
            self.data_hash += self.write_record(slot, command, created, version + 1)
        return 0

    cdef int write_tombstone(self, Slot* slot) except -1:
        cdef Record* record = self.active.put(slot, RECORD_HEADER_BYTES, True, self.newest_snapshot)
        cdef uint8_t* made = record_bytes(record)
        memset(made, 0, RECORD_HEADER_BYTES)
        store_u64(made, self.revision)
        record.digest = 0
        return 0

    cdef uint64_t write_record(
        self, Slot* slot, const Command* command, uint64_t created, uint64_t version,
    ) except? 0:
        """Write a key's new record. Answers its digest."""
        cdef Py_ssize_t nbytes = RECORD_HEADER_BYTES + <Py_ssize_t>command.value_len
        cdef Record* record = self.active.put(slot, nbytes, False, self.newest_snapshot)
        cdef uint8_t* made = record_bytes(record)
        store_u64(made, self.revision)
        store_u64(made + 8, created)
        store_u64(made + 16, version)
        store_u64(made + 24, command.lease)
        memcpy(made + RECORD_HEADER_BYTES, command.value, command.value_len)
        record.digest = digest_record(command.key, command.key_len, made, nbytes)
        return record.digest

    cdef uint64_t hash_now(self) noexcept nogil:
        return self.data_hash + self.sessions.digest + self.keys.digest

    @property
    def state_hash(self):
        """The sum of the digests of everything in the state, modulo 2^64."""
        return self.hash_now()

    def hash_points(self):
        """(index, state hash) after some of the entries applied here, oldest first: see `state_hash.HashPoints`."""
        return self.points.listed()

    # -- generations -------------------------------------------------------------------------------------------------

    @property
    def active_bytes(self):
        """Memory of the memtable that grows."""
        return self.active.nbytes

    @property
    def active_count(self):
        """Keys changed since the last rotation."""
        return self.active.count

    @property
    def is_flushing(self):
        """Whether a checkpoint is under way."""
        return self.flushing is not None

    def rotate(self):
        """Freeze the active memtable, to be written to the store; a new one takes its place."""
        if self.flushing is not None:
            raise AssertionError("one checkpoint at a time")
        self.flushing = self.active
        self.active = Memtable()
        return self.flushing

    def take_session_changes(self):
        """(key, record or None) of sessions and idempotency keys that have changed since the last time.

        They go with the memtable that is frozen at the same moment.
        """
        return self.sessions.take_changes() + self.keys.take_changes()

    def session_records(self):
        """(key, record) of every session and idempotency key there is."""
        return self.sessions.records() + self.keys.records()

    @property
    def session_count(self):
        """Open sessions."""
        return self.sessions.count

    def flushed(self):
        """The store has what was frozen: it stays as a cache until the next time."""
        if self.flushing is None:
            raise AssertionError("no checkpoint is under way")
        self.recent = self.flushing
        self.flushing = None

    def snapshot(self, view):
        """The state as it is now, for as long as the snapshot is open. `view` is the store's, taken now."""
        self.snapshots.append(self.revision)
        self.newest_snapshot = max(self.snapshots)
        return TableSnapshot(self.active, self.flushing, view, self.revision, self.snapshot_closed)

    def snapshot_closed(self, uint64_t revision):
        """A snapshot at `revision` needs nothing any more; it says so itself."""
        self.snapshots.remove(revision)
        self.newest_snapshot = max(self.snapshots) if self.snapshots else 0
