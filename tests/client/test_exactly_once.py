"""A write is carried out once, however often it has to be sent; and nobody is told anything else than what happened."""

from __future__ import annotations

import asyncio

import pytest

import fastkv
from fastkv._core.codes import SESSION_WINDOW, FrameFlag, Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv.client import AsyncClient
from fastkv.client.backoff import Backoff
from tests.client.fake_node import FakeNode, Request, State, threaded


class Loses:
    """Carries out the first `times` requests and cuts the connection instead of answering; then behaves."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, request: Request) -> None:
        if not self.left:
            request.serve()
            return
        self.left -= 1
        request.link.node.serve(request)
        request.link.cut()


def goodbye(request: Request) -> None:
    """The node stops: it has not carried this out."""
    request.link.write(encode_frame(Opcode.GOODBYE, FrameFlag.RESPONSE, Status.OK, 0, b""))
    request.link.transport.close()


async def test_a_write_whose_answer_was_lost_is_sent_again_and_done_once() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.PUT] = Loses(2)
        assert await kv.put("k", "v") == 1
        first, second, third = node.asked(Opcode.PUT)
        assert first.body == second.body == third.body
        assert node.state.revision == 1
        assert await kv.put("k", "w") == 2


async def test_a_compare_and_set_gets_its_own_result_and_not_its_own_shadow() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.PUT] = Loses(1)
        assert await kv.put("lock", "me", if_revision=0) == 1       # the second try would find it taken
        node.on[Opcode.DELETE] = Loses(1)
        assert await kv.delete("lock")


async def test_without_sessions_the_caller_has_to_know() -> None:
    async with FakeNode() as node, AsyncClient(node.address, exactly_once=False) as kv:
        node.on[Opcode.PUT] = Loses(1)
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.put("k", "v")
        assert node.state.sessions == {}


async def test_one_session_for_all_writes() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await asyncio.gather(*(kv.put(f"k{n}", "v") for n in range(200)))
        (results,) = node.state.sessions.values()
        assert sorted(results) == list(range(1, 201))


async def test_a_session_that_is_gone_is_replaced_for_a_write_that_was_not_done() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("k", "v")
        node.state.sessions = {0: {}}           # everything else was evicted
        assert await kv.put("k", "w") == 2
        assert len(node.state.sessions) == 2


async def test_a_session_that_is_gone_leaves_a_lost_write_unknown() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("k", "v")

        def lose_all(request: Request) -> None:
            node.serve(request)
            node.state.sessions = {0: {}}
            del node.on[Opcode.PUT]
            request.link.cut()

        node.on[Opcode.PUT] = lose_all
        with pytest.raises(fastkv.OutcomeUnknown, match="session was dropped"):
            await kv.put("k", "w")
        assert node.state.revision == 2         # it was done, once
        assert await kv.put("k", "x") == 3


async def test_a_deadline_leaves_what_was_sent_unknown_and_says_so_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("k", "v")
        node.on[Opcode.PUT] = lambda request: None
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.put("k", "w", timeout=0.5)
        node.on[Opcode.PUT] = lambda request: request.reply(Status.NO_LEADER)
        monkeypatch.setattr(Backoff, "next_s", lambda self: 60)         # the deadline comes between two tries
        with pytest.raises(fastkv.Unavailable):
            await kv.put("k", "w", timeout=30)


async def test_a_write_whose_session_was_not_opened_in_time_is_not_done() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.SESSION] = lambda request: None
        with pytest.raises(fastkv.Timeout):
            await kv.put("k", "v", timeout=0.5)
        assert node.asked(Opcode.PUT) == []


async def test_a_write_with_more_time_outlasts_one_with_less_in_opening_their_session() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.SESSION] = lambda request: request.reply(Status.NO_LEADER)
        hasty = asyncio.ensure_future(kv.put("hasty", "v", timeout=0.5))
        patient = asyncio.ensure_future(kv.put("patient", "v", timeout=60))
        with pytest.raises((fastkv.Unavailable, fastkv.Timeout)):       # between two tries, or during one
            await hasty
        del node.on[Opcode.SESSION]
        assert await patient == 1


async def test_writes_wait_where_the_cluster_could_forget_the_oldest() -> None:
    async with FakeNode() as node, AsyncClient(node.address, max_in_flight=4 * SESSION_WINDOW) as kv:
        held: list[Request] = []

        def hold_the_first(request: Request) -> None:
            if request.command.session is not None and request.command.session[1] == 1:
                held.append(request)
            else:
                request.serve()

        node.on[Opcode.PUT] = hold_the_first
        writes = [asyncio.create_task(kv.put(f"k{n}", "v")) for n in range(SESSION_WINDOW + 5)]
        await node.until_asked(Opcode.PUT, SESSION_WINDOW)
        await kv.get("k1")                      # whatever was to come has come
        assert len(node.asked(Opcode.PUT)) == SESSION_WINDOW
        held[0].serve()
        await asyncio.gather(*writes)


async def test_goodbye_means_not_done_and_sends_everything_elsewhere() -> None:
    state = State()
    async with FakeNode("node-1", state) as one, FakeNode("node-2", state) as two:
        state.leader = one
        async with AsyncClient(f"{one.address},{two.address}", exactly_once=False) as kv:
            await kv.put("k", "v")
            for opcode in (Opcode.PUT, Opcode.GET):
                one.on[opcode] = goodbye
            state.leader = two
            revision, item = await asyncio.gather(kv.put("k", "w"), kv.get("k"))
            assert revision == 2
            assert item.value in (b"v", b"w")
            assert two.asked(Opcode.PUT)


def test_the_synchronous_client_does_the_same() -> None:
    node = FakeNode()
    with threaded(node), fastkv.connect(node.address) as kv:
        node.on[Opcode.PUT] = Loses(1)
        assert kv.put("k", "v") == 1
        assert node.state.revision == 1
