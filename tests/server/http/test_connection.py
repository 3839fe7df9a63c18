"""A connection: order, keep-alive, upgrades, backpressure, and limits of size and number."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from email.utils import parsedate_to_datetime

import pytest

from fastkv.config import Limits
from fastkv.server.http import protocol, server
from fastkv.server.http.protocol import State
from tests.server.http.harness import MakeFace, get, put, read_response, receive_all, release, split_responses

# -- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
def test_pipelined_answers_keep_the_order_of_the_requests(make_face: MakeFace, backwards: bool) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(b"".join(get(f"/kv/{name}") for name in "abcdefgh"))
        face.until(lambda: len(face.service.held) == 8)
        release(face, backwards=backwards)
        bodies = [read_response(connection)[1] for _ in range(8)]
    assert [body.split(b'"key":"')[1][:1] for body in bodies] == [b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"]


def test_an_answer_at_hand_waits_for_the_one_before_it(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(get("/kv/a") + get("/livez") + put("/kv/b", b"v") + get("/nowhere") + get("/kv/%"))
        face.until(lambda: len(face.service.held) == 2)
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(10)
        release(face, backwards=True)
        statuses = [read_response(connection)[0].split()[1] for _ in range(5)]
    assert statuses == [b"404", b"200", b"201", b"404", b"400"]


def test_answers_of_one_turn_leave_together(make_face: MakeFace, monkeypatch: pytest.MonkeyPatch) -> None:
    face = make_face()
    face.service.hold = True
    written: list[bytes] = []
    write = protocol.HttpProtocol._write

    def spy(self: protocol.HttpProtocol, transport: asyncio.Transport) -> None:
        if self._output:
            written.append(b"".join(self._output))
        write(self, transport)

    monkeypatch.setattr(protocol.HttpProtocol, "_write", spy)
    with face.connect() as connection:
        connection.sendall(get("/kv/a") * 16)
        face.until(lambda: len(face.service.held) == 16)
        release(face)
        for _ in range(16):
            read_response(connection)
    assert [len(split_responses(data)) for data in written] == [16]


def test_a_long_pipeline_is_worked_off_in_parts(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    total, served = 1000, 0
    with face.connect() as connection:
        connection.sendall(b"".join(get(f"/kv/{number}") for number in range(total)))
        while served < total:
            expected = min(protocol.MAX_DISPATCHED, total - served)
            face.until(lambda expected=expected: len(face.service.held) == expected)  # type: ignore[misc]
            assert len(face.service.asked) == served + expected, "no more than that many at once"
            served += release(face)
        connection.shutdown(socket.SHUT_WR)
        responses = split_responses(receive_all(connection))
    assert [body.split(b'"key":"')[1].split(b'"')[0] for _, body in responses] == [b"%d" % n for n in range(total)]


def test_a_client_that_does_not_read_is_not_read(make_face: MakeFace) -> None:
    face = make_face()
    face.request("PUT", "/kv/a", b"v" * 100_000)
    face.service.asked.clear()
    with face.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        connection.settimeout(0.2)
        burst = memoryview(get("/kv/a") * 1_000_000)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < len(burst):
                sent += connection.send(burst[sent:])
        assert sent < len(burst)
        (stalled,) = face.server.connections
        assert stalled.state is State.STALLED
        assert stalled.pending < 16 * 1024, "what one read held, and not all of it"
        asked = len(face.service.asked)
        assert asked < 200
        connection.settimeout(10)
        for _ in range(asked + 10):
            assert len(read_response(connection)[1]) > 100_000
        assert len(face.service.asked) > asked, "it goes on once the client reads"


# -- keeping and closing ----------------------------------------------------------------------------------------------


def test_a_connection_is_kept(make_face: MakeFace) -> None:
    face = make_face()
    connection = http.client.HTTPConnection("127.0.0.1", face.port, timeout=60)
    for number in range(20):
        connection.request("PUT", "/kv/a", b"v")
        response = connection.getresponse()
        assert response.status == (200 if number else 201)
        assert response.headers.get("Connection") is None
        response.read()
    assert len(face.server.connections) == 1
    connection.close()
    face.until(lambda: not face.server.connections)


@pytest.mark.parametrize(
    ("request_bytes", "header", "closed"),
    [
        (get("/livez"), None, False),
        (get("/livez", "Connection: close"), b"Connection: close", True),
        (get("/livez", "Connection: Keep-Alive, Close"), b"Connection: close", True),
        (get("/livez", version="1.0"), b"Connection: close", True),
        (get("/livez", "Connection: keep-alive", version="1.0"), b"Connection: keep-alive", False),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"Connection: close", True),
    ],
)
def test_who_closes(make_face: MakeFace, request_bytes: bytes, header: bytes | None, closed: bool) -> None:
    face = make_face()
    with face.connect() as connection:
        connection.sendall(request_bytes)
        top, body = read_response(connection)
        assert body == b'{"status":"ok"}\n'
        lines = [line for line in top.split(b"\r\n") if line.startswith(b"Connection")]
        assert lines == ([header] if header else [])
        if closed:
            assert connection.recv(1) == b""
        else:
            connection.sendall(request_bytes)
            assert read_response(connection)[1] == body


def test_nothing_is_answered_behind_a_close(make_face: MakeFace) -> None:
    face = make_face()
    received = face.raw(get("/livez") + get("/livez", "Connection: close") + put("/kv/a", b"v"), more=True)
    assert [status for status, _ in split_responses(received)] == [200, 200]
    assert face.service.asked == []


def test_a_half_closed_client_still_gets_its_answers(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(get("/kv/a") + put("/kv/b", b"v") + b"GET /kv/c HTTP/1.1\r\nHo")
        connection.shutdown(socket.SHUT_WR)
        face.until(lambda: len(face.service.held) == 2)
        release(face)
        responses = split_responses(receive_all(connection))
    assert [status for status, _ in responses] == [404, 201]
    assert len(face.service.asked) == 2


def test_an_answer_for_a_client_that_has_gone(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(get("/kv/a") + put("/kv/b", b"v"))
        face.until(lambda: len(face.service.held) == 2)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    face.until(lambda: not face.server.connections)
    assert release(face) == 2
    face.service.hold = False
    assert face.request("GET", "/kv/b").status == 200


def test_the_node_answers_once(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(get("/kv/a"))
        face.until(lambda: len(face.service.held) == 1)
        face.call(face.service.held[0])
        with pytest.raises(AssertionError, match="twice"):
            face.call(face.service.held[0])


def test_every_answer_has_a_date(make_face: MakeFace) -> None:
    answer = make_face().request("GET", "/livez")
    assert abs(parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()) < 5


def test_nothing_of_a_request_reaches_a_header(make_face: MakeFace) -> None:
    face = make_face()
    for method, path, body in [
        ("PUT", "/kv/a%0d%0aX-Evil:%201", b"v"),
        ("PUT", "/kv/a", b"v\r\nX-Evil: 1"),
        ("GET", "/kv/a%0d%0aX-Evil:%201", None),
        ("GET", "/kv/a?x%0d%0aX-Evil:%201=1", None),
        ("GET", "/no%0d%0aX-Evil:%201", None),
        ("GET", "/kv?prefix=a%0d%0aX-Evil:%201", None),
    ]:
        answer = face.request(method, path, body)
        assert "X-Evil" not in answer.headers
        assert answer.headers["Content-Type"] == "application/json"
        assert b"\r" not in answer.content


# -- expectations and upgrades ----------------------------------------------------------------------------------------


def test_expect_100_continue(make_face: MakeFace) -> None:
    face = make_face()
    with face.connect() as connection:
        connection.sendall(b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert read_response(connection)[0] == b"HTTP/1.1 100 Continue"
        connection.sendall(b"hello")
        assert read_response(connection)[0].startswith(b"HTTP/1.1 201 ")
        # A client that does not wait for it needs none.
        connection.sendall(put("/kv/a", b"again", "Expect: 100-Continue"))
        assert read_response(connection)[0].startswith(b"HTTP/1.1 200 ")
    assert face.service.data[b"a"].value == b"again"


def test_a_continue_waits_for_the_answers_before_it(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(
            get("/kv/a") + b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"
        )
        face.until(lambda: len(face.service.held) == 1)
        release(face)
        assert read_response(connection)[0].startswith(b"HTTP/1.1 404")
        assert read_response(connection)[0].startswith(b"HTTP/1.1 100")
        connection.sendall(b"v")
        face.until(lambda: len(face.service.held) == 1)
        release(face)
        assert read_response(connection)[0].startswith(b"HTTP/1.1 201")


def test_a_body_that_is_too_large_is_not_asked_for(make_face: MakeFace) -> None:
    face = make_face(limits=Limits(http_body_bytes=1024))
    with face.connect() as connection:
        connection.sendall(b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\nExpect: 100-continue\r\n\r\n")
        top, body = read_response(connection)
        assert top.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in top
        assert b'"code":"VALUE_TOO_LARGE"' in body
        assert connection.recv(1) == b""


def test_an_upgrade_is_declined_by_answering(make_face: MakeFace) -> None:
    face = make_face()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
    received = face.raw(put("/kv/a", b"body", *offer) + get("/kv/a", *offer) + get("/kv/a"))
    assert [status for status, _ in split_responses(received)] == [201, 200, 200]
    assert face.service.data[b"a"].value == b"body"


def test_an_upgrade_whose_body_comes_later(make_face: MakeFace) -> None:
    face = make_face()
    whole = put("/kv/a", b"body", "Connection: Upgrade", "Upgrade: h2c") + get("/kv/a")
    with face.connect() as connection:
        for start in range(len(whole)):
            connection.sendall(whole[start : start + 1])
        assert read_response(connection)[0].startswith(b"HTTP/1.1 201")
        assert b'"value":"body"' in read_response(connection)[1]


# -- limits of size and number ----------------------------------------------------------------------------------------


def test_an_answer_is_read_even_while_the_client_still_sends(make_face: MakeFace) -> None:
    face = make_face(limits=Limits(http_body_bytes=1024))
    for top in (b"Content-Length: 30000000", b"Transfer-Encoding: chunked"):
        with face.connect() as connection:
            connection.sendall(b"PUT /kv/a HTTP/1.1\r\nHost: x\r\n" + top + b"\r\n\r\n")
            for _ in range(300):
                connection.sendall(b"2710\r\n" + b"v" * 10_000 + b"\r\n")
            connection.shutdown(socket.SHUT_WR)
            ((status, body),) = split_responses(receive_all(connection))
        assert status == 413
        assert b"1024" in body
    assert face.service.asked == []


def test_bodies_on_their_way_in_are_bounded_together(make_face: MakeFace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODIES_LIMIT_BYTES", 3000)
    face = make_face()
    unfinished = b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + b"v" * 1999
    with face.connect() as first, face.connect() as second:
        first.sendall(unfinished)
        face.until(lambda: face.server.body_budget.used_bytes == 1999)
        second.sendall(unfinished)
        top, body = read_response(second)
        assert top.startswith(b"HTTP/1.1 429 ")
        assert b"Retry-After: 1" in top
        assert b'"code":"OVERLOADED"' in body
        assert face.server.body_budget.used_bytes == 1999
        first.sendall(b"v")
        assert read_response(first)[0].startswith(b"HTTP/1.1 201 ")
        assert face.server.body_budget.used_bytes == 0
        first.sendall(unfinished)
        face.until(lambda: face.server.body_budget.used_bytes == 1999)
    face.until(lambda: face.server.body_budget.used_bytes == 0)


def test_connections_are_bounded(make_face: MakeFace) -> None:
    face = make_face(limits=Limits(connections=8))
    open_ones = [face.connect() for _ in range(8)]
    face.until(lambda: len(face.server.connections) == 8)
    with face.connect() as refused:
        ((status, body),) = split_responses(receive_all(refused))
    assert status == 429
    assert b'"code":"OVERLOADED"' in body
    open_ones.pop().close()
    face.until(lambda: len(face.server.connections) == 7)
    assert face.request("GET", "/livez").status == 200
    for connection in open_ones:
        connection.close()
