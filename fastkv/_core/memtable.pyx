"""The ordered memtable: an insert-only B+tree over an arena. `memtable.pxd` is the design page."""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove

from fastkv._core.codes cimport RECORD_HEADER_BYTES
from fastkv._core.cursor cimport load_u64, store_u64

cdef Py_ssize_t CHUNK_BYTES = 1 << 18
cdef Py_ssize_t LEAF_BYTES = sizeof(Node) - FANOUT * sizeof(Node*)        # `children` is the last member
cdef uint64_t NO_REVISION_LIMIT = <uint64_t>-1
cdef size_t FIRST_PLACES = 1024
# Drawn by each process.
cdef uint64_t HASH_SEED = int.from_bytes(os.urandom(8), "little")
cdef uint64_t HASH_FACTOR = int.from_bytes(os.urandom(8), "little") | 1 << 63 | 1

cdef extern from *:
    """
    static inline uint64_t fastkv_folded_product(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    """
    uint64_t folded_product "fastkv_folded_product"(uint64_t a, uint64_t b) noexcept nogil
    void prefetch "__builtin_prefetch"(const void* at) noexcept nogil
    uint64_t big_endian "__builtin_bswap64"(uint64_t little) noexcept nogil

cdef enum:
    CACHE_LINE_BYTES = 64
    RECORD_LINES = 3                # as far as a small record reaches


cdef int compare_keys(const uint8_t* a, Py_ssize_t a_len, const uint8_t* b, Py_ssize_t b_len) noexcept nogil:
    cdef int order = memcmp(a, b, min(a_len, b_len))
    if order:
        return order
    return (a_len > b_len) - (a_len < b_len)


