"""Coroutine tests: each runs on asyncio's loop and on uvloop, and leaves neither a task nor a logged error behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvloop

TEST_TIMEOUT_S = 60.0

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.fixturenames.append("loop_factory")
        metafunc.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    complaints: list[str] = []

    async def run() -> None:
        def complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            complaints.append(f"{context['message']}: {context.get('exception')!r}")

        asyncio.get_running_loop().set_exception_handler(complain)
        async with asyncio.timeout(TEST_TIMEOUT_S):
            await pyfuncitem.obj(**arguments)
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    factory = cast(LoopFactory, pyfuncitem.callspec.params["loop_factory"])
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())
    assert not complaints, complaints
    return True
