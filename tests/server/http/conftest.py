"""Fixtures of the HTTP tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from tests.server.http.harness import Face


@pytest.fixture(params=["uvloop", "asyncio"])
def loop(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoop:
    """The loop of production, and the one of the standard library: the face must not lean on either's habits."""
    return uvloop.new_event_loop() if request.param == "uvloop" else asyncio.new_event_loop()


@pytest.fixture
def face() -> Iterator[Face]:
    """A server over an empty service."""
    running = Face(uvloop.new_event_loop())
    yield running
    running.close()


@pytest.fixture
def make_face(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Face]]:
    """Makes one server with options of its own, on either loop."""
    made: list[Face] = []

    def make(**options: Any) -> Face:
        made.append(Face(loop, **options))
        return made[0]

    yield make
    for running in made:
        running.close()
    if not made:
        loop.close()
