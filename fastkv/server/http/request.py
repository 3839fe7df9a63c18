"""One request, and the answer on its way back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastkv.server.http.responses import JSON, LAST_CHUNK, HttpError, chunk, head, json_body, not_modified

if TYPE_CHECKING:
    from fastkv.server.http.protocol import HttpProtocol

log = logging.getLogger(__name__)

Finish = Callable[["Request", int, int, int, bytes], None]
"""What a handler does with the node's answer: `finish(request, status, flags, revision, payload)`."""


class Request:
    """What was asked, and, while it waits for the node, what the handler needs for the answer.

    A handler answers with exactly one of `respond`, `respond_json`, `fail` and `not_modified`, or begins a
    stream with `start_stream`. It may do so at once, or pass `deliver` to the node and answer in `finish`.
    """

    __slots__ = (
        "body",
        "failure",
        "finish",
        "finished",
        "headers",
        "http_1_0",
        "keep_alive",
        "key",
        "method",
        "op",
        "output",
        "path",
        "produce",
        "protocol",
        "query",
        "started",
        "streaming",
        "target",
        "value",
    )

    def __init__(self, protocol: HttpProtocol, target: bytes) -> None:
        self.protocol = protocol
        self.method = b""
        self.target = target
        """The path and query as they came, still percent-encoded."""
        self.path = b""
        self.query = b""
        self.headers: dict[bytes, bytes] = {}
        """Only those that mean something here, by name in lower case; repeated ones are joined with a comma."""
        self.body = b""
        self.keep_alive = True
        self.http_1_0 = False
        self.failure: HttpError | None = None
        """Set by the connection where the request is refused before any handler may see it."""
        self.op = "other"
        """Which operation it counts as in the metrics."""
        self.started = 0.0
        self.key = b""
        self.value: str | bytes = b""
        self.finish: Finish | None = None
        self.output = b""
        """Bytes of the answer that wait for the answers before them."""
        self.finished = False
        self.streaming = False
        self.produce: Callable[[], None] | None = None
        """What makes the next part of a stream; called when the connection is ready for it."""

    # -- from the node -----------------------------------------------------------------------------------------------

    def deliver(self, status: int, flags: int, revision: int, payload: bytes) -> None:
        """The node's answer; a `service.Deliver`. A fault of the handler stays with this request."""
        finish = self.finish
        assert finish is not None, "the node answered a request twice"
        self.finish = None
        try:
            finish(self, status, flags, revision, payload)
        except Exception:
            self.broken()

    def broken(self) -> None:
        """Called in an `except` block: a fault of the server, which is logged.

        A read is answered 500. A write's connection is cut instead: the write may have been done, and no status that
        reads like a plain failure may say otherwise.
        """
        log.exception("a %s request failed", self.op)
        if self.protocol.server.tracing is not None:
            self.protocol.server.tracing.end(self, "INTERNAL_ERROR")
        if self.method in (b"GET", b"HEAD") and not self.finished and not self.streaming:
            self.keep_alive = False
            self.fail(HttpError(500, "INTERNAL_ERROR", "a fault of this server; its log says more"))
        else:
            self.protocol.abort()

    # -- to the client -----------------------------------------------------------------------------------------------

    def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: bytes = JSON,
        headers: bytes = b"",
        code: str = "OK",
    ) -> None:
        """Answer. `headers` are whole lines; `code` is what the answer counts as in the metrics."""
        top = head(
            status,
            content_type,
            len(body),
            date=self.protocol.server.date_line,
            headers=headers,
            http_1_0=self.http_1_0,
            keep_alive=self.keep_alive,
        )
        self._end(top if self.method == b"HEAD" else top + body, code)

    def respond_json(self, status: int, value: object, *, headers: bytes = b"", code: str = "OK") -> None:
        """Answer with JSON."""
        self.respond(status, json_body(value), headers=headers, code=code)

    def fail(self, error: HttpError) -> None:
        """Answer with an error."""
        self.respond(error.status, error.body(), headers=error.headers, code=error.code)

    def not_modified(self, revision: int) -> None:
        """Answer that the client's copy is the current one."""
        date = self.protocol.server.date_line
        self._end(not_modified(revision, date=date, keep_alive=self.keep_alive, http_1_0=self.http_1_0), "NOT_MODIFIED")

    def _end(self, data: bytes, code: str) -> None:
        assert not self.finished, "a request was answered twice"
        self.output += data
        self.finished = True
        server = self.protocol.server
        server.requests.observe(self.op, code, time.perf_counter() - self.started)
        if server.tracing is not None:
            server.tracing.end(self, code)
        self.protocol.answered(self)

    # -- streams -----------------------------------------------------------------------------------------------------

    def start_stream(self, content_type: bytes) -> None:
        """Begin an answer of unknown length: `send` and, last, `end_stream` or `break_stream` follow."""
        if self.http_1_0:
            self.keep_alive = False  # only the end of the connection can end the body
        self.streaming = True
        self.output = head(
            200,
            content_type,
            None,
            date=self.protocol.server.date_line,
            http_1_0=self.http_1_0,
            keep_alive=self.keep_alive,
        )

    def send(self, data: bytes, then: Callable[[], None]) -> None:
        """The next part of the stream. `then` is called once the connection is ready for more."""
        self.output += self._framed(data)
        self.produce = then
        self.protocol.answered(self)

    def end_stream(self, data: bytes = b"") -> None:
        """The last part of the stream, which may be nothing."""
        self._end(self._framed(data) + (b"" if self.http_1_0 else LAST_CHUNK), "OK")

    def break_stream(self, error: HttpError) -> None:
        """End the stream in the middle: the error as its last line, and no proper end, lest it be taken as whole."""
        self.keep_alive = False
        self._end(self._framed(error.body()), error.code)

    def _framed(self, data: bytes) -> bytes:
        return data if self.http_1_0 or not data else chunk(data)
