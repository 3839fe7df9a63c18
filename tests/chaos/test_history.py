"""The file that clients' operations are recorded in: written as it happens, and read with suspicion."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastkv.chaos.history import FIELDS, HistoryError, Recorder, read_history
from fastkv.chaos.operations import FOREVER, UNSEEN, Operation


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def ticking() -> Callable[[], int]:
    return itertools.count(10, 10).__next__


def test_what_was_recorded_is_read_as_operations(path: Path) -> None:
    with Recorder(path, clock=ticking()) as record:
        put = record.invoke("c1", "put", "k", "c1-1", node="node-1")
        get = record.invoke("c2", "get", "k")
        record.ok(put, True, rev=5, node="node-1", term=2)
        record.ok(get, "c1-1", rev=5, node="node-3")
        cas = record.invoke("c1", "cas", "k", [5, "c1-2"])
        record.ok(cas, False, rev=6)
        incr = record.invoke("c2", "incr", "n", 3)
        record.ok(incr, 3, rev=7)
        delete = record.invoke("c2", "del", "k")
        record.ok(delete, True)
    assert read_history(path) == [
        Operation("c1", "k", "put", 10, 30, "c1-1", 0, True, 5, "node-1", 2, 1),
        Operation("c2", "k", "get", 20, 40, None, 0, "c1-1", 5, "node-3", None, 2),
        Operation("c1", "k", "cas", 50, 60, "c1-2", 5, False, 6, None, None, 3),
        Operation("c2", "n", "incr", 70, 80, 3, 0, 3, 7, None, None, 4),
        Operation("c2", "k", "del", 90, 100, None, 0, True, UNSEEN, None, None, 5),
    ]


def test_a_line_has_the_fields_that_are_written_down(path: Path) -> None:
    with Recorder(path, clock=ticking()) as record:
        record.ok(record.invoke("c1", "cas", "ключ", [0, "v"], node="node-2"), True, rev=9, node="node-2", term=4)
    invoke, ok = map(json.loads, path.read_text().splitlines())
    assert invoke == dict(zip(FIELDS, ("c1", 1, 10, "invoke", "cas", "ключ", [0, "v"], None, "node-2", None, None),
                              strict=True))  # fmt: skip
    assert ok == dict(zip(FIELDS, ("c1", 1, 20, "ok", "cas", "ключ", None, True, "node-2", 9, 4), strict=True))


def test_open_and_failed_operations(path: Path) -> None:
    with Recorder(path) as record:
        unknown = record.invoke("c1", "put", "k", "a")
        after = record.info(unknown)
        failed = record.invoke(after, "put", "k", "b")
        record.fail(failed)
        again = record.info(record.invoke(after, "del", "k"))
        record.invoke(again, "put", "k", "c")
    ops = read_history(path)
    assert [op.client for op in ops] == ["c1", "c1.1", "c1.1", "c1.2"]
    assert [(op.open, op.failed) for op in ops] == [(True, False), (False, True), (True, False), (True, False)]
    assert all((op.returned == FOREVER) == op.open for op in ops)


def test_lines_are_in_the_file_at_once(path: Path) -> None:
    record = Recorder(path)
    record.invoke("c1", "get", "k")
    assert len(read_history(path)) == 1
    record.close()


def test_a_second_run_does_not_go_on_in_the_first_one_s_file(path: Path) -> None:
    Recorder(path).close()
    with pytest.raises(FileExistsError):
        Recorder(path)


def test_threads_share_a_recorder(path: Path) -> None:
    def client(name: str) -> None:
        for number in range(200):
            record.ok(record.invoke(name, "put", "k", f"{name}-{number}"), True, rev=number + 1)

    with Recorder(path) as record:
        threads = [threading.Thread(target=client, args=(f"c{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_history(path)) == 800


@pytest.mark.parametrize(
    "wrong",
    [
        lambda record: record.invoke("c1", "set", "k", "v"),
        lambda record: record.invoke("c1", "put", "k", 1),
        lambda record: record.invoke("c1", "get", "k", "v"),
        lambda record: record.invoke("c1", "cas", "k", "v"),
        lambda record: record.invoke("c1", "cas", "k", [-1, "v"]),
        lambda record: record.invoke("c1", "incr", "k", "1"),
        lambda record: record.ok(record.invoke("c1", "put", "k", "v"), False, rev=1),
        lambda record: record.ok(record.invoke("c1", "put", "k", "v"), True),
        lambda record: record.ok(record.invoke("c1", "get", "k"), 5, rev=1),
        lambda record: record.ok(99, True, rev=1),
        lambda record: [record.fail(op) or record.ok(op, None, rev=0) for op in [record.invoke("c1", "get", "k")]],
    ],
)  # fmt: skip
def test_a_recorder_writes_nothing_that_cannot_be_read(path: Path, wrong: Callable[[Recorder], object]) -> None:
    with Recorder(path) as record, pytest.raises(ValueError):  # noqa: PT011 — which of them does not matter here
        wrong(record)
    read_history(path)


def line(ev: str, op_id: int = 1, t: int = 1, **more: object) -> str:
    """A line of the file; `value` is its `in`."""
    fields = {"client": "c1", "op_id": op_id, "t": t, "ev": ev, "f": "put", "key": "k"}
    given = {"in" if name == "value" else name: value for name, value in more.items()}
    return json.dumps(dict.fromkeys(FIELDS) | fields | given)


INVOKE = line("invoke", value="v")
OK = line("ok", t=2, out=True, rev=1)

REFUSED = {
    "no JSON": ([INVOKE, "{"], "line 2: no JSON"),
    "no object": (["[]"], "line 1: not a JSON object"),
    "a field is missing": ([INVOKE.replace('"rev"', '"revision"')], "line 1: no field 'rev'"),
    "a field too many": ([INVOKE.replace("}", ', "zone": 1}')], "line 1: no field is called 'zone'"),
    "wrong type": ([line("invoke", t=True, value="v")], "line 1: 't' cannot be True"),
    "unknown f": ([line("invoke", f="append", value="v")], "line 1: 'f' cannot be 'append'; it is one of"),
    "unknown ev": ([line("begin", value="v")], "line 1: 'ev' cannot be 'begin'"),
    "an answer to nothing": ([OK], "line 1: an answer to operation 1, which was never invoked"),
    "two answers": ([INVOKE, OK, OK], "line 3: a second answer to operation 1"),
    "an answer after info": ([INVOKE, line("info", t=2), OK], "line 3: a second answer to operation 1"),
    "a number used twice": ([INVOKE, OK, line("invoke", t=3, value="w")], "line 3: there was an operation 1 already"),
    "two operations at once": (
        [INVOKE, line("invoke", 2, 2, value="w")], "line 2: client 'c1' has operation 1 under way",
    ),
    "a client after info": (
        [INVOKE, line("info", t=2), line("invoke", 2, 3, value="w")],
        "line 3: client 'c1' goes on after an operation of unknown outcome",
    ),
    "time goes back": ([line("invoke", t=5, value="v"), line("ok", t=4, out=True, rev=1)], "line 2: time goes back"),
    "another key": ([INVOKE, line("ok", t=2, key="j", out=True, rev=1)], "line 2: operation 1 was a put of 'k'"),
    "no value to put": ([line("invoke")], "line 1: 'in' of a put cannot be None"),
    "a cas without a revision": ([line("invoke", f="cas", value=["v"])], "line 1: 'in' of a cas cannot be"),
    "a put that says no": ([INVOKE, line("ok", t=2, out=False, rev=1)], "line 2: 'out' of a put cannot be False"),
    "no revision": ([INVOKE, line("ok", t=2, out=True)], "line 2: the answer to a put has a 'rev'"),
    "a revision below 0": ([INVOKE, line("ok", t=2, out=True, rev=-1)], "line 2: 'rev' and 'term' cannot be negative"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_line_that_cannot_be_is_refused_with_its_number(path: Path, name: str) -> None:
    lines, reason = REFUSED[name]
    path.write_text("".join(f"{text}\n" for text in lines))
    with pytest.raises(HistoryError) as refused:
        read_history(path)
    assert str(refused.value).startswith(reason)


@pytest.mark.parametrize("cut", [1, 20, len(OK) - 1])
def test_a_last_line_cut_by_a_crash_is_told_from_rubbish(path: Path, cut: int) -> None:
    path.write_text(f"{INVOKE}\n{OK[:cut]}")
    with pytest.raises(HistoryError, match="line 2: the file ends in the middle of this line, as after a crash"):
        read_history(path)


def test_bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(INVOKE.encode().replace(b'"v"', b'"\xff"') + b"\n")
    with pytest.raises(HistoryError, match="line 1: no JSON"):
        read_history(path)
