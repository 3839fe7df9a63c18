"""The compiled connection, over real sockets: however the bytes arrive, each request is answered once and in its id."""

from __future__ import annotations

import asyncio
import struct

import pytest

from fastkv._core.codes import Kind, Opcode, Status
from fastkv._core.connection import Role
from fastkv._core.entry import encode_command
from fastkv._core.frames import encode_frame
from fastkv._core.replies import text_for
from tests.core.tcp import FRAME_LIMIT, HELLO_LIMIT, Answer, run, serving

RESPONSE = 0x80


def get(request_id: int, key: bytes) -> bytes:
    return encode_frame(Opcode.GET, 0, 0, request_id, struct.pack("<BBH", 0, 0, len(key)) + key)


def put(request_id: int, key: bytes, value: bytes = b"") -> bytes:
    return encode_frame(Opcode.PUT, 0, 0, request_id, encode_command(Kind.ENTRY_PUT, key, value))


def delete(request_id: int, key: bytes) -> bytes:
    return encode_frame(Opcode.DELETE, 0, 0, request_id, encode_command(Kind.ENTRY_DELETE, key))


def ping(request_id: int, body: bytes = b"") -> bytes:
    return encode_frame(Opcode.PING, 0, 0, request_id, body)


HELLO = encode_frame(Opcode.HELLO, 0, 0, 1, b"client")
WELCOME = Answer(Opcode.HELLO, RESPONSE, Status.OK, 1, b"welcome")


def record(mod_revision: int, create_revision: int, version: int, value: bytes) -> bytes:
    return struct.pack("<QQQQ", mod_revision, create_revision, version, 0) + value


# -- frames ----------------------------------------------------------------------------------------------------------

CONVERSATION = HELLO + put(2, b"k", b"v") + get(3, b"k") + ping(4, b"hi") + delete(5, b"k") + get(6, b"k")


@pytest.mark.parametrize("at", range(1, len(CONVERSATION)))
def test_a_conversation_cut_anywhere(at: int) -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = server.connect()
            await client.send(CONVERSATION[:at])
            await server.until(lambda: len(server.connections) == 1)
            for _ in range(3):  # turns of the loop, in which the first part is received
                await asyncio.sleep(0)
            await client.send(CONVERSATION[at:])
            answers = await client.answers(6)
            # Reads of one turn are served after its writes: what they find depends on where the cut is.
            assert sorted(answer.request_id for answer in answers) == [1, 2, 3, 4, 5, 6]
            by_id = {answer.request_id: answer for answer in answers}
            assert by_id[1] == WELCOME
            assert by_id[2] == Answer(Opcode.PUT, RESPONSE | 1, Status.OK, 2, (1).to_bytes(8, "little"))
            assert by_id[4] == Answer(Opcode.PING, RESPONSE, Status.OK, 4, b"hi")
            assert by_id[5] == Answer(Opcode.DELETE, RESPONSE, Status.OK, 5, (2).to_bytes(8, "little"))
            assert by_id[6] == Answer(Opcode.GET, RESPONSE, Status.KEY_NOT_FOUND, 6, b"")

    run(scenario)


def test_byte_by_byte() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = server.connect()
            for at in range(len(CONVERSATION)):
                await client.send(CONVERSATION[at : at + 1])
                await asyncio.sleep(0)
            assert sorted(answer.request_id for answer in await client.answers(6)) == [1, 2, 3, 4, 5, 6]

    run(scenario)


def test_many_frames_of_one_read_are_one_batch_and_one_send() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            server.turns.clear()
            client.reads = 0
            await client.send(b"".join(put(number, b"%03d" % number, b"v") for number in range(500)))
            answers = await client.answers(500)
            assert [answer.request_id for answer in answers] == list(range(500))
            assert [int.from_bytes(answer.body, "little") for answer in answers] == list(range(1, 501))
            assert sum(writes for writes, _ in server.turns) == 500
            assert len(server.turns) <= 3
            assert client.reads <= 3
            await client.send(b"".join(get(number, b"%03d" % number) for number in range(500)))
            answers = await client.answers(500)
            assert [answer.body for answer in answers] == [record(n + 1, n + 1, 1, b"v") for n in range(500)]

    run(scenario)


