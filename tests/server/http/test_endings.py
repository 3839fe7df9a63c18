"""How connections end: by a time limit, and with the server."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from fastkv.server.http import server
from fastkv.server.http.protocol import State
from tests.server.http.harness import MakeFace, get, put, read_response, receive_all, release, split_responses

# -- limits of time ---------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a server whose clock ticks fast and whose patience is short."""
    monkeypatch.setattr(server, "TICK_S", 0.01)
    return {"time_limits_s": dict.fromkeys((State.IDLE, State.RECEIVING, State.STALLED, State.LINGERING), 0.25)}


def test_an_idle_connection_is_closed(make_face: MakeFace, quick: dict[str, Any]) -> None:
    face = make_face(**quick)
    with face.connect() as silent, face.connect() as used:
        used.sendall(get("/livez"))
        read_response(used)
        assert silent.recv(1) == b""
        assert used.recv(1) == b""


@pytest.mark.parametrize(
    "start", [b"GET /kv/a HTTP/1.1\r\nHost: x\r\nX-Slow: 1", put("/kv/a", b"v" * 100)[:-50], get("/livez") + b"PUT /"]
)
def test_a_request_that_trickles_is_answered_408(make_face: MakeFace, quick: dict[str, Any], start: bytes) -> None:
    face = make_face(**quick)
    with face.connect() as connection:
        connection.sendall(start)
        if start.startswith(get("/livez")):
            read_response(connection)
        began = time.monotonic()
        # One byte at a time does not keep it alive.
        connection.settimeout(0.01)
        top = b""
        while b"\r\n\r\n" not in top:
            assert time.monotonic() - began < 50
            try:
                top += connection.recv(65536)
            except TimeoutError:
                connection.sendall(b"x")
    assert top.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in top


def test_a_request_that_waits_for_the_node_is_not_cut(make_face: MakeFace, quick: dict[str, Any]) -> None:
    face = make_face(**quick)
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(get("/kv/a"))
        face.until(lambda: len(face.service.held) == 1)
        began = face.server.now
        face.until(lambda: face.server.now > began + 0.6)
        release(face)
        assert read_response(connection)[0].startswith(b"HTTP/1.1 404 ")


def test_a_client_that_never_reads_is_cut(make_face: MakeFace, quick: dict[str, Any]) -> None:
    face = make_face(**quick)
    face.request("PUT", "/kv/a", b"v" * 1_000_000)
    with face.connect() as connection:
        connection.sendall(get("/kv/a") * 16)
        face.until(lambda: len(face.server.connections) == 1)
        face.until(lambda: not face.server.connections)


def test_a_refused_client_that_does_not_hang_up_is_cut(make_face: MakeFace, quick: dict[str, Any]) -> None:
    face = make_face(**quick)
    with face.connect() as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        read_response(connection)
        assert connection.recv(1) == b"", "our half is closed at once"
        face.until(lambda: not face.server.connections)


# -- closing the server -----------------------------------------------------------------------------------------------


def test_close_lets_due_answers_out(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as idle, face.connect() as busy:
        busy.sendall(get("/kv/a") + get("/kv/b") + b"GET /kv/c HT")
        face.until(lambda: len(face.service.held) == 2)
        face.loop.call_soon_threadsafe(lambda: face.loop.create_task(face.server.close(grace_s=10)))
        assert idle.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            face.connect()
        release(face)
        received = receive_all(busy)
    assert [status for status, _ in split_responses(received)] == [404, 404]
    assert received.count(b"Connection: close") == 1
    face.until(lambda: not face.server.connections)


def test_close_does_not_wait_for_ever(make_face: MakeFace) -> None:
    face = make_face()
    face.service.hold = True
    with face.connect() as connection:
        connection.sendall(get("/kv/a"))
        face.until(lambda: len(face.service.held) == 1)
        face.wait(face.server.close(grace_s=0.05))
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b"", "an end without an answer"
    release(face)
