"""Nodes that live and answer nothing, as one does that is cut off from its leader: who can, asks another one.

When it is enough is `Patience`'s to say, and tested on a clock in the test's hands. What follows is tested by saying
so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import fastkv.client.patience
from fastkv._core.codes import Opcode, Status
from fastkv.client import AsyncClient
from fastkv.client.addresses import parse_endpoints
from fastkv.client.cluster import Cluster
from fastkv.client.patience import Patience
from fastkv.client.session import Sessions
from fastkv.client.settings import Settings
from fastkv.wire.client import encode_get
from tests.client.fake_node import FakeNode, Request, State

GET, PUT = encode_get(b"k"), b"\1\0\0\0k"


def client(*nodes: FakeNode, limit_s: float = 3600.0) -> Cluster:
    endpoints = parse_endpoints([node.address for node in nodes])
    return Cluster(endpoints, Settings(answer_limit_s=limit_s, follow_leader=False))


async def connected_to(node: FakeNode, *others: FakeNode, limit_s: float = 3600.0) -> Cluster:
    """A client of all, which is connected to the first one."""
    cluster = client(node, *others, limit_s=limit_s)
    cluster._endpoints = cluster._endpoints[:1]
    await cluster.connect()
    cluster._endpoints = parse_endpoints([each.address for each in (node, *others)])
    return cluster


async def enough(cluster: Cluster, node: FakeNode, opcode: int) -> None:
    """The node has been asked, and has been silent for too long."""
    await node.state.until(lambda: node.asked(opcode))
    assert cluster._current is not None
    cluster._current._give_up()


async def test_a_read_is_asked_of_another_node_when_this_one_only_answers_pings() -> None:
    async with FakeNode("node-1", state := State()) as silent, FakeNode("node-2", state) as other:
        held: list[Request] = []
        silent.on[Opcode.GET] = held.append
        cluster = await connected_to(silent, other)
        read = asyncio.ensure_future(cluster.request(Opcode.GET, GET, writes=False))
        await enough(cluster, silent, Opcode.GET)
        assert (await read).status == Status.KEY_NOT_FOUND
        assert len(held) == len(other.asked(Opcode.GET)) == 1
        await cluster.request(Opcode.GET, GET, writes=False)
        assert len(held) == 1, "it is not asked again while the other one answers"
        await cluster.close()


async def test_it_needs_nobody_to_say_so() -> None:
    async with FakeNode("node-1", state := State()) as silent, FakeNode("node-2", state) as other:
        silent.on[Opcode.GET] = lambda request: None
        cluster = await connected_to(silent, other, limit_s=0.1)
        reply = await cluster.request(Opcode.GET, GET, writes=False, timeout_s=60)
        assert reply.status == Status.KEY_NOT_FOUND
        await cluster.close()


async def test_a_write_of_a_session_is_sent_to_another_node_and_done_once() -> None:
    async with FakeNode("node-1", state := State()) as silent, FakeNode("node-2", state) as other:
        cluster = await connected_to(silent, other)

        def do_and_say_nothing(request: Request) -> None:
            silent.serve(request)

        silent.on[Opcode.PUT] = do_and_say_nothing
        kv = AsyncClient(silent.address)
        kv._cluster, kv._sessions = cluster, Sessions(cluster)
        write = asyncio.ensure_future(kv.put("k", "v"))
        await enough(cluster, silent, Opcode.PUT)
        assert await write == 1
        assert len(silent.asked(Opcode.PUT)) == len(other.asked(Opcode.PUT)) == 1
        assert state.revision == 1
        await kv.close()


async def test_a_write_that_must_not_be_sent_twice_goes_on_waiting() -> None:
    async with FakeNode("node-1", state := State()) as silent, FakeNode("node-2", state) as other:
        held: list[Request] = []
        silent.on[Opcode.PUT] = silent.on[Opcode.GET] = held.append
        cluster = await connected_to(silent, other)
        write = asyncio.ensure_future(cluster.request(Opcode.PUT, PUT, writes=True))
        read = asyncio.ensure_future(cluster.request(Opcode.GET, GET, writes=False))
        await silent.state.until(lambda: silent.asked(Opcode.PUT))
        await enough(cluster, silent, Opcode.GET)
        await read
        assert not write.done()
        next(request for request in held if request.opcode == Opcode.PUT).reply(Status.OK, bytes(8))
        assert (await write).status == Status.OK
        assert other.asked(Opcode.PUT) == []
        await cluster.close()


async def test_the_only_node_that_is_known_is_not_left() -> None:
    async with FakeNode() as node:
        held: list[Request] = []
        node.on[Opcode.GET] = held.append
        cluster = client(node)
        read = asyncio.ensure_future(cluster.request(Opcode.GET, GET, writes=False))
        await enough(cluster, node, Opcode.GET)
        assert len(held) == len(node.links) == 1
        held[0].serve()
        assert (await read).status == Status.KEY_NOT_FOUND
        await cluster.close()


# -- when it is enough -------------------------------------------------------------------------------------------------


class Clock:
    """A loop's clock and its one timer, in the test's hands."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due: tuple[float, Callable[[], None]] | None = None

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        self.due = when, callback
        return self

    def pass_(self, seconds: float, *, late_s: float = 0.0) -> None:
        """Time passes; a timer that is due fires, `late_s` after its time."""
        end = self.now + seconds
        while self.due is not None and self.due[0] + late_s <= end:
            self.now, callback = self.due[0] + late_s, self.due[1]
            self.due = None
            callback()
        self.now = end


class Watched:
    """A patience of one second, and how often it was at its end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.oldest: float | None = None
        self.ends = 0
        monkeypatch.setattr(fastkv.client.patience.asyncio, "get_running_loop", lambda: self.clock)
        self.patience = Patience(limit_s=1.0, oldest=lambda: self.oldest, give_up=self._end)

    def _end(self) -> None:
        self.ends += 1

    def ask(self) -> None:
        self.oldest = self.clock.now
        self.patience.wake()


def test_a_request_that_waits_for_the_limit_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.ask()
    watched.clock.pass_(0.9)
    assert watched.ends == 0
    watched.clock.pass_(0.2)
    assert watched.ends == 1


def test_a_node_that_answers_others_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.ask()
    for _ in range(10):
        watched.clock.pass_(0.8)
        watched.patience.answered()
    assert watched.ends == 0
    watched.clock.pass_(1.1)
    assert watched.ends == 1


def test_a_request_that_has_just_begun_is_not_judged_by_an_older_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.ask()
    watched.clock.pass_(0.1)
    watched.patience.answered()
    watched.oldest = None
    watched.clock.pass_(0.85)
    watched.ask()           # the timer of the first one is still to come
    watched.clock.pass_(0.9)
    assert watched.ends == 0
    watched.clock.pass_(0.2)
    assert watched.ends == 1


def test_a_loop_that_stood_still_itself_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    watched.ask()
    watched.clock.pass_(3.5, late_s=2.0)
    assert watched.ends == 0, "what came in those two seconds is yet to be read"
    watched.clock.pass_(0.6)
    assert watched.ends == 1, "a whole limit after the loop went on"
