"""The load generator counts exactly, and stops by itself whatever the server does."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv._core.frames import encode_frame
from fastkv._core.workload import Workload
from fastkv.client import load
from tests.client.fake_node import FakeNode, Request, threaded


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A fake node on a thread of its own."""
    with threaded(FakeNode()) as node:
        yield node


def puts() -> Workload:
    return Workload({"put": 1})


def keys_of(node: FakeNode, opcode: int) -> Counter[bytes]:
    return Counter(request.key for request in node.asked(opcode))


def test_a_fill_writes_every_key_once_with_a_value_of_its_own(node: FakeNode) -> None:
    result = load.fill(node.address, keys=500, value_bytes=64, connections=3, depth=7)
    assert (result["count"], result["ok"], result["errors"], result["lost"]) == (500, 500, {}, 0)
    assert sorted(node.state.records) == [f"key-{i:012}".encode() for i in range(500)]
    values = {record.value for record in node.state.records.values()}
    assert len(values) == 500
    assert {len(value) for value in values} == {64}


def test_reads_count_missing_keys_apart(node: FakeNode) -> None:
    load.fill(node.address, keys=50)
    result = load.run(node.address, Workload({"get": 1}, keys=100), connections=2, depth=4, count=1000)
    gets = keys_of(node, Opcode.GET)
    missing = sum(count for key, count in gets.items() if key not in node.state.records)
    assert (result["ok"], result["missing"]) == (1000 - missing, missing)
    assert 300 < missing < 700  # half of the keys, uniformly


def test_a_mixture_keeps_its_ratio_and_its_seed(node: FakeNode) -> None:
    def run(seed: int) -> tuple[int, Counter[bytes]]:
        node.requests.clear()
        load.run(node.address, Workload({"get": 0.9, "put": 0.1}, keys=64, seed=seed, value_bytes=0), count=1000)
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
    result = load.run(node.address, puts(), connections=connections, depth=depth, count=count)
    assert result["ok"] == count
    assert most == connections * depth


def test_a_full_connection_is_waited_for(node: FakeNode) -> None:
    # 256 values of 32 KiB are more than the kernel takes at once.
    result = load.run(node.address, Workload({"put": 1}, value_bytes=32_000, keys=1000), depth=256, count=600)
    assert result["ok"] == 600
    assert all(len(request.body) == 4 + 16 + 32_000 for request in node.asked(Opcode.PUT))


def test_errors_are_counted_by_their_names(node: FakeNode) -> None:
    statuses = [Status.NO_LEADER, Status.OVERLOADED, Status.OK, Status.OVERLOADED]
    node.on[Opcode.PUT] = lambda request: request.reply(statuses[len(node.asked(Opcode.PUT)) % 4], b"12345678")
    result = load.run(node.address, puts(), count=400)
    assert result["errors"] == {"NO_LEADER": 100, "OVERLOADED": 200}
    assert result["ok"] == 100
    assert result["throughput"] == pytest.approx(100 / result["seconds"])


def test_forwarded_answers_are_counted(node: FakeNode) -> None:
    node.on[Opcode.PUT] = lambda request: request.serve(FrameFlag.FORWARDED)
    assert load.run(node.address, puts(), count=10)["forwarded"] == 10


def test_a_cut_connection_loses_what_was_in_flight_and_ends_the_run(node: FakeNode) -> None:
    def cut_at_ten(request: Request) -> None:
        if len(node.asked(Opcode.PUT)) == 10:
            request.link.cut()
        elif len(node.asked(Opcode.PUT)) < 10:
            request.serve()

    node.on[Opcode.PUT] = cut_at_ten
    result = load.run(node.address, puts(), depth=4, count=1000)
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
    result = load.run(node.address, puts(), count=10, max_seconds=60)
    assert result["ok"] == 0
    assert (result["lost"], result["unexpected"]) == (1, 1)


def test_the_time_limit_ends_the_run(node: FakeNode) -> None:
    began = time.monotonic()
    result = load.run(node.address, puts(), count=10**9, max_seconds=0.2)
    assert time.monotonic() - began < 30
    assert result["count"] == result["ok"] > 0
    assert 0.1 < result["seconds"] < 30


