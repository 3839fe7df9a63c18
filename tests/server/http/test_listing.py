"""`GET /kv`: pages, cursors and streams."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv._core.codes import Status
from fastkv.config import Limits
from fastkv.server.http.listing import Range, decode_cursor, prefix_end
from tests.server.http.harness import Face, receive_all

NDJSON = {"Accept": "application/x-ndjson"}


def fill(face: Face, count: int, value: bytes = b"v") -> list[str]:
    names = [f"k{number:05}" for number in range(count)]

    def put_all() -> None:
        for name in names:
            face.service.write(1, len(name).to_bytes(2, "little") + b"\0\0" + name.encode() + value, lambda *_: None)
        face.service.asked.clear()

    face.call(put_all)
    return names


def asked(face: Face) -> tuple[bytes, bytes, bool, bool, int, int]:
    operation, details = face.service.asked[-1]
    assert operation == "scan"
    seen: tuple[bytes, bytes, bool, bool, int, int] = details
    return seen


def test_a_page(face: Face) -> None:
    face.request("PUT", "/kv/b", b"2")
    face.request("PUT", "/kv/a", b"1")
    face.request("PUT", "/kv/b", b"\xff")
    answer = face.request("GET", "/kv")
    assert answer.status == 200
    assert answer.json == {
        "items": [
            {"key": "a", "value": "1", "revision": 2, "version": 1},
            {"key": "b", "value_base64": "/w==", "revision": 3, "version": 2},
        ],
        "count": 2,
        "cursor": None,
        "revision": 3,
    }


def test_nothing(face: Face) -> None:
    assert face.request("GET", "/kv").json == {"items": [], "count": 0, "cursor": None, "revision": 0}


def test_keys_only_leaves_the_values_out(face: Face) -> None:
    face.request("PUT", "/kv/a", b"1")
    assert face.request("GET", "/kv?keys_only=true").json["items"] == [{"key": "a", "revision": 1, "version": 1}]


@pytest.mark.parametrize(
    ("query", "start", "end", "reverse", "keys_only", "consistency", "limit"),
    [
        ("", b"", b"", False, False, 0, 1000),
        ("?prefix=&start=&end=&limit=&reverse=&keys_only=&cursor=", b"", b"", False, False, 0, 1000),
        ("?prefix=user:", b"user:", b"user;", False, False, 0, 1000),
        ("?prefix=%FF", b"\xff", b"", False, False, 0, 1000),
        ("?prefix=a%FF%FF", b"a\xff\xff", b"b", False, False, 0, 1000),
        ("?start=b&end=d", b"b", b"d", False, False, 0, 1000),
        ("?prefix=a&start=ab&end=z", b"ab", b"b", False, False, 0, 1000),
        ("?prefix=a&start=A&end=ac", b"a", b"ac", False, False, 0, 1000),
        ("?prefix=%FF&end=%FF%01", b"\xff", b"\xff\x01", False, False, 0, 1000),
        ("?start=a+b%2Bc", b"a b+c", b"", False, False, 0, 1000),
        ("?limit=7&reverse=1&keys_only=1", b"", b"", True, True, 0, 7),
        ("?reverse&keys_only", b"", b"", True, True, 0, 1000),
        ("?reverse=false&keys_only=0&consistency=stale", b"", b"", False, False, 2, 1000),
        ("?limit=5000", b"", b"", False, False, 0, 1000),
        ("?consistency=lease&&", b"", b"", False, False, 1, 1000),
    ],
)
def test_parameters_reach_the_node(
    face: Face, query: str, start: bytes, end: bytes, reverse: bool, keys_only: bool, consistency: int, limit: int
) -> None:
    assert face.request("GET", f"/kv{query}").status == 200
    assert asked(face) == (start, end, reverse, keys_only, consistency, limit)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=4294967296",
        "limit",
        "reverse=maybe",
        "keys_only=2",
        "consistency=eventual",
        "cursor=nonsense!",
        "cursor=AAAA",
        "cursor=AQAAAAAAAAEAAAAAAAAAag!",
        "cursor",
        "prefix",
        "foo=bar",
        "limit=1&limit=2",
        "prefix=%",
        "%ff=1",
    ],
)
@pytest.mark.parametrize("headers", [{}, NDJSON])
def test_a_bad_parameter(face: Face, query: str, headers: dict[str, str]) -> None:
    answer = face.request("GET", f"/kv?{query}", headers=headers)
    assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMETER")
    assert face.service.asked == []


def walk(face: Face, query: str, following: Callable[[str], str]) -> list[str]:
    """Every key, page by page; `following` makes the query of a cursor."""
    keys: list[str] = []
    while True:
        page = face.request("GET", f"/kv?{query}").json
        assert page["count"] == len(page["items"])
        keys += [item["key"] for item in page["items"]]
        if page["cursor"] is None:
            return keys
        query = following(page["cursor"])


@pytest.mark.parametrize("direction", ["", "&reverse=true"])
def test_pages_follow_each_other(face: Face, direction: str) -> None:
    names = fill(face, 25)
    expected = names[::-1] if direction else names
    # The cursor is enough by itself, and what was asked may be repeated beside it.
    assert walk(face, f"prefix=k&limit=10{direction}", lambda cursor: f"limit=10&cursor={cursor}") == expected
    repeat = f"prefix=k&limit=10{direction}"
    assert walk(face, repeat, lambda cursor: f"{repeat}&cursor={cursor}") == expected
    assert asked(face)[:3] == (b"k", b"l", bool(direction))


def test_pages_show_one_snapshot(face: Face) -> None:
    fill(face, 4)
    first = face.request("GET", "/kv?limit=2").json
    face.request("DELETE", "/kv/k00003")
    face.request("PUT", "/kv/k00002x", b"late")
    second = face.request("GET", f"/kv?cursor={first['cursor']}").json
    assert [item["key"] for item in second["items"]] == ["k00002", "k00003"]


@pytest.mark.parametrize(
    "changed",
    [
        "prefix=x",
        "start=k00001",
        "end=k00003",
        "prefix=k&end=k00003",
        "reverse=true",
        "keys_only=1",
        "consistency=stale",
    ],
)
def test_a_cursor_cannot_be_turned_to_another_question(face: Face, changed: str) -> None:
    fill(face, 4)
    cursor = face.request("GET", "/kv?prefix=k&limit=2").json["cursor"]
    answer = face.request("GET", f"/kv?{changed}&cursor={cursor}")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMETER")


def test_a_cursor_whose_snapshot_is_gone(face: Face) -> None:
    fill(face, 4)
    cursor = face.request("GET", "/kv?limit=2").json["cursor"]
    assert quote(cursor, safe="") == cursor, "it goes into a URL as it is"
    face.service.snapshots.clear()
    for headers in ({}, NDJSON):
        answer = face.request("GET", f"/kv?cursor={cursor}", headers=headers)
        assert (answer.status, answer.json["code"]) == (410, "CURSOR_EXPIRED")


@given(
    start=st.binary(max_size=20),
    end=st.binary(max_size=20),
    cursor=st.binary(min_size=1, max_size=40),
    flags=st.tuples(st.booleans(), st.booleans()),
    consistency=st.integers(0, 2),
)
def test_cursors_round_trip(
    start: bytes, end: bytes, cursor: bytes, flags: tuple[bool, bool], consistency: int
) -> None:
    asked = Range(start, end, *flags, consistency)
    assert decode_cursor(asked.encode_cursor(cursor).encode()) == (asked, cursor)


@given(text=st.one_of(st.binary(), st.binary().map(lambda data: data.hex().encode())))
def test_any_bytes_are_a_cursor_or_a_value_error(text: bytes) -> None:
    try:
        known, cursor = decode_cursor(text)
    except ValueError:
        return
    assert cursor
    assert known.encode_cursor(cursor).encode() == text


@given(prefix=st.binary(max_size=4), key=st.binary(max_size=6))
def test_prefix_end(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (not end or key < end))


@pytest.mark.parametrize("status", [Status.NO_LEADER, Status.TIMEOUT, Status.OVERLOADED])
@pytest.mark.parametrize("headers", [{}, NDJSON])
def test_what_the_node_refuses(face: Face, status: int, headers: dict[str, str]) -> None:
    face.service.forced.append((status, 0, 0, b"said by the node"))
    answer = face.request("GET", "/kv", headers=headers)
    assert answer.status in (429, 503)
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["code"] == Status(status).name


# -- streams ----------------------------------------------------------------------------------------------------------


def lines(content: bytes) -> list[Any]:
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("count", [0, 1, 256, 257, 1500])
def test_a_stream_is_all_of_it(face: Face, count: int) -> None:
    names = fill(face, count)
    answer = face.request("GET", "/kv", headers=NDJSON)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert [line["key"] for line in lines(answer.content)] == names
    assert len(face.service.asked) == max(1, -(-count // 256))


def test_a_stream_takes_the_same_parameters(face: Face) -> None:
    names = fill(face, 600)
    answer = face.request("GET", "/kv?limit=300&reverse=1&keys_only=1&start=k00100", headers=NDJSON)
    assert [line["key"] for line in lines(answer.content)] == names[:299:-1]
    assert set(lines(answer.content)[0]) == {"key", "revision", "version"}
    cursor = face.request("GET", "/kv?limit=590").json["cursor"]
    rest = face.request("GET", f"/kv?cursor={cursor}", headers=NDJSON)
    assert [line["key"] for line in lines(rest.content)] == names[590:]


def test_a_stream_keeps_its_place_in_a_pipeline(face: Face) -> None:
    names = fill(face, 600)
    one = b"GET /kv HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n"
    received = face.raw(
        b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" + one + one + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    heads = [part for part in received.split(b"HTTP/1.1 ") if part]
    assert [b"chunked" in part for part in heads] == [False, True, True, False]
    for part in heads[1:3]:
        assert part.endswith(b"0\r\n\r\n")
        assert part.count(b'"key"') == len(names)


def test_a_stream_for_http_1_0_ends_with_the_connection(face: Face) -> None:
    fill(face, 300)
    received = face.raw(
        b"GET /kv HTTP/1.0\r\nConnection: keep-alive\r\nAccept: application/x-ndjson\r\n\r\n", more=True
    )
    top, _, body = received.partition(b"\r\n\r\n")
    assert b"Connection: close" in top
    assert b"chunked" not in top
    assert len(lines(body)) == 300


def test_a_stream_that_breaks_has_no_proper_end(make_face: Any) -> None:
    face: Face = make_face(limits=Limits(scan_page_items=10))
    fill(face, 25)
    # After the first page, the snapshot is gone.
    original = face.service.scan

    def lose_the_snapshot(body: bytes, deliver: Any) -> None:
        if len(face.service.asked) == 1:
            face.service.snapshots.clear()
        original(body, deliver)

    face.service.scan = lose_the_snapshot  # type: ignore[method-assign]
    request = b"GET /kv HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n"
    received = face.raw(request + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", more=True)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.count(b"HTTP/1.1") == 1, "nothing follows on a connection that broke"
    assert not received.endswith(b"0\r\n\r\n")
    assert b'"code":"CURSOR_EXPIRED"' in received
    assert received.count(b'"key"') == 10


def test_a_stream_waits_for_a_client_that_does_not_read(make_face: Any) -> None:
    face: Face = make_face()
    fill(face, 4000, b"v" * 4000)
    with face.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        connection.sendall(b"GET /kv HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: application/x-ndjson\r\n\r\n")
        face.until(lambda: any(one.state.name == "STALLED" for one in face.server.connections))
        pages = len(face.service.asked)
        assert pages < 16, "the whole is 16 pages"
        # Other requests are served meanwhile, and the stalled stream asks for nothing more.
        assert face.request("GET", "/livez").status == 200
        assert len(face.service.asked) == pages
        received = receive_all(connection)
    assert received.endswith(b"0\r\n\r\n")
    assert received.count(b'"key"') == 4000


def test_a_client_that_leaves_ends_its_stream(make_face: Any) -> None:
    face: Face = make_face()
    fill(face, 4000, b"v" * 4000)
    with face.connect() as connection:
        connection.sendall(b"GET /kv HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n")
        face.until(lambda: any(one.state.name == "STALLED" for one in face.server.connections))
    face.until(lambda: not face.server.connections)
    assert len(face.service.asked) < 16
