# The state machine's compiled half: three generations of memtables over a store. See apply.pyx.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastkv._core.entry cimport Command, EntryBatch
from fastkv._core.idempotency cimport IdempotencyKeys
from fastkv._core.memtable cimport Memtable, Record, Slot
from fastkv._core.sessions cimport Sessions
from fastkv._core.state_hash cimport HashPoints


cdef enum:
    APPROACHED = 16                 # keys that are looked up together: about as many as memory serves at a time


cdef class Table:
    cdef Memtable active            # what is applied goes here
    cdef Memtable flushing          # frozen, being written to the store; None when no checkpoint is under way
    cdef Memtable recent            # what the last checkpoint wrote: a cache, so that hot keys never reach the store
    cdef object store_get
    cdef object borrowed            # keeps a record from the store alive until the next lookup
    cdef readonly uint64_t revision
    cdef readonly uint64_t key_count
    cdef uint64_t data_hash         # the part of keys and records in the state hash
    cdef HashPoints points
    cdef Sessions sessions
    cdef IdempotencyKeys keys
    cdef list snapshots             # revisions of the open ones, in the order they were opened
    cdef uint64_t newest_snapshot

    # The record of a key: 1 and its bytes (good until the table next changes or is asked), or 0 where there is none.
    cdef int lookup(
        self, const uint8_t* key, Py_ssize_t key_len, const uint8_t** record, Py_ssize_t* nbytes,
    ) except -1
    # Its two halves below the active memtable: the other memtables, and the store.
    cdef Record* find_older(self, const uint8_t* key, Py_ssize_t key_len) noexcept nogil
    cdef int fetch(
        self, const uint8_t* key, Py_ssize_t key_len, const uint8_t** record, Py_ssize_t* nbytes,
    ) except -1
    # Approach so many keys, by their hashes, in all memtables: see the memtable's page.
    cdef void approach(self, const uint32_t* hashes, int count) noexcept nogil
    cdef int approach_entries(self, EntryBatch batch, Py_ssize_t start, Py_ssize_t stop) except -1
    cdef int apply_entry(
        self, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes, uint64_t index, uint8_t* result,
    ) except -1
    cdef int apply_command(self, const Command* command, uint8_t* result) except -1
    cdef int apply_once(self, const Command* command, uint64_t index, uint8_t* result) except -1
    cdef int apply_keyed(self, const Command* command, uint64_t index, uint8_t* result) except -1
    cdef uint64_t hash_now(self) noexcept nogil
    cdef int write_tombstone(self, Slot* slot) except -1
    cdef uint64_t write_record(
        self, Slot* slot, const Command* command, uint64_t created, uint64_t version,
    ) except? 0
