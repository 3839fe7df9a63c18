"""The proxies between nodes: each direction of each link by its own rule, and nothing lost or reordered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastkv._core.codes import Opcode
from fastkv._core.frames import encode_frame
from fastkv.chaos.links import CLIENT, PASS, Links, Rule
from fastkv.chaos.ports import free_ports
from fastkv.wire.client import CLIENT_ROLE, PEER_ROLE, encode_hello_body

LIMIT_S = 60.0
ROUNDED_S = 0.002
"""A loop's clock may count whole milliseconds."""
BLOCKED = Rule(blocked=True)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """A node that sends back what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = asyncio.Event()
        self._serving: set[asyncio.Task[object]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                self.received += data
                writer.write(data)
        self.ended.set()
        writer.close()

    async def until_idle(self) -> None:
        if self._serving:
            await asyncio.wait(self._serving)


class Network:
    """Links in front of one node, `target`."""

    def __init__(self, links: Links, node: Echo, port: int) -> None:
        self.links = links
        self.node = node
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self, first: bytes) -> Streams:
        """Connect, say `first`, and have it echoed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        writer.write(first)
        assert await asyncio.wait_for(reader.readexactly(len(first)), LIMIT_S) == first
        return reader, writer

    async def dial_as(self, node: str) -> Streams:
        """Connect as a node does."""
        return await self.dial(hello(PEER_ROLE, node))

    async def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def hello(role: int, own_id: str) -> bytes:
    return encode_frame(Opcode.HELLO, 0, 0, 0, encode_hello_body(role, own_id, "cluster"))


@asynccontextmanager
async def running() -> AsyncIterator[Network]:
    node = Echo()
    listening, own = free_ports(2)
    server = await asyncio.start_server(node.serve, "127.0.0.1", own)
    links = Links({"target": (listening, own)})
    await links.start()
    network = Network(links, node, listening)
    try:
        yield network
    finally:
        await network.hang_up()
        await links.close()
        server.close()
        await server.wait_closed()
        await node.until_idle()


async def echoed(streams: Streams, text: bytes) -> float:
    """How long a text took there and back."""
    reader, writer = streams
    began = asyncio.get_running_loop().time()
    writer.write(text)
    assert await asyncio.wait_for(reader.readexactly(len(text)), LIMIT_S) == text
    return asyncio.get_running_loop().time() - began


async def is_silent(streams: Streams) -> bool:
    try:
        await asyncio.wait_for(streams[0].read(1), 0.1)
    except TimeoutError:
        return True
    return False


async def test_without_a_rule_everything_passes() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        text = bytes(range(256)) * 4000
        await echoed(streams, text)
        assert network.node.received == hello(PEER_ROLE, "a") + text


async def test_a_delay_is_for_one_direction_of_one_link() -> None:
    async with running() as network:
        slow, fast = await network.dial_as("a"), await network.dial_as("b")
        for pair in (("a", "target"), ("target", "a")):
            network.links.set(*pair, Rule(delay_s=0.1))
            assert await echoed(slow, b"there and back") >= 0.1 - ROUNDED_S
            network.links.set(*pair, Rule(delay_s=3600))
            slow[1].write(b"on its way")
            await echoed(fast, b"there and back")
            assert await is_silent(slow)
            network.links.set(*pair, PASS)
            assert await asyncio.wait_for(slow[0].readexactly(10), LIMIT_S) == b"on its way"


async def test_delayed_bytes_keep_their_order_and_do_not_wait_for_each_other() -> None:
    async with running() as network:
        reader, writer = await network.dial_as("a")
        network.links.set("a", "target", Rule(delay_s=0.5))
        began = asyncio.get_running_loop().time()
        texts = [f"{number:04};".encode() for number in range(100)]
        for text in texts:
            writer.write(text)
            await asyncio.sleep(0.001)
        whole = b"".join(texts)
        assert await asyncio.wait_for(reader.readexactly(len(whole)), LIMIT_S) == whole
        assert asyncio.get_running_loop().time() - began < 45     # one by one they would have taken fifty seconds


async def test_what_is_blocked_comes_once_it_is_not() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        network.links.set("a", "target", BLOCKED)
        streams[1].write(b"held")
        assert await is_silent(streams)
        network.links.set("a", "target", PASS)
        assert await asyncio.wait_for(streams[0].readexactly(4), LIMIT_S) == b"held"


async def test_the_way_back_can_be_blocked_alone() -> None:
    async with running() as network:
        streams = await network.dial_as("a")
        network.links.set("target", "a", BLOCKED)
        streams[1].write(b"asked")
        assert await is_silent(streams)
        assert network.node.received.endswith(b"asked")
        network.links.set("target", "a", PASS)
        assert await asyncio.wait_for(streams[0].readexactly(5), LIMIT_S) == b"asked"


async def test_rules_for_all_nodes_leave_clients_alone() -> None:
    async with running() as network:
        node, client = await network.dial_as("a"), await network.dial(hello(CLIENT_ROLE, "somebody"))
        other = await network.dial(b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n")
        network.links.set("a", "target", BLOCKED)
        await echoed(client, b"ping")
        await echoed(other, b"ping")
        network.links.set(CLIENT, "target", BLOCKED)
        client[1].write(b"ping")
        assert await is_silent(client)
        assert await is_silent(node)


async def test_a_hello_in_pieces_is_a_hello() -> None:
    async with running() as network:
        network.links.set("a", "target", BLOCKED)
        reader, writer = await asyncio.open_connection("127.0.0.1", network._port)
        network._writers.append(writer)
        for byte in hello(PEER_ROLE, "a"):
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert await is_silent((reader, writer))
        network.links.set("a", "target", PASS)
        assert await asyncio.wait_for(reader.readexactly(len(hello(PEER_ROLE, "a"))), LIMIT_S) == hello(PEER_ROLE, "a")


async def test_hanging_up_is_passed_on_behind_what_was_sent() -> None:
    async with running() as network:
        _, writer = await network.dial_as("a")
        network.links.set("a", "target", Rule(delay_s=0.1))
        writer.write(b"last words")
        writer.close()
        await asyncio.wait_for(network.node.ended.wait(), LIMIT_S)
        assert network.node.received.endswith(b"last words")


async def test_a_node_that_does_not_listen_cannot_be_dialled() -> None:
    listening, own = free_ports(2)
    links = Links({"gone": (listening, own)})
    await links.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", listening)
    writer.write(hello(PEER_ROLE, "a"))
    received = b"nothing yet"
    with suppress(ConnectionError):
        received = await asyncio.wait_for(reader.read(1), LIMIT_S)
    assert received in (b"", b"nothing yet")
    writer.close()
    await links.close()
