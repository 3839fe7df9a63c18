"""A workload asks for what it says, in frames that a server reads as what was meant."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from fastkv._core.codes import FRAME_HEADER_BYTES, Consistency, Kind, Opcode
from fastkv._core.entry import decode_command
from fastkv._core.frames import FrameReader
from fastkv._core.workload import KINDS, Workload
from fastkv.client.load import MIXES
from fastkv.wire.client import decode_scan_request
from tests.client.fake_node import VALUE_LIMIT_BYTES


def body_of(frame: bytes, opcode: int, request_id: int) -> bytes:
    ((found, flags, status, request, body),) = FrameReader(VALUE_LIMIT_BYTES).feed(frame)
    assert (found, flags, status, request) == (opcode, 0, 0, request_id)
    return body


def test_frames_are_what_a_server_reads() -> None:
    workload = Workload(dict.fromkeys(KINDS, 1.0), keys=1000, key_bytes=20, value_bytes=50, consistency=1)
    seen = Counter[str]()
    for _ in range(500):
        kind, number, frame = workload.sample()
        seen[kind] += 1
        key = f"key-{number:016}".encode()
        if kind in ("get", "modify"):
            body = body_of(frame, Opcode.GET, number)
            assert (body[0], body[4:]) == (Consistency.LEASE_READ, key)
        elif kind == "scan":
            scan = decode_scan_request(body_of(frame, Opcode.SCAN, number))
            assert (scan.start, scan.end, scan.cursor, scan.consistency) == (key, b"", b"", Consistency.LEASE_READ)
            assert 1 <= scan.limit <= 100
        else:
            command = decode_command(Kind.ENTRY_PUT, body_of(frame, Opcode.PUT, number))
            assert (command.key, len(command.value), command.compare) == (key, 50, None)
    assert set(seen) == set(KINDS)


def test_shares_are_kept_whatever_they_add_up_to() -> None:
    workload = Workload({"get": 6, "put": 3, "scan": 1}, keys=100)
    seen = Counter(workload.sample()[0] for _ in range(20_000))
    assert set(seen) == {"get", "put", "scan"}
    assert seen["get"] == pytest.approx(12_000, rel=0.05)
    assert seen["put"] == pytest.approx(6_000, rel=0.05)
    assert seen["scan"] == pytest.approx(2_000, rel=0.1)


def test_inserts_go_on_behind_the_keys_that_are_there() -> None:
    workload = Workload({"insert": 1}, keys=7)
    assert [workload.sample()[1] for _ in range(4)] == [7, 8, 9, 10]


def test_no_two_values_are_the_same() -> None:
    workload = Workload({"put": 1}, keys=3, value_bytes=8)
    values = {workload.sample()[2][FRAME_HEADER_BYTES:][-8:] for _ in range(1000)}
    assert len(values) == 1000


def test_uniform_keys_are_uniform() -> None:
    workload = Workload({"get": 1}, keys=50)
    seen = Counter(workload.sample()[1] for _ in range(50_000))
    assert sorted(seen) == list(range(50))
    assert all(800 < count < 1200 for count in seen.values())


@pytest.mark.parametrize("keys", [3, 100, 5000])
def test_zipfian_keys_follow_the_law_and_are_scattered(keys: int) -> None:
    draws = 200_000
    workload = Workload({"get": 1}, distribution="zipfian", keys=keys)
    counts = Counter(workload.sample()[1] for _ in range(draws))
    weights = [1 / rank**0.99 for rank in range(1, keys + 1)]
    popular = [number for number, _ in counts.most_common(2)]
    assert counts[popular[0]] >= draws * weights[0] / sum(weights) * 0.95
    assert max(counts) < keys
    if keys == 5000:        # with few keys several ranks fall onto one
        assert counts[popular[0]] == pytest.approx(draws * weights[0] / sum(weights), rel=0.1)
        assert counts[popular[1]] == pytest.approx(draws * weights[1] / sum(weights), rel=0.1)
        assert popular != [0, 1]


def test_latest_prefers_the_newest_key_that_was_answered() -> None:
    workload = Workload({"get": 0.9, "insert": 0.1}, distribution="latest", keys=1000)
    newest = 999
    ages = Counter[int]()
    for _ in range(50_000):
        kind, number, _ = workload.sample()
        if kind == "insert":
            newest = number
        else:
            ages[newest - number] += 1
    assert min(ages) == 0
    weights = sum(1 / rank**0.99 for rank in range(1, newest))
    assert ages[0] == pytest.approx(45_000 / weights, rel=0.25)
    assert ages[0] > ages[1] > ages[3]
    assert math.isclose(ages[0] / ages[1], 2**0.99, rel_tol=0.15)


def test_the_same_seed_asks_for_the_same() -> None:
    def asked(seed: int) -> list[tuple[str, int, bytes]]:
        workload = Workload(dict.fromkeys(KINDS, 1.0), distribution="zipfian", seed=seed)
        return [workload.sample() for _ in range(100)]

    assert asked(3) == asked(3)
    assert asked(3) != asked(4)


@pytest.mark.parametrize("name", MIXES)
def test_the_named_mixes_are_workloads(name: str) -> None:
    mix, distribution = MIXES[name]
    workload = Workload(mix, distribution=distribution, keys=10)
    assert {workload.sample()[0] for _ in range(1000)} == set(mix)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mix": {"delete": 1}},
        {"mix": {}},
        {"mix": {"get": 0}},
        {"mix": {"get": 2, "put": -1}},
        {"distribution": "normal"},
        {"keys": 0},
        {"key_bytes": 4},
        {"key_bytes": 512},
        {"key_bytes": 8, "keys": 100_000},
        {"value_bytes": -1},
        {"consistency": 3},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\b(is|are)\b"):
        Workload(**{"mix": {"get": 1}, **wrong})
