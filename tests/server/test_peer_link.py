"""Links between nodes: they come up, come back, and let go at once whatever is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import FrameReader, encode_frame
from fastkv.server import peer_link
from fastkv.server.names import Names
from fastkv.server.peer_link import PeerLinks
from fastkv.wire.client import HelloReply, decode_hello, encode_hello_reply

DISK = 77
REPLY = encode_hello_reply(HelloReply(1, 1 << 20, 1 << 20, "b", "test", "", "", DISK))


class Peer:
    """A node that accepts links; or refuses them, with `status`. It speaks the versions in `speaks`."""

    def __init__(self, status: int = Status.OK) -> None:
        self.status = status
        self.reply = REPLY
        self.speaks = {1, 2}
        self.dialled: list[int] = []
        """The versions of the HELLOs that came."""
        self.heard: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader(1 << 20)
        self.writers.append(writer)
        while data := await reader.read(65536):
            for opcode, _, _, request_id, body in frames.feed(data):
                if opcode == Opcode.HELLO:
                    self.dialled.append(decode_hello(body).version)
                    known = self.dialled[-1] in self.speaks
                    status = self.status if known else Status.UNSUPPORTED_VERSION
                    said = self.reply if status == Status.OK else b"go away"
                    writer.write(encode_frame(opcode, FrameFlag.RESPONSE, status, request_id, said))
                else:
                    self.heard.put_nowait((opcode, body))
        writer.close()

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()


class Events:
    """What links tell their owner."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self.cluster_version = 1

    def links(self, port: int, *, host: str = "127.0.0.1", names: Names | None = None) -> PeerLinks:
        links = PeerLinks(
            "a",
            "test",
            disk=5,
            address="127.0.0.1:1",
            protocol_version=2,
            output_limit_bytes=1 << 20,
            on_linked=self.linked,
            on_lost=lambda peer: self.queue.put_nowait(f"{peer} lost"),
            on_refused=lambda peer, status, text: self.queue.put_nowait(f"{peer} refuses: {status} {text}"),
            cluster_version=lambda: self.cluster_version,
            names=names,
        )
        links.set_peers({"b": (f"{host}:{port}",)})
        return links

    def linked(self, peer: str, disk: int) -> bool:
        """Only a peer with the right disk is the member."""
        self.queue.put_nowait(f"{peer} linked" if disk == DISK else f"{peer} is another")
        return disk == DISK

    async def next(self) -> str:
        return await asyncio.wait_for(self.queue.get(), 60)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scenario()

    uvloop.run(bounded())


def test_frames_arrive_in_order_and_a_lost_link_comes_back() -> None:
    async def scenario() -> None:
        peer, events = Peer(), Events()
        links = events.links(await peer.start())
        assert not links.send("b", b"before there is a link")
        links.start()
        assert await events.next() == "b linked"
        for number in range(3):
            assert links.send("b", encode_frame(Opcode.RAFT, 0, 0, 0, b"%d" % number))
        links.flush()
        assert [(await peer.heard.get())[1] for _ in range(3)] == [b"0", b"1", b"2"]
        peer.hang_up()
        assert await events.next() == "b lost"
        assert await events.next() == "b linked"
        await links.close()
        assert not links.linked("b")
        peer.server.close()

    run(scenario)


def test_a_refused_link_is_said_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        peer, events = Peer(Status.WRONG_CLUSTER), Events()
        links = events.links(await peer.start())
        links.start()
        for _ in range(2):
            assert await events.next() == f"b refuses: {int(Status.WRONG_CLUSTER)} go away"
            assert await events.next() == "b lost"
        peer.status = Status.OK
        links.nudge("b")
        while await events.next() != "b linked":
            pass
        await links.close()
        peer.server.close()

    run(scenario)
    assert caplog.text.count("go away") == 1


