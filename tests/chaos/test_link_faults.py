"""Links that lose what they carry, and connections that are half-open."""

from __future__ import annotations

import asyncio

from fastkv.chaos.links import CLIENT, PASS, RETRANSMISSION_S, Links, Rule
from fastkv.wire.client import CLIENT_ROLE
from tests.chaos.test_links import BLOCKED, LIMIT_S, ROUNDED_S, Streams, echoed, hello, is_silent, running


async def ended(streams: Streams) -> bytes:
    """What still comes until the connection ends, however it does."""
    try:
        return await asyncio.wait_for(streams[0].read(), LIMIT_S)
    except ConnectionError:
        return b""


async def test_what_is_lost_comes_after_a_retransmission_and_in_order() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        network.links.set("a", "target", Rule(loss=0.9))
        waits = [RETRANSMISSION_S]       # the first is lost, and nothing else

        def wait_s(rule: Rule) -> float:
            return waits.pop() if rule.loss and waits else 0.0

        network.links.retransmissions_s = wait_s  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        for text in (b"first ", b"second ", b"third "):
            streams[1].write(text)
            await asyncio.sleep(0.01)
        assert await asyncio.wait_for(streams[0].readexactly(19), LIMIT_S) == b"first second third "
        assert asyncio.get_running_loop().time() - began >= RETRANSMISSION_S - ROUNDED_S


async def test_a_link_that_loses_nothing_any_more_has_sent_everything_again() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        network.links.set("a", "target", Rule(loss=0.9))
        network.links.retransmissions_s = lambda rule: 3600.0  # type: ignore[method-assign]
        streams[1].write(b"lost")
        assert await is_silent(streams)
        network.links.set("a", "target", PASS)
        assert await asyncio.wait_for(streams[0].readexactly(4), LIMIT_S) == b"lost"


def test_how_often_is_lost_what_a_rule_says() -> None:
    links = Links({}, seed=1)
    waits = [links.retransmissions_s(Rule(loss=0.2)) for _ in range(5000)]
    assert 0.17 < sum(wait > 0 for wait in waits) / len(waits) < 0.23
    assert min(wait for wait in waits if wait) == RETRANSMISSION_S
    assert max(waits) >= 3 * RETRANSMISSION_S, "what is lost twice waits longer"
    assert links.retransmissions_s(PASS) == 0.0
    again = Links({}, seed=1)
    assert [again.retransmissions_s(Rule(loss=0.2)) for _ in range(5000)] == waits


async def test_a_half_open_connection_swallows_everything_and_is_cut_in_the_end() -> None:
    async with running() as network:
        dead, other = await network.dial_as("a"), await network.dial_as("b")
        assert network.links.deaden("a", "target") == 1
        dead[1].write(b"anybody there?")
        assert await is_silent(dead)
        assert network.links.withheld == len(b"anybody there?")
        await echoed(other, b"still here")
        fresh = await network.dial_as("a")      # a new connection is as good as ever
        await echoed(fresh, b"hello")
        network.links.revive()
        assert await ended(dead) == b"", "what was swallowed is gone for good"
        await echoed(fresh, b"hello again")


async def test_nobody_hears_of_the_end_of_who_is_at_a_half_open_connection() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        network.links.deaden("target", "a")
        streams[1].close()
        await asyncio.sleep(0.1)
        assert not network.node.ended.is_set()
        network.links.revive()
        await asyncio.wait_for(network.node.ended.wait(), LIMIT_S)


async def test_clients_connections_can_be_half_open() -> None:
    async with running() as network:
        client, node = await network.dial(hello(CLIENT_ROLE, "")), await network.dial_as("a")
        assert network.links.deaden(CLIENT, "target") == 1
        client[1].write(b"ping")
        assert await is_silent(client)
        await echoed(node, b"ping")


async def test_what_meets_a_blocked_link_is_counted() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        await echoed(streams, b"free")
        assert network.links.withheld == 0
        network.links.set("a", "target", BLOCKED)
        streams[1].write(b"held")
        assert await is_silent(streams)
        assert network.links.withheld == 4
        network.links.set("a", "target", PASS)
        assert await asyncio.wait_for(streams[0].readexactly(4), LIMIT_S) == b"held"
