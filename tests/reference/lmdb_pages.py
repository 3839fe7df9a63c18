"""A B+tree of an LMDB 0.9 file, read slowly and plainly: the twin of `_core.lmdb_walk`.

Takes whole trees only. What a page says is asserted, so that whatever is wrong raises `Broken`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.reference.digest import digest_record

HEADER, NODE = 16, 8
BRANCH, LEAF, OVERFLOW, BIG = 1, 2, 4, 1


class Broken(Exception):
    """The tree is not whole."""


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Broken(what)


@dataclass
class Tree:
    """What a walk counts, and every entry."""

    data: bytes
    page_bytes: int
    depth: int
    numbers: bool
    branches: int = 0
    leaves: int = 0
    overflows: int = 0
    entries: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    used: set[int] = field(default_factory=set)

    @property
    def digest(self) -> int:
        return sum(digest_record(key, value) for key, _, value in self.entries) & 0xFFFF_FFFF_FFFF_FFFF

    def page(self, number: int, flags: int, pages: int = 1) -> bytes:
        start, end = number * self.page_bytes, (number + pages) * self.page_bytes
        expect(end <= len(self.data), f"page {number} is not there")
        page = self.data[start:end]
        said, _, kind = struct.unpack_from("<QHH", page)
        expect(said == number and kind == flags, f"page {number} is page {said} of kind {kind}")
        taken = set(range(number, number + pages))
        expect(not taken & self.used, f"page {number} is used twice")
        self.used |= taken
        return page

    def order(self, key: bytes) -> Any:
        expect(not self.numbers or len(key) == 8, "a key that is no number")
        return int.from_bytes(key, "little") if self.numbers else key

    def nodes(self, page: bytes, is_leaf: bool) -> Iterator[tuple[int, int, int, bytes, bytes]]:
        """(low, high, flags, key, value) of each node."""
        lower, upper = struct.unpack_from("<HH", page, 12)
        expect(HEADER + 2 <= lower <= upper <= self.page_bytes and lower % 2 == 0, "bounds")
        taken = 0
        for i in range((lower - HEADER) // 2):
            (offset,) = struct.unpack_from("<H", page, HEADER + 2 * i)
            expect(upper <= offset <= self.page_bytes - NODE and offset % 2 == 0, "a node's offset")
            low, high, flags, key_bytes = struct.unpack_from("<HHHH", page, offset)
            value_bytes = (8 if flags & BIG else low | high << 16) if is_leaf else 0
            end = offset + NODE + key_bytes + value_bytes
            expect(end <= self.page_bytes, "a node's length")
            taken += (end - offset + 1) // 2 * 2
            key = page[offset + NODE : offset + NODE + key_bytes]
            yield low, high, flags, key, page[offset + NODE + key_bytes : end]
        expect(taken == self.page_bytes - upper, "what the nodes take")

    def walk(self, number: int, level: int = 0, low: Any = None, high: Any = None) -> None:
        is_leaf = level + 1 == self.depth
        nodes = list(self.nodes(self.page(number, LEAF if is_leaf else BRANCH), is_leaf))
        keys = [self.order(node[3]) for node in nodes[0 if is_leaf else 1 :]]
        expect(all(a < b for a, b in pairwise(keys)), "the order of keys")
        expect(low is None or not keys or keys[0] >= low, "a key below its parent's")
        expect(high is None or not keys or keys[-1] < high, "a key above its parent's")
        if is_leaf:
            self.leaves += 1
            for node_low, node_high, flags, key, value in nodes:
                whole = self.value(node_low | node_high << 16, value) if flags & BIG else value
                self.entries.append((key, flags, whole))
            return
        self.branches += 1
        bounds = [low, *keys, high]
        for i, (node_low, node_high, flags, _, _) in enumerate(nodes):
            self.walk(node_low | node_high << 16 | flags << 32, level + 1, bounds[i], bounds[i + 1])

    def value(self, nbytes: int, number: bytes) -> bytes:
        first = int.from_bytes(number, "little")
        at = first * self.page_bytes
        expect(at + HEADER <= len(self.data), "an overflow page that is not there")
        (pages,) = struct.unpack_from("<I", self.data, at + 12)
        expect(pages * self.page_bytes >= HEADER + nbytes, "a value's length")
        page = self.page(first, OVERFLOW, pages)
        self.overflows += pages
        return page[HEADER : HEADER + nbytes]


def walk(data: bytes, page_bytes: int, root: int, depth: int, *, numbers: bool = False) -> Tree:
    """A whole tree. Broken where it is not."""
    tree = Tree(data, page_bytes, depth, numbers)
    tree.walk(root)
    return tree