def test_a_peer_that_knows_no_ranges_of_versions_is_dialled_again_in_version_1(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        peer, events = Peer(), Events()
        peer.speaks = {1}
        links = events.links(await peer.start())
        links.start()
        assert await events.next() == "b linked"
        assert peer.dialled == [2, 1]
        peer.speaks = {1, 2}                # it was upgraded meanwhile
        peer.hang_up()
        assert await events.next() == "b lost"
        assert await events.next() == "b linked"
        assert peer.dialled == [2, 1, 2]
        await links.close()
        peer.server.close()

    run(scenario)
    assert "go away" not in caplog.text


def test_a_peer_that_does_not_speak_the_cluster_s_version_is_not_linked_with() -> None:
    async def scenario() -> None:
        peer, events = Peer(), Events()
        peer.speaks = {1}
        links = events.links(await peer.start())
        events.cluster_version = 2
        links.start()
        while peer.dialled.count(1) < 2:
            assert not links.linked("b")
            assert (await events.next()).endswith(("linked", "lost"))
        peer.speaks = {1, 2}
        peer.reply = encode_hello_reply(HelloReply(2, 1 << 20, 1 << 20, "b", "test", "", "", DISK, newest=2))
        while not links.linked("b"):
            await events.next()
        await links.close()
        peer.server.close()

    run(scenario)


def test_a_peer_that_speaks_no_version_of_ours_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        peer, events = Peer(), Events()
        peer.speaks = set()
        links = events.links(await peer.start())
        links.start()
        for _ in range(2):
            assert await events.next() == f"b refuses: {int(Status.UNSUPPORTED_VERSION)} go away"
            assert await events.next() == "b lost"
        assert peer.dialled[:4] == [2, 1, 2, 1]
        await links.close()
        peer.server.close()

    run(scenario)
    assert caplog.text.count("go away") == 1


def test_closing_never_waits_for_a_link_that_is_just_coming_up() -> None:
    """A cancellation that met the connection's arrival used to be lost, and a stopping node hung."""

    async def scenario() -> None:
        peer, events = Peer(), Events()
        port = await peer.start()
        for turns in range(60):
            links = events.links(port)
            links.start()
            for _ in range(turns % 30):
                await asyncio.sleep(0)
            links.nudge("b")
            async with asyncio.timeout(5):
                await links.close()
        peer.server.close()

    run(scenario)


def test_links_follow_the_members() -> None:
    async def scenario() -> None:
        first, second, events = Peer(), Peer(), Events()
        ports = await first.start(), await second.start()
        links = events.links(ports[0])
        links.start()
        assert await events.next() == "b linked"
        links.set_peers({"b": (f"127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[0]}")})
        assert links.linked("b")                        # where it is linked it may stay
        links.set_peers({"b": (f"127.0.0.1:{ports[1]}",)})
        assert await events.next() == "b lost"
        assert await events.next() == "b linked"
        assert len(second.writers) == 1
        links.set_peers({})
        assert not links.send("b", b"")
        links.set_peers({"b": ("127.0.0.1:1", f"127.0.0.1:{ports[0]}")})       # nobody is at the first
        assert await events.next() == "b linked"
        await links.close()
        first.server.close()
        second.server.close()

    run(scenario)


def test_whoever_answers_under_a_name_has_to_be_its_node() -> None:
    async def scenario() -> None:
        peer, events = Peer(), Events()
        peer.reply = encode_hello_reply(HelloReply(1, 1 << 20, 1 << 20, "b", "test", "", "", DISK + 1))
        links = events.links(await peer.start())
        links.start()
        assert await events.next() == "b is another"
        assert not links.linked("b")
        assert await events.next() == "b lost"
        peer.reply = REPLY
        while await events.next() != "b linked":
            pass
        await links.close()
        peer.server.close()

    run(scenario)


class Pinged(Peer):
    """A peer that answers pings while it is `awake`."""

    def __init__(self) -> None:
        super().__init__()
        self.awake = True
        self.owed: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader(1 << 20)
        self.writers.append(writer)
        while data := await reader.read(65536):
            for opcode, _, _, request_id, body in frames.feed(data):
                if opcode == Opcode.HELLO:
                    writer.write(encode_frame(opcode, FrameFlag.RESPONSE, Status.OK, request_id, self.reply))
                elif opcode == Opcode.PING:
                    self.heard.put_nowait((opcode, body))
                    if self.awake:
                        self.answer(writer)
        writer.close()

    @staticmethod
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(encode_frame(Opcode.PING, FrameFlag.RESPONSE, Status.OK, 0, b""))


def test_round_trips_are_measured_and_an_answer_that_is_due_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_link, "PING_INTERVAL_S", 0.01)

    async def scenario() -> None:
        peer, events = Pinged(), Events()
        links = events.links(await peer.start())
        assert links.round_trips_s == {}
        links.start()
        try:
            assert await events.next() == "b linked"
            for _ in range(2):      # the second ping leaves once the first has been answered
                await asyncio.wait_for(peer.heard.get(), 30)
            assert 0 < links.round_trips_s["b"] < 30
            peer.awake = False
            while not peer.heard.empty():
                peer.heard.get_nowait()
            await asyncio.wait_for(peer.heard.get(), 30)
            await asyncio.sleep(0.1)        # silence
            assert links.round_trips_s["b"] > 0.09
            assert peer.heard.empty(), "nobody is asked again before the answer"
            peer.awake = True
            peer.answer(peer.writers[0])
            await asyncio.wait_for(peer.heard.get(), 30)
            peer.hang_up()
            assert await events.next() == "b lost"
            assert links.round_trips_s == {}, "no link, no figure"
        finally:
            await links.close()
            peer.server.close()

    uvloop.run(scenario())
