"""The encoding of log entries, and of the batch of entries that travels as one piece.

An entry is `u32 body length | u8 kind | u8 0 | u16 0 | body`, little-endian; a batch is entries one after the other.
The body of a PUT or DELETE entry is, byte for byte, the body of the client's frame: it is checked and copied once on
arrival and never encoded again. The same batch bytes are the WAL record's payload and the APPEND frame's.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastkv._core.buffer cimport WriteBuffer
from fastkv._core.codes cimport (
    COMMAND_HEADER_BYTES, CommandFlag, ENTRY_HEADER_BYTES, Kind, MAX_KEY_BYTES, MAX_SESSIONS, OPEN_SESSION,
    SESSION_ENTRY_BYTES, Status,
)
from fastkv._core.cursor cimport (
    Cursor, cursor_init, cursor_left, load_u16, load_u32, read_span, read_u8, read_u16, read_u64, store_u16,
    store_u32,
)

from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from fastkv._core import codes

cdef enum:
    KNOWN_COMMAND_FLAGS = 0x07          # COMPARE, WITH_LEASE, WITH_SESSION

# Of a session. So far from the end that no sum of a sequence and a window passes it.
cdef uint64_t LAST_SEQUENCE = (<uint64_t>1 << 63) - 1
# Entry offsets are 32 bits wide.
cdef Py_ssize_t MAX_BATCH_BYTES = 0xFFFF_FFFF


class Entry(NamedTuple):
    """One entry, taken out of its batch to be looked at. Not for the hot path."""

    kind: int
    body: bytes


class DecodedCommand(NamedTuple):
    """A PUT or DELETE, taken apart to be looked at. Not for the hot path."""

    kind: int
    key: bytes
    value: bytes
    compare: int | None
    lease: int | None
    session: tuple[int, int] | None


class InvalidCommand(ValueError):
    """The bytes are no command; `status` says why."""

    def __init__(self, status):
        super().__init__(f"not a command: {codes.Status(status).name}")
        self.status = status


cdef int parse_command(
        uint8_t kind, const uint8_t* body, size_t nbytes, size_t value_limit, Command* out) noexcept nogil:
    cdef Cursor cursor
    cdef uint8_t reserved = 0
    cursor_init(&cursor, body, nbytes)
    out.kind = kind
    out.compare = out.lease = out.client_id = out.sequence = 0
    if read_u16(&cursor, &out.key_len) < 0 or read_u8(&cursor, &out.flags) < 0 or read_u8(&cursor, &reserved) < 0:
        return Status.INVALID_REQUEST
    if reserved or out.flags > KNOWN_COMMAND_FLAGS:
        return Status.INVALID_REQUEST
    if out.flags & CommandFlag.COMPARE and read_u64(&cursor, &out.compare) < 0:
        return Status.INVALID_REQUEST
    if out.flags & CommandFlag.WITH_LEASE and read_u64(&cursor, &out.lease) < 0:
        return Status.INVALID_REQUEST
    if out.flags & CommandFlag.WITH_SESSION and (
            read_u64(&cursor, &out.client_id) < 0 or read_u64(&cursor, &out.sequence) < 0
            or not is_idempotency_key(out.client_id) and not 0 < out.sequence <= LAST_SEQUENCE):
        return Status.INVALID_REQUEST
    if out.key_len == 0:
        return Status.INVALID_KEY
    if out.key_len > MAX_KEY_BYTES:
        return Status.KEY_TOO_LARGE
    if read_span(&cursor, out.key_len, &out.key) < 0:
        return Status.INVALID_REQUEST
    if cursor_left(&cursor) > value_limit:
        return Status.VALUE_TOO_LARGE
    if kind == Kind.ENTRY_DELETE and cursor_left(&cursor):
        return Status.INVALID_REQUEST
    out.value = cursor.at
    out.value_len = <uint32_t>cursor_left(&cursor)
    return Status.OK


cdef const uint8_t* peek_key(const uint8_t* body, size_t nbytes, Py_ssize_t* key_len) noexcept nogil:
    cdef size_t at = COMMAND_HEADER_BYTES
    if nbytes < at:
        return NULL
    key_len[0] = load_u16(body)
    at += 8 if body[2] & CommandFlag.COMPARE else 0
    at += 8 if body[2] & CommandFlag.WITH_LEASE else 0
    at += 16 if body[2] & CommandFlag.WITH_SESSION else 0
    return body + at if at + key_len[0] <= nbytes else NULL


cdef int parse_session(const uint8_t* body, size_t nbytes, uint32_t* limit) noexcept nogil:
    if nbytes != SESSION_ENTRY_BYTES or body[0] != OPEN_SESSION or body[1] or body[2] or body[3]:
        return Status.INVALID_REQUEST
    limit[0] = load_u32(body + 4)
    return Status.OK if 0 < limit[0] <= MAX_SESSIONS else Status.INVALID_REQUEST


def encode_session(uint32_t limit):
    """The body of the entry that opens a session: `u8 1 | u8 0 | u16 0 | u32 how many may be open`."""
    cdef uint8_t[SESSION_ENTRY_BYTES] body
    if not 0 < limit <= MAX_SESSIONS:
        raise ValueError(f"1 to {MAX_SESSIONS} sessions may be open, not {limit}")
    store_u32(body, OPEN_SESSION)
    store_u32(body + 4, limit)
    return PyBytes_FromStringAndSize(<char*>body, SESSION_ENTRY_BYTES)


def encode_command(int kind, bytes key not None, bytes value not None=b"", *, compare=None, lease=None, session=None):
    """The body of a PUT or DELETE: what a client sends and what the log stores.

    `kind` is `Kind.ENTRY_PUT` or `Kind.ENTRY_DELETE`, `compare` the revision that the key must have (0: it must not
    exist), `session` a pair (client id, sequence). ValueError for a key outside 1 to 511 bytes, a DELETE with a value,
    another kind, and a sequence that no session has; OverflowError for a number outside 64 bits.
    """
    cdef Py_ssize_t key_len = PyBytes_GET_SIZE(key), value_len = PyBytes_GET_SIZE(value)
    cdef uint64_t[4] numbers
    cdef Py_ssize_t count = 0
    cdef uint8_t flags = 0
    cdef bytes body
    cdef uint8_t* at
    if kind != Kind.ENTRY_PUT and (kind != Kind.ENTRY_DELETE or value_len):
        raise ValueError("a command is a PUT, or a DELETE without a value")
    if not 1 <= key_len <= MAX_KEY_BYTES:
        raise ValueError(f"a key has 1 to {MAX_KEY_BYTES} bytes, not {key_len}")
    if compare is not None:
        flags |= <uint8_t>CommandFlag.COMPARE
        numbers[count] = compare
        count += 1
    if lease is not None:
        flags |= <uint8_t>CommandFlag.WITH_LEASE
        numbers[count] = lease
        count += 1
    if session is not None:
        flags |= <uint8_t>CommandFlag.WITH_SESSION
        numbers[count], numbers[count + 1] = session
        if not is_idempotency_key(numbers[count]) and not 0 < numbers[count + 1] <= LAST_SEQUENCE:
            raise ValueError(f"a session's sequences go from 1 to {LAST_SEQUENCE}")
        count += 2
    body = PyBytes_FromStringAndSize(NULL, COMMAND_HEADER_BYTES + 8 * count + key_len + value_len)
    at = <uint8_t*>PyBytes_AS_STRING(body)
    store_u16(at, <uint16_t>key_len)
    at[2] = flags
    at[3] = 0
    at += COMMAND_HEADER_BYTES
    memcpy(at, numbers, 8 * count)
    at += 8 * count
    memcpy(at, PyBytes_AS_STRING(key), key_len)
    memcpy(at + key_len, PyBytes_AS_STRING(value), value_len)
    return body


def decode_command(uint8_t kind, bytes body not None, *, size_t value_limit_bytes=0xFFFF_FFFF):
    """Take a command's body apart. InvalidCommand, which carries the `Status`, where it is none."""
    cdef Command command
    cdef int status = parse_command(
        kind, <const uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), value_limit_bytes, &command)
    if status != Status.OK:
        raise InvalidCommand(status)
    return DecodedCommand(
        kind,
        PyBytes_FromStringAndSize(<const char*>command.key, command.key_len),
        PyBytes_FromStringAndSize(<const char*>command.value, command.value_len),
        command.compare if command.flags & CommandFlag.COMPARE else None,
        command.lease if command.flags & CommandFlag.WITH_LEASE else None,
        (command.client_id, command.sequence) if command.flags & CommandFlag.WITH_SESSION else None)


