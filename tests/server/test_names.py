"""Names are asked for anew, one that is not answered holds up nobody, and the last answer is better than none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import uvloop

from fastkv.server.names import Names, ask_system
from tests.server.test_peer_link import Events, Peer

PATIENT_S = 60.0
AT_ONCE_S = 0.001


class Server:
    """A name server that answers what it is told to, and counts the questions."""

    def __init__(self) -> None:
        self.table: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self._answers = threading.Event()
        self._answers.set()

    def lookup(self, host: str) -> list[str]:
        self.asked.append(host)
        assert self._answers.wait(PATIENT_S)
        try:
            return self.table[host]
        except KeyError:
            raise OSError(f"no such name: {host}") from None

    @contextmanager
    def silent(self) -> Iterator[None]:
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()


def ran(body: Callable[[Server, Names], asyncio.Future[None] | object]) -> Server:
    server = Server()

    async def main() -> None:
        await body(server, Names(server.lookup))  # type: ignore[misc]

    uvloop.run(main())
    return server


def test_a_numeric_address_asks_nobody() -> None:
    async def body(_: Server, names: Names) -> None:
        assert await names.addresses("127.0.0.1", AT_ONCE_S) == ["127.0.0.1"]
        assert await names.addresses("::1", AT_ONCE_S) == ["::1"]

    assert ran(body).asked == []


def test_every_attempt_asks_anew() -> None:
    async def body(server: Server, names: Names) -> None:
        with pytest.raises(OSError, match=r"b cannot be resolved: no such name: b"):
            await names.addresses("b", PATIENT_S)
        server.table["b"] = ["10.0.0.1"]
        assert await names.addresses("b", PATIENT_S) == ["10.0.0.1"]
        server.table["b"] = ["10.0.0.2", "10.0.0.3"]
        assert await names.addresses("b", PATIENT_S) == ["10.0.0.2", "10.0.0.3"]

    assert ran(body).asked == ["b"] * 3


def test_a_name_that_is_gone_leads_where_it_led_last() -> None:
    async def body(server: Server, names: Names) -> None:
        server.table["b"] = ["10.0.0.1"]
        await names.addresses("b", PATIENT_S)
        del server.table["b"]
        assert await names.addresses("b", PATIENT_S) == ["10.0.0.1"]
        with server.silent():
            assert await names.addresses("b", AT_ONCE_S) == ["10.0.0.1"]

    ran(body)


def test_a_silent_name_server_is_asked_once_and_holds_up_nobody() -> None:
    async def body(server: Server, names: Names) -> None:
        server.table = {"b": ["10.0.0.1"], "c": ["10.0.0.2"]}
        with server.silent():
            for _ in range(5):
                with pytest.raises(OSError, match="b cannot be resolved: no answer within"):
                    await names.addresses("b", AT_ONCE_S)
            attempts = [asyncio.create_task(names.addresses(name, PATIENT_S)) for name in ("b", "b", "c")]
            await asyncio.sleep(0)
            attempts[1].cancel()
        assert await attempts[0] == ["10.0.0.1"], "an attempt that is given up takes nothing from another"
        assert await attempts[2] == ["10.0.0.2"]

    assert sorted(ran(body).asked) == ["b", "c"]


def test_the_loop_may_end_while_a_lookup_is_under_way() -> None:
    server = Server()

    async def main() -> None:
        with pytest.raises(OSError, match="no answer"):
            await Names(server.lookup).addresses("b", AT_ONCE_S)

    with server.silent():
        uvloop.run(main())
        (lookup,) = [thread for thread in threading.enumerate() if thread.name == "lookup of b"]
        assert lookup.daemon, "the process does not wait for it"
    lookup.join(PATIENT_S)
    assert not lookup.is_alive()


def test_the_system_s_answers() -> None:
    assert "127.0.0.1" in ask_system("localhost")
    for name in ("a..b", "x" * 64 + ".test"):
        with pytest.raises(OSError, match="is no host name"):
            ask_system(name)


def test_a_link_follows_a_name_to_another_address() -> None:
    async def main() -> None:
        server, events = Server(), Events()
        first, second = Peer(), Peer()
        port = await first.start()
        second.server = await asyncio.start_server(second.serve, "127.0.0.2", port)
        links = events.links(port, host="kvstore-node-2", names=Names(server.lookup))
        links.start()
        try:
            await asyncio.to_thread(until, lambda: len(server.asked) >= 2)     # not there yet, and asked again
            server.table["kvstore-node-2"] = ["127.0.0.1"]
            assert await events.next() == "b linked"
            server.table["kvstore-node-2"] = ["127.0.0.2"]
            first.server.close()
            first.hang_up()
            assert await events.next() == "b lost"
            assert await events.next() == "b linked"
            assert second.writers
        finally:
            await links.close()
            second.server.close()

    uvloop.run(main())


def test_a_link_tries_each_address_of_a_name() -> None:
    async def main() -> None:
        server, events, peer = Server(), Events(), Peer()
        port = await peer.start()
        server.table["kvstore-node-2"] = ["127.0.0.3", "127.0.0.1"]
        links = events.links(port, host="kvstore-node-2", names=Names(server.lookup))
        links.start()
        try:
            assert await events.next() == "b linked"
        finally:
            await links.close()
            peer.server.close()

    uvloop.run(main())


def until(probe: Callable[[], bool]) -> None:
    from tests.e2e.cluster import eventually

    eventually(probe, within_s=PATIENT_S, what="the name is asked for again")
