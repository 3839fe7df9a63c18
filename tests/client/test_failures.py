"""What is tried again and what never is: the line between *not done* and *unknown*."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter

import pytest

import fastkv
from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv.client import AsyncClient
from fastkv.client.addresses import parse_endpoints
from fastkv.client.backoff import Backoff
from fastkv.client.cluster import Cluster
from fastkv.client.settings import Settings
from fastkv.wire.client import encode_get
from tests.client.fake_node import FakeNode, Request, State, threaded


def cut(request: Request) -> None:
    request.link.cut()


def ignore(request: Request) -> None:
    """Say nothing at all."""


class Times:
    """Answers `status` so many times, then behaves."""

    def __init__(self, times: int, status: int) -> None:
        self.left = times
        self.status = status

    def __call__(self, request: Request) -> None:
        if not self.left:
            request.serve()
            return
        self.left -= 1
        request.reply(self.status, b"not now")


# -- answers that say: nothing was done --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status",
    [Status.NO_LEADER, Status.OVERLOADED, Status.SHUTTING_DOWN, Status.NOT_LEADER, Status.CORRUPT_STATE],
)
async def test_what_was_not_done_is_tried_again_until_it_works(status: Status) -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.PUT] = Times(3, status)
        assert await kv.put("k", "v") == 1
        assert len(node.asked(Opcode.PUT)) == 4


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.NO_LEADER, fastkv.Unavailable),
        (Status.OVERLOADED, fastkv.Overloaded),
        (Status.SHUTTING_DOWN, fastkv.Unavailable),
        (Status.CORRUPT_STATE, fastkv.CorruptState),
    ],
)
async def test_what_is_never_done_ends_with_its_own_error_at_the_deadline(
    status: Status, error: type[fastkv.NotDone], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: Counter[Backoff] = Counter()

    def first_short_then_long(backoff: Backoff) -> float:
        pauses[backoff] += 1
        return 0.01 if pauses[backoff] == 1 else 3600.0     # two tries, and none near the deadline

    monkeypatch.setattr(Backoff, "next_s", first_short_then_long)
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.PUT] = Times(1_000_000, status)
        with pytest.raises(error, match="not now"):
            await kv.put("k", "v", timeout=60)
        assert len(node.asked(Opcode.PUT)) == 2


async def test_a_node_without_a_leader_is_left_for_one_that_has_one() -> None:
    state = State()
    async with FakeNode("node-1", state) as first, FakeNode("node-2", state) as second:
        async with AsyncClient(first.address) as kv:
            state.leader = second
            await kv.status()
        first.on[Opcode.GET] = Times(1_000_000, Status.NO_LEADER)
        state.leader = None
        async with AsyncClient([first.address, second.address]) as kv:
            items = [await kv.get("k") for _ in range(5)]
        assert all(item.value is None for item in items)
        assert len(first.asked(Opcode.GET)) <= 1


async def test_a_read_that_the_server_could_not_finish_is_tried_again() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.GET] = Times(1, Status.TIMEOUT)
        assert (await kv.get("k")).value is None
        node.on[Opcode.GET] = Times(1, Status.OUTCOME_UNKNOWN)  # of a read that is as good as a timeout
        assert (await kv.get("k")).value is None
        assert len(node.asked(Opcode.GET)) == 4


# -- connections that end ----------------------------------------------------------------------------------------------


async def test_a_write_that_was_sent_and_not_answered_is_unknown_and_not_repeated() -> None:
    async with FakeNode() as node, AsyncClient(node.address, exactly_once=False) as kv:
        node.on[Opcode.PUT] = cut
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.put("k", "v")
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.put("k", "v", if_revision=0)
        node.on[Opcode.DELETE] = cut
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.delete("k")
        assert len(node.asked(Opcode.PUT)) == 2
        assert len(node.asked(Opcode.DELETE)) == 1


async def test_a_read_is_tried_again_on_a_new_connection() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("k", "v")

        def cut_once(request: Request) -> None:
            del node.on[Opcode.GET]
            request.link.cut()

        node.on[Opcode.GET] = cut_once
        assert (await kv.get("k")).text == "v"
        assert len(node.asked(Opcode.GET)) == 2


async def test_reads_and_new_writes_go_on_at_another_node_when_one_dies() -> None:
    state = State()
    async with FakeNode("node-1", state) as first, FakeNode("node-2", state) as second:
        state.leader = first
        async with AsyncClient(first.address) as kv:
            await first.until_asked(Opcode.STATUS)  # that is where it learns of the second
            await kv.put("k", "v")
            first.on[Opcode.GET] = ignore
            read = asyncio.ensure_future(kv.get("k"))
            await first.until_asked(Opcode.GET)
            state.leader = second
            await first.stop()
            assert (await read).text == "v"
            assert await kv.put("k", "w") == 2
            assert second.asked(Opcode.PUT)
        await first.start()


async def test_every_request_in_flight_learns_of_the_cut_at_once() -> None:
    async with FakeNode() as node, AsyncClient(node.address, exactly_once=False) as kv:
        node.on[Opcode.PUT] = ignore
        puts = asyncio.gather(*(kv.put(f"k{i}", b"v") for i in range(10)), return_exceptions=True)
        await node.until_asked(Opcode.PUT, 10)
        node.links[0].cut()
        assert {type(outcome) for outcome in await puts} == {fastkv.OutcomeUnknown}


async def test_nobody_listening_is_unavailable_and_names_the_endpoints() -> None:
    async with FakeNode() as node:
        address = node.address
    async with FakeNode() as node:
        silent = node.address
    with pytest.raises(fastkv.Unavailable, match=address):
        async with AsyncClient([address, silent], timeout=0.2):
            pass


async def test_a_write_waits_for_a_node_to_come_up() -> None:
    node = FakeNode()
    await node.start()
    await node.stop()
    kv = AsyncClient(node.address)
    put = asyncio.ensure_future(kv.put("k", "v"))
    await asyncio.sleep(0.05)
    assert not put.done()
    await node.start()
    assert await put == 1
    await kv.close()
    await node.stop()


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def test_a_read_without_an_answer_times_out() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.GET] = ignore
        with pytest.raises(fastkv.Timeout):
            await kv.get("k", timeout=0.05)


async def test_a_sent_write_without_an_answer_is_unknown_at_the_deadline() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        await kv.put("k", "u")      # connected, and with a session
        node.requests.clear()
        node.on[Opcode.PUT] = ignore
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.put("k", "v", timeout=0.5)
        assert len(node.asked(Opcode.PUT)) == 1


async def test_a_write_that_never_got_its_turn_is_not_done() -> None:
    async with FakeNode() as node, AsyncClient(node.address, max_in_flight=1) as kv:
        node.on[Opcode.GET] = ignore
        read = asyncio.ensure_future(kv.get("k", timeout=60))
        await node.until_asked(Opcode.GET)
        with pytest.raises(fastkv.Timeout):
            await kv.put("k", "v", timeout=0.05)
        assert not node.asked(Opcode.PUT)
        read.cancel()
        await asyncio.wait([read])


async def test_a_write_held_back_by_a_full_connection_is_not_done() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        link = node.links[0]
        link.transport.pause_reading()
        value = bytes(60_000)
        # These fill the kernel's buffers and the transport's; what comes after is held back by the client itself.
        held = [asyncio.ensure_future(kv.put(f"k{i}", value, timeout=60)) for i in range(200)]
        await asyncio.sleep(0.05)
        with pytest.raises(fastkv.Timeout):
            await kv.put("last", "v", timeout=0.05)
        link.transport.resume_reading()
        await asyncio.gather(*held)
        assert b"last" not in node.state.records


async def test_a_late_answer_is_ignored() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        late: list[Request] = []
        node.on[Opcode.GET] = late.append
        with pytest.raises(fastkv.Timeout):
            await kv.get("a", timeout=0.5)
        del node.on[Opcode.GET]
        late[0].serve()
        await kv.put("b", "w")
        assert (await kv.get("b")).text == "w"
        assert len(node.links) == 1


# -- cancelling --------------------------------------------------------------------------------------------------------


async def test_a_cancelled_request_frees_its_slot_and_its_answer_reaches_nobody_else() -> None:
    async with FakeNode() as node, AsyncClient(node.address, max_in_flight=1) as kv:
        await kv.put("a", "wrong")
        held: list[Request] = []
        node.on[Opcode.GET] = held.append
        read = asyncio.ensure_future(kv.get("a"))
        await node.until_asked(Opcode.GET)
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        second = asyncio.ensure_future(kv.get("none"))
        await node.until_asked(Opcode.GET, 2)
        assert held[0].id != held[1].id
        held[0].serve()
        held[1].serve()
        assert (await second).value is None


async def test_a_write_cancelled_in_its_own_turn_is_never_sent() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        put = asyncio.ensure_future(kv.put("k", "v"))
        asyncio.get_running_loop().call_soon(put.cancel)
        with pytest.raises(asyncio.CancelledError):
            await put
        assert (await kv.get("k")).value is None
        assert not node.asked(Opcode.PUT)


# -- HELLO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status.UNSUPPORTED_VERSION, fastkv.Unsupported),
        (Status.WRONG_CLUSTER, fastkv.WrongCluster),
        (Status.UNAUTHENTICATED, fastkv.Unauthenticated),
    ],
)
@pytest.mark.parametrize("opcode", [Opcode.HELLO, Opcode.ERROR])
async def test_a_refused_hello_is_raised_at_once(
    opcode: Opcode, status: Status, error: type[fastkv.FastKVError]
) -> None:
    async with FakeNode() as node:

        def refuse(request: Request) -> None:
            request_id = request.id if opcode == Opcode.HELLO else 0
            request.link.write(encode_frame(opcode, FrameFlag.RESPONSE, status, request_id, b"go away"))
            request.link.transport.close()

        node.on[Opcode.HELLO] = refuse
        with pytest.raises(error, match="go away"):
            async with AsyncClient(node.address):
                pass


async def test_one_node_that_refuses_us_does_not_hide_one_that_does_not() -> None:
    async with FakeNode("node-1") as refusing, FakeNode("node-2") as willing:
        refusing.on[Opcode.HELLO] = lambda request: request.reply(Status.WRONG_CLUSTER, b"other")
        for _ in range(5):
            async with AsyncClient([refusing.address, willing.address]) as kv:
                assert await kv.put("k", "v")


async def test_a_node_that_accepts_and_says_nothing_is_passed_over() -> None:
    async with FakeNode("node-1") as mute, FakeNode("node-2") as node:
        mute.on[Opcode.HELLO] = ignore
        async with AsyncClient([mute.address, node.address], connect_timeout=0.5) as kv:
            assert await kv.put("k", "v") == 1
        with pytest.raises(fastkv.Unavailable, match=r"did not answer|TimeoutError"):
            async with AsyncClient(mute.address, connect_timeout=0.05, timeout=1.0):
                pass


# -- bytes that are not of the protocol --------------------------------------------------------------------------------

GARBAGE = {
    "not a frame": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a huge length": struct.pack("<IBBHQ", 0xFFFFFFFF, Opcode.GET, FrameFlag.RESPONSE, 0, 1),
    "a request": encode_frame(Opcode.GET, 0, 0, 1, b""),
    "an answer to nothing": encode_frame(Opcode.GET, FrameFlag.RESPONSE, 0, 1 << 40, b""),
    "an answer of another kind": encode_frame(Opcode.STATUS, FrameFlag.RESPONSE, 0, 2, b""),
    "an error": encode_frame(Opcode.ERROR, FrameFlag.RESPONSE, Status.FRAME_TOO_LARGE, 0, b"too large"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_ends_the_connection_and_nothing_else(garbage: bytes) -> None:
    async with FakeNode() as node:
        kv = AsyncClient(node.address, follow_leader=False, exactly_once=False)
        node.on[Opcode.PUT] = lambda request: request.link.write(garbage)
        with pytest.raises(fastkv.OutcomeUnknown):
            await kv.put("k", "v")
        assert (await kv.get("k")).value is None  # on a new connection
        await kv.close()


@pytest.mark.parametrize("body", [b"", b"short", bytes(15)])
async def test_an_answer_whose_body_is_wrong_is_a_protocol_error(body: bytes) -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        for opcode in (Opcode.PUT, Opcode.GET, Opcode.SCAN, Opcode.STATUS):
            node.on[opcode] = lambda request: request.reply(Status.OK, body)
        with pytest.raises(fastkv.ProtocolError):
            await kv.put("k", "v")
        with pytest.raises(fastkv.ProtocolError):
            await kv.get("k")
        with pytest.raises(fastkv.ProtocolError):
            await kv.scan().next_page()
        with pytest.raises(fastkv.ProtocolError):
            await kv.status()


async def test_an_unknown_status_is_a_protocol_error() -> None:
    async with FakeNode() as node, AsyncClient(node.address) as kv:
        node.on[Opcode.GET] = lambda request: request.reply(999)
        with pytest.raises(fastkv.ProtocolError, match="999"):
            await kv.get("k")


# -- silence -----------------------------------------------------------------------------------------------------------


def impatient(node: FakeNode) -> Cluster:
    return Cluster(parse_endpoints(node.address), Settings(ping_after_s=0.05, silence_limit_s=0.15))


async def test_a_node_that_answers_pings_may_take_its_time() -> None:
    async with FakeNode() as node:
        cluster = impatient(node)
        held: list[Request] = []
        node.on[Opcode.GET] = held.append
        read = asyncio.ensure_future(cluster.request(Opcode.GET, encode_get(b"k"), writes=False))
        await node.until_asked(Opcode.PING, 4)  # longer than the silence limit
        held[0].serve()
        assert (await read).status == Status.KEY_NOT_FOUND
        assert len(node.asked(Opcode.GET)) == 1
        await cluster.close()


async def test_a_node_that_does_not_even_answer_a_ping_is_gone() -> None:
    async with FakeNode() as node:
        cluster = impatient(node)
        node.on[Opcode.PING] = ignore

        def ignore_once(request: Request) -> None:
            del node.on[Opcode.GET]

        node.on[Opcode.GET] = ignore_once
        reply = await cluster.request(Opcode.GET, encode_get(b"k"), writes=False)
        assert reply.status == Status.KEY_NOT_FOUND
        assert len(node.asked(Opcode.GET)) == 2
        node.on[Opcode.PUT] = ignore
        with pytest.raises(fastkv.OutcomeUnknown, match="PING"):
            await cluster.request(Opcode.PUT, b"\1\0\0\0k", writes=True)
        await cluster.close()


@pytest.mark.parametrize("answer_after_s", [0.1, 0.4])
async def test_a_client_whose_own_loop_stood_still_does_not_blame_the_node(answer_after_s: float) -> None:
    with threaded(FakeNode()) as node:
        cluster = impatient(node)
        await cluster.connect()

        def answer_later(request: Request) -> None:
            asyncio.get_running_loop().call_later(answer_after_s, request.serve)

        node.on[Opcode.GET] = answer_later
        read = asyncio.ensure_future(cluster.request(Opcode.GET, encode_get(b"k"), writes=False))
        await asyncio.sleep(0.02)
        time.sleep(0.3)  # noqa: ASYNC251 (what a garbage collection does: longer than the silence limit)
        assert (await read).status == Status.KEY_NOT_FOUND
        assert len(node.asked(Opcode.GET)) == 1
        await cluster.close()


async def test_an_idle_connection_is_left_alone() -> None:
    async with FakeNode() as node:
        cluster = impatient(node)
        await cluster.request(Opcode.GET, encode_get(b"k"), writes=False)
        await asyncio.sleep(0.3)
        assert not node.asked(Opcode.PING)
        assert len(node.links) == 1
        await cluster.close()
