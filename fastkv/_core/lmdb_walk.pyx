"""Walking the B+trees of an LMDB 0.9 file page by page, believing nothing: what LMDB itself would follow off the map.

LMDB has no checksums in this format, and takes its pages for what they say: a damaged pointer kills the process. So
before LMDB may look at a file that comes from a disk, each page of its trees is read here (see `page_reader`), and
checked for its number and kind, the place of its nodes, the order of its keys, the bounds that its parent gives, and
that nothing else uses it. `storage.lmdb_pages` knows the rest of the file; `tests/reference/lmdb_pages.py` is the twin
to read.

A page: `u64 number | u16 0 | u16 flags | u16 lower | u16 upper | u16 offset of each node …`, the nodes at the end, from
`upper` on. Overflow pages have `u32 pages` in the place of lower and upper, and the value behind these 16 bytes. A
node: `u16 low | u16 high | u16 flags | u16 key bytes | key | value`; in a leaf low and high are the value's length, and
where the flags say so the value is the number of an overflow page; in a branch, with the flags on top, a page number.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport ENOMEM
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memset

from fastkv._core.cursor cimport load_u16, load_u32, load_u64
from fastkv._core.digest cimport digest_record
from fastkv._core.page_reader cimport BEYOND, BRANCHES, LEAVES, VALUES, Kind, PageReader

cdef enum:
    PAGE_HEADER = 16
    NODE_HEADER = 8
    LEVELS = 32                     # of a tree: LMDB's own limit
    KEPT_DAMAGES = 64
    VALUE_LIMIT = 1 << 26           # far above any record, and any list of free pages

    BRANCH = 0x01
    LEAF = 0x02
    OVERFLOW = 0x04
    BIG = 0x01                      # of a node: its value is on overflow pages

cdef enum Wrong:
    BEYOND_END
    UNREADABLE
    OTHER_NUMBER
    OTHER_KIND
    NO_BOUNDS
    NO_NODE
    NO_ORDER
    OUT_OF_BOUNDS
    USED_TWICE
    NO_VALUE
    OTHER_DEPTH

TEXTS = {
    BEYOND_END: "lies beyond the end of the file",
    UNREADABLE: "cannot be read: error {}",
    OTHER_NUMBER: "says that it is page {}",
    OTHER_KIND: "is of another kind than what leads to it says (flags {:#x})",
    NO_BOUNDS: "says that its nodes are where none can be",
    NO_NODE: "has a node {} that does not fit into it, or is none",
    NO_ORDER: "has keys that are not in order, at node {}",
    OUT_OF_BOUNDS: "has a key that does not belong under its parent, at node {}",
    USED_TWICE: "is used twice",
    NO_VALUE: "holds a value of an impossible length, {}",
    OTHER_DEPTH: "is at another depth than the tree has",
}


cdef struct Damage:
    uint64_t page
    Wrong wrong
    uint64_t detail


cdef struct Key:
    const uint8_t* at
    size_t nbytes


cdef class PageWalk:
    """The pages of one file. Each walk marks the pages that it uses; none may be used by two.

    `pages` is how many there are in the file; with `window_bytes` they are in the order of the walk. OSError is not
    raised: a page that cannot be read is damage.
    """

    cdef PageReader reader
    cdef size_t page_bytes
    cdef uint64_t pages
    cdef uint8_t* used
    cdef uint8_t* levels[LEVELS]
    cdef uint8_t* value
    cdef size_t value_room
    cdef Damage[KEPT_DAMAGES] kept
    cdef readonly uint64_t damage_count
    cdef readonly uint64_t used_count
    # Of the walk under way.
    cdef int depth
    cdef bint numbers, content
    cdef object items
    cdef Key last
    cdef uint64_t branches, leaves, overflows, entries, digest

    def __cinit__(self):
        self.used = self.value = NULL
        self.value_room = 0
        self.pages = self.damage_count = self.used_count = 0
        memset(self.levels, 0, sizeof(self.levels))

    def __init__(self, int fd, size_t page_bytes, uint64_t pages, *, size_t window_bytes=0):
        assert self.used == NULL
        self.reader = PageReader(fd, page_bytes, window_bytes)
        self.page_bytes = page_bytes
        self.used = <uint8_t*>calloc(pages // 8 + 1, 1)
        if self.used == NULL:
            raise MemoryError(f"no memory for a note of {pages} pages")
        self.pages = pages

    def __dealloc__(self):
        cdef int level
        for level in range(LEVELS):
            free(self.levels[level])
        free(self.used)
        free(self.value)

    # -- what is asked -----------------------------------------------------------------------------------------------

    def walk(self, uint64_t root, int depth, *, bint numbers=False, bint content=False, list items=None):
        """Walk a tree of `depth` levels: (branch pages, leaf pages, overflow pages, entries, sum of digests).

        `numbers`: keys are 64-bit numbers of this machine. `content`: read every value, for its digest (see `digest`).
        Into `items` goes (key, node's flags, value) of each entry.
        """
        cdef Key none = Key(NULL, 0)
        self.depth, self.numbers, self.content, self.items = depth, numbers, content, items
        self.branches = self.leaves = self.overflows = self.entries = self.digest = 0
        if not 0 < depth <= LEVELS:
            self.note(root, OTHER_DEPTH, 0)
            return 0, 0, 0, 0, 0
        with nogil:
            self.visit(root, 0, none, none)
        self.items = None
        return self.branches, self.leaves, self.overflows, self.entries, self.digest

    def mark(self, uint64_t page):
        """Something else uses that page. False where it was used already, or is not in the file."""
        return page < self.pages and self.take(page, 1)

    def is_used(self, uint64_t page):
        """Whether a walk or `mark` has found that page used."""
        return page < self.pages and bool(self.used[page >> 3] & (1 << (page & 7)))

    def damages(self):
        """(page, what is wrong) of each damage that was found, in the order of the trees; at most the first 64."""
        cdef Damage damage
        cdef int i
        cdef list found = []
        for i in range(min(self.damage_count, <uint64_t>KEPT_DAMAGES)):
            damage = self.kept[i]
            found.append((damage.page, TEXTS[damage.wrong].format(damage.detail)))
        return found

    # -- one page ----------------------------------------------------------------------------------------------------

    cdef int note(self, uint64_t page, Wrong wrong, uint64_t detail) noexcept nogil:
        if self.damage_count < KEPT_DAMAGES:
            self.kept[self.damage_count] = Damage(page, wrong, detail)
        self.damage_count += 1
        return 0

    cdef bint take(self, uint64_t page, uint64_t count) noexcept nogil:
        """Mark pages as used. False, and none is marked, where one is."""
        cdef uint64_t i
        for i in range(page, page + count):
            if self.used[i >> 3] & (1 << (i & 7)):
                return False
        for i in range(page, page + count):
            self.used[i >> 3] |= 1 << (i & 7)
        self.used_count += count
        return True

    cdef bint read(self, Kind kind, uint64_t page, uint8_t* into, size_t nbytes) noexcept nogil:
        """The first bytes of a page, and of those behind it. False, and noted, where they cannot be read."""
        cdef int error = self.reader.read(kind, page, into, nbytes)
        if error == BEYOND:
            self.note(page, BEYOND_END, 0)
        elif error:
            self.note(page, UNREADABLE, error)
        return error == 0

    cdef bint is_page(self, uint64_t page, const uint8_t* at, uint16_t kind) noexcept nogil:
        if load_u64(at) != page:
            self.note(page, OTHER_NUMBER, load_u64(at))
        elif load_u16(at + 10) != kind:
            self.note(page, OTHER_KIND, load_u16(at + 10))
        else:
            return True
        return False

    cdef int visit(self, uint64_t page, int level, Key low, Key high) noexcept nogil:
        """Walk what is below a page, whose keys are to be in [low, high). NULL is no bound."""
        cdef bint is_leaf = level + 1 == self.depth
        cdef uint8_t* at
        if page >= self.pages:
            return self.note(page, BEYOND_END, 0)
        if not self.take(page, 1):
            return self.note(page, USED_TWICE, 0)
        if self.levels[level] == NULL:
            self.levels[level] = <uint8_t*>malloc(self.page_bytes)
            if self.levels[level] == NULL:
                return self.note(page, UNREADABLE, ENOMEM)
        at = self.levels[level]
        if not self.read(LEAVES if is_leaf else BRANCHES, page, at, self.page_bytes):
            return 0
        if not self.is_page(page, at, LEAF if is_leaf else BRANCH):
            return 0
        if self.check_nodes(page, at, is_leaf, low, high):
            if is_leaf:
                self.leaves += 1
                self.take_leaf(page, at)
            else:
                self.branches += 1
                self.descend(at, level, low, high)
        return 0

    cdef size_t count_of(self, const uint8_t* at) noexcept nogil:
        return (load_u16(at + 12) - PAGE_HEADER) // 2

    cdef const uint8_t* node_of(self, const uint8_t* at, size_t i) noexcept nogil:
        return at + load_u16(at + PAGE_HEADER + 2 * i)

    cdef Key key_of(self, const uint8_t* node) noexcept nogil:
        return Key(node + NODE_HEADER, load_u16(node + 6))

    cdef size_t value_bytes(self, const uint8_t* node) noexcept nogil:
        return load_u16(node) | <size_t>load_u16(node + 2) << 16

    cdef int compare(self, Key a, Key b) noexcept nogil:
        cdef int order
        cdef uint64_t left, right
        if self.numbers:
            left, right = load_u64(a.at), load_u64(b.at)
            return (left > right) - (left < right)
        order = memcmp(a.at, b.at, min(a.nbytes, b.nbytes))
        return order if order else (a.nbytes > b.nbytes) - (a.nbytes < b.nbytes)

    cdef bint check_nodes(self, uint64_t page, const uint8_t* at, bint is_leaf, Key low, Key high) noexcept nogil:
        """Whether every node lies in the page, they fill what they are said to, and the keys are in order."""
        cdef size_t lower = load_u16(at + 12)
        cdef size_t upper = load_u16(at + 14)
        cdef size_t offset, nbytes, i
        cdef size_t taken = 0
        cdef const uint8_t* node
        cdef Key key
        cdef Key before = low
        cdef bint bounded
        if upper == 0 and self.page_bytes == 1 << 16:
            upper = self.page_bytes
        if lower < PAGE_HEADER + 2 or lower & 1 or lower > upper or upper > self.page_bytes:
            self.note(page, NO_BOUNDS, 0)
            return False
        for i in range(self.count_of(at)):
            offset = load_u16(at + PAGE_HEADER + 2 * i)
            if offset < upper or offset & 1 or offset + NODE_HEADER > self.page_bytes:
                self.note(page, NO_NODE, i)
                return False
            node = at + offset
            key = self.key_of(node)
            nbytes = NODE_HEADER + key.nbytes
            if is_leaf:
                nbytes += 8 if load_u16(node + 4) & BIG else self.value_bytes(node)
            taken += (nbytes + 1) & ~<size_t>1
            if offset + nbytes > self.page_bytes or (self.numbers and key.nbytes != 8 and (is_leaf or i)):
                self.note(page, NO_NODE, i)
                return False
            if i == 0 and not is_leaf:
                continue                    # the first key of a branch means nothing
            # The first key of a page may be its lower bound; every other one is above the one before it.
            bounded = before.at != NULL
            if bounded and (self.compare(key, before) < (0 if i == 0 or (i == 1 and not is_leaf) else 1)):
                self.note(page, OUT_OF_BOUNDS if before.at == low.at else NO_ORDER, i)
                return False
            if high.at != NULL and self.compare(key, high) >= 0:
                self.note(page, OUT_OF_BOUNDS, i)
                return False
            before = key
        if taken != self.page_bytes - upper:
            self.note(page, NO_BOUNDS, 0)
            return False
        return True

    cdef int descend(self, const uint8_t* at, int level, Key low, Key high) noexcept nogil:
        cdef size_t i
        cdef size_t count = self.count_of(at)
        cdef const uint8_t* node
        cdef uint64_t child
        for i in range(count):
            node = self.node_of(at, i)
            child = load_u16(node) | <uint64_t>load_u16(node + 2) << 16 | <uint64_t>load_u16(node + 4) << 32
            self.visit(
                child, level + 1,
                self.key_of(node) if i else low,
                self.key_of(self.node_of(at, i + 1)) if i + 1 < count else high)
        return 0

    # -- entries -----------------------------------------------------------------------------------------------------

    cdef int take_leaf(self, uint64_t page, const uint8_t* at) noexcept nogil:
        cdef size_t i
        for i in range(self.count_of(at)):
            self.take_entry(page, self.node_of(at, i))
        return 0

    cdef int take_entry(self, uint64_t page, const uint8_t* node) noexcept nogil:
        cdef Key key = self.key_of(node)
        cdef size_t nbytes = self.value_bytes(node)
        cdef const uint8_t* value = key.at + key.nbytes
        cdef bint wanted = self.content or self.items is not None
        self.entries += 1
        if load_u16(node + 4) & BIG:
            if not self.take_overflow(load_u64(value), nbytes, wanted):
                return 0
            value = self.value + PAGE_HEADER
        if self.content:
            self.digest += digest_record(key.at, key.nbytes, value, nbytes)
        if self.items is not None:
            with gil:
                self.items.append((
                    PyBytes_FromStringAndSize(<const char*>key.at, key.nbytes),
                    load_u16(node + 4),
                    PyBytes_FromStringAndSize(<const char*>value, nbytes)))
        return 0

    cdef bint take_overflow(self, uint64_t page, size_t nbytes, bint wanted) noexcept nogil:
        """Check a value's overflow pages; into `value`, behind their header, where it is wanted."""
        cdef uint8_t[PAGE_HEADER] header
        cdef uint64_t count
        cdef size_t whole = PAGE_HEADER + nbytes
        cdef uint8_t* room
        if page >= self.pages:
            self.note(page, BEYOND_END, 0)
            return False
        if not self.read(VALUES, page, header, PAGE_HEADER) or not self.is_page(page, header, OVERFLOW):
            return False
        count = load_u32(header + 12)
        if nbytes > VALUE_LIMIT or count * self.page_bytes < whole:
            self.note(page, NO_VALUE, nbytes)
            return False
        if count > self.pages - page:
            self.note(page, BEYOND_END, 0)
            return False
        if not self.take(page, count):
            self.note(page, USED_TWICE, 0)
            return False
        self.overflows += count
        if not wanted:
            return True
        if whole > self.value_room:
            room = <uint8_t*>realloc(self.value, whole)
            if room == NULL:
                self.note(page, UNREADABLE, ENOMEM)
                return False
            self.value, self.value_room = room, whole
        return self.read(VALUES, page, self.value, whole)
