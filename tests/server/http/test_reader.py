"""The reader alone, without sockets: what is a request, what is refused, and that no way of cutting it matters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv.server.http.reader import HEAD_LIMIT_BYTES, Budget, RequestReader
from fastkv.server.http.request import Request

BODY_LIMIT_BYTES = 1000


class Connection:
    """Takes what a reader hands over."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.budget = Budget(100_000)
        self.reader = RequestReader(self, body_limit_bytes=BODY_LIMIT_BYTES, budget=self.budget)  # type: ignore[arg-type]

    def asked(self, request: Request) -> None:
        self.requests.append(request)

    def begun(self) -> None:
        pass

    @property
    def seen(self) -> list[Any]:
        return [
            (one.method, one.path, one.query, one.body, one.headers, one.keep_alive, one.failure and one.failure.code)
            for one in self.requests
        ]


def read(*parts: bytes) -> Connection:
    connection = Connection()
    for part in parts:
        connection.reader.feed(part)
    return connection


PIPELINE = (
    b'PUT /kv/a?if_revision=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nIf-Match: "1"\r\nX-Other: y\r\n\r\nhello'
    b"\r\nGET /kv/b HTTP/1.1\r\nhOsT: x\r\nACCEPT: application/json\r\naccept: text/html\r\n\r\n"
    b"PUT /kv/c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: Accept\r\n\r\n"
    b"3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nAccept: trailing\r\nContent-Type: x\r\n\r\n"
    b"PUT /kv/d HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 7\r\n\r\nupgrade"
    b"DELETE http://other/kv/e?x HTTP/1.1\r\nHost: x\r\n\r\n"
    b"GET / HTTP/1.0\r\n\r\n"
    b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n"
)
EXPECTED = [
    (b"PUT", b"/kv/a", b"if_revision=1", b"hello"),
    (b"GET", b"/kv/b", b"", b""),
    (b"PUT", b"/kv/c", b"", b"abc0123456789"),
    (b"PUT", b"/kv/d", b"", b"upgrade"),
    (b"DELETE", b"/kv/e", b"x", b""),
    (b"GET", b"/", b"", b""),
]


def test_a_pipeline() -> None:
    connection = read(PIPELINE)
    assert [one[:4] for one in connection.seen] == EXPECTED
    assert connection.requests[0].headers == {b"host": b"x", b"content-length": b"5", b"if-match": b'"1"'}
    assert connection.requests[1].headers[b"accept"] == b"application/json, text/html"
    assert b"accept" not in connection.requests[2].headers, "a trailer is no header"
    assert [one.http_1_0 for one in connection.requests] == [False] * 5 + [True]
    assert [one.keep_alive for one in connection.requests] == [True] * 5 + [False]
    assert connection.reader.deaf
    assert not connection.reader.refused
    assert connection.budget.used_bytes == 0


def test_one_byte_at_a_time() -> None:
    assert read(*(PIPELINE[at : at + 1] for at in range(len(PIPELINE)))).seen == read(PIPELINE).seen


@pytest.mark.parametrize("at", range(1, len(PIPELINE)))
def test_cut_anywhere(at: int) -> None:
    assert read(PIPELINE[:at], PIPELINE[at:]).seen == read(PIPELINE).seen


@given(cuts=st.sets(st.integers(1, len(PIPELINE) - 1)))
def test_cut_everywhere(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(PIPELINE)]
    parts = [PIPELINE[start:end] for start, end in pairwise(edges)]
    assert read(*parts).seen == read(PIPELINE).seen


def head(*lines: bytes) -> bytes:
    return b"\r\n".join((b"PUT /kv/a HTTP/1.1", *lines, b"", b""))