def test_progress_is_told_and_an_exception_of_it_ends_the_run(node: FakeNode) -> None:
    told: list[int] = []
    load.run(node.address, puts(), count=10**9, max_seconds=1.0, on_progress=told.append)
    assert told
    assert told == sorted(told)

    def stop(answers: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load.run(node.address, puts(), count=10**9, max_seconds=30, on_progress=stop)


def test_progress_may_say_that_it_is_enough(node: FakeNode) -> None:
    result = load.run(node.address, puts(), count=10**9, max_seconds=100, on_progress=lambda answers: answers > 100)
    assert result["count"] == result["ok"] > 100
    assert result["unanswered"] == 0
    assert result["seconds"] < 60


def test_a_refused_hello_is_told_in_the_servers_words(node: FakeNode) -> None:
    node.on[Opcode.HELLO] = lambda request: request.reply(Status.UNAUTHENTICATED, b"who are you?")
    with pytest.raises(ConnectionError, match="who are you"):
        load.run(node.address, puts(), count=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"depth": 0},
        {"max_seconds": 0},
        {"rate": 0},
        {"rate": -1.0},
        {"connections": 64, "depth": 1 << 20},
    ],
    ids=str,
)
def test_parameters_that_cannot_work_are_refused(node: FakeNode, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\b(is|are)\b"):
        load.run(node.address, puts(), **wrong)
    assert not node.asked(Opcode.PUT)


# -- mixtures ----------------------------------------------------------------------------------------------------------


def test_each_kind_of_operation_is_told_apart(node: FakeNode) -> None:
    load.fill(node.address, keys=200)
    node.requests.clear()
    mix = Workload({"get": 2, "put": 1, "scan": 1, "insert": 1}, keys=200)
    result = load.run(node.address, mix, connections=2, depth=3, count=500)
    kinds = {kind: said["count"] for kind, said in result["operations"].items()}
    assert result["ok"] == sum(kinds.values()) == 500
    assert kinds["get"] == len(node.asked(Opcode.GET))
    assert kinds["scan"] == len(node.asked(Opcode.SCAN))
    assert kinds["put"] + kinds["insert"] == len(node.asked(Opcode.PUT))
    assert len(node.state.records) == 200 + kinds["insert"]
    slowest = max(said["latency_us"]["max"] for said in result["operations"].values())
    assert slowest == result["latency_us"]["max"] == result["curve_us"][-1][1]


def test_a_modification_reads_a_key_and_then_writes_it(node: FakeNode) -> None:
    load.fill(node.address, keys=20)
    node.requests.clear()
    result = load.run(node.address, Workload({"modify": 1}, keys=20), connections=2, depth=2, count=100)
    assert (result["count"], result["operations"]["modify"]["count"]) == (100, 100)
    assert keys_of(node, Opcode.GET) == keys_of(node, Opcode.PUT)
    assert len(node.requests) == 200


def test_a_modification_that_cannot_read_does_not_write(node: FakeNode) -> None:
    node.on[Opcode.GET] = lambda request: request.reply(Status.NO_LEADER)
    result = load.run(node.address, Workload({"modify": 1}), count=10)
    assert result["errors"] == {"NO_LEADER": 10}
    assert not node.asked(Opcode.PUT)


def test_every_endpoint_gets_its_share_of_the_connections() -> None:
    with threaded(FakeNode()) as first, threaded(FakeNode()) as second:
        load.run(f"{first.address},{second.address}", puts(), connections=4, count=400)
        for node in (first, second):
            assert len({request.link for request in node.asked(Opcode.PUT)}) == 2


# -- open loads --------------------------------------------------------------------------------------------------------


def test_an_open_load_comes_at_its_rate(node: FakeNode) -> None:
    result = load.run(node.address, puts(), connections=3, depth=100, rate=500.0, count=10**6, max_seconds=2.0)
    due = result["ok"] + result["unsent"] + result["unanswered"]
    assert 850 < due < 1150
    assert result["ok"] > 0
    assert result["lost"] == 0
    links = Counter(request.link for request in node.asked(Opcode.PUT))
    assert len(links) == 3
    assert max(links.values()) - min(links.values()) < 100      # they take turns


def test_an_open_load_ends_with_its_count(node: FakeNode) -> None:
    result = load.run(node.address, puts(), depth=10, rate=2000.0, count=100, max_seconds=100.0)
    assert result["count"] == result["ok"] == 100
    assert result["seconds"] < 60


@pytest.mark.slow
def test_a_stall_is_in_the_latency_of_all_that_was_due_meanwhile(node: FakeNode) -> None:
    stall_s = 1.5

    def stall_once(request: Request) -> None:
        if len(node.asked(Opcode.PUT)) == 50:
            time.sleep(stall_s)         # the whole node
        request.serve()

    node.on[Opcode.PUT] = stall_once
    opened = load.run(node.address, puts(), rate=500.0, count=500, max_seconds=60.0)
    # A request in flight at a time. Some 450 were due in the stall, and waited for more than a third of it.
    assert opened["ok"] == 500
    assert opened["latency_us"]["max"] >= stall_s * 1e6
    assert dict_of(opened["curve_us"])[75.0] > stall_s * 1e6 / 8
    node.requests.clear()
    closed = load.run(node.address, puts(), count=500, max_seconds=60.0)
    assert closed["latency_us"]["max"] >= stall_s * 1e6
    assert closed["latency_us"]["p99"] < stall_s * 1e6 / 8      # it fell upon a single one


def dict_of(curve: list[tuple[float, float]]) -> dict[float, float]:
    return dict(curve)


@pytest.mark.slow
def test_what_found_no_place_is_counted(node: FakeNode) -> None:
    node.on[Opcode.PUT] = lambda request: None
    result = load.run(
        node.address, puts(), depth=5, rate=1000.0, count=10**6, max_seconds=0.5,
        on_progress=lambda answers: None,
    )  # fmt: skip
    assert result["unanswered"] == 5
    assert result["unsent"] > 350


def test_an_open_load_ends_with_its_last_connection(node: FakeNode) -> None:
    node.on[Opcode.PUT] = lambda request: request.link.cut()
    result = load.run(node.address, puts(), connections=2, depth=2, rate=500.0, count=10**6, max_seconds=100.0)
    assert result["ok"] == 0
    assert 2 <= result["lost"] <= 4
    assert result["seconds"] < 60