def test_a_frame_longer_than_any_read() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            value = bytes(range(250)) * 800
            await asyncio.gather(client.send(put(7, b"k", value) + get(8, b"k")), asyncio.sleep(0))
            assert (await client.answer()).request_id == 7
            assert await client.answer() == Answer(Opcode.GET, RESPONSE, Status.OK, 8, record(1, 1, 1, value))

    run(scenario)


def test_connections_do_not_hear_each_others_answers() -> None:
    async def scenario() -> None:
        async with serving() as server:
            clients = [await server.client() for _ in range(5)]
            server.turns.clear()
            for number, client in enumerate(clients):
                await client.send(b"".join(put(100 * number + n, b"%d" % number) for n in range(20)))
            for number, client in enumerate(clients):
                answers = await client.answers(20)
                assert [answer.request_id for answer in answers] == [100 * number + n for n in range(20)]

    run(scenario)


def test_a_write_of_a_session_is_done_once() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            await client.send(put(1, b"k") + encode_frame(Opcode.SESSION, 0, 0, 2, b"\1" + bytes(7)))
            assert (await client.answers(2))[1] == Answer(Opcode.SESSION, RESPONSE, Status.OK, 2, b"\2" + bytes(7))
            for request_id, session, code in [(3, 2, Status.OK), (4, 2, Status.OK), (5, 3, Status.SESSION_EXPIRED)]:
                body = encode_command(Kind.ENTRY_PUT, b"k", session=(session, 1))
                await client.send(encode_frame(Opcode.PUT, 0, 0, request_id, body))
                text = b"\2" + bytes(7) if code == Status.OK else text_for(code)
                assert await client.answer() == Answer(Opcode.PUT, RESPONSE, code, request_id, text)

    run(scenario)


def test_what_is_wrong_in_itself_is_answered_and_the_connection_goes_on() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            await client.send(encode_frame(Opcode.PUT, 0, 0, 2, b"") + encode_frame(Opcode.GET, 0, 0, 3, b"\0\0"))
            assert [(a.request_id, a.code) for a in await client.answers(2)] == [
                (2, Status.INVALID_REQUEST), (3, Status.INVALID_REQUEST)
            ]  # fmt: skip
            await client.send(encode_frame(Opcode.SCAN, 0, 0, 4, b"range") + encode_frame(0xEE, 0, 0, 5, b""))
            assert [(a.request_id, a.opcode) for a in await client.answers(2)] == [(4, Opcode.SCAN), (5, 0xEE)]
            assert server.requests == [(Opcode.SCAN, 4, b"range"), (0xEE, 5, b"")]
            await client.send(encode_frame(Opcode.HELLO, 0, 0, 6, b"client"))  # twice: the owner's business
            assert (await client.answer()).request_id == 6
            assert server.breaches == []

    run(scenario)


# -- HELLO -----------------------------------------------------------------------------------------------------------


def breach(answer: Answer) -> tuple[int, int, int, int]:
    return answer.opcode, answer.flags, answer.code, answer.request_id


def broken_by(data: bytes, *, after_hello: bool, status: int, text: str) -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client() if after_hello else server.connect()
            await client.send(data)
            answer = await client.answer()
            assert breach(answer) == (Opcode.ERROR, RESPONSE, status, 0)
            assert text in answer.body.decode()
            assert await client.closed()
            await server.until(lambda: len(server.lost) == 1)
            assert [code for code, _ in server.breaches] == [status]
            assert server.connections[0].role == Role.CLOSING

    run(scenario)