HOST = b"Host: x"


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "MALFORMED_REQUEST"),  # TLS to a clear-text port
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /\r\n\r\n", 505, "UNSUPPORTED"),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "UNSUPPORTED"),
        (b"GET / HTTP/1.7\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET / FTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /\xd0\xba HTTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET /a#b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400, "MALFORMED_REQUEST"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400, "MALFORMED_REQUEST"),
        (head(HOST, b" folded: x"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Na me: x"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"X: a\x00b"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"X: a\rb"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: 1", b"Content-Length: 1"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: 1", b"Content-Length: 2"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: 1, 1"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: +1"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: 0x1"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: -1"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length:"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: 99999999999999999999"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Content-Length: 1", b"Transfer-Encoding: chunked"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: chunked", b"Content-Length: 1"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: gzip, chunked"), 501, "UNSUPPORTED"),
        (head(HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: gzip"), 501, "UNSUPPORTED"),
        (head(HOST, b"Transfer-Encoding: chunked, identity"), 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: xchunked"), 501, "UNSUPPORTED"),
        (head(HOST, b"Transfer-Encoding: chunked").replace(b"1.1", b"1.0"), 501, "UNSUPPORTED"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"nothex\r\n", 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"-1\r\n", 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"ffffffffffffffffff\r\n", 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"1\r\nabc\r\n", 400, "MALFORMED_REQUEST"),
        (head(HOST, b"Transfer-Encoding: chunked", b"Connection: upgrade", b"Upgrade: h2c"), 501, "UNSUPPORTED"),
        (head(HOST, b"Content-Length: 1001"), 413, "VALUE_TOO_LARGE"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"3e9\r\n" + b"v" * 1001, 413, "VALUE_TOO_LARGE"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"1\r\nv\r\n" * 1001, 413, "VALUE_TOO_LARGE"),
        (head(HOST, b"Content-Length: 1", b"Expect: 200-ok"), 417, "EXPECTATION_FAILED"),
        (b"GET /" + b"a" * HEAD_LIMIT_BYTES, 431, "HEADERS_TOO_LARGE"),
        (head(HOST, b"X: " + b"a" * HEAD_LIMIT_BYTES), 431, "HEADERS_TOO_LARGE"),
        (head(HOST, *[b"X: y"] * 3000), 431, "HEADERS_TOO_LARGE"),
        (head(HOST)[:-2] + b"X: " + b"a" * 40_000, 431, "HEADERS_TOO_LARGE"),
        (head(HOST)[:-2] + b"X" * 40_000, 431, "HEADERS_TOO_LARGE"),
        (b"\r\n" * 20_000, 431, "HEADERS_TOO_LARGE"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"0\r\n" + b"X: y\r\n" * 3000, 431, "HEADERS_TOO_LARGE"),
        (head(HOST, b"Transfer-Encoding: chunked") + b"1;" + b"x" * 40_000, 431, "HEADERS_TOO_LARGE"),
    ],
)
@pytest.mark.parametrize("step", [1 << 20, 1000, 1])
def test_refused(data: bytes, status: int, code: str, step: int) -> None:
    good = b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n"
    connection = Connection()
    fed = good + data
    for at in range(0, len(fed), step):
        connection.reader.feed(fed[at : at + step])
    first, refused = connection.requests
    assert (first.path, first.failure) == (b"/good", None)
    assert refused.failure is not None
    assert (refused.failure.status, refused.failure.code) == (status, code)
    assert not refused.keep_alive or code == "MALFORMED_REQUEST"
    assert connection.budget.used_bytes == 0
    connection.reader.feed(good)
    assert len(connection.requests) == (2 if connection.reader.deaf else 3)


PIECES = [PIPELINE, b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n", b"0\r\n"]


@given(st.lists(st.one_of(st.binary(), st.sampled_from(PIECES))))
def test_no_bytes_break_it(parts: list[bytes]) -> None:
    connection = read(*parts)
    assert all(one.failure is None for one in connection.requests[:-1])
    assert connection.reader.deaf or not connection.reader.refused
    connection.reader.stop()
    assert connection.budget.used_bytes == 0


def test_connect_is_an_ordinary_request_and_the_last() -> None:
    connection = read(b"CONNECT example.org:80 HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
    (only,) = connection.requests
    assert (only.method, only.path, only.keep_alive) == (b"CONNECT", b"example.org:80", False)
