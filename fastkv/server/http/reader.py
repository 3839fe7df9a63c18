"""Cuts requests out of one connection's bytes, and bounds what a client can make the server hold (RFC 9112).

httptools parses, strictly: conflicting lengths, folded headers, bare line feeds and the like are its errors. What it
leaves to its user is here: limits on heads and bodies, which version and which transfer coding, `Host`, `Expect`, and
upgrades, which are declined by answering in HTTP/1.1.

Knows no socket: it is fed bytes, and hands over complete requests.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidURLError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from fastkv.server.http.request import Request
from fastkv.server.http.responses import RETRY_AFTER, HttpError

if TYPE_CHECKING:
    from fastkv.server.http.protocol import HttpProtocol

log = logging.getLogger(__name__)

HEAD_LIMIT_BYTES = 16 * 1024
"""Request line, headers and trailers together; and any run of bytes that the parser makes nothing of."""

_HEADER_OVERHEAD_BYTES = 4  # ": " and CRLF
_KNOWN_HEADERS = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"idempotency-key",
        b"if-match",
        b"if-none-match",
        b"origin",
        b"traceparent",
        b"tracestate",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""No other header means anything here, so no other is kept."""


class Budget:
    """Bytes that all connections together may hold of bodies that are still on their way."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class RequestReader:
    """The reading half of a connection. Calls `connection.asked(request)` for every request, in order.

    A request that must not be read any further is handed over as well, with its `failure` set; then, and after a
    request that says it is the last, the reader is *deaf*: it ignores what it is fed.
    """

    def __init__(self, connection: HttpProtocol, *, body_limit_bytes: int, budget: Budget) -> None:
        self.deaf = False
        self.refused = False
        """Whether it went deaf in the middle of what the client sends."""
        self.continue_due = False
        """Whether the client waits for a `100 Continue`."""
        self._connection = connection
        self._parser = HttpRequestParser(self)
        self._body_limit_bytes = body_limit_bytes
        self._budget = budget
        self._request: Request | None = None
        self._head_bytes = 0
        self._silent_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._upgrade_body_bytes = 0

    @property
    def receiving(self) -> bool:
        """Whether a request has begun and is not complete."""
        return self._request is not None

    def feed(self, data: bytes) -> None:
        """Take what the socket had."""
        if len(data) <= HEAD_LIMIT_BYTES:
            self._feed(data)
            return
        # In parts, so that a head without an end is noticed however much of it comes at once.
        view = memoryview(data)
        for start in range(0, len(data), HEAD_LIMIT_BYTES):
            self._feed(view[start : start + HEAD_LIMIT_BYTES])

    def _feed(self, data: bytes | memoryview) -> None:
        while data and not self.deaf:
            if self._upgrade_body_bytes:
                data = self._feed_upgrade_body(data)
                continue
            self._silent_bytes += len(data)
            try:
                self._parser.feed_data(data)
            except HttpParserUpgrade as upgrade:
                # Declined: the request is answered as if it had not asked. The parser believes that what follows is
                # another protocol, and that an upgrade has no body; a new one goes on with HTTP.
                self._parser = HttpRequestParser(self)
                data = data[upgrade.args[0] :]
                continue
            except HttpParserCallbackError as error:
                raise AssertionError("the request reader failed") from error.__context__
            except HttpParserInvalidURLError:
                self.refuse(400, "MALFORMED_REQUEST", "the request's path has a character that must be percent-encoded")
            except HttpParserError as error:
                if not self.deaf:
                    self.refuse(400, "MALFORMED_REQUEST", f"not HTTP/1.1: {error}")
            if self._silent_bytes > HEAD_LIMIT_BYTES and not self.deaf:
                self._refuse_head()
            return

    def refuse(self, status: int, code: str, message: str, *, headers: bytes = b"") -> None:
        """Hand over a request that can only be answered with this error, and read no further."""
        request = self._request or Request(self._connection, b"")
        request.failure = HttpError(status, code, message, headers=headers)
        request.keep_alive = False
        self.refused = True
        self.stop()
        self._connection.asked(request)

    def stop(self) -> None:
        """Go deaf, and give back what a half-read request holds."""
        self.deaf = True
        self.continue_due = False
        self._request = None
        self._take_body()

    def _refuse_head(self) -> None:
        self.refuse(431, "HEADERS_TOO_LARGE", f"the request's head is over {HEAD_LIMIT_BYTES} bytes")

    # -- httptools' callbacks ----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        self._silent_bytes = 0
        if self.deaf:
            return
        if self._request is None:
            self._request = Request(self._connection, url)
            self._head_bytes = len(url)
            self._connection.begun()
        else:
            self._request.target += url
            self._head_bytes += len(url)
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._silent_bytes = 0
        request = self._request
        if request is None:
            return
        self._head_bytes += len(name) + len(value) + _HEADER_OVERHEAD_BYTES
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_head()
            return
        name = name.lower()
        # What comes once the method is set is a trailer, behind a chunked body.
        if name in _KNOWN_HEADERS and not request.method:
            headers = request.headers
            headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value

    def on_headers_complete(self) -> None:
        self._silent_bytes = 0
        request = self._request
        if request is None:
            return
        parser, headers = self._parser, request.headers
        request.method = parser.get_method()
        request.keep_alive = parser.should_keep_alive() and request.method != b"CONNECT"
        version = parser.get_http_version()
        if version != "1.1":
            request.http_1_0 = True
            if version != "1.0":
                self.refuse(505, "UNSUPPORTED", "this server speaks HTTP/1.1 and HTTP/1.0")
                return
        elif b"," in headers.get(b"host", b","):
            self.refuse(400, "MALFORMED_REQUEST", "an HTTP/1.1 request has exactly one Host header")
            return
        if len(headers) > 1:
            self._check_body_headers(request)

    def _check_body_headers(self, request: Request) -> None:
        headers = request.headers
        coding = headers.get(b"transfer-encoding")
        if coding is not None and (coding.strip().lower() != b"chunked" or request.http_1_0):
            self.refuse(501, "UNSUPPORTED", "the only transfer coding supported is chunked, in HTTP/1.1")
            return
        length = int(headers.get(b"content-length", b"0"))  # digits: the parser has seen to it
        if length > self._body_limit_bytes:
            self._refuse_body()
            return
        if b"upgrade" in headers and self._parser.should_upgrade():
            if coding is not None:
                self.refuse(501, "UNSUPPORTED", "an upgrade with a chunked body is not supported")
                return
            self._upgrade_body_bytes = length
        expect = headers.get(b"expect")
        if expect is not None:
            if expect.strip().lower() != b"100-continue":
                self.refuse(417, "EXPECTATION_FAILED", "the only expectation supported is 100-continue")
            else:
                self.continue_due = not request.http_1_0

    def on_body(self, data: bytes) -> None:
        self._silent_bytes = 0
        if self._request is None:
            return
        self._body.append(data)
        self._body_bytes += len(data)
        self._budget.used_bytes += len(data)
        if self._body_bytes > self._body_limit_bytes:
            self._refuse_body()
        elif self._budget.used_bytes > self._budget.limit_bytes:
            self.refuse(429, "OVERLOADED", "too many bytes are on their way in; nothing was done", headers=RETRY_AFTER)

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or self._upgrade_body_bytes:
            return
        self._complete(request)

    # -- the rest ----------------------------------------------------------------------------------------------------

    def _refuse_body(self) -> None:
        self.refuse(413, "VALUE_TOO_LARGE", f"a request's body has at most {self._body_limit_bytes} bytes")

    def _feed_upgrade_body(self, data: bytes | memoryview) -> bytes | memoryview:
        """Take the body of a request whose upgrade was declined. Returns what follows it."""
        part = bytes(data[: self._upgrade_body_bytes])
        self._upgrade_body_bytes -= len(part)
        self.on_body(part)
        if not self._upgrade_body_bytes and self._request is not None:
            self._complete(self._request)
        return data[len(part) :]

    def _take_body(self) -> bytes:
        body = self._body
        if not body:
            return b""
        self._budget.used_bytes -= self._body_bytes
        self._body = []
        self._body_bytes = 0
        return body[0] if len(body) == 1 else b"".join(body)

    def _complete(self, request: Request) -> None:
        self._request = None
        self.continue_due = False
        request.body = self._take_body()
        target = request.target
        if not target.startswith(b"/"):
            target = _origin_form(target)
        request.path, _, request.query = target.partition(b"?")
        if b"#" in target:
            request.failure = HttpError(400, "MALFORMED_REQUEST", "a '#' in a path has to be written as %23")
        if not request.keep_alive:
            self.deaf = True
        self._connection.asked(request)


def _origin_form(target: bytes) -> bytes:
    """The path and query of an absolute-form target (RFC 9112, section 3.2.2); other forms as they are."""
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        return target
    _, slash, path = rest.partition(b"/")
    return slash + path if slash else b"/"
