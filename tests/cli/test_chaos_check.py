"""`fastkv chaos check`: on files, good, bad, undecided and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fastkv.chaos.history import Recorder
from fastkv.cli import cli


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["chaos", "check", *arguments])


def record_writes(record: Recorder) -> None:
    record.ok(record.invoke("c1", "put", "k", "a"), True, rev=1, node="node-1", term=2)
    record.ok(record.invoke("c1", "put", "k", "b"), True, rev=2, node="node-1", term=2)
    record.fail(record.invoke("c1", "put", "k", "no leader"))
    record.info(record.invoke("c1", "put", "other", "lost"))


def test_a_good_history(path: Path) -> None:
    with Recorder(path) as record:
        record_writes(record)
        record.ok(record.invoke("c2", "get", "k"), "b", rev=2)
    result = run(str(path))
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "5 operations on 2 keys: 3 answered, 1 not done, 1 of unknown outcome",
        "linearizable: yes",
    ]


def test_a_bad_history_shows_the_window_and_its_kind(path: Path) -> None:
    with Recorder(path) as record:
        record_writes(record)
        record.ok(record.invoke("c2", "get", "k"), "a", rev=1, node="node-3", term=1)
        record.ok(record.invoke("c3", "get", "k"), "b", rev=2, node="node-1", term=2)
    result = run(str(path))
    assert result.exit_code == 1
    assert "linearizable: NO: stale read on key 'k'" in result.output
    assert "c1  put 'b' -> done (revision 2)" in result.output
    assert "c2  get -> 'a' (revision 1)       node-3, term 1" in result.output
    assert "what was read was written by:" in result.output
    assert "other" not in result.output


def test_a_bad_history_in_json(path: Path) -> None:
    with Recorder(path) as record:
        record_writes(record)
        record.ok(record.invoke("c2", "get", "k"), "no leader", rev=3)
    result = run(str(path), "--json")
    said = json.loads(result.output)
    assert result.exit_code == 1
    assert (said["verdict"], said["key"], said["violation"]) == ("violation", "k", "failed write was done")
    assert (said["operations"], said["answered"], said["failed"], said["open"], said["keys"]) == (5, 3, 1, 1, 2)
    assert any("get -> 'no leader'" in line for line in said["window"])


def test_revisions_that_contradict_each_other_over_keys(path: Path) -> None:
    with Recorder(path) as record:
        record.ok(record.invoke("c1", "put", "k", "a"), True, rev=7)
        record.ok(record.invoke("c1", "put", "j", "b"), True, rev=7)
    result = run(str(path))
    assert result.exit_code == 1
    assert "linearizable: NO: contradicting revisions: revision 7 was given twice" in result.output
    assert "key 'j': " in result.output


def test_what_is_not_known_is_no_pass(path: Path) -> None:
    with Recorder(path) as record:
        for number in range(4):
            record.ok(record.invoke("c1", "put", "k", f"v{number}"), True, rev=number + 1)
    assert run(str(path)).exit_code == 0
    result = run(str(path), "--max-steps", "2")
    assert result.exit_code == 1
    assert "linearizable: not known, which is no pass on key 'k': no answer in 2 steps" in result.output
    assert json.loads(run(str(path), "--max-steps", "2", "--json").output)["verdict"] == "unknown"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"client": "c1"}\n', "line 1: no field 'ev'"),
        ("", "has no answered operation"),
        ('{"client":"c1","op_id":1,"t":1,', "line 1: the file ends in the middle of this line"),
    ],
)
def test_a_file_that_is_no_history(path: Path, content: str, says: str) -> None:
    path.write_text(content)
    result = run(str(path))
    assert result.exit_code == 2
    assert says in result.stderr
    assert json.loads(run(str(path), "--json").stdout)["code"] == "INVALID_HISTORY"


def test_a_file_that_is_not_there(path: Path) -> None:
    result = run(str(path))
    assert result.exit_code == 2
    assert f"cannot read {path}: No such file or directory" in result.stderr
