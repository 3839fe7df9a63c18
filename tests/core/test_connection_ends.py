"""The compiled connection's ends: slow readers, breaches, closing, and a socket that is handed over."""

from __future__ import annotations

import asyncio

import pytest

from fastkv._core.codes import Opcode, Status
from tests.core.tcp import OUTPUT_LIMIT, Answer, Client, run, serving
from tests.core.test_connection import RESPONSE, get, ping, put

REFUSALS_OF_A_TURN = 32 * 65536 // len(get(1, b"k")) * 120
"""The loop reads up to 32 times 64 KiB before it has its turn; a refusal is an answer too, of little over 100 bytes."""


async def fill(client: Client, value: bytes) -> None:
    await client.send(put(1, b"k", value))
    await client.answer()


async def pour(client: Client, request: bytes, times: int) -> int:
    """Send without reading until the server takes no more; how often `request` was sent whole."""
    sent = 0
    try:
        for _ in range(times):
            async with asyncio.timeout(0.5):
                await client.send(request)
            sent += 1
    except TimeoutError:
        pass
    return sent


def test_a_slow_reader_is_read_no_more_and_memory_stays_bounded() -> None:
    async def scenario() -> None:
        async with serving() as server:
            slow, other = await server.client(), await server.client()
            await fill(slow, bytes(20_000))
            burst = b"".join(get(number, b"k") for number in range(100))
            sent = await pour(slow, burst, 20_000)
            assert sent < 20_000  # the kernel's buffers are full: the server has stopped reading
            transport = server.connections[0].transport_seen
            held = transport.get_write_buffer_size()
            assert OUTPUT_LIMIT < held < 5 * OUTPUT_LIMIT + REFUSALS_OF_A_TURN
            await other.send(ping(5))  # nobody else is kept waiting
            assert (await other.answer()).request_id == 5
            turns = len(server.turns)
            await asyncio.sleep(0.05)
            assert transport.get_write_buffer_size() == held
            assert len(server.turns) == turns
            answers = await slow.answers(100 * sent)  # it reads at last: everything is there, and in order
            assert [answer.request_id for answer in answers] == list(range(100)) * sent
            assert {answer.code for answer in answers} <= {Status.OK, Status.OVERLOADED}
            await asyncio.sleep(0)

    run(scenario)


def test_one_read_full_of_questions_does_not_fill_the_memory() -> None:
    """Short questions with long answers: what does not fit is refused, in its place, and nothing else suffers."""

    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            await fill(client, bytes(190_000))
            count = 2000
            await client.send(b"".join(get(number, b"k") for number in range(count)) + put(count, b"l"))
            await server.until_turned()
            assert server.connections[0].transport_seen.get_write_buffer_size() < 5 * OUTPUT_LIMIT
            answers = await client.answers(count + 1)
            codes = {answer.request_id: answer.code for answer in answers}
            assert {codes[0], codes[1]} == {Status.OK}
            assert set(codes.values()) == {Status.OK, Status.OVERLOADED}
            assert codes[count] == Status.OK  # what was done is never refused
            await client.send(get(9, b"k"))
            assert (await client.answer()).code == Status.OK

    run(scenario)


def test_a_reset_in_the_middle_of_answers() -> None:
    async def scenario() -> None:
        async with serving() as server:
            rude, other = await server.client(), await server.client()
            await fill(rude, bytes(20_000))
            await rude.send(b"".join(get(number, b"k") for number in range(500)))
            await rude.answers(3)
            rude.reset()
            await server.until(lambda: len(server.lost) == 1)
            await other.send(put(5, b"k"))
            assert (await other.answer()).request_id == 5

    run(scenario)


def test_a_client_that_is_gone_before_its_answer() -> None:
    """The node answers into a connection that no longer is; the batch's other clients get theirs."""

    async def scenario() -> None:
        async with serving() as server:
            gone, other = await server.client(), await server.client()
            server.paused = True
            await gone.send(put(1, b"k", b"v"))
            await other.send(put(2, b"l", b"v"))
            await asyncio.sleep(0.05)
            gone.reset()
            await server.until(lambda: len(server.lost) == 1)
            server.paused = False
            server.pump()
            assert (await other.answer()).request_id == 2
            assert server.turns[-1] == (2, 0)
            assert server.table.get(b"k") is not None  # it was committed all the same

    run(scenario)


def test_breaking_off_sends_what_is_answered_first() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            connection = server.connections[0]
            connection.reply(5, Opcode.SCAN, Status.OK, 0, b"page")
            connection.break_off(Status.SHUTTING_DOWN, "good bye")
            assert await client.answer() == Answer(Opcode.SCAN, RESPONSE, Status.OK, 5, b"page")
            assert await client.answer() == Answer(Opcode.ERROR, RESPONSE, Status.SHUTTING_DOWN, 0, b"good bye")
            assert await client.closed()
            await server.until(lambda: server.lost == [connection])
            connection.reply(6, Opcode.SCAN, Status.OK, 0, b"too late")  # harmless
            connection.break_off(Status.SHUTTING_DOWN, "again")
            connection.close()
            connection.abort()
            server.outbox.flush()
            assert server.lost == [connection]

    run(scenario)


def test_closing_sends_all_that_a_slow_reader_has_not_read_yet() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            await fill(client, bytes(100_000))
            server.connections[0].reply(7, Opcode.SCAN, Status.OK, 0, bytes(8 << 20))
            server.connections[0].close()
            assert len((await client.answer()).body) == 8 << 20
            assert await client.closed()

    run(scenario)


def test_nothing_is_read_after_closing() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            server.connections[0].close()
            await client.send(put(8, b"l"))
            await server.until(lambda: len(server.lost) == 1)
            assert server.ingress.take_writes() is None
            assert server.table.get(b"l") is None

    run(scenario)


def test_aborting_is_at_once() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            server.connections[0].reply(7, Opcode.SCAN, Status.OK, 0, b"never sent")
            server.connections[0].abort()
            assert await client.closed()
            await server.until(lambda: len(server.lost) == 1)
            server.outbox.flush()

    run(scenario)


def test_a_socket_that_is_handed_over_goes_on_behind_the_last_answer() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            server.connections[0].reply(7, Opcode.BACKUP, Status.OK, 0, b"here it comes")
            taken = server.connections[0].detach()
            assert taken is not None
            await server.until(lambda: len(server.lost) == 1)       # the loop has closed its own
            await client.send(ping(8))                              # is nobody's business here any more
            assert await client.answer() == Answer(Opcode.BACKUP, RESPONSE, Status.OK, 7, b"here it comes")
            with taken:
                taken.setblocking(True)
                taken.sendall(ping(9))
                assert (await client.answer()).request_id == 9
                assert taken.recv(100) == ping(8)
            assert await client.closed()

    run(scenario)


def test_a_socket_whose_answers_nobody_reads_is_not_handed_over() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            server.connections[0].reply(7, Opcode.SCAN, Status.OK, 0, bytes(64 << 20))
            assert server.connections[0].detach() is None
            await server.until(lambda: len(server.lost) == 1)
            assert server.connections[0].detach() is None
            with pytest.raises(ConnectionError):
                await client.answer()

    run(scenario)


def test_a_client_that_says_nothing_more_is_let_go() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            client.socket.shutdown(1)
            assert await client.closed()
            await server.until(lambda: len(server.lost) == 1)

    run(scenario)
