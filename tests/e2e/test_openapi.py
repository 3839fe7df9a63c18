"""docs/openapi.yaml is what a running node does: schemathesis asks it everything that the document allows, and more."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import schemathesis
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from fastkv.config import parse_host_port
from tests.e2e.cluster import running_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.yaml"
EXAMPLES = 12
"""Drawn for each operation, beside those that go through the bounds of every parameter one by one."""
PATIENCE_S = 120.0
PATIENT = """
raft: {election_timeout_ms: 10000, heartbeat_timeout_ms: 1000}
limits: {request_timeout_ms: 100000, leader_wait_ms: 100000}
"""

ALLOWED_ANSWERS = {
    # An allowed request may meet a key of another revision, or bring an Idempotency-Key that was there before.
    "positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", "404", "409", "412", "422"]},
    # What is too long is refused as that.
    "negative_data_rejection": {"expected-statuses": ["400", "404", "405", "409", "412", "413", "415"]},
}

ADDRESS = re.compile(yaml.safe_load(DOCUMENT.read_text())["components"]["schemas"]["HostPort"]["pattern"])

schema = schemathesis.openapi.from_path(
    DOCUMENT, config=schemathesis.Config.from_dict({"checks": ALLOWED_ANSWERS})
)


@pytest.fixture(scope="module")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A single node, which waits for no other; and a patient one, so that a busy machine costs no answer."""
    with running_cluster(tmp_path_factory.mktemp("node"), 1, extra=PATIENT) as cluster:
        (node,) = cluster
        yield f"http://127.0.0.1:{node.http_port}"
        assert node.running, node.log_text()
        assert " critical " not in node.log_text()


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """An address of this machine on which nobody listens, as long as this lasts."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as kept:
        kept.trust_env = False
        yield kept


@schema.parametrize()
@settings(
    max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
def test_a_node_does_what_the_document_says(case: Any, base_url: str, session: requests.Session, nowhere: str) -> None:
    looser = any(map(is_a_looser_address, addresses(case).values()))
    keep_here(case, nowhere)
    response = case.call(base_url=base_url, session=session, timeout=PATIENCE_S)
    excluded = []
    query = parse_qs(urlsplit(response.request.url).query, keep_blank_values=True)
    if "cursor" in query:
        excluded.append(positive_data_acceptance)     # a text, of which only those that a listing gave out are taken
    if looser or is_taken_all_the_same(query):
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)


def is_taken_all_the_same(query: dict[str, list[str]]) -> bool:
    """Whether parameters are written as docs/http.md allows, and a schema cannot say.

    An empty one counts as not given; true and false may be 1 and 0; numbers may begin with zeros.
    """
    given = [(name, value) for name, several in query.items() for value in several]
    return any(
        not value or re.fullmatch("0[0-9]+", value) or (name in ("reverse", "keys_only") and value in ("0", "1"))
        for name, value in given
    )


def is_a_looser_address(text: object) -> bool:
    """Whether it is an address with a host whose name the document does not allow, and whoever resolves it might."""
    return isinstance(text, str) and parse_host_port(text) is not None and not ADDRESS.fullmatch(text)


def keep_here(case: Any, nowhere: str) -> None:
    """A member that is added or moved is at an address of this machine: the node will try to reach it."""
    for name, text in addresses(case).items():
        if isinstance(text, str) and parse_host_port(text) is not None:
            case.body[name] = nowhere


def addresses(case: Any) -> dict[str, Any]:
    """What a request says of where a member is."""
    if not case.path.startswith("/cluster/members") or not isinstance(case.body, dict):
        return {}
    return {name: case.body[name] for name in ("raft", "http") if name in case.body}
