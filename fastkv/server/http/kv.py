"""`/kv/{key}`: one key's value, written, read and deleted."""

from __future__ import annotations

import binascii
from typing import Any

import orjson

from fastkv._core.codes import FrameFlag, Kind, Status
from fastkv._core.entry import encode_command
from fastkv.config import Limits
from fastkv.server.http.context import Context
from fastkv.server.http.params import (
    Params,
    etag_listed,
    idempotency_key,
    invalid,
    key_from_path,
    shown,
    write_condition,
)
from fastkv.server.http.request import Request
from fastkv.server.http.responses import BYTES, HttpError, error_from_status, etag, json_body, set_bytes
from fastkv.wire.client import STALE_PREFIX_BYTES, decode_record, decode_stale_prefix

# As plain integers: an IntEnum's members cost a lookup and a slow comparison each.
_OK, _KEY_NOT_FOUND, _PRECONDITION_FAILED = map(int, (Status.OK, Status.KEY_NOT_FOUND, Status.PRECONDITION_FAILED))
_INVALID_REQUEST = int(Status.INVALID_REQUEST)
_CREATED, _STALE = int(FrameFlag.CREATED), int(FrameFlag.STALE)
_PUT, _DELETE = int(Kind.ENTRY_PUT), int(Kind.ENTRY_DELETE)
_PREFIX_BYTES = len(b"/kv/")

READ_PARAMS = ("consistency",)


def put(context: Context, request: Request) -> None:
    """`PUT /kv/{key}`: 201 for a new key, 200 for one that was there."""
    request.key = key_from_path(request.path[_PREFIX_BYTES:])
    compare = write_condition(request.query, request.headers)
    once = idempotency_key(request.headers)
    request.value = value_from_body(request, context.limits)
    data = request.value.encode() if isinstance(request.value, str) else request.value
    if len(data) > context.limits.value_bytes:
        message = f"a value has at most {context.limits.value_bytes} bytes, this one has {len(data)}"
        raise HttpError(413, "VALUE_TOO_LARGE", message)
    request.finish = _put_done
    command = encode_command(_PUT, request.key, data, compare=compare, session=once)
    context.service.write(_PUT, command, request.deliver)


def _put_done(request: Request, status: int, flags: int, revision: int, payload: bytes) -> None:
    if status != _OK:
        request.fail(_write_error(request, status, revision, payload))
        return
    members: dict[str, Any] = {}
    set_bytes(members, "key", request.key)
    if isinstance(request.value, str):
        members["value"] = request.value
    else:
        set_bytes(members, "value", request.value)
    members["message"] = "Key-value pair stored successfully"
    members["revision"] = revision
    request.respond_json(201 if flags & _CREATED else 200, members, headers=etag(revision))


def delete(context: Context, request: Request) -> None:
    """`DELETE /kv/{key}`."""
    request.key = key_from_path(request.path[_PREFIX_BYTES:])
    compare = write_condition(request.query, request.headers)
    request.finish = _delete_done
    command = encode_command(_DELETE, request.key, compare=compare, session=idempotency_key(request.headers))
    context.service.write(_DELETE, command, request.deliver)


def _delete_done(request: Request, status: int, flags: int, revision: int, payload: bytes) -> None:
    if status == _KEY_NOT_FOUND:
        request.fail(key_not_found(request.key))
        return
    if status != _OK:
        request.fail(_write_error(request, status, revision, payload))
        return
    members: dict[str, Any] = {}
    set_bytes(members, "key", request.key)
    members["message"] = "Key deleted successfully"
    members["revision"] = revision
    request.respond_json(200, members)


def get(context: Context, request: Request) -> None:
    """`GET /kv/{key}`, as JSON or, where the client asks for them, as the value's bytes."""
    request.key = key_from_path(request.path[_PREFIX_BYTES:])
    consistency = Params(request.query, READ_PARAMS).consistency() if request.query else 0
    request.finish = _get_done
    context.service.read(request.key, consistency, request.deliver)


