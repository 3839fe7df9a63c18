"""The end of a client: nothing pending, nothing warned about, nothing half said."""

from __future__ import annotations

import asyncio

import pytest

import fastkv
from fastkv._core.codes import Opcode, Status
from fastkv.client import AsyncClient, ClientClosed
from tests.client.fake_node import FakeNode, Request


async def test_after_close_every_call_says_so() -> None:
    async with FakeNode() as node:
        kv = AsyncClient(node.address)
        await kv.put("k", "v")
        scan = kv.scan()
        await scan.next_page()
        await kv.close()
        await kv.close()
        for call in (kv.put("k", "v"), kv.get("k"), kv.delete("k"), kv.status(), kv.connect(), kv.scan().next_page()):
            with pytest.raises(ClientClosed):
                await call
        await node.until_alone()


async def test_what_is_under_way_ends_and_a_sent_write_is_unknown() -> None:
    async with FakeNode() as node:
        kv = AsyncClient(node.address, max_in_flight=2)
        silent: list[Request] = []
        node.on[Opcode.PUT] = node.on[Opcode.GET] = silent.append
        calls = [asyncio.ensure_future(call) for call in (kv.put("k", "v"), kv.get("k"), kv.put("waits", "v"))]
        await node.until_asked(Opcode.PUT)
        await node.until_asked(Opcode.GET)
        await kv.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [fastkv.OutcomeUnknown, ClientClosed, ClientClosed]


async def test_close_ends_an_attempt_to_connect() -> None:
    async with FakeNode() as mute:
        mute.on[Opcode.HELLO] = lambda request: None
        kv = AsyncClient(mute.address)
        put = asyncio.ensure_future(kv.put("k", "v"))
        await mute.state.until(lambda: mute.links and mute.links[0].greeted)
        await kv.close()
        with pytest.raises(ClientClosed):
            await put


async def test_close_ends_the_pause_between_attempts() -> None:
    async with FakeNode() as node:
        address = node.address
    kv = AsyncClient(address)
    put = asyncio.ensure_future(kv.put("k", "v"))
    await asyncio.sleep(0.02)
    await kv.close()
    with pytest.raises(ClientClosed):
        await put


async def test_close_ends_the_opening_of_a_session() -> None:
    async with FakeNode() as node:
        kv = AsyncClient(node.address)
        asked: list[Request] = []
        node.on[Opcode.SESSION] = asked.append
        puts = [asyncio.ensure_future(kv.put(f"k{n}", "v")) for n in range(3)]
        await node.state.until(lambda: asked)
        await kv.close()
        assert [type(end) for end in await asyncio.gather(*puts, return_exceptions=True)] == [ClientClosed] * 3


async def test_close_ends_the_pause_before_a_session_is_asked_for_again() -> None:
    async with FakeNode() as node:
        kv = AsyncClient(node.address)
        await kv.connect()
        tries = 0

        def refuse(request: Request) -> None:
            nonlocal tries
            tries += 1
            request.reply(Status.OVERLOADED)

        node.on[Opcode.SESSION] = refuse
        put = asyncio.ensure_future(kv.put("k", "v"))
        await node.state.until(lambda: tries == 4)      # from then on the pauses are long
        await asyncio.sleep(0)
        await kv.close()
        with pytest.raises(ClientClosed):
            await put


async def test_a_client_that_was_never_used_closes() -> None:
    async with FakeNode() as node:
        kv = AsyncClient(node.address)
        await kv.close()
        assert not node.links


async def test_leaving_the_block_with_an_error_closes_too() -> None:
    async with FakeNode() as node:
        with pytest.raises(LookupError):
            async with AsyncClient(node.address):
                raise LookupError
        await node.until_alone()
