"""Is a store's file whole? Read page by page, before LMDB is let near it, and without LMDB.

LMDB 0.9 keeps no checksums and believes its pages; a damaged one ends the process with a signal, or gives out what was
never written. So this module reads the file by itself:

1. the two meta pages, and the newer one as LMDB would choose it;
2. every page of every tree, by `_core.lmdb_walk`: kinds, numbers, bounds, the order of keys, and the counts that the
   trees state;
3. the list of free pages, which no tree may use: LMDB would write over them;
4. the content: the meta record has a checksum, and all others together have the state hash, which stands in the meta
   record and was written in the same transaction (see `_core.state_hash`). So a flipped bit in any value is found.

The fourth takes reading every value; how much is worth that at a start is the caller's to say.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastkv._core.lmdb_walk import PageWalk
from fastkv._core.state_hash import load_sessions
from fastkv.errors import DamagedStore, NewerVersion, StorageError
from fastkv.kv.store import StoreMeta
from fastkv.storage.lmdb_format import IDENTITY_KEY, META_KEY, decode_meta
from fastkv.storage.past_cache import PIECE_BYTES, open_for_reading

MAGIC = 0xBEEF_C0DE
VERSION = 1
META_PAGES = 2
PAGE_HEADER_BYTES = 16
LONG_PAGE_HEADER_BYTES = 24
META_FLAG = 0x08
SUBTREE_FLAG = 0x02
"""Of an entry in the main tree: it is the root of a named one."""
NO_PAGE = (1 << 64) - 1
"""The root of an empty tree."""
SMALLEST_PAGE, LARGEST_PAGE = 512, 1 << 15
NAMES = (b"data", b"sessions", b"meta")
SHOWN_DAMAGES = 3
"""How many of them an error names."""

EVERYTHING = 1 << 62
"""More bytes than any file has."""

_PAGE = struct.Struct("<QHHHH")
_META = struct.Struct("<IIQQ48s48sQQ")
_TREE = struct.Struct("<IHHQQQQQ")


class Damage(NamedTuple):
    """One thing that is wrong with a file."""

    offset: int
    """The byte where the damaged page begins; 0 where it is the file as a whole."""
    what: str


class Tree(NamedTuple):
    """What the file says of one B+tree."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class MetaPage(NamedTuple):
    """One of the two states that the file may have. The one with the higher transaction number counts."""

    page_bytes: int
    free: Tree
    main: Tree
    last_page: int
    transaction: int


@dataclass(slots=True)
class Survey:
    """What was found in a store's file."""

    nbytes: int = 0
    page_bytes: int = 0
    pages: int = 0
    used_pages: int = 0
    free_pages: int = 0
    compacted_pages: int = 0
    """What a copy without free pages has, and without the list of them."""
    meta: StoreMeta | None = None
    """How far the store goes; None where that cannot be read."""
    identity: bytes = b""
    content_checked: bool = False
    """Whether every value was read, and held against the state hash."""
    damages: list[Damage] = field(default_factory=list)