cdef class EntryBatch:
    """An immutable run of encoded entries.

    `EntryBatch(data, count)` checks that `data` is exactly `count` well-formed entries and raises ValueError where it
    is not. `checksum`, where the sender's is known, is verified against the data.
    """

    def __cinit__(self):
        self.data = b""
        self.count = 0
        self.offsets = NULL
        self._checksum = None

    def __init__(self, bytes data not None, Py_ssize_t count, checksum=None):
        if self.count:
            raise TypeError("a batch does not change")      # and so its index stays true
        check_entries(data, count)
        self.data = data
        self.count = count
        if checksum is not None and self.checksum != checksum:
            raise ValueError(f"the batch's checksum is {self.checksum:#x}, {checksum:#x} was announced")

    def __dealloc__(self):
        free(self.offsets)

    cdef int index_entries(self) except -1:
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self.data)
        cdef Py_ssize_t i
        cdef uint32_t at = 0
        if self.offsets != NULL:
            return 0
        self.offsets = <uint32_t*>malloc((self.count + 1) * sizeof(uint32_t))
        if self.offsets == NULL:
            raise MemoryError(f"no memory to index {self.count} entries")
        for i in range(self.count):
            self.offsets[i] = at
            at += ENTRY_HEADER_BYTES + load_u32(data + at)
        self.offsets[self.count] = at
        return 0

    cdef Py_ssize_t span_bytes(self, Py_ssize_t start, Py_ssize_t stop) except -1:
        if start == 0 and stop == self.count:
            return PyBytes_GET_SIZE(self.data)
        self.index_entries()
        return self.offsets[stop] - self.offsets[start]

    @property
    def nbytes(self):
        """Length of the encoding."""
        return PyBytes_GET_SIZE(self.data)

    @property
    def checksum(self):
        """xxh3_64 of the data, computed once."""
        if self._checksum is None:
            self._checksum = xxh3_64_intdigest(self.data)
        return self._checksum

    @property
    def config(self):
        """The membership that this batch puts into force: the body of its only entry, an ENTRY_CONFIG; else None.

        Such an entry always has a batch of its own, so that looking for one costs nothing on the way of a write.
        """
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self.data)
        if self.count != 1 or data[4] != Kind.ENTRY_CONFIG:
            return None
        return self.data[ENTRY_HEADER_BYTES:]

    def slice(self, Py_ssize_t start, Py_ssize_t stop):
        """Entries `start` to `stop - 1`, counted from 0, as a batch of their own. IndexError where there are none."""
        if not 0 <= start < stop <= self.count:
            raise IndexError(f"no entries {start} to {stop} in a batch of {self.count}")
        if start == 0 and stop == self.count:
            return self
        self.index_entries()
        return unchecked(self.data[self.offsets[start]:self.offsets[stop]], stop - start)

    def fit(self, Py_ssize_t start, Py_ssize_t max_bytes):
        """The largest `stop` for which entries `start` to `stop - 1` take at most `max_bytes`; at least `start + 1`.

        IndexError where there is no entry `start`.
        """
        cdef Py_ssize_t low, high, middle
        if not 0 <= start < self.count:
            raise IndexError(f"no entry {start} in a batch of {self.count}")
        if start == 0 and PyBytes_GET_SIZE(self.data) <= max_bytes:
            return self.count
        self.index_entries()
        low, high = start + 1, self.count
        while low < high:
            middle = (low + high + 1) // 2
            if <Py_ssize_t>(self.offsets[middle] - self.offsets[start]) <= max_bytes:
                low = middle
            else:
                high = middle - 1
        return low

    def entries(self):
        """Every entry, as (kind, body)."""
        cdef Py_ssize_t i
        cdef list entries = []
        self.index_entries()
        for i in range(self.count):
            entries.append(Entry(
                self.data[self.offsets[i] + 4],
                self.data[self.offsets[i] + ENTRY_HEADER_BYTES:self.offsets[i + 1]]))
        return entries

    def check_commands(self, size_t value_limit_bytes):
        """ValueError unless every entry is what a client may ask for, well-formed: PUT or DELETE, or a new session.

        A value has at most `value_limit_bytes`.
        """
        cdef const uint8_t* data = <const uint8_t*>PyBytes_AS_STRING(self.data)
        cdef const uint8_t* at
        cdef Command command
        cdef uint32_t limit
        cdef Py_ssize_t i
        cdef int status
        self.index_entries()
        for i in range(self.count):
            at = data + self.offsets[i]
            if at[4] == Kind.ENTRY_PUT or at[4] == Kind.ENTRY_DELETE:
                status = parse_command(at[4], at + ENTRY_HEADER_BYTES, load_u32(at), value_limit_bytes, &command)
            elif at[4] == Kind.ENTRY_SESSION:
                status = parse_session(at + ENTRY_HEADER_BYTES, load_u32(at), &limit)
            else:
                raise ValueError(f"entry {i} of {self.count} is of kind {at[4]}, neither PUT, DELETE nor SESSION")
            if status != Status.OK:
                raise InvalidCommand(status)

    def __len__(self):
        return self.count

    def __eq__(self, other):
        if not isinstance(other, EntryBatch):
            return NotImplemented
        return self.data == (<EntryBatch>other).data

    __hash__ = None

    def __repr__(self):
        return f"EntryBatch({self.count} entries, {self.nbytes} B)"


