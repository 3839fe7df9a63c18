"""Finding the leader, and moving to it without losing a request."""

from __future__ import annotations

import asyncio

from fastkv._core.codes import FrameFlag, Opcode
from fastkv.client import AsyncClient
from tests.client.fake_node import FakeNode, Request, State


async def test_a_client_that_meets_a_follower_moves_to_the_leader() -> None:
    state = State()
    async with FakeNode("node-1", state) as follower, FakeNode("node-2", state) as leader:
        state.leader = leader
        async with AsyncClient(follower.address) as kv:
            await state.until(lambda: bool(leader.links) and not follower.links)
            await kv.put("k", "v")
            assert len(leader.asked(Opcode.PUT)) == 1
            assert not follower.asked(Opcode.PUT)


async def test_a_client_that_is_told_to_stay_stays() -> None:
    state = State()
    async with FakeNode("node-1", state) as follower, FakeNode("node-2", state) as leader:
        state.leader = leader
        async with AsyncClient(follower.address, follow_leader=False) as kv:
            for i in range(5):
                await kv.put(f"k{i}", "v")
            assert not leader.links
            assert not follower.asked(Opcode.STATUS)


async def test_a_forwarded_answer_makes_the_client_look_for_the_leader() -> None:
    state = State()
    async with FakeNode("node-1", state) as first, FakeNode("node-2", state) as second:
        state.leader = first
        async with AsyncClient(first.address) as kv:
            await kv.put("k", "v")
            state.leader = second
            first.on[Opcode.PUT] = lambda request: request.serve(FrameFlag.FORWARDED)
            await kv.put("k", "w")
            await state.until(lambda: bool(second.links) and not first.links)
            await kv.put("k", "x")
            assert len(second.asked(Opcode.PUT)) == 1


async def test_requests_in_flight_end_on_the_connection_they_began_on() -> None:
    state = State()
    async with FakeNode("node-1", state) as follower, FakeNode("node-2", state) as leader:
        held: list[Request] = []
        follower.on[Opcode.PUT] = held.append
        follower.on[Opcode.STATUS] = held.append
        state.leader = leader
        async with AsyncClient(follower.address) as kv:
            slow = asyncio.ensure_future(kv.put("slow", "v"))
            await follower.until_asked(Opcode.PUT)
            await follower.until_asked(Opcode.STATUS)
            for request in held:
                if request.opcode == Opcode.STATUS:
                    request.serve()
            while not leader.asked(Opcode.GET):
                await kv.get("k")
            assert await kv.put("fast", "v") == 1
            assert leader.asked(Opcode.PUT)
            assert not slow.done()
            for request in held:
                if request.opcode == Opcode.PUT:
                    request.serve()
            assert await slow == 2
            await follower.until_alone()


async def test_a_client_stays_with_the_follower_while_the_leader_cannot_be_reached() -> None:
    state = State()
    async with FakeNode("node-1", state) as follower:
        leader = FakeNode("node-2", state)
        await leader.start()
        await leader.stop()
        state.leader = leader
        async with AsyncClient(follower.address) as kv:
            for i in range(3):
                await kv.put(f"k{i}", "v")
            assert len(follower.asked(Opcode.PUT)) == 3
            await leader.start()  # and moves as soon as it can be
            await state.until(lambda: bool(leader.links) and not follower.links)
        await leader.stop()


async def test_a_client_looks_on_while_there_is_no_leader() -> None:
    state = State()
    async with (
        FakeNode("node-1", state) as first,
        FakeNode("node-2", state) as second,
        AsyncClient(first.address) as kv,
    ):
        await first.until_asked(Opcode.STATUS, 3)
        state.leader = second
        await state.until(lambda: bool(second.links) and not first.links)
        await kv.put("k", "v")
        assert second.asked(Opcode.PUT)


async def test_one_endpoint_is_enough_to_survive_its_node() -> None:
    state = State()
    async with FakeNode("node-1", state) as first, FakeNode("node-2", state) as second:
        state.leader = first
        async with AsyncClient(first.address) as kv:
            await first.until_asked(Opcode.STATUS)
            await kv.put("k", "v")
            state.leader = second
            await first.stop()
            assert (await kv.get("k")).text == "v"
            assert second.asked(Opcode.GET)
        await first.start()


async def test_a_status_that_cannot_be_read_changes_nothing() -> None:
    state = State()
    async with FakeNode("node-1", state) as node, FakeNode("node-2", state) as leader:
        state.leader = leader
        bodies = [b"{", b"[]", b'{"nodes": 3, "leader": 4}', b'{"nodes": {"n": {"address": "x:y:z"}}}', b"\xff"]
        node.on[Opcode.STATUS] = lambda request: request.reply(0, bodies.pop()) if bodies else request.serve()
        async with AsyncClient(node.address) as kv:
            await kv.put("k", "v")
            await state.until(lambda: bool(leader.links) and not node.links)
            assert not bodies
