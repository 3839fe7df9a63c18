"""What goes out: heads built by hand, JSON bodies with one trailing newline, and errors with a code and a status.

A head is put together from constants and integers only. No byte of a request ever reaches a header, so there is
nothing that a client could inject.
"""

from __future__ import annotations

from base64 import b64encode
from http import HTTPStatus
from typing import Any

import orjson

from fastkv.errors import error_for

JSON = b"application/json"
NDJSON = b"application/x-ndjson"
BYTES = b"application/octet-stream"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

RETRY_AFTER = b"Retry-After: 1\r\n"
NO_STORE = b"Cache-Control: no-store\r\n"

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_CONNECTION = {
    # (HTTP/1.0, keep the connection): what each version takes for granted needs no header.
    (False, True): b"",
    (False, False): b"Connection: close\r\n",
    (True, True): b"Connection: keep-alive\r\n",
    (True, False): b"Connection: close\r\n",
}

_HTTP_STATUS = {
    "PRECONDITION_FAILED": 412,
    "INVALID_KEY": 400,
    "KEY_TOO_LARGE": 413,
    "VALUE_TOO_LARGE": 413,
    "TOO_LARGE": 413,
    "INVALID_REQUEST": 400,
    "UNSUPPORTED": 501,
    "UNAUTHENTICATED": 401,
    "WRONG_CLUSTER": 409,
    "NO_LEADER": 503,
    "OVERLOADED": 429,
    "NO_SPACE": 507,
    "TIMEOUT": 503,
    "CURSOR_EXPIRED": 410,
    "OUTCOME_UNKNOWN": 504,
    "CHANGE_REFUSED": 409,
    "CORRUPT_STATE": 503,
}
"""The HTTP status of an error of `fastkv.errors`, by its code."""

_RETRY_LATER = frozenset({"NO_LEADER", "OVERLOADED", "TIMEOUT"})


class HttpError(Exception):
    """An answer other than the one asked for: an HTTP status, a stable code, and a text for a person.

    `members` are added to the JSON body, `headers` (whole lines, ending in CRLF) to the head.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        members: dict[str, Any] | None = None,
        headers: bytes = b"",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.members = members or {}
        self.headers = headers

    def body(self) -> bytes:
        """The error as JSON."""
        return json_body({"error": self.message, "code": self.code, **self.members})


def head(
    status: int,
    content_type: bytes,
    length: int | None,
    *,
    date: bytes,
    headers: bytes = b"",
    http_1_0: bool = False,
    keep_alive: bool = True,
) -> bytes:
    """A response's head, up to and with the empty line. `date` and `headers` are whole lines.

    `length` None stands for a body whose end is not known yet: chunked, or in HTTP/1.0 up to the connection's end.
    """
    if length is not None:
        framing = b"Content-Length: %d\r\n" % length
    else:
        framing = b"" if http_1_0 else b"Transfer-Encoding: chunked\r\n"
    return b"%bContent-Type: %b\r\n%b%b%b%b\r\n" % (
        _STATUS_LINES[status],
        content_type,
        framing,
        date,
        headers,
        _CONNECTION[http_1_0, keep_alive],
    )


def not_modified(revision: int, *, date: bytes, keep_alive: bool = True, http_1_0: bool = False) -> bytes:
    """The head of a 304: it has no body, and says nothing of one."""
    return b'%bETag: "%d"\r\n%b%b\r\n' % (_STATUS_LINES[304], revision, date, _CONNECTION[http_1_0, keep_alive])


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body. Never call it with nothing: an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def etag(revision: int) -> bytes:
    """The ETag line of a key's mod revision."""
    return b'ETag: "%d"\r\n' % revision


def json_body(value: object) -> bytes:
    """JSON in UTF-8 with one trailing newline."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def set_bytes(members: dict[str, Any], name: str, data: bytes) -> None:
    """Set a member to the text that `data` is, or, where it is not UTF-8, the member `<name>_base64`."""
    try:
        members[name] = data.decode()
    except UnicodeDecodeError:
        members[f"{name}_base64"] = b64encode(data).decode()


def error_from_status(status: int, payload: bytes, members: dict[str, Any] | None = None) -> HttpError:
    """The answer for a `Status` that says that a request failed; `payload` is the node's text for it, or nothing.

    The codes are those of `fastkv.errors`, so that both faces of a node and the client library say the same.
    """
    error = error_for(status, payload.decode(errors="replace"))
    return HttpError(
        _HTTP_STATUS.get(error.code, 500),
        error.code,
        str(error),
        members=members,
        headers=RETRY_AFTER if error.code in _RETRY_LATER else b"",
    )
