"""`GET /kv`: keys in order, a page at a time or all of them as a stream.

The pages of one cursor, and all lines of one stream, show one consistent snapshot. The cursor that a client holds says
the whole of the question, so that it is enough by itself; the parameters may be repeated beside it, but not changed.
"""

from __future__ import annotations

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Any

from fastkv._core.codes import Status
from fastkv.server.http.context import Context
from fastkv.server.http.kv import wants
from fastkv.server.http.params import Params, invalid
from fastkv.server.http.request import Request
from fastkv.server.http.responses import NDJSON, error_from_status, json_body, set_bytes
from fastkv.wire.client import ScanPage, ScanRequest, decode_scan_page, encode_scan_request

LIST_PARAMS = ("prefix", "start", "end", "limit", "reverse", "keys_only", "cursor", "consistency")
STREAM_PAGE_ITEMS = 256
"""Items of a stream's page: few enough that making one does not keep the loop from everybody else."""
MAX_LIMIT = 2**32 - 1

_CURSOR = struct.Struct("<BBBHH")
"""The client's cursor: version, consistency, flags (1 reverse, 2 keys_only), length of start, length of end; then
start, end, and the node's own cursor."""
_CURSOR_VERSION = 1
_REVERSE, _KEYS_ONLY = 1, 2


@dataclass(frozen=True, slots=True)
class Range:
    """What a listing is of; the same for all of its pages."""

    start: bytes
    end: bytes
    """Exclusive; empty for no bound."""
    reverse: bool
    keys_only: bool
    consistency: int

    def request(self, cursor: bytes, limit: int) -> bytes:
        """The SCAN request of a page."""
        return encode_scan_request(
            ScanRequest(
                start=self.start,
                end=self.end,
                reverse=self.reverse,
                keys_only=self.keys_only,
                consistency=self.consistency,
                cursor=cursor,
                limit=limit,
            )
        )

    def encode_cursor(self, cursor: bytes) -> str:
        """The client's cursor: this range, and where the node goes on in it."""
        flags = self.reverse * _REVERSE | self.keys_only * _KEYS_ONLY
        head = _CURSOR.pack(_CURSOR_VERSION, self.consistency, flags, len(self.start), len(self.end))
        return urlsafe_b64encode(head + self.start + self.end + cursor).rstrip(b"=").decode()


def decode_cursor(text: bytes) -> tuple[Range, bytes]:
    """The range of a client's cursor, and the node's cursor in it. ValueError where no node can have made it."""
    data = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    if len(data) < _CURSOR.size:
        raise ValueError("too short")
    version, consistency, flags, start_bytes, end_bytes = _CURSOR.unpack_from(data)
    end_at, cursor_at = _CURSOR.size + start_bytes, _CURSOR.size + start_bytes + end_bytes
    if version != _CURSOR_VERSION or consistency > 2 or flags > 3 or cursor_at >= len(data):
        raise ValueError("not of this format")
    known = Range(
        start=data[_CURSOR.size : end_at],
        end=data[end_at:cursor_at],
        reverse=bool(flags & _REVERSE),
        keys_only=bool(flags & _KEYS_ONLY),
        consistency=consistency,
    )
    if known.encode_cursor(data[cursor_at:]).encode() != text:
        raise ValueError("not written as this server writes it")
    return known, data[cursor_at:]


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`; empty where there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b""


def asked_range(params: Params) -> tuple[Range, bytes]:
    """The range that the parameters ask for, and the node's cursor, empty for the first page."""
    prefix, start, end = params.text("prefix"), params.text("start"), params.text("end")
    behind = prefix_end(prefix)
    asked = Range(
        start=max(start, prefix),
        end=min(end, behind) if end and behind else end or behind,
        reverse=params.truth("reverse"),
        keys_only=params.truth("keys_only"),
        consistency=params.consistency(),
    )
    if not params.given("cursor"):
        return asked, b""
    try:
        known, cursor = decode_cursor(params.text("cursor"))
    except ValueError:
        invalid("the cursor is not one that a listing gave out")
    bounded = any(params.given(name) for name in ("prefix", "start", "end"))
    if bounded and (asked.start, asked.end) != (known.start, known.end):
        invalid("prefix, start and end have to be those of the cursor's first page, or left out")
    for name in ("reverse", "keys_only", "consistency"):
        if params.given(name) and getattr(asked, name) != getattr(known, name):
            invalid(f"{name} has to be that of the cursor's first page, or left out")
    return known, cursor


def list_keys(context: Context, request: Request) -> None:
    """`GET /kv`: one page as JSON, or everything as one JSON document a line."""
    params = Params(request.query, LIST_PARAMS)
    asked, cursor = asked_range(params)
    limit = params.number("limit", 0, low=1, high=MAX_LIMIT)
    if wants(request, NDJSON) and request.method == b"GET":
        _Stream(context, request, asked, cursor, limit).ask()
        return

    def page_done(request: Request, status: int, flags: int, revision: int, payload: bytes) -> None:
        if status != Status.OK:
            request.fail(error_from_status(status, payload))
            return
        page = decode_scan_page(payload)
        items = _items(page, keys_only=asked.keys_only)
        following = asked.encode_cursor(page.cursor) if page.cursor else None
        request.respond_json(200, {"items": items, "count": len(items), "cursor": following, "revision": page.revision})

    request.finish = page_done
    most = context.limits.scan_page_items
    context.service.scan(asked.request(cursor, min(limit or most, most)), request.deliver)


def _items(page: ScanPage, *, keys_only: bool) -> list[dict[str, Any]]:
    items = []
    for key, record in page.items:
        item: dict[str, Any] = {}
        set_bytes(item, "key", key)
        if not keys_only:
            set_bytes(item, "value", record.value)
        item["revision"] = record.mod_revision
        item["version"] = record.version
        items.append(item)
    return items


class _Stream:
    """Everything in a range, one JSON document a line, page after page as the client takes them.

    The first page decides the status. What goes wrong later can only end the stream in the middle: its last line is
    then the error, and the body lacks its proper end.
    """

    def __init__(self, context: Context, request: Request, asked: Range, cursor: bytes, limit: int) -> None:
        self._context = context
        self._request = request
        self._asked = asked
        self._cursor = cursor
        self._left = limit or None
        """Items that may still be sent; None for all of them."""
        self._started = False

    def ask(self) -> None:
        """Have the node read the next page."""
        most = min(STREAM_PAGE_ITEMS, self._context.limits.scan_page_items)
        limit = most if self._left is None else min(most, self._left)
        self._request.finish = self._page_done
        self._context.service.scan(self._asked.request(self._cursor, limit), self._request.deliver)

    def _page_done(self, request: Request, status: int, flags: int, revision: int, payload: bytes) -> None:
        if status != Status.OK:
            error = error_from_status(status, payload)
            if self._started:
                request.break_stream(error)
            else:
                request.fail(error)
            return
        page = decode_scan_page(payload)
        items = _items(page, keys_only=self._asked.keys_only)
        lines = b"".join(map(json_body, items))
        self._cursor = page.cursor
        if self._left is not None:
            self._left -= len(items)
        if not self._started:
            self._started = True
            request.start_stream(NDJSON)
        if self._cursor and self._left != 0:
            request.send(lines, then=self.ask)
        else:
            request.end_stream(lines)
