"""What clients write and record: values that can be told apart, and outcomes that are what the errors say."""

from __future__ import annotations

import json
import random
from typing import cast

import pytest

from fastkv.chaos.clients import MOST_OPERATIONS, Load, filled, word_of
from fastkv.chaos.cluster import Cluster
from fastkv.chaos.doors import Read
from fastkv.chaos.history import Recorder, read_history
from fastkv.chaos.modes import Crowd
from fastkv.errors import FastKVError, OutcomeUnknown, PreconditionFailed, ProtocolError, Timeout, Unavailable

NOBODY = Crowd(0, 0, 0, 0.01, (20, 40))


def test_a_value_is_as_long_as_its_word_says_and_tells_when_it_was_damaged() -> None:
    value = filled("all-1:7:30")
    assert len(value) == 30
    assert word_of(value) == "all-1:7:30"
    assert filled("all-1:7:5") == "all-1:7:5 ", "no shorter than its word"
    assert word_of(None) is None
    for damaged in (value[:-1], value + "x", value.replace("x", "y"), "", "no number in it"):
        assert str(word_of(damaged)).startswith("damaged: ")


class FakeCluster:
    """No nodes: the tests bring doors of their own."""

    names = ("node-1",)
    endpoints = "127.0.0.1:1"

    class network:  # noqa: N801
        places: dict[str, object] = {}  # noqa: RUF012


class FakeDoor:
    """Answers what the test says."""

    kind = "all"
    node: str | None = "node-1"

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked: list[tuple[object, ...]] = []

    def _say(self, *asked: object) -> object:
        self.asked.append(asked)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def get(self, key: str, consistency: str) -> Read:
        return cast(Read, self._say("get", key, consistency))

    async def put(self, key: str, value: str, expected: int | None) -> int:
        return cast(int, self._say("put", key, value, expected))

    async def delete(self, key: str) -> int | None:
        return cast("int | None", self._say("delete", key))

    async def close(self) -> None:
        return None


def load(recorder: Recorder, *, seconds: float = 10.0, crowd: Crowd = NOBODY) -> Load:
    return Load(cast(Cluster, FakeCluster()), crowd, recorder, seed=1, seconds=seconds)


@pytest.mark.parametrize(
    ("error", "ev", "outcome"),
    [
        (Unavailable(), "fail", "failed"), (Timeout(), "fail", "failed"),
        (OutcomeUnknown(), "info", "unknown"), (ProtocolError(), "info", "unknown"),
    ],
)  # fmt: skip
async def test_a_write_fails_only_where_its_error_says_so(
    tmp_path_factory: pytest.TempPathFactory, error: FastKVError, ev: str, outcome: str
) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    with Recorder(path) as recorder:
        clients = load(recorder)
        goes_on_as = await clients._put("c", FakeDoor(error), "once/c/1", "c:1:20", None)
        assert goes_on_as == ("c" if ev == "fail" else "c.1")
        assert clients.once == {}
        assert [sample.outcome for sample in clients.samples] == [outcome]
    assert [json.loads(line)["ev"] for line in path.read_text().splitlines()] == ["invoke", ev]


async def test_answers_are_recorded_as_a_checker_reads_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    with Recorder(path) as recorder:
        clients = load(recorder)
        await clients._put("c", FakeDoor(7), "once/c/1", "c:1:20", None)
        await clients._put("c", FakeDoor(8), "hot/0/1", "c:2:20", 7)
        await clients._put("c", FakeDoor(PreconditionFailed(revision=9)), "hot/0/1", "c:3:20", 7)
        await clients._get("c", FakeDoor(Read(filled("c:2:20"), 8)), "hot/0/1", "lease")
        await clients._get("c", FakeDoor(Read(None, 0)), "hot/0/2", "linearizable")
        for answer in (-1, 12, None):
            await clients._delete("c", FakeDoor(answer), "hot/0/1")
        assert clients.once == {"once/c/1": "c:1:20"}
        assert clients.outcomes == {"ok": 8}
    seen = [(op.f, op.argument, op.expected, op.outcome, op.revision) for op in read_history(path)]
    assert seen == [
        ("put", "c:1:20", 0, True, 7), ("cas", "c:2:20", 7, True, 8), ("cas", "c:3:20", 7, False, 9),
        ("get", None, 0, "c:2:20", 8), ("get", None, 0, None, 0),
        ("del", None, 0, True, -1), ("del", None, 0, True, 12), ("del", None, 0, False, 0),
    ]  # fmt: skip


async def test_what_is_no_error_of_the_store_s_is_not_swallowed(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("history") / "history.jsonl"
    with Recorder(path) as recorder, pytest.raises(ZeroDivisionError):
        await load(recorder)._get("c", FakeDoor(ZeroDivisionError()), "k", "lease")


async def test_who_uses_a_key_at_once_with_another_overlaps(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Recorder(tmp_path_factory.mktemp("history") / "history.jsonl") as recorder:
        clients = load(recorder)
        rng = random.Random(1)
        await clients._hot("a", FakeDoor(1), "put", "hot/0/1", "a:1:20", rng)
        assert clients.overlapping == 0
        clients._busy["hot/0/1"] = 1
        await clients._hot("b", FakeDoor(2), "put", "hot/0/1", "b:1:20", rng)
        assert clients.overlapping == 1


async def test_a_long_run_s_clients_pause_longer(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Recorder(tmp_path_factory.mktemp("history") / "history.jsonl") as recorder:
        crowd = Crowd(50, 0, 0, 0.01, (20, 40))
        short, hour = load(recorder, crowd=crowd), load(recorder, seconds=36_000, crowd=crowd)
        assert short._pause_s == 0.01
        assert 50 * 36_000 / hour._pause_s == pytest.approx(MOST_OPERATIONS)
        await short.stop()
        await hour.stop()
