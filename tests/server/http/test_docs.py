"""docs/http.md says what the code does: every code, route, parameter and limit of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import fastkv.server.http
from fastkv.server.http import cluster, listing, protocol, reader, server
from fastkv.server.http.protocol import State
from fastkv.server.http.responses import _HTTP_STATUS

PACKAGE = Path(fastkv.server.http.__file__).parent
TEXT = (PACKAGE.parents[2] / "docs" / "http.md").read_text()


def raised() -> set[tuple[int, str]]:
    """Status and code of each error that stands in the package's source."""
    pairs = {(status, code) for code, status in _HTTP_STATUS.items()}
    for path in PACKAGE.glob("*.py"):
        for status, code in re.findall(r'(?:HttpError|refuse)\(\s*(\d{3}),\s*"([A-Z_]+)"', path.read_text()):
            pairs.add((int(status), code))
    return pairs


def documented() -> set[tuple[int, str]]:
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \|", TEXT, re.MULTILINE)
    return {
        (int(status), code)
        for statuses, codes in rows
        for status in statuses.split(", ")
        for code in re.findall(r"`([A-Z_]+)`", codes)
    }


def test_every_error_is_documented_and_exists() -> None:
    assert raised() | {(500, "PROTOCOL_ERROR")} == documented()


@pytest.mark.parametrize("endpoint", cluster.ENDPOINTS)
def test_every_route_is_documented(endpoint: str) -> None:
    assert f"| `{endpoint}` |" in TEXT


@pytest.mark.parametrize("name", listing.LIST_PARAMS)
def test_every_parameter_is_documented(name: str) -> None:
    assert re.search(rf"^\| .*`{name}`", TEXT, re.MULTILINE)


def test_limits_are_those_of_the_code() -> None:
    assert f"| request line and headers | {reader.HEAD_LIMIT_BYTES // 1024} KiB |" in TEXT
    assert f"{server.BODIES_LIMIT_BYTES >> 20} MiB |" in TEXT
    assert f"at most {protocol.MAX_DISPATCHED} of a connection" in TEXT
    for state, sentence in [
        (State.RECEIVING, "a request has to arrive within"),
        (State.IDLE, "an idle connection is closed after"),
        (State.STALLED, "a client that does not read is cut after"),
    ]:
        assert f"| {sentence} | {server.TIME_LIMITS_S[state]:.0f} s |" in TEXT
