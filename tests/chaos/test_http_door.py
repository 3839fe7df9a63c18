"""HTTP as the clients of a run speak it: what failed says whether it was sent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from fastkv.chaos.doors import WebDoor
from fastkv.chaos.http_door import Answer, DoorError, HttpDoor
from fastkv.chaos.ports import free_ports
from fastkv.errors import NotDone, OutcomeUnknown

Serve = Callable[[bytes], Awaitable[bytes | None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[str]:
    """Answers the head of each request with what `serve` makes of it; None hangs up."""
    serving: dict[asyncio.Task[object], asyncio.StreamWriter] = {}

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving[task] = writer
        try:
            while True:
                answer = await serve(await reader.readuntil(b"\r\n\r\n"))
                if answer is None:
                    break
                writer.write(answer)
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    (port,) = free_ports(1)
    listening = await asyncio.start_server(handle, "127.0.0.1", port)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        listening.close()
        await listening.wait_closed()
        for writer in serving.values():
            writer.transport.abort()
        await asyncio.gather(*serving)


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that comes: the test's own time limit is the only one."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


async def test_requests_share_a_connection() -> None:
    heads: list[bytes] = []

    async def serve(head: bytes) -> bytes:
        heads.append(head)
        return answer(200, b'{"n": %d}' % len(heads))

    async with server(serve) as address:
        door = HttpDoor(address)
        assert (await door.request("GET", "/a", within_s=30)).json() == {"n": 1}
        assert await door.request("GET", "/b", headers={"X-It": "y"}, within_s=30) == Answer(200, b'{"n": 2}')
        assert heads[1].startswith(b"GET /b HTTP/1.1\r\n")
        assert b"X-It: y\r\n" in heads[1]
        door.close()


async def test_who_does_not_listen_was_sent_nothing() -> None:
    (port,) = free_ports(1)
    with pytest.raises(DoorError) as failed:
        await HttpDoor(f"127.0.0.1:{port}").request("GET", "/")
    assert not failed.value.sent


async def test_a_node_that_hangs_up_may_have_done_it() -> None:
    async def hang_up(head: bytes) -> None:
        return None

    async with server(hang_up) as address:
        door = HttpDoor(address)
        with pytest.raises(DoorError) as failed:
            await door.request("PUT", "/", within_s=30)
        assert failed.value.sent
        door.close()


async def test_an_answer_that_comes_too_late_is_nobody_s() -> None:
    release = asyncio.Event()
    asked = 0

    async def serve(head: bytes) -> bytes:
        nonlocal asked
        asked += 1
        if asked == 2:
            await release.wait()
        return answer(200, b'{"asked": %d}' % asked)

    async with server(serve) as address:
        door = HttpDoor(address)
        assert (await door.request("GET", "/", within_s=30)).json()["asked"] == 1
        with pytest.raises(DoorError) as failed:
            await door.request("GET", "/", within_s=0.1)
        assert failed.value.sent
        await until(lambda: asked == 2)
        release.set()
        assert (await door.request("GET", "/", within_s=30)).json()["asked"] == 3
        door.close()


async def test_a_write_goes_on_at_another_node_under_the_same_key() -> None:
    keys: list[bytes] = []

    def note(head: bytes) -> None:
        keys.extend(line for line in head.split(b"\r\n") if line.startswith(b"Idempotency-Key"))

    async def no_leader(head: bytes) -> bytes:
        note(head)
        return answer(503, b'{"code": "NO_LEADER"}')

    async def good(head: bytes) -> bytes:
        note(head)
        return answer(201, b'{"revision": 7}')

    async with server(no_leader) as bad, server(good) as well:
        door = WebDoor([bad, well], random.Random(1))
        door._at = 0
        assert await door.put("k", "v", None) == 7
        assert len(keys) == 2
        assert keys[0] == keys[1]
        await door.close()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(503, b"NO_LEADER", NotDone), (504, b"OUTCOME_UNKNOWN", OutcomeUnknown), (503, b"NEW_CODE", OutcomeUnknown)],
)
async def test_only_what_says_so_was_not_done(
    status: int, code: bytes, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(head: bytes) -> bytes:
        return answer(status, b'{"code": "%b"}' % code)

    for name, value in (("TIMEOUT_S", 30.0), ("TRY_S", 30.0), ("PAUSE_S", (60.0, 60.0))):    # one try each
        monkeypatch.setattr(f"fastkv.chaos.doors.{name}", value)
    async with server(serve) as address:
        door = WebDoor([address], random.Random(1))
        with pytest.raises(error):
            await door.put("k", "v", None)
        with pytest.raises(NotDone):
            await door.get("k", "linearizable")
        await door.close()
