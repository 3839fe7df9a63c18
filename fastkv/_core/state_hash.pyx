"""The state hash beside the apply loop: which of its values are remembered, and how it is found from a state alone.

Nodes compare their hashes to notice that their states have parted. They are never at the same entry at the same time,
so each remembers its hash at indexes that all of them remember.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memset

from fastkv._core.digest cimport digest_record

from fastkv._core.idempotency import IdempotencyKeys
from fastkv._core.sessions import Sessions

FIRST_OF_KEYS = bytes([0x80, 0, 0, 0, 0, 0, 0, 0])

cdef class HashPoints:
    """The hash after entries whose index is a multiple of 2^6, 2^12 or 2^18: the newest eight of each kind.

    So a node that is up to half a million entries behind another still finds an index that both remember, and two that
    are close find a recent one.
    """

    def __cinit__(self):
        memset(self.points, 0, sizeof(self.points))

    cdef int note(self, uint64_t index, uint64_t state_hash) noexcept nogil:
        cdef uint64_t number = index // FINEST_STEP
        cdef int level
        for level in range(LEVELS):
            self.points[level][number % KEPT] = HashPoint(index, state_hash)
            if number % (1 << STEP_BITS):
                break
            number >>= STEP_BITS
        return 0

    def listed(self):
        """Every (index, hash) that is remembered, by index."""
        cdef int level, i
        cdef dict found = {}
        for level in range(LEVELS):
            for i in range(KEPT):
                if self.points[level][i].index:
                    found[self.points[level][i].index] = self.points[level][i].state_hash
        return sorted(found.items())


def load_sessions(records):
    """(Sessions, IdempotencyKeys) from the (key, record) pairs that the store keeps of both, in any order.

    ValueError where they are none.
    """
    sessions, keys = Sessions(), IdempotencyKeys()
    records = list(records)
    keys.load([pair for pair in records if pair[0] >= FIRST_OF_KEYS])
    sessions.load([pair for pair in records if pair[0] < FIRST_OF_KEYS])
    return sessions, keys


def hash_of(items, sessions=()):
    """The state hash of a whole state: every (key, record), and those of sessions and idempotency keys, in any order.

    ValueError where `sessions` are none.
    """
    cdef uint64_t total = 0
    cdef bytes key, record
    for key, record in items:
        total += digest_record(
            <const uint8_t*>PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
            <const uint8_t*>PyBytes_AS_STRING(record), PyBytes_GET_SIZE(record))
    for part in load_sessions(sessions):
        total += <uint64_t>part.digest
    return total