def _get_done(request: Request, status: int, flags: int, revision: int, payload: bytes) -> None:
    if status != _OK and status != _KEY_NOT_FOUND:
        request.fail(error_from_status(status, payload))
        return
    members: dict[str, Any] = {}
    headers = b""
    if flags & _STALE:
        applied_index, age_ms = decode_stale_prefix(payload)
        payload = payload[STALE_PREFIX_BYTES:]
        headers = b"X-Fastkv-Applied-Index: %d\r\nX-Fastkv-Age-Ms: %d\r\n" % (applied_index, age_ms)
        members = {"applied_index": applied_index, "age_ms": age_ms}
    if status == _KEY_NOT_FOUND:
        request.fail(key_not_found(request.key, members, headers))
        return
    record = decode_record(payload)
    revision = record.mod_revision
    if b"if-match" in request.headers and not etag_listed(request.headers[b"if-match"], revision):
        request.fail(precondition_failed(request.key, revision))
        return
    if b"if-none-match" in request.headers and etag_listed(request.headers[b"if-none-match"], revision):
        request.not_modified(revision)
        return
    headers += etag(revision)
    if wants(request, BYTES):
        # nosniff: a browser must not take somebody's value for a page of this origin.
        headers += b"X-Fastkv-Version: %d\r\nX-Content-Type-Options: nosniff\r\n" % record.version
        request.respond(200, record.value, content_type=BYTES, headers=headers)
        return
    answer: dict[str, Any] = {}
    set_bytes(answer, "key", request.key)
    set_bytes(answer, "value", record.value)
    answer["revision"] = revision
    answer["version"] = record.version
    answer.update(members)
    request.respond(200, json_body(answer), headers=headers)


def wants(request: Request, content_type: bytes) -> bool:
    """Whether the client asks for this type. One that also takes JSON by name gets JSON; `*/*` asks for nothing."""
    accept = request.headers.get(b"accept", b"*/*")
    if accept == b"*/*":
        return False
    accept = accept.lower()
    return content_type in accept and b"application/json" not in accept


def value_from_body(request: Request, limits: Limits) -> str | bytes:
    """The value that a PUT's body holds: JSON where the content type says so, and the raw body for any other."""
    headers, body = request.headers, request.body
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise HttpError(415, "UNSUPPORTED_MEDIA_TYPE", "a body with a Content-Encoding is not supported")
    if not body:
        raise HttpError(400, "EMPTY_BODY", 'a PUT needs a body; {"value": ""} as JSON stores an empty value')
    content_type, _, parameters = headers.get(b"content-type", b"").lower().partition(b";")
    if content_type.strip() != b"application/json":
        return body
    charset = parameters.partition(b"charset=")[2].strip(b' "')
    if charset not in (b"", b"utf-8", b"utf8"):
        raise HttpError(415, "UNSUPPORTED_MEDIA_TYPE", f"JSON is UTF-8 here, not {shown(charset)}")
    return _value_from_json(body)


def _value_from_json(body: bytes) -> str | bytes:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, "INVALID_JSON", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise HttpError(400, "VALUE_REQUIRED", 'the body has to be an object with the member "value" or "value_base64"')
    unknown = document.keys() - {"value", "value_base64"}
    if unknown:
        invalid(f"there is no member {shown(min(unknown).encode())!r} here, only value and value_base64")
    if len(document) != 1:
        raise HttpError(400, "VALUE_REQUIRED", 'the body has to have one of the members "value" and "value_base64"')
    ((name, value),) = document.items()
    if not isinstance(value, str):
        raise HttpError(400, "VALUE_REQUIRED", f'"{name}" has to be a string')
    if name == "value":
        return value
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError as error:
        invalid(f"value_base64 is not base64: {error}")


def key_not_found(key: bytes, members: dict[str, Any] | None = None, headers: bytes = b"") -> HttpError:
    """The 404 of a key that does not exist."""
    named: dict[str, Any] = {}
    set_bytes(named, "key", key)
    return HttpError(404, "KEY_NOT_FOUND", "Key not found", members={**named, **(members or {})}, headers=headers)


def precondition_failed(key: bytes, revision: int) -> HttpError:
    """The 412 of a key whose mod revision is `revision`, 0 where it does not exist."""
    members: dict[str, Any] = {}
    set_bytes(members, "key", key)
    members["revision"] = revision
    is_now = f"is at revision {revision}" if revision else "does not exist"
    return HttpError(
        412,
        "PRECONDITION_FAILED",
        f"the key {is_now}; nothing was changed",
        members=members,
        headers=etag(revision) if revision else b"",
    )


def _write_error(request: Request, status: int, revision: int, payload: bytes) -> HttpError:
    if status == _PRECONDITION_FAILED:
        return precondition_failed(request.key, revision)
    members: dict[str, Any] = {}
    set_bytes(members, "key", request.key)
    if status == _INVALID_REQUEST and b"idempotency-key" in request.headers:
        # The command is made here, so that there is nothing else that could be wrong with it.
        message = "that Idempotency-Key came with another write before; nothing was changed"
        return HttpError(422, "IDEMPOTENCY_KEY_REUSED", message, members=members)
    return error_from_status(status, payload, members)
