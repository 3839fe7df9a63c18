"""docs/openapi.yaml has every route, parameter, status and code of the HTTP face, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fastkv.config.loader import NODE_ID
from fastkv.server.http import cluster, listing, routes
from fastkv.server.http.params import MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_BYTES, MAX_REVISION
from fastkv.wire.client import LOG_ENTRIES, MAX_LOG_ENTRIES
from tests.server.http.test_docs import documented

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[3] / "docs" / "openapi.yaml").read_text())
METHODS = {"get", "put", "post", "delete"}
OF_THE_CONNECTION = {400, 405, 408, 417, 431, 500, 501, 505, 404, 401}
"""What any request may be answered before a route sees it, or where the server is at fault: no operation lists it."""


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        yield from ((method.upper(), path, operation) for method, operation in item.items() if method in METHODS)


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    while "$ref" in part:
        name = part["$ref"].removeprefix("#/")
        part = DOCUMENT
        for step in name.split("/"):
            part = part[step]
    return part


def parameters(operation_id: str) -> dict[str, dict[str, Any]]:
    """Of the query, by name."""
    (found,) = (operation for _, _, operation in operations() if operation["operationId"] == operation_id)
    listed = map(resolved, found.get("parameters", ()))
    return {one["name"]: resolved(one["schema"]) for one in listed if one["in"] == "query"}


def test_the_document_has_the_routes_of_the_node() -> None:
    assert {f"{method} {path}" for method, path, _ in operations()} == {*cluster.ENDPOINTS, "GET /"}


def test_operations_are_called_as_in_the_metrics() -> None:
    every = [*routes.ROUTES.values(), routes.KEY, routes.MEMBER, routes.PROMOTION]
    counted = {name for route in every for name, _ in route.methods.values()}
    assert {operation["operationId"] for _, _, operation in operations()} == counted


def test_every_status_of_an_operation_is_documented() -> None:
    for method, path, operation in operations():
        statuses = {int(status) for status in operation["responses"]}
        assert statuses <= {status for status, _ in documented()} | {200, 201, 304}, f"{method} {path}"
        assert 400 in statuses, f"{method} {path}"


def test_every_documented_status_is_that_of_an_operation() -> None:
    listed = {int(status) for _, _, operation in operations() for status in operation["responses"]}
    assert {status for status, _ in documented()} - OF_THE_CONNECTION <= listed


def test_the_codes_of_bad_requests_are_those_of_the_page() -> None:
    bad = DOCUMENT["components"]["schemas"]["BadRequest"]["allOf"][1]["properties"]["code"]["enum"]
    assert set(bad) == {code for status, code in documented() if status == 400}


def test_parameters_and_their_bounds_are_those_of_the_code() -> None:
    assert parameters("scan").keys() == set(listing.LIST_PARAMS)
    assert parameters("scan")["limit"]["maximum"] == listing.MAX_LIMIT
    assert parameters("put") == parameters("delete")
    assert parameters("put")["if_revision"]["maximum"] == MAX_REVISION
    log = parameters("log")
    assert (log["limit"]["maximum"], log["limit"]["default"]) == (MAX_LOG_ENTRIES, LOG_ENTRIES)
    assert log["first"]["maximum"] == MAX_REVISION
    components = DOCUMENT["components"]
    assert components["parameters"]["Key"]["schema"]["maxLength"] == MAX_KEY_BYTES
    assert components["schemas"]["NodeId"]["pattern"] == f"^{NODE_ID.pattern}$"
    idempotency = components["parameters"]["IdempotencyKey"]["schema"]["pattern"]
    assert re.fullmatch(idempotency, "x" * MAX_IDEMPOTENCY_KEY_BYTES)
    assert not re.fullmatch(idempotency, "x" * (MAX_IDEMPOTENCY_KEY_BYTES + 1))
