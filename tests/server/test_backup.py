"""Serving backups: into the client's own connection, at the node's pace, and given up where nobody takes them."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fastkv._core.codes import Status
from fastkv._core.state_hash import hash_of
from fastkv.kv.store import Changes, StoreMeta
from fastkv.node import Node
from fastkv.server import backup
from fastkv.server.backup import MAX_BACKUPS, SO_MAX_PACING_RATE, BackupServer
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.wire.backup import BackupAsk, BackupOffer, decode_backup_offer, encode_backup_ask

RECORDS: dict[bytes, bytes | None] = {b"%06d" % number: bytes(1000) for number in range(4000)}


def a_node() -> Node:
    """A leader that everybody agrees with, whose store has all that was applied."""

    def checkpoint_soon(done: Callable[[BaseException | None], None]) -> None:
        done(None)

    ingress = SimpleNamespace(
        refuse_reads=0, request_wake=lambda: None, add_read_task=lambda confirmed, fail: confirmed()
    )
    return cast(Node, SimpleNamespace(ingress=ingress, machine=SimpleNamespace(checkpoint_soon=checkpoint_soon)))


class Client:
    """A connection, and both of its ends."""

    def __init__(self, server: BackupServer, *, stuck: bool = False) -> None:
        self.server = server
        self.stuck = stuck
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)

    def detach(self) -> socket.socket | None:
        return None if self.stuck else self.theirs

    async def ask(self, ask: BackupAsk) -> tuple[int, bytes]:
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.server.asked(self, encode_backup_ask(ask), lambda status, body: answer.set_result((status, body)))
        return await asyncio.wait_for(answer, 60)

    async def begin(self) -> BackupOffer:
        status, body = await self.ask(BackupAsk(0, 0))
        assert status == Status.OK
        return decode_backup_offer(body)

    async def have_sent(self, offer: BackupOffer) -> None:
        assert await self.ask(BackupAsk(offer.index, offer.state_hash)) == (Status.OK, b"")

    async def take(self, nbytes: int = 1 << 30) -> bytes:
        """So many bytes, or all up to the end."""
        loop = asyncio.get_running_loop()
        parts = []
        while nbytes and (part := await asyncio.wait_for(loop.sock_recv(self.ours, min(nbytes, 1 << 17)), 60)):
            parts.append(part)
            nbytes -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        self.server.forget(self)
        self.ours.close()
        self.theirs.close()


class Served:
    """A store with something in it, and its server, on a loop."""

    def __init__(self, path: Path, bytes_per_s: int) -> None:
        loop = asyncio.get_running_loop()
        self.store = LmdbStore(
            path, cluster="c", node_id="node-1", map_bytes=1 << 26, poster=loop.call_soon_threadsafe
        )
        self.server = BackupServer(a_node(), self.store, bytes_per_s=bytes_per_s)
        self.clients: list[Client] = []

    def client(self, *, stuck: bool = False) -> Client:
        self.clients.append(Client(self.server, stuck=stuck))
        return self.clients[-1]

    async def fill(self) -> None:
        state_hash = hash_of((key, record) for key, record in RECORDS.items() if record is not None)
        meta = StoreMeta(5, 1, 5, len(RECORDS), state_hash)
        done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.store.checkpoint(Changes(lambda: sorted(RECORDS.items())), meta, done.set_result)
        assert await done is None

    async def until_nothing_is_read(self) -> None:
        for stream in self.store._streams._streams:
            await asyncio.wait_for(asyncio.to_thread(stream.join), 60)
        await asyncio.sleep(0)          # what they have posted


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    def with_server(work: Callable[[Served], Any], bytes_per_s: int = 1 << 36) -> Any:
        async def whole() -> Any:
            served = Served(tmp_path / "store", bytes_per_s)
            try:
                await served.fill()
                return await work(served)
            finally:
                for client in served.clients:
                    client.close()
                served.store.close()

        return asyncio.run(whole())

    return with_server


def test_it_is_sent_to_several_clients_at_a_time(run: Callable[..., Any]) -> None:
    async def take(client: Client) -> bytes:
        offer = await client.begin()
        await client.have_sent(offer)
        taken = await client.take()
        assert len(taken) == offer.nbytes
        return taken

    async def work(served: Served) -> None:
        one, other = await asyncio.gather(take(served.client()), take(served.client()))
        assert one == other
        await take(served.client())

    run(work)


def pace_of(client: Client) -> int:
    said = client.theirs.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8)
    return int.from_bytes(said, "little")


def test_all_together_go_no_faster_than_the_node_allows(run: Callable[..., Any]) -> None:
    """The kernel is told; whether it keeps to that shows on TCP: tests/e2e/test_backup.py."""

    async def work(served: Served) -> None:
        clients = [served.client() for _ in range(3)]
        offers = [await client.begin() for client in clients]
        for number, (client, offer) in enumerate(zip(clients, offers, strict=True), 1):
            await client.have_sent(offer)
            assert {pace_of(other) for other in clients[:number]} == {30_000_000_000 // number}
        await clients[0].take()
        assert {pace_of(other) for other in clients[1:]} == {15_000_000_000}

    run(work, 30_000_000_000)


def test_a_client_that_the_store_ends_finds_the_end_and_may_begin_again(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def work(served: Served) -> None:
        client = served.client()
        offer = await client.begin()
        await client.have_sent(offer)
        start = await client.take(1000)
        served.store._streams.end("make room")
        assert len(start) + len(await client.take()) < offer.nbytes
        await served.until_nothing_is_read()
        again = served.client()
        await again.have_sent(await again.begin())
        assert (await again.take())[:1000] == start

    with caplog.at_level(logging.WARNING):
        run(work)
    assert "not sent to its end: make room" in caplog.text


def test_a_client_that_goes_leaves_nothing(run: Callable[..., Any]) -> None:
    async def work(served: Served) -> None:
        before = served.client()
        offer = await before.begin()
        before.close()                              # it was not sent yet
        await served.until_nothing_is_read()
        assert (await before.ask(BackupAsk(offer.index, offer.state_hash)))[0] == Status.KEY_NOT_FOUND
        meanwhile = served.client()
        await meanwhile.have_sent(await meanwhile.begin())
        await meanwhile.take(1000)
        meanwhile.ours.close()
        await served.until_nothing_is_read()
        assert not served.server._sending

    run(work)


def test_one_whose_answers_nobody_takes_is_not_sent(run: Callable[..., Any]) -> None:
    async def work(served: Served) -> None:
        client = served.client(stuck=True)
        await client.have_sent(await client.begin())
        await served.until_nothing_is_read()
        assert not served.server._sending

    run(work)


def test_a_client_that_takes_nothing_for_too_long_is_given_up(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backup, "STALLED_S", 1)

    async def work(served: Served) -> None:
        client = served.client()
        await client.have_sent(await client.begin())
        began = time.monotonic()
        await served.until_nothing_is_read()
        assert time.monotonic() - began >= 0.9

    with caplog.at_level(logging.WARNING):
        run(work)
    assert "a backup was not sent to its end" in caplog.text


def test_so_many_at_a_time_and_no_more(run: Callable[..., Any]) -> None:
    async def work(served: Served) -> None:
        clients = [served.client() for _ in range(MAX_BACKUPS)]
        offers = [await client.begin() for client in clients]
        await clients[0].have_sent(offers[0])
        late = served.client()
        assert (await late.ask(BackupAsk(0, 0)))[0] == Status.OVERLOADED
        await clients[0].take()
        await late.begin()

    run(work)


def test_no_other_snapshot_than_the_one_that_was_made_is_there(run: Callable[..., Any]) -> None:
    async def work(served: Served) -> None:
        client, other = served.client(), served.client()
        offer = await client.begin()
        for who, ask in (
            (client, BackupAsk(offer.index + 1, offer.state_hash)),
            (client, BackupAsk(offer.index, offer.state_hash ^ 1)),
            (other, BackupAsk(offer.index, offer.state_hash)),
        ):
            assert await who.ask(ask) == (Status.KEY_NOT_FOUND, b"that snapshot is gone; begin again")
        await client.have_sent(offer)
        assert len(await client.take()) == offer.nbytes

    run(work)


def test_a_client_that_asks_anew_has_the_new_one(run: Callable[..., Any]) -> None:
    """Also while the first one is still being made: then that one is of no use to anybody."""

    async def work(served: Served) -> None:
        client = served.client()
        answered: list[int] = []
        served.server.asked(client, encode_backup_ask(BackupAsk(0, 0)), lambda status, body: answered.append(status))
        offer = await client.begin()
        await client.have_sent(offer)
        assert len(await client.take()) == offer.nbytes
        await served.until_nothing_is_read()
        assert not answered

    run(work)
