"""One consistent state of a table, for listings that take their time while writes go on."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport RECORD_HEADER_BYTES
from fastkv._core.memtable cimport (
    Memtable, Place, Record, Slot, compare_keys, record_bytes, slot_key, step_back, step_forward, visible,
)


cdef class TableSnapshot:
    """One consistent state, whatever is applied, rotated or flushed meanwhile.

    It holds on to the memtables of its time, whose records newer than `revision` it does not see, and to a view of the
    store of its time. A memtable that was flushed since is still held; what the store got since is not in the view.
    `on_close(revision)` is told when it lets go of them.
    """

    cdef Memtable newer
    cdef Memtable older
    cdef object view
    cdef object on_close
    cdef readonly uint64_t revision
    cdef readonly bint is_open

    def __init__(self, Memtable newer not None, Memtable older, view, uint64_t revision, on_close):
        self.newer = newer
        self.older = older
        self.view = view
        self.revision = revision
        self.on_close = on_close
        self.is_open = True

    def close(self):
        """Let go. Closing twice is harmless."""
        if self.is_open:
            self.is_open = False
            self.newer = self.older = None
            self.on_close(self.revision)
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
