"""Fetching a snapshot: all of its bytes in order, or an error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv.client.addresses import Address
from fastkv.client.backup import RECEIVE_BYTES, Download
from fastkv.client.settings import Settings
from fastkv.errors import CorruptState, FastKVError, NoSpace, ProtocolError, Timeout, Unavailable
from fastkv.wire.backup import (
    BackupAsk,
    BackupOffer,
    decode_backup_ask,
    decode_backup_offer,
    encode_backup_ask,
    encode_backup_offer,
)
from tests.client.fake_node import FakeNode, Request

CONTENT = bytes(range(256)) * 41 + b"end"
OFFER = BackupOffer(700, 3, len(CONTENT), 0x55, "lmdb-0.9")


class Source:
    """Offers CONTENT, and then does as `send` says, as a node by default."""

    def __init__(self, send: Callable[[Request], None] | None = None, offer: BackupOffer = OFFER) -> None:
        self.send = send or (lambda request: behave(request, CONTENT))
        self.offer = offer
        self.asked: list[BackupAsk] = []

    def __call__(self, request: Request) -> None:
        ask = decode_backup_ask(request.body)
        self.asked.append(ask)
        if ask.index:
            self.send(request)
        else:
            request.reply(body=encode_backup_offer(self.offer))


def behave(request: Request, content: bytes) -> None:
    request.reply()
    request.link.write(content)
    request.link.transport.close()


async def download(node: FakeNode, *, stale: bool = False, timeout_s: float = 30.0, room_bytes: int = 4096) -> bytes:
    found = await Download.open(
        Address.parse(node.address), Settings(connect_timeout_s=30), stale=stale, timeout_s=timeout_s
    )
    memory = memoryview(bytearray(room_bytes))

    def take() -> bytes:
        return b"".join(bytes(memory[:nbytes]) for nbytes in found.pieces(lambda: memory))

    try:
        return await asyncio.to_thread(take)
    finally:
        found.close()


@pytest.mark.parametrize("room_bytes", [1, 1000, len(CONTENT) - 1, len(CONTENT), 1 << 20])
async def test_all_bytes_come_in_order_whatever_the_room(room_bytes: int) -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = source = Source()
        assert await download(node, room_bytes=room_bytes) == CONTENT
        assert source.asked == [BackupAsk(0, 0), BackupAsk(OFFER.index, OFFER.state_hash)]
        await node.until_alone()


async def test_one_that_is_longer_than_what_is_received_at_a_time() -> None:
    content = bytes(range(256)) * (3 * RECEIVE_BYTES // 256) + b"end"
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = Source(
            lambda request: behave(request, content), BackupOffer(1, 1, len(content), 1, "lmdb-0.9")
        )
        assert await download(node, room_bytes=1 << 20) == content


async def test_the_question_says_that_stale_will_do() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = source = Source()
        await download(node, stale=True)
        assert [ask.stale for ask in source.asked] == [True, False]


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
        node.on[Opcode.BACKUP] = Source(lambda request: request.reply(status, b"later"))
        with pytest.raises(error, match="later"):
            await download(node)
        await node.until_alone()


def say(opcode: int, status: int = 0, body: bytes = b"") -> Callable[[Request], None]:
    frame = encode_frame(opcode, FrameFlag.RESPONSE, status, 1, body)
    return lambda request: request.link.write(frame)


@pytest.mark.parametrize(
    ("send", "error", "says"),
    [
        (lambda request: request.link.cut(), Unavailable, "is gone|ended the connection"),
        (lambda request: request.link.transport.close(), Unavailable, "ended the connection"),
        (lambda request: behave(request, CONTENT[:-1]), Unavailable, "before the last byte"),
        (say(Opcode.GOODBYE), Unavailable, "ended the connection"),
        (say(Opcode.ERROR, Status.NO_SPACE, b"full"), NoSpace, "full"),
        (say(Opcode.GET), ProtocolError, "something else"),
        (say(Opcode.BACKUP, 0, b"more"), ProtocolError, "something else"),
        (say(Opcode.BACKUP, 0, bytes(100_000)), ProtocolError, "over the limit"),
    ],
)
async def test_a_node_that_does_not_send_all_of_it(
    send: Callable[[Request], None], error: type[FastKVError], says: str
) -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = Source(send)
        with pytest.raises(error, match=says):
            await download(node)
        await node.until_alone()


async def test_a_node_that_cannot_be_reached_or_goes_before_it_offers_one() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = lambda request: request.link.cut()
        with pytest.raises(Unavailable, match="is gone"):
            await download(node)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await download(node)


async def test_a_node_that_makes_no_snapshot_in_time_or_stops_sending_it() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = lambda request: None
        with pytest.raises(Timeout, match=r"has not answered within 0\.2 s"):
            await download(node, timeout_s=0.2)

        def stop(request: Request) -> None:
            request.reply()
            request.link.write(CONTENT[:5000])

        node.on[Opcode.BACKUP] = Source(stop)
        with pytest.raises(Timeout, match="has sent nothing"):
            await download(node, timeout_s=0.2)


async def test_a_node_that_offers_nonsense() -> None:
    async with FakeNode() as node:
        node.on[Opcode.BACKUP] = lambda request: request.reply(body=b"short")
        with pytest.raises(ProtocolError, match="something else than a snapshot"):
            await download(node)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(19),
        bytes(21),
        encode_backup_ask(BackupAsk(0, 5)),
        encode_backup_ask(BackupAsk(1, 5, True)),
        encode_backup_ask(BackupAsk(0, 0))[:-4] + b"\x02\0\0\0",
    ],
)
def test_what_is_no_question(body: bytes) -> None:
    with pytest.raises(ValueError, match="BACKUP body"):
        decode_backup_ask(body)


def test_an_offer_is_what_was_offered() -> None:
    assert decode_backup_offer(encode_backup_offer(OFFER)) == OFFER
    with pytest.raises(ValueError, match="an answer to BACKUP"):
        decode_backup_offer(encode_backup_offer(OFFER)[:31])
    with pytest.raises(ValueError, match="utf-8"):
        decode_backup_offer(encode_backup_offer(OFFER) + b"\xff")
