"""Scans: pages of one snapshot, from one node."""

from __future__ import annotations

import asyncio

import pytest

import fastkv
from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv.client import AsyncClient, Item, Scan
from fastkv.client import scan as scan_module
from fastkv.client.scan import prefix_end
from tests.client.fake_node import FakeNode, State


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "PAGE_ITEMS", 10)


async def filled(kv: AsyncClient, count: int = 25) -> list[bytes]:
    keys = [f"user:{i:03}" for i in range(count)]
    await asyncio.gather(*(kv.put(key, f"v{key}") for key in keys))
    await kv.put("other", "x")
    return [key.encode() for key in keys]


async def collect(scan: Scan) -> list[Item]:
    return [item async for item in scan]


async def test_a_scan_walks_all_pages_in_order() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        keys = await filled(kv)
        items = await collect(kv.scan(prefix="user:"))
        assert [item.key for item in items] == keys
        assert items[3].text == "vuser:003"
        assert items[3].version == 1
        assert len(node.asked(Opcode.SCAN)) == 3
        everything = await collect(kv.scan())
        assert [item.key for item in everything] == [b"other", *keys]


async def test_a_scan_goes_backwards_within_bounds() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        keys = await filled(kv)
        items = await collect(kv.scan(start="user:005", end=b"user:020", reverse=True))
        assert [item.key for item in items] == keys[5:20][::-1]


@pytest.mark.parametrize("limit", [0, 1, 9, 10, 11, 20, 25, 100])
async def test_a_scan_ends_at_its_limit_and_asks_for_no_page_more(limit: int) -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        keys = await filled(kv)
        items = await collect(kv.scan(prefix="user:", limit=limit))
        assert [item.key for item in items] == keys[:limit]
        assert len(node.asked(Opcode.SCAN)) == -(-min(limit, 25) // 10)


async def test_a_scan_of_keys_has_no_values() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await filled(kv, 3)
        items = await collect(kv.scan(prefix="user:", keys_only=True))
        assert [item.value for item in items] == [None, None, None]
        assert all(item.exists for item in items)


async def test_all_pages_are_of_the_snapshot_of_the_first() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        keys = await filled(kv)
        scan = kv.scan(prefix="user:")
        seen = [(await anext(scan)).key]
        for key in keys:
            await kv.delete(key)
        await kv.put("user:new", "x")
        seen += [item.key async for item in scan]
        assert seen == keys


async def test_later_pages_are_asked_of_the_node_that_holds_the_snapshot() -> None:
    state = State()
    async with FakeNode("node-1", state) as first, FakeNode("node-2", state) as second:
        state.leader = first
        async with AsyncClient(first.address) as kv:
            keys = await filled(kv)
            scan = kv.scan(prefix="user:")
            assert len(await scan.next_page()) == 10
            state.leader = second
            first.on[Opcode.PUT] = lambda request: request.serve(FrameFlag.FORWARDED)
            await kv.put("x", "y")
            await first.until_alone()  # until the client has moved
            assert [item.key async for item in scan] == keys[10:]
            assert len(first.asked(Opcode.SCAN)) == 3
            assert not second.asked(Opcode.SCAN)
            await first.until_alone()  # the connection for the pages is not kept


async def test_a_snapshot_that_is_gone_ends_the_scan() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await filled(kv)
        scan = kv.scan(prefix="user:")
        await scan.next_page()
        node.snapshots.clear()
        with pytest.raises(fastkv.CursorExpired):
            await scan.next_page()


async def test_a_node_that_is_gone_ends_the_scan() -> None:
    state = State()
    async with FakeNode("node-1", state) as first, FakeNode("node-2", state) as second:
        state.leader = first
        async with AsyncClient(first.address) as kv:
            await filled(kv)
            scan = kv.scan(prefix="user:")
            await scan.next_page()
            state.leader = second
            await first.stop()
            with pytest.raises(fastkv.CursorExpired):
                await scan.next_page()
            assert len(await collect(kv.scan(prefix="user:"))) == 25
        await first.start()


async def test_the_first_page_is_tried_again_like_any_read() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        keys = await filled(kv, 5)

        def cut_once(request: object) -> None:
            del node.on[Opcode.SCAN]
            node.links[0].cut()

        node.on[Opcode.SCAN] = cut_once
        assert [item.key async for item in kv.scan(prefix="user:")] == keys


async def test_a_page_without_an_answer_times_out() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await filled(kv)
        scan = kv.scan(prefix="user:", timeout=0.05)
        await scan.next_page()
        node.on[Opcode.SCAN] = lambda request: None
        with pytest.raises(fastkv.Timeout):
            await scan.next_page()


async def test_an_empty_page_that_is_not_the_last_is_refused_instead_of_asked_for_ever() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        body = (1).to_bytes(8, "little") + bytes(4) + (9).to_bytes(2, "little") + bytes(2) + b"cursor..."
        node.on[Opcode.SCAN] = lambda request: request.reply(Status.OK, body)
        with pytest.raises(fastkv.ProtocolError):
            await collect(kv.scan())


async def test_contradictory_parameters_are_refused() -> None:
    kv = AsyncClient()
    with pytest.raises(ValueError, match="prefix"):
        kv.scan(prefix="a", start="b")
    with pytest.raises(ValueError, match="limit"):
        kv.scan(limit=-1)
    with pytest.raises(fastkv.KeyTooLarge):
        kv.scan(prefix="a" * 512)
    await kv.close()


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b""), (b"", b""), (b"a\x00", b"a\x01")],
)
def test_a_prefix_ends_before_the_next_one(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
