"""`/kv/{key}`: every answer that a write and a read can get."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastkv._core.codes import FrameFlag, Status
from fastkv.config import Limits
from tests.server.http.harness import AGE_MS, APPLIED_INDEX, Face

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def put_json(face: Face, path: str, document: Any, **headers: str) -> Any:
    return face.request("PUT", path, json.dumps(document), {**JSON, **headers})


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_put_makes_then_replaces(face: Face) -> None:
    first = put_json(face, "/kv/user:john", {"value": "John Doe"})
    assert first.status == 201
    assert first.json == {
        "key": "user:john",
        "value": "John Doe",
        "message": "Key-value pair stored successfully",
        "revision": 1,
    }
    assert first.headers["ETag"] == '"1"'
    second = put_json(face, "/kv/user:john", {"value": "Jane"})
    assert second.status == 200
    assert second.json["revision"] == 2


@pytest.mark.parametrize(
    ("body", "headers", "stored"),
    [
        (b"hello world", FORM, b"hello world"),
        (b"hello world", {}, b"hello world"),
        (b"\x00\xff", {"Content-Type": "application/octet-stream"}, b"\x00\xff"),
        # To the letter: only JSON that is called JSON is read as JSON.
        (b'{"value": "x"}', FORM, b'{"value": "x"}'),
        (b'{"value": "x"}', {"Content-Type": "application/jsonish"}, b'{"value": "x"}'),
        (b'{"value": "x"}', JSON, b"x"),
        (b'{"value": "x"}', {"Content-Type": "Application/JSON ; Charset=UTF-8"}, b"x"),
        (b'{"value": "x"}', {"Content-Type": 'application/json; charset="utf-8"'}, b"x"),
        (b'{"value": ""}', JSON, b""),
        (b'{"value_base64": ""}', JSON, b""),
        (b'{"value_base64": "AP8="}', JSON, b"\x00\xff"),
        (b'{"value": "\\u0000\\u20ac"}', JSON, "\0€".encode()),
        (b"x", {"Content-Encoding": "identity"}, b"x"),
    ],
)
def test_put_stores(face: Face, body: bytes, headers: dict[str, str], stored: bytes) -> None:
    answer = face.request("PUT", "/kv/k", body, headers)
    assert answer.status == 201
    assert face.service.data[b"k"].value == stored
    assert value_of(answer.json) == stored
    assert value_of(face.request("GET", "/kv/k").json) == stored


def value_of(document: dict[str, Any]) -> bytes:
    if "value_base64" in document:
        assert "value" not in document
        return base64.b64decode(document["value_base64"], validate=True)
    value: str = document["value"]
    return value.encode()


def test_get_says_revision_and_version(face: Face) -> None:
    put_json(face, "/kv/a", {"value": "1"})
    put_json(face, "/kv/a", {"value": "2"})
    answer = face.request("GET", "/kv/a")
    assert answer.status == 200
    assert answer.json == {"key": "a", "value": "2", "revision": 2, "version": 2}
    assert answer.headers["ETag"] == '"2"'


def test_delete(face: Face) -> None:
    put_json(face, "/kv/a", {"value": "1"})
    answer = face.request("DELETE", "/kv/a")
    assert answer.status == 200
    assert answer.json == {"key": "a", "message": "Key deleted successfully", "revision": 2}
    for method in ("GET", "DELETE"):
        missing = face.request(method, "/kv/a")
        assert missing.status == 404
        assert missing.json == {"error": "Key not found", "code": "KEY_NOT_FOUND", "key": "a"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.binary(min_size=1, max_size=511), every_byte=st.booleans(), lower=st.booleans())
def test_any_key_survives_percent_encoding(face: Face, key: bytes, every_byte: bool, lower: bool) -> None:
    encoded = "".join(f"%{byte:02X}" for byte in key) if every_byte else quote(key, safe="/:")
    path = f"/kv/{encoded.lower() if lower and every_byte else encoded}"
    answer = face.request("PUT", path, b"v")
    assert answer.status in (200, 201)
    assert face.service.asked[-1] == ("put", (key, b"v", None))
    named = face.request("GET", path).json
    assert (named["key"].encode() if "key" in named else base64.b64decode(named["key_base64"])) == key


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.one_of(st.binary(min_size=1, max_size=200), st.text(min_size=1).map(str.encode)))
def test_any_value_survives(face: Face, value: bytes) -> None:
    stored = face.request("PUT", "/kv/k", value, {"Content-Type": "application/octet-stream"})
    assert value_of(stored.json) == value
    assert value_of(face.request("GET", "/kv/k").json) == value
    raw = face.request("GET", "/kv/k", headers={"Accept": "application/octet-stream"})
    assert raw.content == value


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/kv/a/b:c", b"a/b:c"),
        ("/kv//", b"/"),
        ("/kv/../x", b"../x"),
        ("/kv/a+b", b"a+b"),
        ("/kv/%2e%2E", b".."),
        ("/kv/%00", b"\0"),
        ("/kv/a%25", b"a%"),
        ("/kv/a?", b"a"),
        ("/kv/a%3Fb", b"a?b"),
        ("http://example.org/kv/a", b"a"),
        ("HTTPS://example.org/kv/a?consistency=lease", b"a"),
    ],
)
def test_the_key_is_the_rest_of_the_path(face: Face, path: str, key: bytes) -> None:
    face.request("GET", path)
    assert face.service.asked[-1][1][0] == key


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "code"),
    [
        ("/kv/a", b"", {}, 400, "EMPTY_BODY"),
        ("/kv/a", b"", JSON, 400, "EMPTY_BODY"),
        ("/kv/a", b"{nonsense", JSON, 400, "INVALID_JSON"),
        ("/kv/a", b'{"value": "\xff"}', JSON, 400, "INVALID_JSON"),
        ("/kv/a", b'{"value": "\\ud800"}', JSON, 400, "INVALID_JSON"),
        ("/kv/a", b"[" * 5000, JSON, 400, "INVALID_JSON"),
        ("/kv/a", b"{}", JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b"[]", JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b'"text"', JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b'{"value": 1}', JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b'{"value": null}', JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b'{"value_base64": 1}', JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b'{"value": "x", "value_base64": "eA=="}', JSON, 400, "VALUE_REQUIRED"),
        ("/kv/a", b'{"value": "x", "ttl": 5}', JSON, 400, "INVALID_PARAMETER"),
        ("/kv/a", b'{"value_base64": "eA"}', JSON, 400, "INVALID_PARAMETER"),
        ("/kv/a", b'{"value_base64": "e A=="}', JSON, 400, "INVALID_PARAMETER"),
        ("/kv/a", '{"value_base64": "é"}'.encode(), JSON, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("/kv/a", b"x", {"Content-Encoding": "gzip"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("/kv/", b"x", {}, 400, "INVALID_KEY"),
        ("/kv/%", b"x", {}, 400, "INVALID_KEY"),
        ("/kv/%4", b"x", {}, 400, "INVALID_KEY"),
        ("/kv/%zz", b"x", {}, 400, "INVALID_KEY"),
        ("/kv/%+1", b"x", {}, 400, "INVALID_KEY"),
        ("/kv/a%c3%", b"x", {}, 400, "INVALID_KEY"),
        ("/kv/" + "k" * 512, b"x", {}, 413, "KEY_TOO_LARGE"),
        ("/kv/" + "%6b" * 512, b"x", {}, 413, "KEY_TOO_LARGE"),
        ("/kv/a", b"x" * 101, {}, 413, "VALUE_TOO_LARGE"),
        ("/kv/a", json.dumps({"value": "€" * 34}).encode(), JSON, 413, "VALUE_TOO_LARGE"),
        ("/kv/a", json.dumps({"value_base64": "eHh4" * 34}).encode(), JSON, 413, "VALUE_TOO_LARGE"),
        ("/kv/a?ttl=5", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"Idempotency-Key": ""}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"Idempotency-Key": "two words"}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"Idempotency-Key": "ké"}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"Idempotency-Key": "k" * 257}, 400, "INVALID_PARAMETER"),
        ("/kv/a?consistency=stale", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revison=1", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=-1", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=1.0", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=%C2%B2", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=18446744073709551616", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=1&if_revision=1", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=%1", b"x", {}, 400, "INVALID_PARAMETER"),
        ("/kv/a?if_revision=1", b"x", {"If-None-Match": "*"}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"If-Match": '"1"', "If-None-Match": "*"}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"If-Match": "*"}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"If-Match": 'W/"1"'}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"If-Match": '"1", "2"'}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"If-Match": '"0"'}, 400, "INVALID_PARAMETER"),
        ("/kv/a", b"x", {"If-None-Match": '"1"'}, 400, "INVALID_PARAMETER"),
    ],
)
def test_a_bad_put_is_refused_before_the_node_sees_it(
    make_face: Any, path: str, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    face: Face = make_face(limits=Limits(value_bytes=100))
    answer = face.request("PUT", path, body, headers)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.json["error"]
    assert face.service.asked == []


@pytest.mark.parametrize(
    "query", ["consistency=maybe", "consistency", "if_revision=1", "x=1", "consistency=stale&consistency=stale"]
)
def test_a_bad_parameter_of_a_read(face: Face, query: str) -> None:
    answer = face.request("GET", f"/kv/a?{query}")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_PARAMETER")
    assert face.service.asked == []


def test_an_error_names_what_is_allowed_and_little_of_what_was_sent(face: Face) -> None:
    message = face.request("PUT", f"/kv/a?{'x' * 5000}=1", b"v").json["error"]
    assert "if_revision" in message
    assert len(message) < 200
    assert "only consistency" in face.request("GET", "/kv/a?limit=1").json["error"]


@pytest.mark.parametrize(
    ("status", "expected", "code", "retry"),
    [
        (Status.NO_LEADER, 503, "NO_LEADER", True),
        (Status.SHUTTING_DOWN, 503, "NO_LEADER", True),
        (Status.OVERLOADED, 429, "OVERLOADED", True),
        (Status.TIMEOUT, 503, "TIMEOUT", True),
        (Status.NO_SPACE, 507, "NO_SPACE", False),
        (Status.OUTCOME_UNKNOWN, 504, "OUTCOME_UNKNOWN", False),
        (Status.CURSOR_EXPIRED, 410, "CURSOR_EXPIRED", False),
        (Status.INVALID_KEY, 400, "INVALID_KEY", False),
        (Status.KEY_TOO_LARGE, 413, "KEY_TOO_LARGE", False),
        (Status.VALUE_TOO_LARGE, 413, "VALUE_TOO_LARGE", False),
        (Status.INVALID_REQUEST, 400, "INVALID_REQUEST", False),
        (Status.UNSUPPORTED, 501, "UNSUPPORTED", False),
        (Status.UNAUTHENTICATED, 401, "UNAUTHENTICATED", False),
        (999, 500, "PROTOCOL_ERROR", False),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_what_the_node_refuses(face: Face, method: str, status: int, expected: int, code: str, retry: bool) -> None:
    face.service.forced.append((status, 0, 0, b"said by the node"))
    answer = face.request(method, "/kv/a", b"v" if method == "PUT" else None)
    assert (answer.status, answer.json["code"]) == (expected, code)
    assert answer.json["error"] == "said by the node"
    assert answer.headers.get("Retry-After") == ("1" if retry else None)


def test_an_error_without_a_text_gets_one(face: Face) -> None:
    face.service.forced.append((Status.OUTCOME_UNKNOWN, 0, 0, b""))
    assert "may or may not" in face.request("PUT", "/kv/a", b"v").json["error"]


# -- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "headers", "compare"),
    [
        ("?if_revision=0", {}, 0),
        ("?if_revision=18446744073709551615", {}, 2**64 - 1),
        ("?if_revision=", {}, None),
        ("", {"If-None-Match": "*"}, 0),
        ("", {"If-Match": '"7"'}, 7),
        ("", {"If-Match": "7"}, 7),
        ("", {"if-match": ' "7" '}, 7),
        ("", {}, None),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_condition_reaches_the_node(
    face: Face, method: str, query: str, headers: dict[str, str], compare: int | None
) -> None:
    face.request(method, f"/kv/a{query}", b"v" if method == "PUT" else None, headers)
    assert face.service.asked[-1][1][2] == compare


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_condition_that_fails(face: Face, method: str) -> None:
    face.request("PUT", "/kv/a", b"1")
    answer = face.request(method, "/kv/a?if_revision=9", b"2" if method == "PUT" else None)
    assert answer.status == 412
    assert answer.json == {
        "error": "the key is at revision 1; nothing was changed",
        "code": "PRECONDITION_FAILED",
        "key": "a",
        "revision": 1,
    }
    assert answer.headers["ETag"] == '"1"'
    missing = face.request(method, "/kv/b?if_revision=9", b"2" if method == "PUT" else None)
    assert (missing.status, missing.json["revision"]) == (412, 0)
    assert "ETag" not in missing.headers


def test_compare_and_swap_by_etag(face: Face) -> None:
    etag = face.request("PUT", "/kv/a", b"1", {"If-None-Match": "*"}).headers["ETag"]
    assert face.request("PUT", "/kv/a", b"1", {"If-None-Match": "*"}).status == 412
    assert face.request("PUT", "/kv/a", b"2", {"If-Match": etag}).status == 200
    assert face.request("PUT", "/kv/a", b"3", {"If-Match": etag}).status == 412


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": '"1"'}, 304),
        ({"If-None-Match": 'W/"1"'}, 304),
        ({"If-None-Match": '"9", "1"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"11"'}, 200),
        ({"If-None-Match": '"9"'}, 200),
        ({"If-Match": '"1"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"9"'}, 412),
    ],
)
def test_a_conditional_get(face: Face, headers: dict[str, str], status: int) -> None:
    face.request("PUT", "/kv/a", b"v")
    answer = face.request("GET", "/kv/a", headers=headers)
    assert answer.status == status
    assert answer.headers["ETag"] == '"1"'
    if status == 304:
        assert answer.content == b""


# -- how a read is asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "consistency"),
    [
        ("", 0),
        ("?consistency=", 0),
        ("?consistency=linearizable", 0),
        ("?consistency=lease", 1),
        ("?consistency=stale", 2),
    ],
)
def test_consistency_reaches_the_node(face: Face, query: str, consistency: int) -> None:
    face.request("GET", f"/kv/a{query}")
    assert face.service.asked[-1] == ("get", (b"a", consistency))


def test_a_stale_answer_says_how_stale(face: Face) -> None:
    face.request("PUT", "/kv/a", b"v")
    answer = face.request("GET", "/kv/a?consistency=stale")
    assert answer.json == {
        "key": "a", "value": "v", "revision": 1, "version": 1, "applied_index": APPLIED_INDEX, "age_ms": AGE_MS,
    }  # fmt: skip
    raw = face.request("GET", "/kv/a?consistency=stale", headers={"Accept": "application/octet-stream"})
    assert raw.content == b"v"
    missing = face.request("GET", "/kv/b?consistency=stale")
    assert missing.status == 404
    assert (missing.json["applied_index"], missing.json["age_ms"]) == (APPLIED_INDEX, AGE_MS)
    for one in (answer, raw, missing):
        assert one.headers["X-Fastkv-Applied-Index"] == str(APPLIED_INDEX)
        assert one.headers["X-Fastkv-Age-Ms"] == str(AGE_MS)


@pytest.mark.parametrize(
    ("accept", "raw"),
    [
        ("application/octet-stream", True),
        ("Application/Octet-Stream; q=1", True),
        ("application/octet-stream, application/json", False),
        ("application/json", False),
        ("*/*", False),
        ("text/html", False),
    ],
)
def test_raw_bytes_where_asked_for(face: Face, accept: str, raw: bool) -> None:
    face.request("PUT", "/kv/a", b"<script>")
    answer = face.request("GET", "/kv/a", headers={"Accept": accept})
    if raw:
        assert answer.content == b"<script>"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Fastkv-Version"] == "1"
        assert answer.headers["ETag"] == '"1"'
    else:
        assert answer.json["value"] == "<script>"


def test_head_is_get_without_the_body(face: Face) -> None:
    face.request("PUT", "/kv/a", b"v")
    whole, top = face.request("GET", "/kv/a"), face.request("HEAD", "/kv/a")
    assert top.status == 200
    assert top.content == b""
    for name in ("Content-Length", "Content-Type", "ETag"):
        assert top.headers[name] == whole.headers[name]
    assert face.request("HEAD", "/kv/b").status == 404


# -- faults of our own ------------------------------------------------------------------------------------------------


def test_a_fault_while_reading_is_a_500_and_the_server_goes_on(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    face.service.fault = ZeroDivisionError("boom")
    answer = face.request("GET", "/kv/a")
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL_ERROR")
    assert "boom" not in answer.json["error"]
    assert "boom" in caplog.text
    face.service.fault = None
    assert face.request("GET", "/kv/a").status == 404


def test_a_fault_while_writing_is_never_answered_as_a_plain_failure(face: Face) -> None:
    request = b"PUT /kv/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nv"
    face.service.forced.append((Status.OK, FrameFlag.CREATED, 2**70, b""))  # JSON has no such number
    assert face.raw(request, more=True) == b""
    face.service.fault = ZeroDivisionError("boom")
    assert face.raw(request, more=True) == b""
    face.service.fault = None
    assert face.request("PUT", "/kv/a", b"v").status == 200
