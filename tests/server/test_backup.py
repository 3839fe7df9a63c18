"""Serving backups: in order, at the node's pace, and with an answer to whoever waits when the store ends one."""

from __future__ import annotations

import asyncio
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
from fastkv.server.backup import SPARE_S, BackupServer, Pace
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.wire.backup import BackupAsk, SnapshotChunk, decode_snapshot_chunk, encode_backup_ask

CHUNK = 64 * 1024
RECORDS: dict[bytes, bytes | None] = {b"%06d" % number: bytes(1000) for number in range(4000)}
Answer = asyncio.Future[tuple[int, bytes]]


def a_node() -> Node:
    """A leader that everybody agrees with, whose store has all that was applied."""

    def checkpoint_soon(done: Callable[[BaseException | None], None]) -> None:
        done(None)

    ingress = SimpleNamespace(
        refuse_reads=0, request_wake=lambda: None, add_read_task=lambda confirmed, fail: confirmed()
    )
    return cast(Node, SimpleNamespace(ingress=ingress, machine=SimpleNamespace(checkpoint_soon=checkpoint_soon)))


class Served:
    """A store with something in it, and its server, on a loop."""

    def __init__(self, path: Path, bytes_per_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.store = LmdbStore(
            path, cluster="c", node_id="node-1", map_bytes=1 << 26, poster=loop.call_soon_threadsafe
        )
        self.server = BackupServer(a_node(), self.store, chunk_bytes=CHUNK, bytes_per_s=bytes_per_s)

    async def fill(self) -> None:
        state_hash = hash_of((key, record) for key, record in RECORDS.items() if record is not None)
        meta = StoreMeta(5, 1, 5, len(RECORDS), state_hash)
        done: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.store.checkpoint(Changes(lambda: sorted(RECORDS.items())), meta, done.set_result)
        assert await done is None

    def ask(self, ask: BackupAsk, client: str = "client") -> Answer:
        answer: Answer = asyncio.get_running_loop().create_future()
        self.server.asked(client, encode_backup_ask(ask), lambda status, body: answer.set_result((status, body)))
        return answer

    async def begin(self, client: str = "client") -> SnapshotChunk:
        status, body = await asyncio.wait_for(self.ask(BackupAsk(0, 0, 0, CHUNK), client), 60)
        assert status == Status.OK
        return decode_snapshot_chunk(body)

    def next(self, first: SnapshotChunk, offset: int, client: str = "client") -> Answer:
        return self.ask(BackupAsk(first.index, first.checksum, offset, CHUNK), client)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Any]:
    def with_server(work: Callable[[Served], Any], bytes_per_s: float = 1e12) -> Any:
        async def whole() -> Any:
            served = Served(tmp_path / "store", bytes_per_s)
            try:
                await served.fill()
                return await work(served)
            finally:
                served.store.close()

        return asyncio.run(whole())

    return with_server


def test_parts_are_sent_in_order_to_several_clients_at_a_time(run: Callable[..., Any]) -> None:
    async def take(served: Served, client: str) -> bytes:
        first = await served.begin(client)
        parts = [first.data]
        offsets = range(CHUNK, first.total_bytes, CHUNK)
        for asked in [served.next(first, offset, client) for offset in offsets]:
            status, body = await asyncio.wait_for(asked, 60)
            assert status == Status.OK
            parts.append(decode_snapshot_chunk(body).data)
        served.server.forget(client)
        return b"".join(bytes(part) for part in parts)

    async def work(served: Served) -> None:
        one, other = await asyncio.gather(take(served, "one"), take(served, "other"))
        assert one == other
        assert served.server.sent_bytes == len(one) + len(other)

    run(work)


def test_all_together_go_no_faster_than_the_node_allows(run: Callable[..., Any]) -> None:
    rate = 20e6

    async def work(served: Served) -> None:
        firsts = {client: await served.begin(client) for client in ("one", "other")}
        began = time.monotonic()
        asked = [
            served.next(first, offset, client)
            for client, first in firsts.items()
            for offset in range(CHUNK, first.total_bytes, CHUNK)
        ]
        sent = sum(len(decode_snapshot_chunk(body).data) for _, body in await asyncio.gather(*asked))
        assert time.monotonic() - began >= sent / rate - 2 * SPARE_S - CHUNK / rate

    run(work, rate)


def test_who_waits_is_told_when_the_store_ends_it(run: Callable[..., Any]) -> None:
    async def work(served: Served) -> None:
        first = await served.begin()
        asked = [served.next(first, CHUNK * part) for part in range(1, 4)]
        served.store._streams.end()
        answers = await asyncio.wait_for(asyncio.gather(*asked), 60)
        assert [status for status, _ in answers] == [Status.KEY_NOT_FOUND] * 3
        assert b"take it faster" in answers[0][1]
        again = await served.begin()
        assert again.data == first.data

    run(work, 1e6)                      # so that they do wait


def test_a_client_that_goes_leaves_nothing(run: Callable[..., Any]) -> None:
    async def work(served: Served) -> None:
        first = await served.begin()
        asked = served.next(first, CHUNK)
        served.server.forget("client")
        (stream,) = served.store._streams._streams
        stream.join()
        await asyncio.sleep(0)          # whatever was still to be called
        assert not asked.done()
        status, body = await served.next(first, CHUNK)
        assert (status, body) == (Status.KEY_NOT_FOUND, b"that snapshot is gone; begin again")

    run(work, 1e6)


def test_one_that_nobody_asks_for_any_more_is_let_go_of(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "IDLE_S", 0.05)

    async def work(served: Served) -> None:
        first = await served.begin()
        (stream,) = served.store._streams._streams
        asked_at = time.monotonic()
        await asyncio.wait_for(asyncio.to_thread(stream.join), 60)
        assert time.monotonic() - asked_at >= 0.04
        status, _ = await served.next(first, CHUNK)
        assert status == Status.KEY_NOT_FOUND

    run(work)


@pytest.mark.parametrize("step_s", [0.0, 0.0003, 0.002, 0.004])
def test_a_pace_is_kept_by_whatever_clock(step_s: float) -> None:
    """However late its timers are, up to what may be made up for; and no faster, however often it is asked."""
    pace, now_s, sent, nbytes = Pace(100e6), 1000.0, 0, 120_000
    while now_s < 1002.0:
        wait_s = pace.wait_s(now_s)
        if wait_s:
            now_s += max(wait_s, step_s)
        else:
            pace.sent(now_s, nbytes)
            sent += nbytes
    assert sent <= 2.0 * 100e6 + 100e6 * SPARE_S + nbytes
    assert sent >= 0.95 * 2.0 * 100e6
