# A bounded cursor over borrowed bytes, and unaligned little-endian loads and stores.
#
# All bounds safety of the decoders lives here: a read that would pass the end answers -1 and moves nothing. Decoders
# therefore contain no pointer arithmetic of their own. Header only, so that every call is inlined.
#
# The bytes on the wire and on disk are little-endian and so is every machine this runs on; the #error below turns a
# build on a big-endian machine into a clear failure instead of a silently different format.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "fastkv's formats are little-endian; a big-endian machine needs byte swaps in cursor.pxd"
    #endif
    """


cdef inline uint16_t load_u16(const uint8_t* at) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, at, 2)
    return value


cdef inline uint32_t load_u32(const uint8_t* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t load_u64(const uint8_t* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline void store_u16(uint8_t* at, uint16_t value) noexcept nogil:
    memcpy(at, &value, 2)


cdef inline void store_u32(uint8_t* at, uint32_t value) noexcept nogil:
    memcpy(at, &value, 4)


cdef inline void store_u64(uint8_t* at, uint64_t value) noexcept nogil:
    memcpy(at, &value, 8)


cdef struct Cursor:
    const uint8_t* at
    const uint8_t* end


cdef inline void cursor_init(Cursor* cursor, const uint8_t* data, size_t nbytes) noexcept nogil:
    cursor.at = data
    cursor.end = data + nbytes


cdef inline size_t cursor_left(const Cursor* cursor) noexcept nogil:
    return <size_t>(cursor.end - cursor.at)


cdef inline int read_span(Cursor* cursor, size_t nbytes, const uint8_t** out) noexcept nogil:
    """Borrow the next `nbytes` bytes. 0, or -1 when fewer are left."""
    if nbytes > cursor_left(cursor):
        return -1
    out[0] = cursor.at
    cursor.at += nbytes
    return 0


cdef inline int read_u8(Cursor* cursor, uint8_t* out) noexcept nogil:
    cdef const uint8_t* at = NULL
    if read_span(cursor, 1, &at) < 0:
        return -1
    out[0] = at[0]
    return 0


cdef inline int read_u16(Cursor* cursor, uint16_t* out) noexcept nogil:
    cdef const uint8_t* at = NULL
    if read_span(cursor, 2, &at) < 0:
        return -1
    out[0] = load_u16(at)
    return 0


cdef inline int read_u32(Cursor* cursor, uint32_t* out) noexcept nogil:
    cdef const uint8_t* at = NULL
    if read_span(cursor, 4, &at) < 0:
        return -1
    out[0] = load_u32(at)
    return 0


cdef inline int read_u64(Cursor* cursor, uint64_t* out) noexcept nogil:
    cdef const uint8_t* at = NULL
    if read_span(cursor, 8, &at) < 0:
        return -1
    out[0] = load_u64(at)
    return 0
