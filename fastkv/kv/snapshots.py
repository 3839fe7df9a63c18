"""Snapshots that listings hold between their pages: bounded in number and in time.

A cursor is `u64 snapshot id | last key`. It is only good on the node that gave it; ids begin at a number that the node
draws at random, so that a cursor of another node, or of an earlier life, is not taken for one of ours.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from fastkv._core.snapshot import TableSnapshot
from fastkv.errors import CursorExpired

_ID = struct.Struct("<Q")


def encode_cursor(snapshot_id: int, last_key: bytes) -> bytes:
    """Where the next page goes on."""
    return _ID.pack(snapshot_id) + last_key


def decode_cursor(cursor: bytes) -> tuple[int, bytes]:
    """(snapshot id, last key). CursorExpired for bytes that are no cursor."""
    if len(cursor) <= _ID.size:
        raise CursorExpired("that is no cursor of this cluster; start the listing again without it")
    return _ID.unpack_from(cursor)[0], cursor[_ID.size :]


class HeldSnapshots:
    """At most `limit` snapshots, each for `ttl_ticks` after its last use; the longest unused makes room."""

    def __init__(self, *, limit: int, ttl_ticks: int, first_id: int) -> None:
        self._limit = limit
        self._ttl_ticks = ttl_ticks
        self._next_id = first_id
        self._now = 0
        self._held: OrderedDict[int, tuple[TableSnapshot, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, snapshot: TableSnapshot) -> int:
        """Keep a snapshot; the id to ask for it by."""
        while len(self._held) >= self._limit:
            _, (oldest, _) = self._held.popitem(last=False)
            oldest.close()
        snapshot_id = self._next_id
        self._next_id = (self._next_id + 1) & 0xFFFF_FFFF_FFFF_FFFF
        self._held[snapshot_id] = (snapshot, self._now + self._ttl_ticks)
        return snapshot_id

    def get(self, snapshot_id: int) -> TableSnapshot:
        """A held snapshot, good for another while. CursorExpired where it is gone."""
        found = self._held.get(snapshot_id)
        if found is None:
            raise CursorExpired("the listing's snapshot is no longer kept on this node; start the listing again")
        self._held[snapshot_id] = (found[0], self._now + self._ttl_ticks)
        self._held.move_to_end(snapshot_id)
        return found[0]

    def release(self, snapshot_id: int) -> None:
        """The listing is finished."""
        found = self._held.pop(snapshot_id, None)
        if found is not None:
            found[0].close()

    def tick(self) -> None:
        """One tick: let go of what has not been used for too long."""
        self._now += 1
        while self._held:
            snapshot_id, (_, until) = next(iter(self._held.items()))
            if until > self._now:
                return
            self.release(snapshot_id)

    def close(self) -> None:
        """Let go of all of them."""
        for snapshot_id in list(self._held):
            self.release(snapshot_id)
