"""Fetching a snapshot: all of its bytes in order, or an error, and never the bytes of another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace

import pytest
from xxhash import xxh3_64_intdigest

from fastkv._core.codes import Opcode, Status
from fastkv.client.addresses import Address
from fastkv.client.backup import AHEAD, Download
from fastkv.client.settings import Settings
from fastkv.errors import CorruptState, FastKVError, NoSpace, ProtocolError, Timeout, Unavailable
from fastkv.wire.backup import (
    BackupAsk,
    SnapshotChunk,
    decode_backup_ask,
    encode_backup_ask,
    encode_snapshot_chunk_body,
)
from tests.client.fake_node import FakeNode, Request

CONTENT = bytes(range(256)) * 41 + b"end"
INDEX, TERM = 700, 3


class Source:
    """Serves CONTENT in parts of `step` bytes, as a node does; `spoil` changes the answer to a later question."""

    def __init__(self, step: int = 1000, spoil: Callable[[Request, SnapshotChunk], None] | None = None) -> None:
        self.step = step
        self.spoil = spoil
        self.asked: list[BackupAsk] = []
        self.under_way = self.most_under_way = 0

    def __call__(self, request: Request) -> None:
        ask = decode_backup_ask(request.body)
        self.asked.append(ask)
        data = CONTENT[ask.offset : ask.offset + min(ask.nbytes, self.step)]
        chunk = SnapshotChunk(INDEX, TERM, len(CONTENT), xxh3_64_intdigest(CONTENT), "lmdb-0.9", ask.offset, data)
        if self.spoil is not None and ask.index:
            self.spoil(request, chunk)
        else:
            request.reply(body=encode_snapshot_chunk_body(chunk))


async def download(node: FakeNode, *, stale: bool = False, timeout_s: float = 30.0) -> bytes:
    found = await Download.open(
        Address.parse(node.address), Settings(connect_timeout_s=30), stale=stale, timeout_s=timeout_s
    )
    try:
        async with aclosing(found.parts()) as parts:
            return b"".join([data async for data in parts])
    finally:
        await found.close()


@pytest.mark.parametrize("step", [211, 1000, len(CONTENT) - 1, len(CONTENT)])
async def test_all_bytes_come_in_order_whatever_the_node_s_parts(step: int) -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = source = Source(step)
        assert await download(node) == CONTENT
        first, *rest = source.asked
        assert (first.index, first.offset, first.stale) == (0, 0, False)
        assert {(ask.index, ask.checksum) for ask in rest} <= {(INDEX, xxh3_64_intdigest(CONTENT))}
        await node.until_alone()


async def test_parts_are_asked_for_ahead_and_no_more_than_that() -> None:
    held: list[tuple[Request, SnapshotChunk]] = []
    async with FakeNode() as node:

        def hold(request: Request, chunk: SnapshotChunk) -> None:
            held.append((request, chunk))
            if len(held) == AHEAD:
                for other, data in reversed(held):      # in any order
                    other.reply(body=encode_snapshot_chunk_body(data))
                node.on[Opcode.BACKUP] = Source(100)

        node.on[Opcode.BACKUP] = Source(100, hold)
        assert await download(node) == CONTENT


async def test_the_question_says_that_stale_will_do() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = source = Source()
        await download(node, stale=True)
        assert source.asked[0].stale


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.NO_SPACE, NoSpace),
        (Status.NO_LEADER, Unavailable),
        (Status.CORRUPT_STATE, CorruptState),
        (Status.KEY_NOT_FOUND, Unavailable),
    ],
)
async def test_a_node_that_refuses_says_why(status: int, error: type[FastKVError]) -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = lambda request: request.reply(status, b"because")
        with pytest.raises(error, match="because"):
            await download(node)
        node.on[Opcode.BACKUP] = Source(1000, lambda request, chunk: request.reply(status, b"later"))
        with pytest.raises(error, match="later"):
            await download(node)
        await node.until_alone()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda chunk: replace(chunk, offset=chunk.offset - 1),
        lambda chunk: replace(chunk, data=chunk.data[:-1]),
        lambda chunk: replace(chunk, data=b""),
        lambda chunk: replace(chunk, checksum=1),
    ],
)
async def test_other_bytes_than_those_asked_for_are_refused(spoil: Callable[[SnapshotChunk], SnapshotChunk]) -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = Source(
            1000, lambda request, chunk: request.reply(body=encode_snapshot_chunk_body(spoil(chunk)))
        )
        with pytest.raises(ProtocolError):
            await download(node)


async def test_a_part_that_was_altered_on_its_way_is_refused() -> None:
    async with FakeNode() as node:

        def alter(request: Request, chunk: SnapshotChunk) -> None:
            body = encode_snapshot_chunk_body(chunk)
            request.reply(body=body[:-1] + bytes([body[-1] ^ 1]))

        node.on[Opcode.BACKUP] = Source(1000, alter)
        with pytest.raises(ProtocolError, match="not those that were sent"):
            await download(node)


async def test_a_node_that_goes_away_ends_it() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = Source(1000, lambda request, chunk: request.link.cut())
        with pytest.raises(Unavailable, match="is gone"):
            await download(node)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await download(node)


async def test_a_node_that_makes_no_snapshot_in_time() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = lambda request: None
        with pytest.raises(Timeout, match=r"has not answered within 0\.2 s"):
            await download(node, timeout_s=0.2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(31),
        bytes(33),
        encode_backup_ask(BackupAsk(0, 0, 0, 0)),
        encode_backup_ask(BackupAsk(0, 0, 5, 1)),
        encode_backup_ask(BackupAsk(0, 5, 0, 1)),
        encode_backup_ask(BackupAsk(1, 5, 0, 1))[:-4] + b"\x02\0\0\0",
    ],
)
async def test_what_is_no_question(body: bytes) -> None:
    with pytest.raises(ValueError, match="BACKUP body"):
        decode_backup_ask(body)
