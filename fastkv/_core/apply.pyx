"""The apply loop: what a committed command does to the keys. No clock, no randomness, no Python object an operation.

The table is three generations of memtables over a store. A key is looked for in `active`, then in `flushing` (frozen
while a checkpoint writes it), then in `recent` (what the checkpoint before wrote, kept as a cache), then in the store.
A checkpoint is `rotate` … `flushed`: nothing is ever in none of them.

A record, as kept, stored and answered: `u64 mod revision | u64 create revision | u64 version | u64 lease | value`.
A result: `u16 status | u8 reply flags | u8 0 | u32 0 | u64 revision`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport (
    CommandFlag, ENTRY_HEADER_BYTES, FrameFlag, Kind, RECORD_HEADER_BYTES, RESULT_BYTES, Status,
)
from fastkv._core.cursor cimport load_u32, load_u64, store_u16, store_u64
from fastkv._core.entry cimport Command, EntryBatch, parse_command
from fastkv._core.memtable cimport (
    Memtable, Place, Record, Slot, compare_keys, record_bytes, slot_key, step_back, step_forward, visible,
)

cdef size_t NO_VALUE_LIMIT = 1 << 32      # limits hold at the door; what is committed is applied


class CorruptEntry(AssertionError):
    """A committed entry cannot be read: the node has to stop."""


cdef class Table:
    """Keys and their records; `store_get(key)` finds what no memtable holds (a record, or None).

    `revision` and `key_count` are those of the store at the start: the cluster's count of changes, and live keys.
    """

    def __init__(self, store_get, uint64_t revision=0, uint64_t key_count=0):
        self.active = Memtable()
        self.flushing = None
        self.recent = None
        self.store_get = store_get
        self.borrowed = None
        self.revision = revision
        self.key_count = key_count
        self.snapshots = []
        self.newest_snapshot = 0

    # -- one key -----------------------------------------------------------------------------------------------------

    cdef int lookup(
        self, const uint8_t* key, Py_ssize_t key_len, const uint8_t** record, Py_ssize_t* nbytes,
    ) except -1:
        cdef Record* found = self.active.find(key, key_len)
        if found == NULL and self.flushing is not None:
            found = self.flushing.find(key, key_len)
        if found == NULL and self.recent is not None:
            found = self.recent.find(key, key_len)
        if found != NULL:
            record[0] = record_bytes(found)
            nbytes[0] = found.nbytes
            return not found.deleted
        self.borrowed = self.store_get(PyBytes_FromStringAndSize(<const char*>key, key_len))
        if self.borrowed is None:
            return 0
        record[0] = <const uint8_t*>PyBytes_AS_STRING(<bytes?>self.borrowed)
        nbytes[0] = PyBytes_GET_SIZE(<bytes>self.borrowed)
        return 1

    def get(self, const uint8_t[::1] key not None):
        """A key's record, or None."""
        cdef const uint8_t* record = NULL
        cdef Py_ssize_t nbytes = 0
        if not key.shape[0] or not self.lookup(&key[0], key.shape[0], &record, &nbytes):
            return None
        return PyBytes_FromStringAndSize(<const char*>record, nbytes)

    # -- applying ----------------------------------------------------------------------------------------------------

    def apply(self, EntryBatch batch not None, Py_ssize_t start, Py_ssize_t stop, WriteBuffer results=None):
        """Apply entries `start` to `stop - 1` of a committed batch; append a result for each where asked to.

        Raises CorruptEntry where an entry cannot be read.
        """
        cdef uint8_t[RESULT_BYTES] unwanted
        cdef uint8_t* result = unwanted
        cdef const uint8_t* at
        cdef Py_ssize_t i
        if not 0 <= start <= stop <= batch.count:
            raise IndexError(f"no entries {start} to {stop} in a batch of {batch.count}")
        batch.index_entries()
        for i in range(start, stop):
            at = <const uint8_t*>PyBytes_AS_STRING(batch.data) + batch.offsets[i]
            if results is not None:
                result = results.extend(RESULT_BYTES)
            self.apply_command(at[4], at + ENTRY_HEADER_BYTES, load_u32(at), result)

    cdef int apply_command(self, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes, uint8_t* result) except -1:
        cdef Command command
        cdef const uint8_t* record = NULL
        cdef uint8_t* made
        cdef Py_ssize_t record_nbytes = 0
        cdef uint64_t current = 0, created = 0, version = 0
        cdef bint exists
        memset(result, 0, RESULT_BYTES)
        if kind != Kind.ENTRY_PUT and kind != Kind.ENTRY_DELETE:
            store_u64(result + 8, self.revision)
            return 0                # a no-op, or what concerns consensus alone
        if parse_command(kind, body, nbytes, NO_VALUE_LIMIT, &command) != Status.OK:
            raise CorruptEntry(f"a committed entry of kind {kind} and {nbytes} bytes cannot be read")
        exists = self.lookup(command.key, command.key_len, &record, &record_nbytes)
        if exists:
            current = load_u64(record)
            created = load_u64(record + 8)
            version = load_u64(record + 16)
        if command.flags & CommandFlag.COMPARE and command.compare != current:
            store_u16(result, Status.PRECONDITION_FAILED)
            store_u64(result + 8, current)
            return 0
        if kind == Kind.ENTRY_DELETE and not exists:
            store_u16(result, Status.KEY_NOT_FOUND)
            store_u64(result + 8, self.revision)
            return 0
        self.revision += 1
        store_u64(result + 8, self.revision)
        if kind == Kind.ENTRY_DELETE:
            made = record_bytes(self.active.put(
                command.key, command.key_len, RECORD_HEADER_BYTES, True, self.newest_snapshot))
            memset(made, 0, RECORD_HEADER_BYTES)
            store_u64(made, self.revision)
            self.key_count -= 1
            return 0
        if not exists:
            created = self.revision
            result[2] = FrameFlag.CREATED
            self.key_count += 1
        made = record_bytes(self.active.put(
            command.key, command.key_len, RECORD_HEADER_BYTES + command.value_len, False, self.newest_snapshot))
        store_u64(made, self.revision)
        store_u64(made + 8, created)
        store_u64(made + 16, version + 1)
        store_u64(made + 24, command.lease)
        memcpy(made + RECORD_HEADER_BYTES, command.value, command.value_len)
        return 0

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

    def flushed(self):
        """The store has what was frozen: it stays as a cache until the next time."""
        if self.flushing is None:
            raise AssertionError("no checkpoint is under way")
        self.recent = self.flushing
        self.flushing = None

    def snapshot(self, view):
        """The state as it is now, for as long as the snapshot is open. `view` is the store's, taken now."""
        return TableSnapshot(self, view)

    cdef object opened(self, uint64_t revision):
        self.snapshots.append(revision)
        self.newest_snapshot = max(self.snapshots)

    cdef object closed(self, uint64_t revision):
        self.snapshots.remove(revision)
        self.newest_snapshot = max(self.snapshots) if self.snapshots else 0


