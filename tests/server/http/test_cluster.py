"""Everything that is not a key: the cluster, health, metrics, and routes that do not exist."""

from __future__ import annotations

import copy

import pytest

from fastkv.server.http.cluster import ENDPOINTS
from fastkv.server.http.routes import KEY, MEMBER, ROUTES
from fastkv.version import __version__
from tests.server.http.harness import NODES, Face

ALL = [
    "/", "/cluster/status", "/cluster/leader", "/cluster/nodes", "/cluster/log", "/health", "/livez", "/readyz",
]  # fmt: skip


def test_status(face: Face) -> None:
    answer = face.request("GET", "/cluster/status")
    assert answer.status == 200
    assert answer.json == face.service.cluster_status()


def test_nodes(face: Face) -> None:
    assert face.request("GET", "/cluster/nodes").json == {"cluster_size": 3, "nodes": NODES}


def test_leader(face: Face) -> None:
    answer = face.request("GET", "/cluster/leader")
    assert (answer.status, answer.json) == (200, NODES["node-2"])
    face.service.nodes = copy.deepcopy(NODES)
    face.service.nodes["node-2"]["is_leader"] = False
    answer = face.request("GET", "/cluster/leader")
    assert (answer.status, answer.json["code"]) == (503, "NO_LEADER")
    assert answer.headers["Retry-After"] == "1"


def test_log(face: Face) -> None:
    assert face.request("GET", "/cluster/log").json == face.service.log(0, 20)
    assert face.request("GET", "/cluster/log?first=7&limit=3").json == face.service.log(7, 3)
    for wrong in ("first=-1", "first=x", "limit=0", "limit=1001", "limit=a"):
        answer = face.request("GET", f"/cluster/log?{wrong}")
        assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMETER"), wrong


def test_healthy(face: Face) -> None:
    answer = face.request("GET", "/health")
    assert (answer.status, answer.json) == (200, face.service.health())
    ready = face.request("GET", "/readyz")
    assert (ready.status, ready.json) == (200, {"status": "ok", "checks": {"leader": True, "log": True}})
    assert face.request("GET", "/livez").json == {"status": "ok"}


def test_unhealthy_says_what_failed(face: Face) -> None:
    face.service.checks = {"leader": False, "log": True}
    for path in ("/health", "/readyz"):
        answer = face.request("GET", path)
        assert answer.status == 503
        assert answer.json["code"] == "UNAVAILABLE"
        assert answer.json["failed"] == ["leader"]
        assert answer.json["status"] == "unavailable"
        assert "leader" in answer.json["error"]
        assert answer.headers["Retry-After"] == "1"
    assert face.request("GET", "/health").json["term"] == 3
    # A node without a leader is alive: to restart it would help nobody.
    assert face.request("GET", "/livez").status == 200


def test_metrics(face: Face) -> None:
    answer = face.request("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.content == face.service.metrics()


def test_root_names_every_route(face: Face) -> None:
    document = face.request("GET", "/").json
    assert document["service"] == "fastkv"
    assert document["version"] == __version__
    assert document["node"] == "node-1"
    routes = {f"{method.decode()} {path.decode()}" for path, route in ROUTES.items() for method in route.methods}
    routes |= {f"{method.decode()} /kv/{{key}}" for method in KEY.methods}
    routes |= {f"{method.decode()} /cluster/members/{{id}}" for method in (b"PUT", b"DELETE")}
    routes.add("POST /cluster/members/{id}/promote")
    assert set(MEMBER.methods) == {b"PUT", b"DELETE", b"POST"}
    named = set(document["endpoints"])
    assert named == set(ENDPOINTS)
    unnamed = {route for route in routes if not route.startswith(("HEAD", "GET /console/"))} - named
    assert unnamed == {"GET /"}
    assert named <= routes


@pytest.mark.parametrize("path", ALL)
def test_no_route_takes_an_unknown_parameter(face: Face, path: str) -> None:
    answer = face.request("GET", f"{path}?x=1")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMETER")


ALLOWED = {"/kv/a": "DELETE, GET, HEAD, PUT", "/cluster/leader": "GET, HEAD, POST"}


@pytest.mark.parametrize("path", [*ALL, "/metrics", "/kv", "/kv/a"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "OPTIONS", "PUT", "DELETE", "TRACE"])
def test_another_method(face: Face, path: str, method: str) -> None:
    if (path, method) in {("/kv/a", "PUT"), ("/kv/a", "DELETE"), ("/cluster/leader", "POST")}:
        return
    answer = face.request(method, path, b"x")
    assert (answer.status, answer.json["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["Allow"] == ALLOWED.get(path, "GET, HEAD")


@pytest.mark.parametrize("path", [*ALL, "/metrics", "/kv"])
def test_head(face: Face, path: str) -> None:
    answer = face.request("HEAD", path)
    assert (answer.status, answer.content) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize("path", ["/nowhere", "/KV/a", "/kv2", "/cluster", "/cluster/status/", "//", "*", "/health/x"])
@pytest.mark.parametrize("method", ["GET", "PUT", "OPTIONS"])
def test_no_such_route(face: Face, path: str, method: str) -> None:
    received = face.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    if path == "*" and method != "OPTIONS":
        assert received.split()[1] in (b"400", b"404")
    else:
        assert received.startswith(b"HTTP/1.1 404 Not Found\r\n")
        assert b'"code":"NOT_FOUND"' in received


def test_requests_are_counted_by_route_and_code(face: Face) -> None:
    for _ in range(3):
        face.request("GET", "/kv/a")
    face.request("PUT", "/kv/a", b"v")
    face.request("PUT", "/kv/a?x=1", b"v")
    face.request("GET", "/nowhere/secret")
    requests = face.server.requests
    assert requests.totals == {
        ("get", "KEY_NOT_FOUND"): 3,
        ("put", "OK"): 1,
        ("put", "INVALID_PARAMETER"): 1,
        ("other", "NOT_FOUND"): 1,
    }
    assert sum(requests.durations["get"].counts) == 3
    assert 0 < requests.durations["get"].total < 3
