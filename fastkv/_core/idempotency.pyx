"""Idempotency keys: exactly once for clients that keep no session, such as whoever speaks HTTP.

A key is 127 bits that a client makes up for one command and repeats when it tries again (over HTTP, a hash of the text
in the header `Idempotency-Key`). It stands in a command where a session's id and sequence stand otherwise, with the
topmost bit of the id set. The newest KEYS_KEPT keys are remembered, in the order of the log, each with the result of
its command and a fingerprint of it: a key that comes again with another command is a mistake, and answered as one. Like
sessions, all this is part of the replicated state.

What a checkpoint keeps of a key, under the index of its entry, with the topmost bit set, as a big-endian u64:
`u64 high | u64 low | u64 fingerprint | u16 status | u8 reply flags | u8 0 | u32 0 | u64 revision`.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint32_t, uint64_t, uint8_t
from libc.stdlib cimport calloc, free

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.cursor cimport load_u16, load_u64
from fastkv._core.digest cimport OF_COMMAND, OF_IDEMPOTENCY_KEY, digest_bytes, digest_numbers
from fastkv._core.entry cimport Command
from fastkv._core.sessions cimport Remembered, recall_result, remembered_result

cdef enum:
    RECORD_BYTES = 40
    FIRST_CAPACITY = 64

cdef uint64_t TOP_BIT = <uint64_t>1 << 63
# Drawn by each process, so that nobody can choose keys that fall into one bucket.
cdef uint64_t[2] SECRET = [int.from_bytes(os.urandom(8), "little"), int.from_bytes(os.urandom(8), "little")]


cdef inline uint64_t digest_of(const Keyed* key) noexcept nogil:
    cdef uint64_t answer = key.result.status | <uint64_t>key.result.flags << 16
    return digest_numbers(
        key.high, key.low, key.index, digest_numbers(key.fingerprint, key.result.revision, answer, 0, OF_COMMAND),
        OF_IDEMPOTENCY_KEY)


cdef inline uint64_t fingerprint_of(const Command* command) noexcept nogil:
    """Of all that a command says, but for its key."""
    cdef uint64_t form = command.kind | <uint64_t>command.flags << 8 | <uint64_t>command.key_len << 16
    cdef uint64_t seed = digest_numbers(form, command.compare, command.lease, 0, OF_COMMAND)
    return digest_bytes(command.value, command.value_len, digest_bytes(command.key, command.key_len, seed))


cdef class IdempotencyKeys:
    """The keys that are remembered."""

    def __cinit__(self):
        self.ring = NULL
        self.buckets = NULL
        self.capacity = 0
        self.count = 0
        self.next_number = 0
        self.unsaved = 0
        self.digest = 0
        self.dropped = WriteBuffer()

    def __dealloc__(self):
        free(self.ring)
        free(self.buckets)

    def __len__(self):
        return self.count

    # -- what a command does -----------------------------------------------------------------------------------------

    cdef KeyRecall recall(self, const Command* command, uint8_t* result) noexcept nogil:
        cdef Keyed* known = self.find(command.client_id, command.sequence)
        if known == NULL:
            return KEY_IS_NEW
        if known.fingerprint != fingerprint_of(command):
            return KEY_REUSED
        recall_result(result, &known.result)
        return KEY_SEEN

    cdef int remember(self, const Command* command, uint64_t index, const uint8_t* result) except -1:
        cdef Keyed key
        key.high = command.client_id
        key.low = command.sequence
        key.index = index
        key.fingerprint = fingerprint_of(command)
        key.result = remembered_result(result)
        key.saved = False
        return self.insert(&key)

    # -- the ring and its buckets ------------------------------------------------------------------------------------

    cdef size_t bucket_of(self, uint64_t high, uint64_t low) noexcept nogil:
        return digest_numbers(high ^ SECRET[0], low ^ SECRET[1], 0, 0, 0) & (self.capacity - 1)

    cdef Keyed* find(self, uint64_t high, uint64_t low) noexcept nogil:
        cdef uint32_t place
        cdef Keyed* key
        if not self.count:
            return NULL
        place = self.buckets[self.bucket_of(high, low)]
        while place:
            key = &self.ring[place - 1]
            if key.high == high and key.low == low:
                return key
            place = key.chained
        return NULL

    cdef int insert(self, const Keyed* key) except -1:
        """Take a key as the newest."""
        cdef uint64_t place
        cdef size_t bucket
        if self.count == KEYS_KEPT:
            self.remove_oldest()
        elif self.count == self.capacity:
            self.grow()
        place = self.next_number & (self.capacity - 1)
        bucket = self.bucket_of(key.high, key.low)
        self.ring[place] = key[0]
        self.ring[place].chained = self.buckets[bucket]
        self.buckets[bucket] = <uint32_t>place + 1
        self.next_number += 1
        self.count += 1
        self.digest += digest_of(key)
        return 0

    cdef int remove_oldest(self) except -1:
        cdef uint32_t place = <uint32_t>((self.next_number - self.count) & (self.capacity - 1)) + 1
        cdef Keyed* key = &self.ring[place - 1]
        cdef uint32_t* link = &self.buckets[self.bucket_of(key.high, key.low)]
        if key.saved:
            self.dropped.put_u64(key.index)
        while link[0] != place:
            link = &self.ring[link[0] - 1].chained
        link[0] = key.chained
        self.digest -= digest_of(key)
        self.count -= 1
        return 0

    cdef int grow(self) except -1:
        """Twice as many places, and buckets. The numbers stay, so that each key has its place in the new ring."""
        cdef uint64_t capacity = self.capacity * 2 if self.capacity else FIRST_CAPACITY
        cdef uint64_t number
        cdef size_t bucket
        cdef Keyed* key
        cdef Keyed* before = self.ring
        cdef uint64_t mask_before = self.capacity - 1
        cdef Keyed* ring = <Keyed*>calloc(capacity, sizeof(Keyed))
        cdef uint32_t* buckets = <uint32_t*>calloc(capacity, sizeof(uint32_t))
        if ring == NULL or buckets == NULL:
            free(ring)
            free(buckets)
            raise MemoryError(f"no memory for {capacity} idempotency keys")
        free(self.buckets)
        self.ring, self.buckets, self.capacity = ring, buckets, capacity
        for number in range(self.next_number - self.count, self.next_number):
            key = &ring[number & (capacity - 1)]
            key[0] = before[number & mask_before]
            bucket = self.bucket_of(key.high, key.low)
            key.chained = buckets[bucket]
            buckets[bucket] = <uint32_t>(number & (capacity - 1)) + 1
        free(before)
        return 0

    # -- checkpoints -------------------------------------------------------------------------------------------------

    cdef bytes encode(self, const Keyed* key):
        cdef WriteBuffer out = WriteBuffer()
        out.put_u64(key.high)
        out.put_u64(key.low)
        out.put_u64(key.fingerprint)
        out.put_u16(key.result.status)
        out.put_u16(key.result.flags)
        out.put_u32(0)
        out.put_u64(key.result.revision)
        return out.take()

    def records(self):
        """Every key as (key of its record, record), oldest first."""
        cdef uint64_t number
        cdef list found = []
        cdef Keyed* key
        for number in range(self.next_number - self.count, self.next_number):
            key = &self.ring[number & (self.capacity - 1)]
            found.append(((TOP_BIT | key.index).to_bytes(8, "big"), self.encode(key)))
        return found

    def take_changes(self):
        """What has changed since the last time: (key, record), or (key, None) of one that is gone."""
        cdef uint64_t number
        cdef Py_ssize_t i
        cdef list found = []
        cdef Keyed* key
        for i in range(0, self.dropped.length, 8):
            found.append(((TOP_BIT | load_u64(self.dropped.data + i)).to_bytes(8, "big"), None))
        self.dropped.clear()
        for number in range(max(self.unsaved, self.next_number - self.count), self.next_number):
            key = &self.ring[number & (self.capacity - 1)]
            key.saved = True
            found.append(((TOP_BIT | key.index).to_bytes(8, "big"), self.encode(key)))
        self.unsaved = self.next_number
        return found

    def load(self, records):
        """Take keys from (key, record) pairs, in any order. ValueError for bytes that are none."""
        cdef Keyed key
        cdef const uint8_t* at
        cdef bytes record
        for name, record in sorted(records):
            if len(name) != 8 or len(record) != RECORD_BYTES:
                raise ValueError(f"{len(record)} bytes under a key of {len(name)} are no idempotency key")
            at = <const uint8_t*>PyBytes_AS_STRING(record)
            key.index = int.from_bytes(name, "big") & ~TOP_BIT
            key.high = load_u64(at)
            key.low = load_u64(at + 8)
            key.fingerprint = load_u64(at + 16)
            key.result = Remembered(load_u64(at + 32), load_u16(at + 24), at[26], True)
            key.saved = True
            self.insert(&key)
        self.unsaved = self.next_number
