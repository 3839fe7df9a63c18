# The ordered memtable: newest versions of keys that are committed and not yet (or only just) in the store.
#
#   Memtable ──► Node (inner) ──► Node (leaf) ──► Slot (a key) ──► Record (newest) ──► Record (older) ──► …
#
# An insert-only B+tree over an arena: nothing is freed on its own, the whole table goes at once when it has been
# flushed. A key's slot stays for ever, so a deletion is a record that says so (a tombstone). Older records are kept in
# a chain only while a snapshot needs them.
#
# A node lies between two bounds, which its parent's keys set when it is split. All keys between two keys share what
# those share, and whoever searches in a node has a key between its bounds: so nodes compare only what comes after. They
# hold the 8 bytes there of each key as a big-endian number, so that most comparisons touch one cache line.
#
# The tree is for order: new keys, scans, checkpoints. A single key is found through a hash index of the slots, because
# the hot operations (overwrite, read) ask for one key, and keys that share a long prefix are slow to tell apart in a
# tree.
#
# Looking up one key of many waits for memory three times: for its place in the index, for the slot, for the record.
# Whoever has several keys to look up *approaches* them first, in three rounds, and then waits for all of them together.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastkv._core.cursor cimport load_u64


cdef struct Record:
    Record* older
    uint32_t nbytes             # of what follows the struct: the record as stored, or 32 zeros with a revision
    uint32_t capacity
    uint64_t digest             # of key and record, for whoever keeps a sum of them; 0 where it is deleted
    uint8_t deleted


cdef inline uint8_t* record_bytes(Record* record) noexcept nogil:
    return <uint8_t*>(record + 1)


cdef inline uint64_t record_revision(Record* record) noexcept nogil:
    return load_u64(record_bytes(record))


cdef struct Slot:
    Record* newest
    uint32_t hash
    uint16_t key_len            # the key follows the struct


cdef inline uint8_t* slot_key(Slot* slot) noexcept nogil:
    return <uint8_t*>(slot + 1)


cdef enum:
    FANOUT = 32


cdef struct Node:
    uint64_t prefixes[FANOUT]
    Slot* slots[FANOUT]            # leaf: its keys; inner: a key not above the smallest of each child (the first: any)
    Node* next                  # leaves only
    Node* previous
    Slot* low                   # not above any key of the node; NULL at the left edge of the tree
    Slot* high                  # above all of them; NULL at the right edge
    uint16_t shared             # bytes that begin all keys between `low` and `high`; `prefixes` are of what follows
    uint16_t count
    uint8_t leaf
    Node* children[FANOUT]        # inner nodes only; a leaf is allocated without it


# A place in the order of keys. `leaf` is NULL behind the last and before the first.
cdef struct Place:
    Node* leaf
    int at


cdef class Memtable:
    cdef Node* root
    cdef Slot** index                   # open addressing; a power of two of places, at most half of them taken
    cdef size_t index_mask
    cdef list chunks
    cdef uint8_t* free_at
    cdef Py_ssize_t free_bytes
    cdef readonly Py_ssize_t nbytes     # taken from the arena
    cdef readonly Py_ssize_t count      # keys, deleted ones included

    cdef void* allocate(self, Py_ssize_t nbytes) except NULL
    cdef Node* new_node(self, bint leaf) except NULL
    cdef Slot* find_slot(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil
    # A slot for a key that has none.
    cdef Slot* add_slot(self, const uint8_t* key, Py_ssize_t key_len) except NULL
    cdef int insert(self, Slot* slot) except -1
    cdef int index_slot(self, Slot* slot) except -1
    cdef int grow_index(self) except -1
    cdef int split_child(self, Node* parent, int at) except -1

    # Approach the keys of these hashes. It changes nothing, and what it guesses wrongly costs nothing.
    cdef void approach(self, const uint32_t* hashes, int count) noexcept nogil

    # The newest record of a key, or NULL.
    cdef Record* find(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil
    # Room for a new newest record of nbytes; the caller fills its bytes and its digest. The record before it is
    # overwritten unless a snapshot at `newest_snapshot` or before may need it.
    cdef Record* put(self, Slot* slot, Py_ssize_t nbytes, bint deleted, uint64_t newest_snapshot) except NULL

    # The first key not below `key`; and the last key below it.
    cdef Place seek(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil
    cdef Place seek_before(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil
    cdef Place first(self) noexcept nogil
    cdef Place last(self) noexcept nogil


# The same for all memtables of this process.
cdef uint32_t hash_of(const uint8_t* key, Py_ssize_t key_len) noexcept nogil
cdef void step_forward(Place* place) noexcept nogil
cdef void step_back(Place* place) noexcept nogil
cdef Record* visible(Slot* slot, uint64_t revision) noexcept nogil
cdef int compare_keys(const uint8_t* a, Py_ssize_t a_len, const uint8_t* b, Py_ssize_t b_len) noexcept nogil