cdef class TableSnapshot:
    """One consistent state, whatever is applied, rotated or flushed meanwhile.

    It holds on to the memtables of its time, whose records newer than `revision` it does not see, and to a view of the
    store of its time. A memtable that was flushed since is still held; what the store got since is not in the view.
    """

    cdef Table table
    cdef Memtable newer
    cdef Memtable older
    cdef object view
    cdef readonly uint64_t revision
    cdef readonly bint is_open

    def __init__(self, Table table not None, view):
        self.table = table
        self.newer = table.active
        self.older = table.flushing
        self.view = view
        self.revision = table.revision
        self.is_open = True
        table.opened(self.revision)

    def close(self):
        """Let go. Closing twice is harmless."""
        if self.is_open:
            self.is_open = False
            self.table.closed(self.revision)
            self.newer = self.older = None
            self.view.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def scan(
        self, bytes start not None, bytes end not None, Py_ssize_t limit, Py_ssize_t limit_bytes,
        bint reverse=False, bint keys_only=False,
    ):
        """Keys of [start, end) in order, or backwards; an empty `end` is no bound.

        Answers (items, count, last key, whether there are more). Items are encoded as in an answer to SCAN:
        `u16 key length | u16 0 | u32 value length | record header | key | value`. A page ends after `limit` items, or
        with the item that makes it `limit_bytes` long.
        """
        cdef WriteBuffer out = WriteBuffer()
        cdef Overlay newer = Overlay(self.newer, self.revision, start, end, reverse)
        cdef Overlay older = Overlay(self.older, self.revision, start, end, reverse)
        cdef Py_ssize_t count = 0
        cdef bytes last = b""
        cdef object key, record
        stored = iter(self.view.range(start, end, reverse))
        below = next(stored, None)
        while True:
            key = newer.key
            if older.key is not None and (key is None or precedes(older.key, key, reverse)):
                key = older.key
            if below is not None and (key is None or precedes(below[0], key, reverse)):
                key = below[0]
            if key is None:
                return out.take(), count, last, False
            record = None
            if below is not None and below[0] == key:
                record = below[1]
                below = next(stored, None)
            if older.key == key:
                record = older.record
                older.advance()
            if newer.key == key:
                record = newer.record
                newer.advance()
            if record is None:
                continue            # deleted: it neither fills a page nor makes another one necessary
            if count == limit or out.length >= limit_bytes > 0:
                return out.take(), count, last, True
            encode_item(out, key, record, keys_only)
            last = key
            count += 1

    def items(self):
        """Every (key, record) in order."""
        cdef Py_ssize_t at = 0, key_len, value_len
        cdef bytes page
        page = self.scan(b"", b"", -1, 0)[0]
        while at < len(page):
            key_len = int.from_bytes(page[at:at + 2], "little")
            value_len = int.from_bytes(page[at + 4:at + 8], "little")
            header = page[at + 8:at + 8 + RECORD_HEADER_BYTES]
            at += 8 + RECORD_HEADER_BYTES
            yield page[at:at + key_len], header + page[at + key_len:at + key_len + value_len]
            at += key_len + value_len


