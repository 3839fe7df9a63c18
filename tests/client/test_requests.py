"""What a well-behaved cluster answers, and how the client carries it: results, pipelining, frames in pieces."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

import fastkv
from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv.client import AsyncClient, Item
from tests.client.fake_node import FRAME_LIMIT_BYTES, FakeNode, Request


async def test_put_get_and_delete_answer_revisions_and_items() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        assert await kv.put("user:john", "John Doe") == 1
        assert await kv.put(b"user:john", b"Johnny") == 2
        assert await kv.get("user:john") == Item(b"user:john", b"Johnny", revision=2, version=2, create_revision=1)
        assert await kv.delete("user:john") is True
        assert await kv.delete("user:john") is False
        missing = await kv.get("user:john")
        assert missing == Item(b"user:john", None)
        assert not missing.exists
        assert missing.text is None


async def test_an_empty_value_is_a_value() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("k", "")
        item = await kv.get("k")
        assert item.value == b""
        assert item.exists


async def test_text_is_sent_as_utf8() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("schlüssel", "größe")
        item = await kv.get("schlüssel".encode())
        assert item.value == "größe".encode()
        assert item.text == "größe"


async def test_a_conditional_write_that_fails_tells_the_current_revision() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        first = await kv.put("a", "1", if_revision=0)
        with pytest.raises(fastkv.PreconditionFailed) as exists:
            await kv.put("a", "2", if_revision=0)
        assert exists.value.revision == first
        with pytest.raises(fastkv.PreconditionFailed) as missing:
            await kv.delete("b", if_revision=7)
        assert missing.value.revision == 0
        assert await kv.delete("a", if_revision=first) is True


async def test_a_stale_read_tells_applied_index_and_age() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        prefix = (41).to_bytes(8, "little") + (7).to_bytes(4, "little") + bytes(4)

        def stale(request: Request) -> None:
            assert request.body[0] == 2
            status, body = node.serve(request)
            request.reply(status, prefix + body, FrameFlag.STALE)

        await kv.put("k", "v")
        node.on[Opcode.GET] = stale
        item = await kv.get("k", consistency="stale")
        assert (item.value, item.applied_index, item.age_ms) == (b"v", 41, 7)
        missing = await kv.get("none", consistency="stale")
        assert (missing.value, missing.applied_index, missing.age_ms) == (None, 41, 7)


async def test_a_thousand_requests_of_one_turn_leave_in_few_writes_on_one_connection() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        revisions = await asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(1000)))
        assert sorted(revisions) == list(range(1, 1001))
        assert len(node.links) == 1
        assert node.links[0].reads < 20  # the kernel may cut one write into a few reads


async def test_answers_in_reverse_order_reach_their_requests() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        for i in range(50):
            await kv.put(f"k{i}", f"v{i}")
        held: list[Request] = []

        def hold(request: Request) -> None:
            held.append(request)
            if len(held) == 50:
                for kept in reversed(held):
                    kept.serve()

        node.on[Opcode.GET] = hold
        items = await asyncio.gather(*(kv.get(f"k{i}") for i in range(50)))
        assert [item.text for item in items] == [f"v{i}" for i in range(50)]


async def test_an_answer_that_comes_byte_by_byte_is_put_together() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:

        async def drip(request: Request) -> None:
            status, body = node.serve(request)
            link, others = request.link, []
            link.write = others.append  # type: ignore[method-assign]  # the client may ask who leads meanwhile
            *front, last = encode_frame(Opcode.GET, FrameFlag.RESPONSE, status, request.id, body)
            for byte in front:
                link.transport.write(bytes([byte]))
                await asyncio.sleep(0)
            link.transport.write(bytes([last]))
            del link.write
            for data in others:
                link.write(data)

        await kv.put("k", "value")
        drips: list[asyncio.Task[None]] = []
        node.on[Opcode.GET] = lambda request: drips.append(asyncio.ensure_future(drip(request)))
        assert (await kv.get("k")).text == "value"
        assert (await kv.get("none")).value is None
        await asyncio.gather(*drips)


async def test_a_large_value_goes_both_ways() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        value = bytes(range(256)) * 200
        await asyncio.gather(*(kv.put(f"k{i}", value) for i in range(100)))  # more than the kernel takes at once
        items = await asyncio.gather(*(kv.get(f"k{i}") for i in range(100)))
        assert all(item.value == value for item in items)


async def test_no_more_requests_are_in_flight_than_allowed() -> None:
    async with FakeNode() as node, AsyncClient(node.address, max_in_flight=8) as kv:
        held: list[Request] = []
        node.on[Opcode.PUT] = held.append
        puts = asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(20)))
        await node.until_asked(Opcode.PUT, 8)
        await kv_turns()
        assert len(held) == 8
        for i in range(20):
            await node.until_asked(Opcode.PUT, i + 1)
            held[i].serve()
        assert sorted(await puts) == list(range(1, 21))


async def kv_turns() -> None:
    """Let everything that could be sent be sent."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        with pytest.raises(fastkv.TooLarge):
            await kv.put("k", bytes(FRAME_LIMIT_BYTES + 1))
        with pytest.raises(fastkv.KeyTooLarge):
            await kv.put("k" * 512, b"v")
        with pytest.raises(fastkv.InvalidKey):
            await kv.get("")
        assert not node.asked(Opcode.PUT)
        assert await kv.put("k" * 511, b"v") == 1  # and the connection is as good as before
        assert len(node.links) == 1


async def test_an_error_of_the_server_is_raised_as_its_class() -> None:
    async with FakeNode() as node, AsyncClient(node.address, exactly_once=False) as kv:
        for status, expected in [
            (Status.VALUE_TOO_LARGE, fastkv.ValueTooLarge),
            (Status.NO_SPACE, fastkv.NoSpace),
            (Status.UNSUPPORTED, fastkv.Unsupported),
            (Status.OUTCOME_UNKNOWN, fastkv.OutcomeUnknown),
            (Status.INVALID_REQUEST, fastkv.RequestError),
        ]:
            node.on[Opcode.PUT] = partial(Request.reply, status=status, body=b"the server's words")
            with pytest.raises(expected, match="the server's words"):
                await kv.put("k", "v")
        assert len(node.asked(Opcode.PUT)) == 5


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda kv: kv.put("k", 5), TypeError),
        (lambda kv: kv.put(None, "v"), TypeError),
        (lambda kv: kv.put("k", "v", if_revision=-1), ValueError),
        (lambda kv: kv.put("k", "v", timeout=0), ValueError),
        (lambda kv: kv.get("k", consistency="eventual"), ValueError),
    ],
)
async def test_wrong_use_is_a_type_or_value_error(call: object, error: type[Exception]) -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        assert callable(call)
        with pytest.raises(error):
            await call(kv)
        assert not node.asked(Opcode.PUT)
        assert not node.asked(Opcode.GET)


async def test_status_says_what_the_node_says() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.state.leader = node
        assert (await kv.status())["leader"] == {"id": "node-1", "address": node.address}