cdef int check_entries(bytes data, Py_ssize_t count) except -1:
    cdef const uint8_t* at = <const uint8_t*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t left = PyBytes_GET_SIZE(data)
    cdef Py_ssize_t i, nbytes
    if count < 1:
        raise ValueError(f"a batch has at least one entry, not {count}")
    if left > MAX_BATCH_BYTES:
        raise ValueError(f"a batch has less than 4 GiB, not {left} bytes")
    for i in range(count):
        if left < ENTRY_HEADER_BYTES:
            raise ValueError(f"the batch ends within entry {i} of {count}")
        nbytes = ENTRY_HEADER_BYTES + <Py_ssize_t>load_u32(at)
        if nbytes > left:
            raise ValueError(f"entry {i} of {count} is longer than the batch")
        if at[5] or at[6] or at[7]:
            raise ValueError(f"entry {i} of {count} has reserved bits set")
        at += nbytes
        left -= nbytes
    if left:
        raise ValueError(f"a batch of {count} entries is followed by {left} bytes")
    return 0


cdef EntryBatch unchecked(bytes data, Py_ssize_t count):
    """A batch of entries that this module has written or checked before."""
    cdef EntryBatch batch = EntryBatch.__new__(EntryBatch)
    batch.data = data
    batch.count = count
    return batch


