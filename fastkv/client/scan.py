"""Scans: an ordered walk over a range of keys, page by page, all pages of one consistent snapshot.

The snapshot lives on the node that served the first page, for a limited time. So the following pages are asked of that
node, also when requests have moved to another one meanwhile; where it is gone, or the snapshot is, the scan ends with
CursorExpired instead of going on in a different state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fastkv._core.codes import Consistency, Opcode, Status
from fastkv.client.cluster import Cluster
from fastkv.client.connection import Connection, Reply
from fastkv.client.requests import answer_error, item_of, key_bytes
from fastkv.client.results import Item, Text
from fastkv.errors import CursorExpired, ProtocolError, Unavailable
from fastkv.wire.client import ScanRequest, decode_scan_page, encode_scan_request

PAGE_ITEMS = 1000
"""Items asked for in one page; the server's byte limit may end a page earlier."""


class Scan:
    """The items of a range, in order; an asynchronous iterator. Made by `AsyncClient.scan`."""

    def __init__(self, cluster: Cluster, request: ScanRequest, limit: int | None, timeout_s: float | None) -> None:
        self._cluster = cluster
        self._request = request
        self._left = limit  # items still wanted; None for all
        self._timeout_s = timeout_s
        self._connection: Connection | None = None  # the node that holds the snapshot
        self._finished = limit == 0
        self._page: Iterator[Item] = iter(())
        self.revision: int | None = None
        """The revision of the snapshot; None until the first page is there."""

    def __aiter__(self) -> Scan:
        return self

    async def __anext__(self) -> Item:
        while True:
            for item in self._page:
                return item
            if self._finished:
                raise StopAsyncIteration
            self._page = iter(await self.next_page())

    async def next_page(self) -> list[Item]:
        """The next page whole: fewer calls for who wants all. Empty once the scan is finished.

        CursorExpired where the snapshot is gone: start the scan again. Otherwise the errors of any read.
        """
        while not self._finished:
            page = self._take(await self._ask())
            if page:
                return page
        return []

    async def _ask(self) -> Reply:
        body = encode_scan_request(self._request)
        if self._connection is None:
            reply, self._connection = await self._cluster.request_from(
                Opcode.SCAN, body, writes=False, timeout_s=self._timeout_s
            )
            return reply
        try:
            return await self._cluster.follow_up(self._connection, Opcode.SCAN, body, timeout_s=self._timeout_s)
        except Unavailable as error:
            raise CursorExpired(f"the node with the scan's snapshot is gone: {error}") from None

    def _take(self, reply: Reply) -> list[Item]:
        if reply.status != Status.OK:
            raise answer_error(reply)
        try:
            page = decode_scan_page(reply.body)
        except ValueError as error:
            raise ProtocolError(f"the server's page cannot be read: {error}") from None
        with_value = not self._request.keys_only
        items = [item_of(key, record, with_value=with_value) for key, record in page.items]
        if not items and page.cursor:
            raise ProtocolError("the server's page is empty and yet not the last")
        self.revision = page.revision
        self._request = replace(self._request, cursor=page.cursor)
        if self._left is not None:
            del items[self._left :]
            self._left -= len(items)
        self._finished = not page.cursor or self._left == 0
        return items


def scan_request(
    prefix: Text | None,
    start: Text | None,
    end: Text | None,
    limit: int | None,
    reverse: bool,
    keys_only: bool,
    consistency: Consistency,
) -> ScanRequest:
    """The first page's request. ValueError where the parameters contradict each other."""
    if limit is not None and limit < 0:
        raise ValueError(f"limit is not below 0, as {limit} is")
    if prefix is not None and not (start is None and end is None):
        raise ValueError("a scan takes a prefix, or start and end")
    if prefix is not None:
        first = key_bytes(prefix, bound=True)
        last = prefix_end(first)
    else:
        first = b"" if start is None else key_bytes(start, bound=True)
        last = b"" if end is None else key_bytes(end, bound=True)
    return ScanRequest(
        start=first,
        end=last,
        limit=PAGE_ITEMS if limit is None else min(limit, PAGE_ITEMS),
        reverse=reverse,
        keys_only=keys_only,
        consistency=consistency,
    )


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all those that begin with `prefix`; empty where there is no such bound."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b""