@pytest.mark.parametrize("opcode", [Opcode.GET, Opcode.PUT, Opcode.SCAN, Opcode.RAFT, Opcode.ERROR, 0, 255])
def test_the_first_frame_is_a_hello(opcode: int) -> None:
    data = encode_frame(opcode, 0, 0, 9, b"") + HELLO
    broken_by(data, after_hello=False, status=Status.UNAUTHENTICATED, text="the first frame of a connection is HELLO")


def test_the_owner_may_refuse() -> None:
    data = encode_frame(Opcode.HELLO, 0, 0, 9, b"stranger") + put(2, b"k")
    broken_by(data, after_hello=False, status=Status.UNAUTHENTICATED, text="who are you?")


def test_a_ping_needs_no_hello() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = server.connect()
            await client.send(ping(7, b"anybody there?"))
            assert await client.answer() == Answer(Opcode.PING, RESPONSE, Status.OK, 7, b"anybody there?")
            await client.send(HELLO)
            assert await client.answer() == WELCOME

    run(scenario)


def header(nbytes: int, opcode: int = Opcode.PUT) -> bytes:
    return struct.pack("<IBBHQ", nbytes, opcode, 0, 0, 5)


@pytest.mark.parametrize("nbytes", [HELLO_LIMIT + 1, 2**32 - 1])
def test_a_frame_too_large_before_hello(nbytes: int) -> None:
    text = f"a frame of {nbytes} bytes is over the limit of {HELLO_LIMIT}"
    broken_by(header(nbytes), after_hello=False, status=Status.FRAME_TOO_LARGE, text=text)


@pytest.mark.parametrize("nbytes", [FRAME_LIMIT + 1, 2**32 - 1])
def test_a_frame_too_large_after_hello(nbytes: int) -> None:
    text = f"a frame of {nbytes} bytes is over the limit of {FRAME_LIMIT}"
    broken_by(header(nbytes) + bytes(1000), after_hello=True, status=Status.FRAME_TOO_LARGE, text=text)


def test_what_was_asked_before_the_breach_is_still_done() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            await client.send(put(2, b"k", b"v") + header(FRAME_LIMIT + 1) + put(3, b"l", b"v"))
            answers = []
            while len(answers) < 2 and not (answers and answers[-1].opcode == Opcode.ERROR):
                answers.append(await client.answer())
            assert breach(answers[-1]) == (Opcode.ERROR, RESPONSE, Status.FRAME_TOO_LARGE, 0)
            await server.until(lambda: len(server.lost) == 1)
            assert server.table.get(b"k") is not None
            assert server.table.get(b"l") is None

    run(scenario)


def test_the_limit_of_the_role_holds_for_what_came_with_the_hello() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = server.connect()
            await client.send(HELLO + put(2, b"k", bytes(HELLO_LIMIT * 10)))
            assert [answer.request_id for answer in await client.answers(2)] == [1, 2]

    run(scenario)


def test_peers_speak_to_the_owner() -> None:
    async def scenario() -> None:
        async with serving() as server:
            peer = server.connect()
            await peer.send(
                encode_frame(Opcode.HELLO, 0, 0, 1, b"peer node-2")
                + encode_frame(Opcode.RAFT, 0, 3, 4, b"vote")
                + encode_frame(Opcode.PUT, 0, 0, 5, b"not a client's")
                + encode_frame(Opcode.PING, 0, 0, 6, b"")
            )
            await server.until(lambda: len(server.peer_frames) == 2)
            vote, put = ("node-2", Opcode.RAFT, 3, 4, b"vote"), ("node-2", Opcode.PUT, 0, 5, b"not a client's")
            assert server.peer_frames == [vote, put]
            # A ping measures the link, so it is answered on it; and it is no request of anybody's.
            assert (await peer.answers(2))[1] == Answer(Opcode.PING, RESPONSE, Status.OK, 6, b"")
            assert (Opcode.PING, Status.OK) not in server.outbox.tally.answered()
            assert (server.connections[0].role, server.connections[0].peer_id) == (Role.PEER, "node-2")
            assert server.ingress.take_writes() is None

    run(scenario)
