"""The small parts: endpoints, pauses, settings."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from fastkv.client import AsyncClient
from fastkv.client.addresses import Address, parse_endpoints
from fastkv.client.backoff import Backoff
from fastkv.client.settings import Settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:9001", ("localhost", 9001)),
        (" 10.0.0.1:80 ", ("10.0.0.1", 80)),
        ("db.example", ("db.example", 9001)),
        ("[::1]:9002", ("::1", 9002)),
        ("[::1]", ("::1", 9001)),
    ],
)
def test_an_endpoint_is_read(text: str, expected: tuple[str, int]) -> None:
    assert Address.parse(text) == expected
    assert Address.parse(str(Address.parse(text))) == expected


@pytest.mark.parametrize(
    "text",
    ["", ":9001", "host:", "host:port", "host:0", "host:65536", "a:1:2", "[::1", "[::1]9001", "[::1]:", "h:-1", "h:١"],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="port"):
        Address.parse(text)


def test_lists_of_endpoints_come_in_both_spellings() -> None:
    expected = [("a", 1), ("b", 2)]
    assert parse_endpoints("a:1,b:2") == expected
    assert parse_endpoints(["a:1", "b:2", "a:1"]) == expected
    assert parse_endpoints(" a:1, ,b:2,") == expected
    with pytest.raises(ValueError, match="at least one"):
        parse_endpoints(" , ")


def test_pauses_double_up_to_the_cap_and_begin_again_after_success() -> None:
    backoff = Backoff(random.Random(1), first_s=0.01, cap_s=0.08)
    pauses = [backoff.next_s() for _ in range(8)]
    for pause, most in zip(pauses, [0.01, 0.02, 0.04, 0.08, 0.08, 0.08, 0.08, 0.08], strict=True):
        assert most / 2 <= pause <= most
    backoff.reset()
    assert backoff.next_s() <= 0.01


@pytest.mark.parametrize("name", ["timeout_s", "connect_timeout_s", "max_in_flight", "ping_after_s"])
def test_settings_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        replace(Settings(), **{name: 0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="silence"):
        Settings(ping_after_s=2, silence_limit_s=1)


def test_a_client_refuses_bad_parameters_at_once() -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        AsyncClient(timeout=-1)
    with pytest.raises(ValueError, match="endpoint"):
        AsyncClient([])