cdef uint32_t hash_of(const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
    """Spreads keys over the index, so that nobody outside can choose keys that fall on one place.

    Each step folds the upper half of a product with a secret factor into the lower half (as in Wang Yi's wyhash). A
    product without its upper half would not do: it carries a change of the top bit nowhere, whatever the factor.
    """
    cdef uint64_t mixed = HASH_SEED ^ <uint64_t>key_len, rest = 0
    while key_len >= 8:
        mixed = folded_product(mixed ^ load_u64(key), HASH_FACTOR)
        key += 8
        key_len -= 8
    memcpy(&rest, key, key_len)
    return <uint32_t>folded_product(mixed ^ rest, HASH_FACTOR)


cdef inline uint64_t prefix_of(const uint8_t* key, Py_ssize_t key_len, int shared) noexcept nogil:
    """The 8 bytes after the shared ones, as a big-endian number: orders as the bytes do, up to ties."""
    cdef uint64_t padded = 0
    key += shared
    key_len -= shared
    if key_len >= 8:
        return big_endian(load_u64(key))
    memcpy(&padded, key, key_len)
    return big_endian(padded)


cdef int shared_bytes(Slot* low, Slot* high) noexcept nogil:
    """How many bytes every key between these two begins with."""
    cdef int count = 0
    if low == NULL or high == NULL:
        return 0
    while count < min(low.key_len, high.key_len) and slot_key(low)[count] == slot_key(high)[count]:
        count += 1
    return count


cdef void set_bounds(Node* node, Slot* low, Slot* high) noexcept nogil:
    cdef int shared = shared_bytes(low, high)
    cdef int i
    node.low = low
    node.high = high
    if node.shared != shared:
        node.shared = <uint16_t>shared
        for i in range(node.count):
            node.prefixes[i] = prefix_of(slot_key(node.slots[i]), node.slots[i].key_len, shared)


cdef inline int count_not_above(Node* node, const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
    """How many of the node's keys are less than or equal to `key`, which lies between the node's bounds."""
    cdef int low = 0, high = node.count, middle
    cdef uint64_t prefix = prefix_of(key, key_len, node.shared)
    cdef Slot* slot
    while low < high:
        middle = (low + high) // 2
        if node.prefixes[middle] < prefix:
            low = middle + 1
        elif node.prefixes[middle] > prefix:
            high = middle
        else:
            slot = node.slots[middle]
            if compare_keys(slot_key(slot), slot.key_len, key, key_len) <= 0:
                low = middle + 1
            else:
                high = middle
    return low


cdef void step_forward(Place* place) noexcept nogil:
    place.at += 1
    if place.at >= place.leaf.count:
        place.leaf = place.leaf.next
        place.at = 0


cdef void step_back(Place* place) noexcept nogil:
    place.at -= 1
    if place.at < 0:
        place.leaf = place.leaf.previous
        if place.leaf != NULL:
            place.at = place.leaf.count - 1


cdef Record* visible(Slot* slot, uint64_t revision) noexcept nogil:
    """The newest record of a key that is not newer than `revision`, or NULL."""
    cdef Record* record = slot.newest
    while record != NULL and record_revision(record) > revision:
        record = record.older
    return record


cdef class Memtable:
    """Keys in order, each with its newest record; see the design page."""

    def __cinit__(self):
        self.chunks = []
        self.free_at = NULL
        self.free_bytes = 0
        self.nbytes = 0
        self.count = 0
        self.index = NULL
        self.index_mask = 0
        self.grow_index()
        self.root = self.new_node(True)

    def __dealloc__(self):
        PyMem_Free(self.index)

    cdef void* allocate(self, Py_ssize_t nbytes) except NULL:
        """Uninitialised memory that lives as long as the table, 8-byte aligned."""
        cdef bytes chunk
        cdef void* at
        cdef Py_ssize_t room
        nbytes = (nbytes + 7) & ~7
        if nbytes > self.free_bytes:
            # What is large gets a chunk of its own and leaves the open one open.
            room = nbytes if nbytes > CHUNK_BYTES // 4 else CHUNK_BYTES
            # A bytes object is a block of memory that the list frees with the table.
            chunk = PyBytes_FromStringAndSize(NULL, room + 8)
            self.chunks.append(chunk)
            at = <void*>((<size_t>PyBytes_AS_STRING(chunk) + 7) & ~<size_t>7)
            if room == nbytes:
                self.nbytes += nbytes
                return at
            self.free_at = <uint8_t*>at
            self.free_bytes = CHUNK_BYTES
        at = self.free_at
        self.free_at += nbytes
        self.free_bytes -= nbytes
        self.nbytes += nbytes
        return at

    cdef Node* new_node(self, bint leaf) except NULL:
        cdef Node* node = <Node*>self.allocate(LEAF_BYTES if leaf else sizeof(Node))
        node.count = 0
        node.leaf = leaf
        node.shared = 0
        node.low = node.high = NULL
        node.next = node.previous = NULL
        return node

    # -- the tree ----------------------------------------------------------------------------------------------------

    cdef Slot* find_slot(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
        cdef uint32_t hashed = hash_of(key, key_len)
        cdef size_t at = hashed & self.index_mask
        cdef Slot* slot = self.index[at]
        while slot != NULL:
            if slot.hash == hashed and slot.key_len == key_len and memcmp(slot_key(slot), key, key_len) == 0:
                return slot
            at = (at + 1) & self.index_mask
            slot = self.index[at]
        return NULL

    cdef void approach(self, const uint32_t* hashes, int count) noexcept nogil:
        cdef Slot* slot
        cdef int i, line
        for i in range(count):
            prefetch(&self.index[hashes[i] & self.index_mask])
        for i in range(count):
            prefetch(self.index[hashes[i] & self.index_mask])       # most keys are in the first place that is tried
        for i in range(count):
            slot = self.index[hashes[i] & self.index_mask]
            if slot != NULL and slot.hash == hashes[i]:
                for line in range(RECORD_LINES):
                    prefetch(<const uint8_t*>slot.newest + line * CACHE_LINE_BYTES)

    cdef int index_slot(self, Slot* slot) except -1:
        """Make a new slot findable."""
        cdef size_t at
        if <size_t>self.count * 2 > self.index_mask:
            self.grow_index()
        at = slot.hash & self.index_mask
        while self.index[at] != NULL:
            at = (at + 1) & self.index_mask
        self.index[at] = slot
        return 0

    cdef int grow_index(self) except -1:
        cdef Slot** before = self.index
        cdef size_t places = (self.index_mask + 1) if before != NULL else 0
        cdef size_t grown = places * 4 if places else FIRST_PLACES
        cdef size_t i, at
        self.index = <Slot**>PyMem_Calloc(grown, sizeof(Slot*))
        if self.index == NULL:
            self.index = before
            raise MemoryError(f"no memory for an index of {grown} keys")
        self.index_mask = grown - 1
        self.nbytes += (grown - places) * sizeof(Slot*)
        for i in range(places):
            if before[i] != NULL:
                at = before[i].hash & self.index_mask
                while self.index[at] != NULL:
                    at = (at + 1) & self.index_mask
                self.index[at] = before[i]
        PyMem_Free(before)
        return 0

    cdef Slot* add_slot(self, const uint8_t* key, Py_ssize_t key_len) except NULL:
        cdef Slot* slot = <Slot*>self.allocate(sizeof(Slot) + key_len)
        slot.newest = NULL
        slot.hash = hash_of(key, key_len)
        slot.key_len = <uint16_t>key_len
        memcpy(slot_key(slot), key, key_len)
        self.insert(slot)
        self.index_slot(slot)
        self.count += 1
        return slot

    cdef int insert(self, Slot* slot) except -1:
        """Put a new slot into the tree. Full nodes are split on the way down."""
        cdef const uint8_t* key = slot_key(slot)
        cdef Py_ssize_t key_len = slot.key_len
        cdef Node* node
        cdef Node* grown
        cdef int at
        if self.root.count == FANOUT:
            grown = self.new_node(False)
            grown.children[0] = self.root
            grown.slots[0] = self.root.slots[0]
            grown.prefixes[0] = self.root.prefixes[0]
            grown.count = 1
            self.root = grown
            self.split_child(grown, 0)
        node = self.root
        while not node.leaf:
            at = max(count_not_above(node, key, key_len) - 1, 0)
            if node.children[at].count == FANOUT:
                self.split_child(node, at)
                at = max(count_not_above(node, key, key_len) - 1, 0)
            node = node.children[at]
        at = count_not_above(node, key, key_len)
        memmove(&node.slots[at + 1], &node.slots[at], (node.count - at) * sizeof(Slot*))
        memmove(&node.prefixes[at + 1], &node.prefixes[at], (node.count - at) * sizeof(uint64_t))
        node.slots[at] = slot
        node.prefixes[at] = prefix_of(key, key_len, node.shared)
        node.count += 1
        return 0

    cdef int split_child(self, Node* parent, int at) except -1:
        """Move the upper half of a full child into a new sibling. The parent has room."""
        cdef Node* left = parent.children[at]
        cdef Node* right = self.new_node(left.leaf)
        cdef int half = FANOUT // 2
        # Keys that arrive in order fill the right edge: leave the left node full there.
        if left.leaf and left.next == NULL:
            half = FANOUT - 2
        right.count = <uint16_t>(FANOUT - half)
        memcpy(right.slots, &left.slots[half], right.count * sizeof(Slot*))
        memcpy(right.prefixes, &left.prefixes[half], right.count * sizeof(uint64_t))
        if left.leaf:
            right.next = left.next
            right.previous = left
            if left.next != NULL:
                left.next.previous = right
            left.next = right
        else:
            memcpy(right.children, &left.children[half], right.count * sizeof(Node*))
        left.count = <uint16_t>half
        right.shared = left.shared
        set_bounds(right, right.slots[0], left.high)
        set_bounds(left, left.low, right.slots[0])
        memmove(&parent.slots[at + 2], &parent.slots[at + 1], (parent.count - at - 1) * sizeof(Slot*))
        memmove(&parent.prefixes[at + 2], &parent.prefixes[at + 1], (parent.count - at - 1) * sizeof(uint64_t))
        memmove(&parent.children[at + 2], &parent.children[at + 1], (parent.count - at - 1) * sizeof(Node*))
        parent.slots[at + 1] = right.slots[0]
        parent.prefixes[at + 1] = prefix_of(slot_key(right.slots[0]), right.slots[0].key_len, parent.shared)
        parent.children[at + 1] = right
        parent.count += 1
        return 0

    # -- records -----------------------------------------------------------------------------------------------------

    cdef Record* find(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
        cdef Slot* slot = self.find_slot(key, key_len)
        return NULL if slot == NULL else slot.newest

    cdef Record* put(self, Slot* slot, Py_ssize_t nbytes, bint deleted, uint64_t newest_snapshot) except NULL:
        cdef Record* newest = slot.newest
        cdef Record* record
        cdef bint needed = newest != NULL and record_revision(newest) <= newest_snapshot
        if newest != NULL and not needed and newest.capacity >= <uint32_t>nbytes:
            newest.nbytes = <uint32_t>nbytes
            newest.deleted = deleted
            return newest
        record = <Record*>self.allocate(sizeof(Record) + nbytes)
        record.nbytes = <uint32_t>nbytes
        record.capacity = (<uint32_t>nbytes + 7) & ~<uint32_t>7
        record.deleted = deleted
        record.older = newest if newest == NULL or needed else newest.older
        slot.newest = record
        return record

    # -- order -------------------------------------------------------------------------------------------------------

    cdef Place first(self) noexcept nogil:
        cdef Node* node = self.root
        while not node.leaf:
            node = node.children[0]
        if not node.count:
            node = NULL
        return Place(node, 0)

    cdef Place last(self) noexcept nogil:
        cdef Node* node = self.root
        while not node.leaf:
            node = node.children[node.count - 1]
        if not node.count:
            return Place(NULL, 0)
        return Place(node, node.count - 1)

    cdef Place seek_before(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
        cdef Place place = self.seek(key, key_len)
        if place.leaf == NULL:
            return self.last()
        step_back(&place)
        return place

    cdef Place seek(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil:
        cdef Node* node = self.root
        cdef Slot* slot
        cdef Place place
        cdef int at
        while not node.leaf:
            at = count_not_above(node, key, key_len)
            node = node.children[at - 1 if at else 0]
        at = count_not_above(node, key, key_len)
        if at:
            slot = node.slots[at - 1]
            if slot.key_len == key_len and memcmp(slot_key(slot), key, key_len) == 0:
                return Place(node, at - 1)
        place = Place(node, at)
        if at >= node.count:
            place = Place(node.next, 0)
        return place

    # -- the Python face: checkpoints, tests ---------------------------------------------------------------------------

    def __len__(self):
        return self.count

    def write(self, const uint8_t[::1] key not None, record, uint64_t revision, uint64_t newest_snapshot=0):
        """Set a key's record (at least 32 bytes, beginning with `revision`), or None to delete it at `revision`."""
        cdef const uint8_t[::1] content = bytes(RECORD_HEADER_BYTES) if record is None else record
        cdef Slot* slot
        cdef Record* made
        if not key.shape[0] or content.shape[0] < RECORD_HEADER_BYTES:
            raise ValueError("a key has at least one byte, and a record at least its header")
        slot = self.find_slot(&key[0], key.shape[0])
        if slot == NULL:
            slot = self.add_slot(&key[0], key.shape[0])
        made = self.put(slot, content.shape[0], record is None, newest_snapshot)
        made.digest = 0
        memcpy(record_bytes(made), &content[0], content.shape[0])
        store_u64(record_bytes(made), revision)

    def read(self, const uint8_t[::1] key not None, uint64_t revision=NO_REVISION_LIMIT):
        """(True, record or None where it is deleted) as of `revision`; (False, None) where the table has nothing."""
        cdef Slot* slot = self.find_slot(&key[0], key.shape[0]) if key.shape[0] else NULL
        cdef Record* record = NULL if slot == NULL else visible(slot, revision)
        if record == NULL:
            return False, None
        return True, record_object(record)

    def items(self):
        """Every key in order, as (key, newest record or None where it is deleted). The table must not change."""
        return MemtableItems(self)


cdef object record_object(Record* record):
    if record.deleted:
        return None
    return PyBytes_FromStringAndSize(<const char*>record_bytes(record), record.nbytes)


cdef class MemtableItems:
    """Iterates over a frozen memtable, from any thread."""

    cdef Memtable table
    cdef Place place

    def __init__(self, Memtable table not None):
        self.table = table
        self.place = table.first()

    def __iter__(self):
        return self

    def __next__(self):
        cdef Slot* slot
        if self.place.leaf == NULL:
            raise StopIteration
        slot = self.place.leaf.slots[self.place.at]
        step_forward(&self.place)
        return PyBytes_FromStringAndSize(<const char*>slot_key(slot), slot.key_len), record_object(slot.newest)
