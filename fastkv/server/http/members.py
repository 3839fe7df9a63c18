"""`/cluster/members`, and who leads: what an operator may ask of the cluster, on any node."""

from __future__ import annotations

from typing import Any

import orjson

from fastkv._core.codes import Status
from fastkv.server.http.context import Context
from fastkv.server.http.params import Params, invalid, percent_decode, shown
from fastkv.server.http.request import Request
from fastkv.server.http.responses import HttpError, error_from_status

PREFIX = b"/cluster/members/"
PROMOTE = b"/promote"


def members(context: Context, request: Request) -> None:
    """`GET /cluster/members`: everybody, with their roles."""
    _ask(context, request, {"do": "members"})


def add(context: Context, request: Request) -> None:
    """`POST /cluster/members`: a new member, which begins as a learner."""
    _ask(context, request, {"do": "add", **_body(request, {"id", "raft", "http", "vote", "replaces"})})


def remove(context: Context, request: Request) -> None:
    """`DELETE /cluster/members/{id}`."""
    _ask(context, request, {"do": "remove", "id": _member(request)})


def update(context: Context, request: Request) -> None:
    """`PUT /cluster/members/{id}`: it has moved to another address."""
    _ask(context, request, {"do": "update", "id": _member(request), **_body(request, {"raft", "http"})})


def promote(context: Context, request: Request) -> None:
    """`POST /cluster/members/{id}/promote`: a learner is to vote."""
    _ask(context, request, {"do": "promote", "id": _member(request, PROMOTE)})


def transfer(context: Context, request: Request) -> None:
    """`POST /cluster/leader`: leadership goes to `to`, or to whoever can take it best."""
    _ask(context, request, {"do": "transfer", **(_body(request, {"to"}) if request.body else {})})


def _ask(context: Context, request: Request, asked: dict[str, Any]) -> None:
    Params(request.query, ())

    def deliver(status: int, answer: dict[str, Any]) -> None:
        if status == Status.OK:
            request.respond_json(200, answer)
        else:
            request.fail(error_from_status(status, str(answer.get("error", "")).encode()))

    context.service.admin(asked, deliver)


def _member(request: Request, behind: bytes = b"") -> str:
    try:
        node_id = percent_decode(request.path[len(PREFIX) : len(request.path) - len(behind)]).decode()
    except ValueError:
        invalid(f"{shown(request.path)} names no member")
    if not node_id or "/" in node_id:
        raise HttpError(404, "NOT_FOUND", "there is no such route; GET / lists them")
    return node_id


def _body(request: Request, known: set[str]) -> dict[str, Any]:
    try:
        document = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise HttpError(400, "INVALID_JSON", f"the body is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise HttpError(400, "INVALID_JSON", "the body has to be a JSON object")
    unknown = document.keys() - known
    if unknown:
        invalid(f"there is no member {shown(min(unknown).encode())!r} here, only {', '.join(sorted(known))}")
    return document