cdef bint precedes(bytes a, bytes b, bint reverse):
    return a > b if reverse else a < b


cdef int encode_item(WriteBuffer out, bytes key, bytes record, bint keys_only) except -1:
    cdef Py_ssize_t value_len = 0 if keys_only else PyBytes_GET_SIZE(record) - RECORD_HEADER_BYTES
    out.put_u16(<uint16_t>PyBytes_GET_SIZE(key))
    out.put_u16(0)
    out.put_u32(<uint32_t>value_len)
    out.put(<const uint8_t*>PyBytes_AS_STRING(record), RECORD_HEADER_BYTES)
    out.put(<const uint8_t*>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
    out.put(<const uint8_t*>PyBytes_AS_STRING(record) + RECORD_HEADER_BYTES, value_len)
    return 0


cdef class Overlay:
    """Walks one memtable as of a revision. `key` is None at the end; `record` is None where the key is deleted."""

    cdef Memtable table
    cdef uint64_t revision
    cdef Place place
    cdef bytes bound
    cdef bint reverse
    cdef object key
    cdef object record

    def __init__(self, Memtable table, uint64_t revision, bytes start, bytes end, bint reverse):
        self.table = table
        self.revision = revision
        self.reverse = reverse
        self.bound = start if reverse else end
        self.key = self.record = None
        if table is None:
            self.place.leaf = NULL
        elif not reverse:
            self.place = table.seek(<const uint8_t*>PyBytes_AS_STRING(start), PyBytes_GET_SIZE(start))
        elif end:
            self.place = table.seek_before(<const uint8_t*>PyBytes_AS_STRING(end), PyBytes_GET_SIZE(end))
        else:
            self.place = table.last()
        self.settle()

    cdef int advance(self) except -1:
        self.step()
        return self.settle()

    cdef int step(self) except -1:
        if self.reverse:
            step_back(&self.place)
        else:
            step_forward(&self.place)
        return 0

    cdef int settle(self) except -1:
        """Go on to the first key from here that the revision sees, and take it."""
        cdef Slot* slot
        cdef Record* record
        self.key = self.record = None
        while self.place.leaf != NULL:
            slot = self.place.leaf.slots[self.place.at]
            if self.beyond(slot):
                return 0
            record = visible(slot, self.revision)
            if record != NULL:
                self.key = PyBytes_FromStringAndSize(<const char*>slot_key(slot), slot.key_len)
                if not record.deleted:
                    self.record = PyBytes_FromStringAndSize(<const char*>record_bytes(record), record.nbytes)
                return 0
            self.step()
        return 0

    cdef bint beyond(self, Slot* slot):
        cdef int order
        if not self.bound:
            return False
        order = compare_keys(
            slot_key(slot), slot.key_len,
            <const uint8_t*>PyBytes_AS_STRING(self.bound), PyBytes_GET_SIZE(self.bound))
        return order < 0 if self.reverse else order >= 0
