"""The header `Idempotency-Key`: what of it reaches the node, and what the node's answers become."""

from __future__ import annotations

import pytest

from fastkv._core.codes import FrameFlag, Status
from tests.server.http.harness import Face

WRITES = [("PUT", b"v"), ("DELETE", None)]


def once(face: Face) -> tuple[int, ...] | None:
    """What the command that reached the node last carried."""
    return face.service.once[-1]


@pytest.mark.parametrize(("method", "body"), WRITES)
def test_a_key_is_always_the_same_number(face: Face, method: str, body: bytes | None) -> None:
    face.request(method, "/kv/a", body)
    assert once(face) is None
    face.request(method, "/kv/a", body, {"Idempotency-Key": "9b2d6c0e-5d3f"})
    first = once(face)
    assert first is not None
    assert first[0] >= 2**63
    face.request(method, "/kv/another", body, {"idempotency-key": "9b2d6c0e-5d3f"})
    assert once(face) == first
    # Every node and every version has to come to this number, or a retry over another node is a second write.
    assert first == (0xC08D983C145F3CCC, 0x2DE710B240592CCC)


def test_texts_that_differ_are_different_keys(face: Face) -> None:
    texts = ["a", "b", "A", '"a"', "a,a", "~", "!", "k" * 256, "k" * 255]
    for text in texts:
        face.request("PUT", "/kv/a", b"v", {"Idempotency-Key": text})
    assert len(set(face.service.once)) == len(texts)


def test_a_key_goes_with_a_condition(face: Face) -> None:
    face.request("PUT", "/kv/a?if_revision=0", b"v", {"Idempotency-Key": "x"})
    assert face.service.asked[-1] == ("put", (b"a", b"v", 0))
    assert once(face) is not None


@pytest.mark.parametrize(("method", "body"), WRITES)
def test_a_header_that_comes_twice_is_refused(face: Face, method: str, body: bytes | None) -> None:
    request = f"{method} /kv/a HTTP/1.1\r\nHost: x\r\nIdempotency-Key: a\r\nIdempotency-Key: b\r\n"
    content = body or b""
    with face.connect() as connection:
        connection.sendall(request.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"INVALID_PARAMETER" in answer
    assert face.service.asked == []


def test_a_read_does_not_care(face: Face) -> None:
    assert face.request("GET", "/kv/a", headers={"Idempotency-Key": "not a key"}).status == 404


@pytest.mark.parametrize(("method", "body"), WRITES)
def test_a_key_that_came_with_another_write(face: Face, method: str, body: bytes | None) -> None:
    face.service.forced.append((Status.INVALID_REQUEST, 0, 0, b"said by the node"))
    answer = face.request(method, "/kv/a", body, {"Idempotency-Key": "x"})
    assert (answer.status, answer.json["code"], answer.json["key"]) == (422, "IDEMPOTENCY_KEY_REUSED", "a")
    assert "nothing was changed" in answer.json["error"]


def test_a_remembered_answer_is_an_answer(face: Face) -> None:
    face.service.forced.append((Status.OK, FrameFlag.CREATED, 7, b""))
    answer = face.request("PUT", "/kv/a", b"v", {"Idempotency-Key": "x"})
    assert (answer.status, answer.json["revision"], answer.headers["ETag"]) == (201, 7, '"7"')
