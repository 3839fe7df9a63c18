"""What a load asks for: operations in a mixture, on keys that follow a distribution, as frames.

The distributions are YCSB's (Cooper et al., "Benchmarking cloud serving systems with YCSB", SoCC 2010). Zipf's law is
drawn as Gray et al. do ("Quickly generating billion-record synthetic databases", SIGMOD 1994): the ranks' weights are
summed up once, and a draw costs one power. The popular keys are scattered over all keys, so that they are no neighbours
in the store; with `latest` the rank is the age of a key instead.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.math cimport pow
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastkv._core.codes cimport COMMAND_HEADER_BYTES, FRAME_HEADER_BYTES, MAX_KEY_BYTES, Opcode
from fastkv._core.cursor cimport store_u16, store_u32, store_u64
from fastkv._core.splitmix cimport splitmix64

cdef enum:
    GET_HEADER_BYTES = 4
    SCAN_HEADER_BYTES = 16
    SCAN_LIMIT = 100                # items of a scan: from 1 to this, uniformly
    SCAN_LIMIT_BYTES = 1048576

cdef double THETA = 0.99            # YCSB's: of 100,000 keys the most popular one gets 8 % of all
cdef double ALPHA = 1 / (1 - THETA)
cdef double HALF_POWER = pow(0.5, THETA)

KINDS = ("get", "put", "insert", "scan", "modify")
DISTRIBUTIONS = ("uniform", "zipfian", "latest")


cdef class Workload:
    """See `workload.pyi`.

    Counters are written `self.x = self.x + 1`: the debug build's None check of `self.x += 1` would need the GIL.
    """

    def __init__(
        self, mix, *, str distribution="uniform", uint64_t keys=100_000, int key_bytes=16, int value_bytes=128,
        int consistency=0, uint64_t seed=1,
    ):
        cdef int kind
        cdef double total = sum(mix.values())
        cdef double reached = 0
        if not set(mix) <= set(KINDS) or total <= 0 or min(mix.values()) < 0:
            raise ValueError(f"mix is shares of {', '.join(KINDS)}, not {mix!r}")
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f"distribution is one of {', '.join(DISTRIBUTIONS)}, not {distribution!r}")
        if not 5 <= key_bytes <= MAX_KEY_BYTES or len(str(max(<object>keys, 1) - 1)) > key_bytes - 4:
            raise ValueError(f"key_bytes is from 5 to {MAX_KEY_BYTES}, with room for 'key-' and every key's number")
        if value_bytes < 0:
            raise ValueError("value_bytes is not below 0")
        if not 0 <= consistency <= 2:
            raise ValueError(f"consistency is 0 (linearizable), 1 (lease) or 2 (stale), not {consistency}")
        if keys < 1 and mix.get("insert", 0) != total:
            raise ValueError("keys is above 0 where not all operations are inserts")
        for kind in range(<int>WANTS):
            reached += mix.get(KINDS[kind], 0.0) / total
            self.up_to[kind] = reached
        self.distribution = DISTRIBUTIONS.index(distribution)
        self.keys = self.visible = keys
        self.key_bytes = key_bytes
        self.value_bytes = value_bytes
        self.consistency = consistency
        self.random_state = seed
        if self.distribution != UNIFORM:
            self.grow(keys)
        self.value = bytes(32 + (<int>(splitmix64(&self.random_state) % 95)) for _ in range(value_bytes))
        self.value_at = PyBytes_AS_STRING(self.value)

    # -- choosing ----------------------------------------------------------------------------------------------------

    cdef double uniform(self) noexcept nogil:
        """In [0, 1)."""
        return <double>(splitmix64(&self.random_state) >> 11) / 9007199254740992.0

    cdef void grow(self, uint64_t keys) noexcept nogil:
        """Let Zipf's law be over so many ranks, which are not fewer than before."""
        cdef uint64_t rank
        cdef double both = 1 + HALF_POWER
        for rank in range(self.zipf_keys + 1, keys + 1):
            self.zeta = self.zeta + pow(1.0 / <double>rank, THETA)
        self.zipf_keys = keys
        self.eta = 0 if keys < 3 else (1 - pow(2.0 / <double>keys, 1 - THETA)) / (1 - both / self.zeta)

    cdef uint64_t rank(self) noexcept nogil:
        """From 0, by far the likeliest, to zipf_keys - 1."""
        cdef double drawn = self.uniform()
        cdef double weight = drawn * self.zeta
        cdef uint64_t found
        if weight < 1:
            return 0
        if weight < 1 + HALF_POWER:
            return 1
        found = <uint64_t>(<double>self.zipf_keys * pow(self.eta * (drawn - 1) + 1, ALPHA))
        return min(found, self.zipf_keys - 1)

    cdef void draw(self, Wanted* wanted) noexcept nogil:
        """Choose the next operation and its key."""
        cdef double drawn = self.uniform()
        cdef uint64_t state
        wanted.kind = 0
        while wanted.kind < WANTS - 1 and drawn >= self.up_to[wanted.kind]:
            wanted.kind += 1
        if wanted.kind == WANT_INSERT:
            wanted.number = self.keys + self.inserted
            self.inserted = self.inserted + 1
        elif self.distribution == UNIFORM:
            wanted.number = splitmix64(&self.random_state) % self.keys
        elif self.distribution == ZIPFIAN:
            state = self.rank()
            wanted.number = splitmix64(&state) % self.keys
        else:
            if self.zipf_keys < self.visible:
                self.grow(self.visible)
            wanted.number = self.visible - 1 - self.rank()

    cdef void answered_insert(self) noexcept nogil:
        """One more of the inserted keys may be read."""
        self.visible = self.visible + 1

    # -- asking ------------------------------------------------------------------------------------------------------

    cdef size_t frame_limit_bytes(self) noexcept nogil:
        """No frame is larger."""
        cdef size_t put_bytes = COMMAND_HEADER_BYTES + self.key_bytes + self.value_bytes
        return FRAME_HEADER_BYTES + max(put_bytes, <size_t>(SCAN_HEADER_BYTES + self.key_bytes))

    cdef void write_key(self, uint8_t* at, uint64_t number) noexcept nogil:
        cdef uint32_t i = self.key_bytes
        memcpy(at, <const uint8_t*>b"key-", 4)
        while i > 4:
            i -= 1
            at[i] = <uint8_t>(48 + number % 10)
            number //= 10

    cdef size_t write_get(self, uint8_t* at, uint64_t request_id, uint64_t number) noexcept nogil:
        """Its frame, and how many bytes that is; so do the others."""
        cdef size_t body_bytes = GET_HEADER_BYTES + self.key_bytes
        write_header(at, body_bytes, Opcode.GET, request_id)
        at += FRAME_HEADER_BYTES
        at[0] = self.consistency
        at[1] = 0
        store_u16(at + 2, <uint16_t>self.key_bytes)
        self.write_key(at + GET_HEADER_BYTES, number)
        return FRAME_HEADER_BYTES + body_bytes

    cdef size_t write_put(self, uint8_t* at, uint64_t request_id, uint64_t number) noexcept nogil:
        cdef size_t body_bytes = COMMAND_HEADER_BYTES + self.key_bytes + self.value_bytes
        write_header(at, body_bytes, Opcode.PUT, request_id)
        at += FRAME_HEADER_BYTES
        store_u16(at, <uint16_t>self.key_bytes)
        store_u16(at + 2, 0)
        self.write_key(at + COMMAND_HEADER_BYTES, number)
        at += COMMAND_HEADER_BYTES + self.key_bytes
        memcpy(at, self.value_at, self.value_bytes)
        if self.value_bytes >= 8:
            store_u64(at, self.written)         # so that no two writes store the same value
        self.written = self.written + 1
        return FRAME_HEADER_BYTES + body_bytes

    cdef size_t write_scan(self, uint8_t* at, uint64_t request_id, uint64_t number) noexcept nogil:
        cdef size_t body_bytes = SCAN_HEADER_BYTES + self.key_bytes
        write_header(at, body_bytes, Opcode.SCAN, request_id)
        at += FRAME_HEADER_BYTES
        memset(at, 0, SCAN_HEADER_BYTES)
        at[0] = self.consistency
        store_u16(at + 2, <uint16_t>self.key_bytes)
        store_u32(at + 8, <uint32_t>(1 + splitmix64(&self.random_state) % SCAN_LIMIT))
        store_u32(at + 12, SCAN_LIMIT_BYTES)
        self.write_key(at + SCAN_HEADER_BYTES, number)
        return FRAME_HEADER_BYTES + body_bytes

    # -- for tests ---------------------------------------------------------------------------------------------------

    def sample(self):
        """The next operation as (kind, number, frame); its request id is the number. An insert counts as answered."""
        cdef Wanted wanted
        cdef size_t nbytes
        cdef bytearray room = bytearray(self.frame_limit_bytes())
        cdef uint8_t[::1] view = room
        self.draw(&wanted)
        if wanted.kind == WANT_SCAN:
            nbytes = self.write_scan(&view[0], wanted.number, wanted.number)
        elif wanted.kind == WANT_GET or wanted.kind == WANT_MODIFY:
            nbytes = self.write_get(&view[0], wanted.number, wanted.number)
        else:
            nbytes = self.write_put(&view[0], wanted.number, wanted.number)
        if wanted.kind == WANT_INSERT:
            self.answered_insert()
        return KINDS[wanted.kind], wanted.number, bytes(room[:nbytes])


cdef void write_header(uint8_t* at, size_t body_bytes, uint8_t opcode, uint64_t request_id) noexcept nogil:
    store_u32(at, <uint32_t>body_bytes)
    at[4] = opcode
    at[5] = 0
    store_u16(at + 6, 0)
    store_u64(at + 8, request_id)