cdef class BatchBuilder:
    """The open batch: entries are appended until somebody takes them."""

    def __cinit__(self):
        self.buffer = WriteBuffer()
        self.count = 0

    cdef int add(self, uint8_t kind, const uint8_t* body, Py_ssize_t nbytes) except -1:
        cdef uint8_t* at
        if nbytes > MAX_BATCH_BYTES - ENTRY_HEADER_BYTES - self.buffer.length:
            raise OverflowError("a batch has less than 4 GiB")
        at = self.buffer.extend(ENTRY_HEADER_BYTES + nbytes)
        store_u32(at, <uint32_t>nbytes)
        at[4] = kind
        at[5] = 0
        store_u16(at + 6, 0)
        if nbytes:
            memcpy(at + ENTRY_HEADER_BYTES, body, nbytes)
        self.count += 1
        return 0

    def append(self, uint8_t kind, const uint8_t[::1] body not None):
        """Add one entry. OverflowError where the batch would reach 4 GiB."""
        self.add(kind, &body[0] if body.shape[0] else NULL, body.shape[0])

    @property
    def nbytes(self):
        """Length of the encoding so far."""
        return self.buffer.length

    def __len__(self):
        return self.count

    def take(self):
        """The entries as a batch; the builder is empty afterwards. ValueError when it is empty."""
        cdef Py_ssize_t count = self.count
        if not count:
            raise ValueError("a batch has at least one entry")
        self.count = 0
        return unchecked(self.buffer.take(), count)
