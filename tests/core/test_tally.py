"""What the raw port answered, counted on the hot path: held against counting by hand, and through a real connection."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv._core.codes import Kind, Opcode, Status
from fastkv._core.entry import encode_command
from fastkv._core.frames import encode_frame
from fastkv._core.tally import BOUNDS_S, Tally
from tests.core.tcp import run, serving

OPCODES, STATUSES = 64, 48
"""Beyond them nothing is counted by itself."""
WORK_S = 0.02
"""How long an answer takes here."""


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 65535), st.integers(0, 20_000_000))))
def test_answers_and_durations_are_counted(answers: list[tuple[int, int, int]]) -> None:
    tally = Tally()
    tally.look()
    totals: Counter[tuple[int, int]] = Counter()
    buckets: dict[int, list[int]] = {}
    sums: Counter[int] = Counter()
    for opcode, status, took_us in answers:
        tally.count(opcode, status, (tally.now_us - took_us) % 2**32)
        counted = opcode if opcode < OPCODES else 0
        totals[counted, min(status, STATUSES - 1)] += 1
        buckets.setdefault(counted, [0] * (len(BOUNDS_S) + 1))[bisect_left(BOUNDS_S, took_us / 1e6)] += 1
        sums[counted] += took_us
    assert tally.answered() == totals
    for opcode in buckets:
        counts, total_s = tally.took(opcode)
        assert counts == buckets[opcode]
        assert total_s == pytest.approx(sums[opcode] / 1e6)


def test_every_opcode_and_status_of_the_protocol_is_counted_by_itself() -> None:
    assert max(opcode for opcode in Opcode if opcode < Opcode.RAFT) < OPCODES
    assert max(Status) < STATUSES - 1
    with pytest.raises(ValueError, match="not counted by itself"):
        Tally().took(OPCODES)


def test_what_came_after_the_clock_was_looked_at_took_no_time() -> None:
    tally = Tally()
    tally.look()
    tally.count(Opcode.GET, Status.OK, (tally.now_us + 5) % 2**32)
    assert tally.took(Opcode.GET) == ([1] + [0] * len(BOUNDS_S), 0)


def put(request_id: int, key: bytes) -> bytes:
    return encode_frame(Opcode.PUT, 0, 0, request_id, encode_command(Kind.ENTRY_PUT, key, b"v"))


def get(request_id: int, key: bytes) -> bytes:
    return encode_frame(Opcode.GET, 0, 0, request_id, bytes(2) + len(key).to_bytes(2, "little") + key)


def test_a_connection_counts_what_it_answers() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            wrong = encode_frame(Opcode.PUT, 0, 0, 3, b"") + encode_frame(0xEE, 0, 0, 5, b"")
            await client.send(put(2, b"a") + wrong + get(4, b"a"))
            await client.answers(4)
            await client.send(get(6, b"a") + get(7, b"none"))
            await client.answers(2)
            counted = server.outbox.tally.answered()
            reads = counted.pop((Opcode.GET, Status.OK), 0), counted.pop((Opcode.GET, Status.KEY_NOT_FOUND), 0)
            assert sum(reads) == 3      # whether the first read came before the write hangs on the cut of the turn
            assert reads[1] >= 1
            assert counted == {
                (Opcode.HELLO, Status.OK): 1,
                (Opcode.PUT, Status.OK): 1,
                (Opcode.PUT, Status.INVALID_REQUEST): 1,
                (0, Status.UNKNOWN_OPCODE): 1,
            }

    run(scenario)


def test_a_request_counts_from_its_arrival_and_also_where_nobody_hears_the_answer() -> None:
    async def scenario() -> None:
        async with serving() as server:
            client = await server.client()
            server.paused = True
            await client.send(put(2, b"a") + put(3, b"b"))
            client.socket.close()
            await server.until(lambda: len(server.lost) == 1)
            await asyncio.sleep(WORK_S)     # the work itself: no event tells of its end
            server.pump()
            counts, total_s = server.outbox.tally.took(Opcode.PUT)
            assert sum(counts) == 2
            assert total_s > 2 * (WORK_S - 0.005)       # the loop's timers count in milliseconds

    run(scenario)
