"""`/cluster/members` and `POST /cluster/leader`: what is asked of the cluster, and what its answers become."""

from __future__ import annotations

from typing import Any

import pytest

from fastkv._core.codes import Status
from tests.server.http.harness import Face

MEMBERS = {"members": [{"id": "node-1", "role": "voter"}]}
ASKED: list[tuple[str, str, bytes, dict[str, Any]]] = [
    ("GET", "/cluster/members", b"", {"do": "members"}),
    (
        "POST", "/cluster/members", b'{"id": "d", "raft": "h:1", "http": "h:2", "vote": false, "replaces": "a"}',
        {"do": "add", "id": "d", "raft": "h:1", "http": "h:2", "vote": False, "replaces": "a"},
    ),
    ("PUT", "/cluster/members/d", b'{"raft": "h:3"}', {"do": "update", "id": "d", "raft": "h:3"}),
    ("DELETE", "/cluster/members/node%2D1", b"", {"do": "remove", "id": "node-1"}),
    ("POST", "/cluster/members/d/promote", b"", {"do": "promote", "id": "d"}),
    ("POST", "/cluster/leader", b"", {"do": "transfer"}),
    ("POST", "/cluster/leader", b'{"to": "d"}', {"do": "transfer", "to": "d"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "request_"), ASKED, ids=[f"{m} {p}" for m, p, _, _ in ASKED])
def test_what_is_asked(face: Face, method: str, path: str, body: bytes, request_: dict[str, Any]) -> None:
    face.service.admin_answer = (Status.OK, MEMBERS)
    answer = face.request(method, path, body)
    assert (answer.status, answer.json) == (200, MEMBERS)
    assert face.service.asked == [("admin", request_)]


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (Status.CHANGE_REFUSED, 409, "CHANGE_REFUSED"),
        (Status.NO_LEADER, 503, "NO_LEADER"),
        (Status.OUTCOME_UNKNOWN, 504, "OUTCOME_UNKNOWN"),
        (Status.INVALID_REQUEST, 400, "INVALID_REQUEST"),
    ],
)
def test_why_not(face: Face, status: int, expected: int, code: str) -> None:
    face.service.admin_answer = (status, {"error": "because"})
    answer = face.request("DELETE", "/cluster/members/a")
    assert (answer.status, answer.json) == (expected, {"error": "because", "code": code})


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", "/cluster/members", b"", "INVALID_JSON"),
        ("POST", "/cluster/members", b"[]", "INVALID_JSON"),
        ("POST", "/cluster/members", b'{"id": "d", "role": "king"}', "INVALID_PARAMETER"),
        ("POST", "/cluster/leader", b'{"id": "d"}', "INVALID_PARAMETER"),
        ("GET", "/cluster/members?all=1", b"", "INVALID_PARAMETER"),
        ("DELETE", "/cluster/members/%zz", b"", "INVALID_PARAMETER"),
        ("DELETE", "/cluster/members/", b"", "NOT_FOUND"),
        ("DELETE", "/cluster/members/a/b", b"", "NOT_FOUND"),
        ("DELETE", "/cluster/members/%2F", b"", "NOT_FOUND"),
        ("POST", "/cluster/members//promote", b"", "NOT_FOUND"),
        ("POST", "/cluster/members/a", b"", "METHOD_NOT_ALLOWED"),
        ("DELETE", "/cluster/members/a/promote", b"", "METHOD_NOT_ALLOWED"),
        ("GET", "/cluster/members/a", b"", "METHOD_NOT_ALLOWED"),
    ],
)
def test_what_is_no_request(face: Face, method: str, path: str, body: bytes, code: str) -> None:
    assert face.request(method, path, body).json["code"] == code
    assert face.service.asked == []


def test_each_path_allows_its_own_methods(face: Face) -> None:
    assert face.request("GET", "/cluster/members/promote").headers["Allow"] == "DELETE, PUT"
    assert face.request("GET", "/cluster/members/a/promote").headers["Allow"] == "POST"