def survey(
    path: Path, *, content_limit_bytes: int, transaction: int | None = None, is_compacted: bool = False
) -> Survey:
    """Look at everything in the file; its content where it is no longer than that. OSError where it cannot be opened.

    `transaction` is one that a reader holds open in a file that others write to; by default it is the newest. A
    compacted copy has its pages in order: it is read in large pieces, from the disk and past the page cache. A file
    without a byte is a store that was about to be made. NewerVersion for that of a newer release.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    pages_fd = -1
    try:
        nbytes = os.fstat(fd).st_size
        if not nbytes:
            return Survey()
        if is_compacted:
            pages_fd = open_for_reading(path)
        return _Surveyor(fd, pages_fd, path, nbytes, content_limit_bytes).run(transaction)
    finally:
        os.close(fd)
        if pages_fd >= 0:
            os.close(pages_fd)


def verify(
    path: Path, *, content_limit_bytes: int, transaction: int | None = None, is_compacted: bool = False
) -> Survey:
    """As `survey`, and DamagedStore where anything is wrong."""
    found = survey(
        path, content_limit_bytes=content_limit_bytes, transaction=transaction, is_compacted=is_compacted
    )
    if found.damages:
        raise DamagedStore(advice(path, found.damages))
    return found


def advice(path: Path, damages: list[Damage]) -> str:
    """What is wrong with the file, and what to do about it."""
    shown = "; ".join(f"at byte {damage.offset} {damage.what}" for damage in damages[:SHOWN_DAMAGES])
    more = f"; and {len(damages) - SHOWN_DAMAGES} more" if len(damages) > SHOWN_DAMAGES else ""
    return (
        f"{path} is damaged: {shown}{more}. Nothing was changed. `fastkv check` with the node's data directory says "
        "what all is damaged; to go on, repair from peers: `fastkv repair` sets it aside, and the node gets it back"
    )


def newer_lmdb(path: Path) -> int:
    """The version of LMDB's own format in a file of a newer LMDB; 0 of any other, also where that cannot be read.

    LMDB writes it into both meta pages. Where only one has it, that one is damaged. A page's header, which comes before
    it, is longer in LMDB 1.0.
    """
    with path.open("rb") as file:
        first = _lmdb_version(file.read(LARGEST_PAGE))
        file.seek(os.sysconf("SC_PAGE_SIZE"))
        second = _lmdb_version(file.read(LARGEST_PAGE))
    return first if first > VERSION and second != VERSION else 0


def _lmdb_version(page: bytes) -> int:
    for offset in (PAGE_HEADER_BYTES, LONG_PAGE_HEADER_BYTES):
        magic, version = struct.unpack_from("<II", page.ljust(LONG_PAGE_HEADER_BYTES + 8), offset)
        if magic == MAGIC:
            return int(version)
    return 0


def stored_meta(path: Path) -> bytes:
    """The meta record of a store's file as it stands there, found by no more than its pages; empty where it is not."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        nbytes = os.fstat(fd).st_size
        good = [meta for meta in read_metas(fd, nbytes) if isinstance(meta, MetaPage)]
        if not good:
            return b""
        newest = max(good, key=lambda meta: meta.transaction)
        walk = PageWalk(fd, newest.page_bytes, min(-(-nbytes // newest.page_bytes), newest.last_page + 1))
        for number in range(META_PAGES):
            walk.mark(number)
        named = _items(walk, newest.main)
        root = named.get(b"meta", b"")
        return _items(walk, Tree._make(_TREE.unpack(root))).get(META_KEY, b"") if len(root) == _TREE.size else b""
    finally:
        os.close(fd)


def _items(walk: PageWalk, tree: Tree) -> dict[bytes, bytes]:
    items: list[tuple[bytes, int, bytes]] = []
    if tree.root != NO_PAGE:
        walk.walk(tree.root, tree.depth, items=items)
    return {key: value for key, _, value in items}


def read_metas(fd: int, file_bytes: int) -> list[MetaPage | str]:
    """The two meta pages; for one that is none, what is wrong with it."""
    first = _read_meta(fd, 0, 0)
    page_bytes = first.page_bytes if isinstance(first, MetaPage) else os.sysconf("SC_PAGE_SIZE")
    second = _read_meta(fd, page_bytes, 1)
    if isinstance(first, MetaPage) and isinstance(second, MetaPage) and second.page_bytes != page_bytes:
        second = f"says that pages have {second.page_bytes} bytes, and the first one {page_bytes}"
    return [first, second]


def _read_meta(fd: int, offset: int, number: int) -> MetaPage | str:
    try:
        raw = os.pread(fd, PAGE_HEADER_BYTES + _META.size, offset)
    except OSError as error:
        return f"the meta page cannot be read: {error.strerror}"
    if len(raw) < PAGE_HEADER_BYTES + _META.size:
        return "the meta page is cut off"
    page, _, flags, _, _ = _PAGE.unpack_from(raw)
    magic, version, _, _, free, main, last_page, transaction = _META.unpack_from(raw, PAGE_HEADER_BYTES)
    if (page, magic) != (number, MAGIC) or not flags & META_FLAG:
        return "there is no meta page"
    if version != VERSION:
        return f"the meta page has format version {version}, not {VERSION}"
    found = MetaPage(0, Tree._make(_TREE.unpack(free)), Tree._make(_TREE.unpack(main)), last_page, transaction)
    page_bytes = found.free.pad         # where LMDB keeps it
    if not SMALLEST_PAGE <= page_bytes <= LARGEST_PAGE or page_bytes & (page_bytes - 1):
        return f"the meta page says that pages have {page_bytes} bytes"
    if transaction and transaction & 1 != number:
        return f"the meta page is of transaction {transaction}, which has its place in the other one"
    return found._replace(page_bytes=page_bytes)


class _Surveyor:
    def __init__(self, fd: int, pages_fd: int, path: Path, nbytes: int, content_limit_bytes: int) -> None:
        self._fd = fd
        self._pages_fd = pages_fd
        self._path = path
        self._result = Survey(nbytes)
        self._content = self._result.nbytes <= content_limit_bytes
        self._page_bytes = 0
        self._digest = 0

    def run(self, transaction: int | None) -> Survey:
        result = self._result
        metas = read_metas(self._fd, result.nbytes)
        good = [meta for meta in metas if isinstance(meta, MetaPage)]
        page_bytes = good[0].page_bytes if good else os.sysconf("SC_PAGE_SIZE")
        if transaction is not None:         # the other meta page may be written at this moment
            good = [meta for meta in good if meta.transaction == transaction]
            if not good:
                self._wrong(f"transaction {transaction} is in neither meta page")
        else:
            for number, meta in enumerate(metas):
                if isinstance(meta, str):
                    self._wrong(meta, number * page_bytes)
        if not result.damages:
            self._look(max(good, key=lambda meta: meta.transaction))
        return result

    def _look(self, meta: MetaPage) -> None:
        result = self._result
        self._page_bytes = meta.page_bytes
        # Pages behind the newest state's last are residue of a transaction that never ended.
        in_file = -(-result.nbytes // meta.page_bytes)
        result.pages = min(in_file, meta.last_page + 1)
        if self._pages_fd < 0:
            walk = PageWalk(self._fd, meta.page_bytes, result.pages)
        else:
            walk = PageWalk(self._pages_fd, meta.page_bytes, result.pages, window_bytes=PIECE_BYTES)
        for number in range(META_PAGES):
            walk.mark(number)
        lists: list[tuple[bytes, int, bytes]] = []
        self._walk(walk, meta.free, "the list of free pages", numbers=True, items=lists)
        list_pages = walk.used_count - META_PAGES
        named: list[tuple[bytes, int, bytes]] = []
        self._walk(walk, meta.main, "the main tree", items=named)
        records: dict[bytes, list[tuple[bytes, int, bytes]]] = {name: [] for name in NAMES}
        entries = 0
        for name, flags, value in named:
            if name not in NAMES or flags != SUBTREE_FLAG or len(value) != _TREE.size:
                self._wrong(f"the main tree has an entry {name!r}, which is no tree of fastkv")
                continue
            tree = Tree._make(_TREE.unpack(value))
            kept = None if name == b"data" else records[name]
            self._walk(walk, tree, f"the tree {name.decode()}", content=self._content and kept is None, items=kept)
            if name == b"data":
                entries = tree.entries
        for page, what in walk.damages():
            result.damages.append(Damage(page * meta.page_bytes, f"page {page} {what}"))
        if walk.damage_count > len(walk.damages()):
            self._wrong(f"{walk.damage_count - len(walk.damages())} more pages are damaged")
        result.used_pages = walk.used_count
        result.compacted_pages = walk.used_count - list_pages
        result.page_bytes = meta.page_bytes
        self._check_free(walk, lists, meta)
        if not result.damages:
            self._check_records({key: value for key, _, value in records[b"meta"]}, records[b"sessions"], entries)

    def _wrong(self, what: str, offset: int = 0) -> None:
        self._result.damages.append(Damage(offset, what))

    def _walk(
        self, walk: PageWalk, tree: Tree, what: str, *, numbers: bool = False, content: bool = False,
        items: list[tuple[bytes, int, bytes]] | None = None,
    ) -> None:
        said = (tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries)
        before = walk.damage_count
        found = (0, 0, 0, 0)
        if tree.root != NO_PAGE:
            *counts, digest = walk.walk(tree.root, tree.depth, numbers=numbers, content=content, items=items)
            found = (counts[0], counts[1], counts[2], counts[3])
            self._digest = (self._digest + digest) & NO_PAGE
        if found != said and walk.damage_count == before:
            self._wrong(
                f"{what} has {found[0]} branch, {found[1]} leaf, {found[2]} overflow pages and {found[3]} entries, and "
                f"is said to have {said[0]}, {said[1]}, {said[2]} and {said[3]}"
            )

    def _check_free(self, walk: PageWalk, lists: list[tuple[bytes, int, bytes]], meta: MetaPage) -> None:
        """LMDB would write over pages of this list: each is free, and stands in it once."""
        free: set[int] = set()
        listed = 0
        for key, _, value in lists:
            count = int.from_bytes(value[:8], "little")
            if count * 8 + 8 > len(value):
                self._wrong(f"the list of pages freed by transaction {int.from_bytes(key, 'little')} is cut off")
                continue
            numbers = struct.unpack_from(f"<{count}Q", value, 8)
            listed += count
            free.update(numbers)
            for page in numbers:
                if page < META_PAGES or page > meta.last_page:
                    self._wrong(f"page {page} is listed as free, and no page of this file")
                elif walk.is_used(page):
                    self._wrong(f"page {page} is listed as free, and is used", page * self._page_bytes)
        if listed > len(free):
            self._wrong(f"{listed - len(free)} pages are listed as free twice")
        self._result.free_pages = len(free)
        # A page of the last transaction that was given up within it may never have been written.
        unwritten = meta.last_page + 1 - self._result.pages
        if unwritten > 0 and unwritten != sum(page >= self._result.pages for page in free):
            self._wrong(f"the file ends before page {meta.last_page}, its last", self._result.nbytes)

    def _check_records(
        self, meta: dict[bytes, bytes], sessions: list[tuple[bytes, int, bytes]], entries: int
    ) -> None:
        result = self._result
        result.identity = meta.get(IDENTITY_KEY, b"")
        if META_KEY not in meta or IDENTITY_KEY not in meta:
            if meta or sessions or entries:
                self._wrong("the store does not say how far it goes, or whose it is")
            return                  # else it was made a moment ago, and a crash came before its first record
        try:
            result.meta = found = decode_meta(meta[META_KEY], self._path)
            parts = load_sessions((key, value) for key, _, value in sessions)
        except NewerVersion:
            raise
        except (StorageError, ValueError) as error:
            self._wrong(f"a record cannot be read: {error}")
            return
        if found.key_count != entries:
            self._wrong(f"there are {entries} keys, and the meta record says {found.key_count}")
        elif self._content:
            digest = (self._digest + sum(part.digest for part in parts)) & NO_PAGE
            if digest != found.state_hash:
                self._wrong(
                    f"the content has the hash {digest:016x}, and had {found.state_hash:016x} when it was written: "
                    "some record is not what it was"
                )
            result.content_checked = True
