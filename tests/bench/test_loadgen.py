"""The load generator counts exactly, and stops by itself whatever the server does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from fastkv._core import loadgen
from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import encode_frame
from tests.client.fake_node import FakeNode, Request, threaded


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A fake node on a thread of its own."""
    with threaded(FakeNode()) as node:
        yield node


def keys_of(node: FakeNode, opcode: int) -> Counter[bytes]:
    return Counter(request.key for request in node.asked(opcode))


def test_a_fill_writes_every_key_once_with_a_value_of_its_own(node: FakeNode) -> None:
    result = loadgen.load("127.0.0.1", node.port, keys=500, value_bytes=64, connections=3, depth=7)
    assert (result["count"], result["ok"], result["errors"], result["lost"]) == (500, 500, {}, 0)
    assert sorted(node.state.records) == [f"key-{i:012}".encode() for i in range(500)]
    values = {record.value for record in node.state.records.values()}
    assert len(values) == 500
    assert {len(value) for value in values} == {64}


def test_reads_count_missing_keys_apart(node: FakeNode) -> None:
    loadgen.load("127.0.0.1", node.port, keys=50)
    result = loadgen.run("127.0.0.1", node.port, operation="get", connections=2, depth=4, count=1000, keys=100)
    gets = keys_of(node, Opcode.GET)
    missing = sum(count for key, count in gets.items() if key not in node.state.records)
    assert (result["ok"], result["missing"]) == (1000 - missing, missing)
    assert 300 < missing < 700  # half of the keys, uniformly


def test_a_mixture_keeps_its_ratio_and_its_seed(node: FakeNode) -> None:
    def run(seed: int) -> tuple[int, Counter[bytes]]:
        node.requests.clear()
        loadgen.run(
            "127.0.0.1", node.port, operation="mixed", count=1000, keys=64, read_ratio=0.9, seed=seed, value_bytes=0
        )
        return len(node.asked(Opcode.GET)), keys_of(node, Opcode.PUT)

    reads, writes = run(7)
    assert 850 < reads < 950
    assert reads + sum(writes.values()) == 1000
    assert run(7) == (reads, writes)
    assert run(8) != (reads, writes)


@pytest.mark.parametrize(("connections", "depth"), [(1, 1), (1, 16), (5, 1), (4, 8)])
def test_depth_requests_are_in_flight_on_every_connection(node: FakeNode, connections: int, depth: int) -> None:
    held: list[Request] = []
    most = 0

    def hold(request: Request) -> None:
        nonlocal most
        held.append(request)
        most = max(most, len(held))
        if len(held) == connections * depth:
            for kept in held:
                kept.serve()
            held.clear()

    node.on[Opcode.PUT] = hold
    count = 10 * connections * depth
    result = loadgen.run("127.0.0.1", node.port, connections=connections, depth=depth, count=count)
    assert result["ok"] == count
    assert most == connections * depth


def test_a_full_connection_is_waited_for(node: FakeNode) -> None:
    # 256 values of 32 KiB are more than the kernel takes at once.
    result = loadgen.run("127.0.0.1", node.port, depth=256, count=600, value_bytes=32_000, keys=1000)
    assert result["ok"] == 600
    assert all(len(request.body) == 4 + 16 + 32_000 for request in node.asked(Opcode.PUT))


def test_errors_are_counted_by_their_names(node: FakeNode) -> None:
    statuses = [Status.NO_LEADER, Status.OVERLOADED, Status.OK, Status.OVERLOADED]
    node.on[Opcode.PUT] = lambda request: request.reply(statuses[len(node.asked(Opcode.PUT)) % 4], b"12345678")
    result = loadgen.run("127.0.0.1", node.port, count=400)
    assert result["errors"] == {"NO_LEADER": 100, "OVERLOADED": 200}
    assert result["ok"] == 100
    assert result["throughput"] == pytest.approx(100 / result["seconds"])


def test_forwarded_answers_are_counted(node: FakeNode) -> None:
    node.on[Opcode.PUT] = lambda request: request.serve(FrameFlag.FORWARDED)
    assert loadgen.run("127.0.0.1", node.port, count=10)["forwarded"] == 10


def test_a_cut_connection_loses_what_was_in_flight_and_ends_the_run(node: FakeNode) -> None:
    def cut_at_ten(request: Request) -> None:
        if len(node.asked(Opcode.PUT)) == 10:
            request.link.cut()
        elif len(node.asked(Opcode.PUT)) < 10:
            request.serve()

    node.on[Opcode.PUT] = cut_at_ten
    result = loadgen.run("127.0.0.1", node.port, depth=4, count=1000)
    assert result["ok"] + result["lost"] <= 13
    assert 1 <= result["lost"] <= 4


@pytest.mark.parametrize(
    "garbage",
    [
        encode_frame(Opcode.PUT, FrameFlag.RESPONSE, 0, 99, b""),
        encode_frame(Opcode.GET, FrameFlag.RESPONSE, 0, 0, b""),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ],
    ids=["no such request", "another kind", "no frame"],
)
def test_an_answer_to_nothing_ends_the_connection(node: FakeNode, garbage: bytes) -> None:
    node.on[Opcode.PUT] = lambda request: request.link.write(garbage)
    result = loadgen.run("127.0.0.1", node.port, count=10, max_seconds=0.2)
    assert result["ok"] == 0
    assert (result["lost"], result["unexpected"]) == (1, 1)


def test_the_time_limit_ends_the_run(node: FakeNode) -> None:
    began = time.monotonic()
    result = loadgen.run("127.0.0.1", node.port, count=10**9, max_seconds=0.2)
    assert time.monotonic() - began < 3
    assert result["count"] == result["ok"] > 0
    assert 0.1 < result["seconds"] < 1


def test_progress_is_told_and_an_exception_of_it_ends_the_run(node: FakeNode) -> None:
    told: list[int] = []
    loadgen.run("127.0.0.1", node.port, count=10**9, max_seconds=0.5, on_progress=told.append)
    assert told
    assert told == sorted(told)

    def stop(answers: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loadgen.run("127.0.0.1", node.port, count=10**9, max_seconds=30, on_progress=stop)


def test_progress_may_say_that_it_is_enough(node: FakeNode) -> None:
    result = loadgen.run("127.0.0.1", node.port, count=10**9, max_seconds=30, on_progress=lambda answers: answers > 100)
    assert result["count"] == result["ok"] > 100
    assert result["unanswered"] == 0
    assert result["seconds"] < 20


def test_a_refused_hello_is_told_in_the_servers_words(node: FakeNode) -> None:
    node.on[Opcode.HELLO] = lambda request: request.reply(Status.UNAUTHENTICATED, b"who are you?")
    with pytest.raises(ConnectionError, match="who are you"):
        loadgen.run("127.0.0.1", node.port, count=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"operation": "scan"},
        {"connections": 0},
        {"depth": 0},
        {"keys": 0},
        {"max_seconds": 0},
        {"key_bytes": 4},
        {"key_bytes": 512},
        {"key_bytes": 8, "keys": 100_000},
        {"value_bytes": -1},
        {"read_ratio": 1.5},
        {"consistency": 3},
        {"connections": 64, "depth": 1 << 20, "value_bytes": 1024},
    ],
    ids=str,
)
def test_parameters_that_cannot_work_are_refused(node: FakeNode, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\b(is|are)\b"):
        loadgen.run("127.0.0.1", node.port, **wrong)  # type: ignore[arg-type]
    assert not node.asked(Opcode.PUT)
