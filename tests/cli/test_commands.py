"""What the commands print, and with which status they end: everything that does not depend on a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import pytest
import yaml
from click.testing import CliRunner, Result

import fastkv.cli.bench
import fastkv.cli.kv
from fastkv._core.workload import Workload
from fastkv.cli import cli
from fastkv.cli.advice import advice
from fastkv.cli.local.plan import DEFAULT_CLUSTER
from fastkv.cli.local.probe import leader_of
from fastkv.client import Item
from fastkv.errors import FastKVError, InvalidKey, OutcomeUnknown, PreconditionFailed, Timeout, Unavailable

ROOT = Path(__file__).parent.parent.parent


@dataclass
class FakeStore:
    """A dictionary behind the client library's interface; `error` is raised by whatever is asked next."""

    items: dict[bytes, bytes] = field(default_factory=dict)
    error: FastKVError | None = None
    connected: list[tuple[str, float]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def connect(self, endpoints: str, *, timeout: float, exactly_once: bool = True) -> FakeStore:
        self.connected.append((endpoints, timeout))
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        return None

    def _called(self, **call: Any) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def get(self, key: bytes, **options: Any) -> Item:
        self._called(key=key, **options)
        value = self.items.get(key)
        return Item(key, value, revision=7, version=2, create_revision=5) if value is not None else Item(key, None)

    def put(self, key: bytes, value: bytes, **options: Any) -> int:
        self._called(key=key, value=value, **options)
        self.items[key] = value
        return 8

    def delete(self, key: bytes, **options: Any) -> bool:
        self._called(key=key, **options)
        return self.items.pop(key, None) is not None

    def scan(self, **options: Any) -> Iterator[Item]:
        self._called(**options)
        for key, value in sorted(self.items.items()):
            yield Item(key, None if options["keys_only"] else value, revision=7, version=2, create_revision=5)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    fake = FakeStore()
    monkeypatch.setattr(fastkv.cli.kv, "connect", fake.connect)
    monkeypatch.delenv("FASTKV_ENDPOINTS", raising=False)
    return fake


def run(*arguments: str, stdin: bytes | None = None, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin, env=env, prog_name="fastkv")


def every_command(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterable[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


# -- keys and values -------------------------------------------------------------------------------------------------


def test_get_prints_the_value(store: FakeStore) -> None:
    store.items = {b"k": "grüße".encode()}
    result = run("get", "k")
    assert (result.exit_code, result.stdout) == (0, "grüße\n")
    assert store.calls == [{"key": b"k", "consistency": "linearizable"}]
    assert store.connected == [("localhost:9001,localhost:9002,localhost:9003", 5.0)]


def test_get_raw_is_the_bytes_and_nothing_else(store: FakeStore) -> None:
    store.items = {b"k": b"\xff\x00\n"}
    assert run("get", "k", "--raw").stdout_bytes == b"\xff\x00\n"
    assert run("get", "k").stdout_bytes == b"\\xff\x00\n\n"


def test_get_json_has_the_numbers(store: FakeStore) -> None:
    store.items = {b"k": b"v", b"b": b"\xff"}
    numbers = {"revision": 7, "version": 2, "create_revision": 5}
    assert json.loads(run("get", "k", "--json").stdout) == {"key": "k", "value": "v", **numbers}
    assert json.loads(run("get", "b", "--json").stdout) == {"key": "b", "value_base64": "/w==", **numbers}


@pytest.mark.parametrize("command", ["get", "del"])
def test_a_missing_key_is_exit_status_3(store: FakeStore, command: str) -> None:
    result = run(command, "none")
    assert (result.exit_code, result.stdout, result.stderr) == (3, "", "error: key not found: none\n")
    result = run(command, "none", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {"error": "key not found: none", "code": "KEY_NOT_FOUND", "key": "none"}


def test_an_empty_value_is_a_value(store: FakeStore) -> None:
    assert run("put", "k", "").exit_code == 0
    assert store.items == {b"k": b""}
    result = run("get", "k")
    assert (result.exit_code, result.stdout) == (0, "\n")


def test_put_from_standard_input_keeps_every_byte(store: FakeStore) -> None:
    data = bytes(range(256))
    result = run("put", "k", "-", stdin=data)
    assert (result.exit_code, result.stdout) == (0, "revision 8\n")
    assert store.items == {b"k": data}


def test_put_and_del_pass_the_condition_on(store: FakeStore) -> None:
    run("put", "k", "v", "--if-revision", "0")
    run("del", "k", "--if-revision", "12")
    assert [call["if_revision"] for call in store.calls] == [0, 12]
    assert run("put", "k", "v", "--if-revision", "-1").exit_code == 2


def test_del(store: FakeStore) -> None:
    store.items = {b"a": b"", b"b": b""}
    assert run("del", "a").stdout == "deleted\n"
    assert json.loads(run("del", "b", "--json").stdout) == {"key": "b", "deleted": True}


def test_scan_prints_one_line_a_key_whatever_is_in_it(store: FakeStore) -> None:
    store.items = {b"a\nb": b"one\ttwo", b"c": b"\xff", b"d": "ü".encode()}
    assert run("scan").stdout.splitlines() == ["a\\nb\tone\\ttwo", "c\t\\xff", "d\tü"]
    assert run("scan", "--keys-only").stdout.splitlines() == ["a\\nb", "c", "d"]
    lines = [json.loads(line) for line in run("scan", "--json").stdout.splitlines()]
    assert [line["key"] for line in lines] == ["a\nb", "c", "d"]
    assert lines[1]["value_base64"] == "/w=="


def test_scan_passes_its_options_on(store: FakeStore) -> None:
    run("scan", "user:", "--limit", "3", "--reverse", "--keys-only", "--consistency", "stale")
    run("scan", "--start", "a", "--end", "b")
    base = {"prefix": None, "start": None, "end": None, "limit": None, "reverse": False, "keys_only": False}
    assert store.calls == [
        {**base, "prefix": b"user:", "limit": 3, "reverse": True, "keys_only": True, "consistency": "stale"},
        {**base, "start": b"a", "end": b"b", "consistency": "linearizable"},
    ]
    assert run("scan", "x", "--start", "a").exit_code == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("no node answers"), 4),
        (Timeout("too late"), 4),
        (OutcomeUnknown("no answer"), 5),
        (PreconditionFailed("it is at revision 9", revision=9), 1),
        (InvalidKey("a key has at least one byte"), 2),
    ],
)
def test_errors_have_a_line_a_hint_a_code_and_a_status(store: FakeStore, error: FastKVError, status: int) -> None:
    store.error = error
    for arguments in (("put", "k", "v"), ("get", "k"), ("del", "k"), ("scan",)):
        result = run(*arguments)
        said = f"error: {error}\nhint: {advice(error.code)}\n"
        assert (result.exit_code, result.stdout, result.stderr) == (status, "", said)
        result = run(*arguments, "--json")
        assert (result.exit_code, result.stderr) == (status, "")
        answer = json.loads(result.stdout)
        assert (answer["error"], answer["code"], answer["hint"]) == (str(error), error.code, advice(error.code))
        assert answer.get("revision") == getattr(error, "revision", None)


def test_endpoints_come_from_the_flag_before_the_environment(store: FakeStore) -> None:
    run("get", "k", env={"FASTKV_ENDPOINTS": "a:1,b:2"})
    run("get", "k", "--endpoints", "c:3", "--timeout", "0.5", env={"FASTKV_ENDPOINTS": "a:1,b:2"})
    assert store.connected == [("a:1,b:2", 5.0), ("c:3", 0.5)]
    for bad in ("", "a:x", "a:0", "a:70000"):
        result = run("get", "k", "--endpoints", bad)
        assert result.exit_code == 2, bad
        assert "--endpoints" in result.stderr


# -- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *every_command()], ids=" ".join)
def test_every_help_has_an_example_that_is_itself_well_formed(command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    example = result.stdout.partition("Example:\n")[2].partition("\n\n")[0]
    lines = [line.strip() for line in example.splitlines()]
    assert lines, "no example"
    for line in lines:
        words = re.split(r" [<>|] ", line)[0].split()
        assert words[0] == "fastkv"
        known: click.Command = cli
        while isinstance(known, click.Group):
            found = known.get_command(click.Context(known), words[1])
            assert found is not None, words[1]
            known, words = found, words[1:]
        options = {name for parameter in known.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("arguments", ["no-such", "get", "put k", "get k --no-such", "cluster x"])
def test_wrong_usage_is_exit_status_2(arguments: str) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 2
    assert "Usage: fastkv" in result.stderr


def test_there_is_no_colour_where_there_is_no_terminal(store: FakeStore) -> None:
    store.error = Unavailable()
    for arguments in (("--help",), ("get", "k"), ("version",)):
        assert "\x1b" not in run(*arguments).output


def test_version() -> None:
    text = run("version").stdout
    answer = json.loads(run("version", "--json").stdout)
    assert text.startswith(f"fastkv {answer['version']} ")
    assert answer["protocol"] == 2


def test_serve_refuses_a_bad_configuration_with_status_2(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("raft:\n  election_timout_ms: 1\n")
    result = run("serve", "--config", str(path))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}:2: raft.election_timout_ms: unknown key")
    assert result.stderr.count("\n") == 1
    result = run("serve", "--host", "0.0.0.0", env={"KV_CONFIG": ""})
    assert result.exit_code == 2
    assert "insecure" in result.stderr


def test_without_a_file_cluster_up_is_the_cluster_of_the_file() -> None:
    assert yaml.safe_load((ROOT / "config/multi-node-cluster.yaml").read_text()) == DEFAULT_CLUSTER


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--base-raft-port", "65535"), "3 nodes from port 65535 on do not fit"),
        (("--base-raft-port", "900"), "--base-http-port: 3 nodes from port -20 on"),
        (("--base-raft-port", "9001", "--base-http-port", "9003"), "these overlap"),
        (("--config", "/no/such.yaml"), "cannot read the configuration /no/such.yaml"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_with_status_2(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    result = run("cluster", "up", "--data-dir", str(tmp_path / "data"), *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not (tmp_path / "data").exists()


# -- what a cluster says of itself ----------------------------------------------------------------------------------


def said(own: str, state: str, leader: str | None, term: int = 3) -> dict[str, Any]:
    node = {"id": own, "address": f"{own}:1", "is_leader": state == "Leader", "state": state, "term": term}
    known = None if leader is None else {"id": leader, "address": f"{leader}:1"}
    return {"local_node_id": own, "is_leader": state == "Leader", "nodes": {own: node}, "leader": known}


@pytest.mark.parametrize(
    ("answers", "leader", "status"),
    [
        ([said("a", "Leader", "a"), said("b", "Follower", "a")], "a", 0),
        ([said("a", "Leader", "a", term=3), said("b", "Leader", "b", term=4)], "b", 0),
        ([Unavailable("refused"), said("b", "Follower", "a")], "a", 0),
        ([Unavailable("refused"), said("b", "Candidate", None)], None, 4),
        ([Unavailable("refused"), Unavailable("timed out")], None, 4),
    ],
)
def test_status_puts_together_what_each_node_says(
    answers: list[Any], leader: str | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fastkv.cli.endpoints

    monkeypatch.setattr(
        fastkv.cli.endpoints, "ask_status", lambda endpoints, timeout_s: dict(zip(("x:1", "y:2"), answers, strict=True))
    )
    result = run("cluster", "status", "--json")
    view = json.loads(result.stdout)
    assert (result.exit_code, view["leader"]) == (status, leader)
    assert [node["address"] for node in view["nodes"]] == ["x:1", "y:2"]
    shown = run("cluster", "status")
    assert f"leader: {leader or 'none'}" in shown.stdout
    assert shown.stdout.count("Unreachable") == sum(isinstance(answer, FastKVError) for answer in answers)
    assert shown.stderr.splitlines() == [
        f"{where}: {answer}"
        for where, answer in zip(("x:1", "y:2"), answers, strict=True)
        if isinstance(answer, FastKVError)
    ]


def test_status_shows_who_is_no_member_and_counts_it_for_no_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastkv.cli.endpoints

    waiting = {**said("b", "Follower", None), "nodes": {}}
    removed = {**said("c", "Leader", None), "nodes": said("a", "Follower", None)["nodes"]}
    answers = {"x:1": said("a", "Leader", "a"), "y:2": waiting, "z:3": removed}
    monkeypatch.setattr(fastkv.cli.endpoints, "ask_status", lambda endpoints, timeout_s: answers)
    result = run("cluster", "status", "--json")
    view = json.loads(result.stdout)
    assert (result.exit_code, view["leader"]) == (0, "a")
    assert [(node["id"], node["state"]) for node in view["nodes"]] == [
        ("a", "Leader"), ("b", "Not a member"), ("c", "Not a member"),
    ]  # fmt: skip
    assert leader_of([waiting, removed]) is None


def test_the_leader_is_whom_the_leader_itself_or_else_anybody_names(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastkv.cli.endpoints as module

    def answered(*answers: Any) -> str:
        monkeypatch.setattr(module, "ask_status", lambda endpoints, timeout_s: dict(enumerate(answers)))
        return str(module.leader_address("unused", 1.0))

    assert answered(said("b", "Follower", "old"), said("a", "Leader", "a")) == "a:1"
    assert answered(Unavailable("refused"), said("b", "Follower", "a")) == "a:1"
    with pytest.raises(Unavailable, match="no leader"):
        answered(said("b", "Candidate", None), Unavailable("refused"))
    with pytest.raises(Unavailable, match="0: refused; 1: timed out"):
        answered(Unavailable("refused"), Unavailable("timed out"))


# -- bench -----------------------------------------------------------------------------------------------------------

MEASURED = {
    "count": 1000, "ok": 1000, "missing": 0, "errors": {}, "lost": 0, "unanswered": 0, "unsent": 0,
    "unexpected": 0, "forwarded": 0, "operations": {},
    "seconds": 0.5, "throughput": 2000.0, "cpu_seconds": 0.1, "cpu_share": 0.2,
    "latency_us": {"p50": 100.0, "p90": 200.0, "p99": 300.0, "p999": 400.0, "mean": 120.0, "max": 5000.0},
}  # fmt: skip


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    import fastkv.cli.endpoints
    import fastkv.client.load
    from fastkv.client.addresses import Address

    calls: list[dict[str, Any]] = []

    def fake_run(endpoints: str, workload: Workload | None = None, **options: Any) -> dict[str, Any]:
        calls.append({"endpoints": endpoints, "workload": workload, **options})
        return {**MEASURED, "errors": {"OVERLOADED": 3} if options.get("seed") == 13 else {}}

    monkeypatch.setattr(fastkv.client.load, "run", fake_run)
    monkeypatch.setattr(fastkv.client.load, "fill", fake_run)
    monkeypatch.setattr(fastkv.cli.endpoints, "leader_address", lambda endpoints, timeout_s: Address("kv", 9002))
    return calls


def test_bench_asks_the_leader_and_reports(generator: list[dict[str, Any]]) -> None:
    result = run("bench", "--connections", "4", "--depth", "2", "--count", "1000")
    assert result.exit_code == 0, result.output
    assert {"endpoints": "kv:9002", "connections": 4, "depth": 2, "count": 1000}.items() <= generator[0].items()
    assert {asked_by(generator[0]["workload"]) for _ in range(20)} == {"put"}
    assert "2,000 operations/s (1,000 in 0.50 s)" in result.stdout
    assert re.search(r"p99.9 +400 µs", result.stdout)


def asked_by(workload: Workload) -> str:
    return workload.sample()[0]


def test_bench_takes_a_workload_and_a_rate(generator: list[dict[str, Any]]) -> None:
    result = run("bench", "--workload", "ycsb-d", "--rate", "5000")
    assert result.exit_code == 0, result.output
    assert {asked_by(generator[0]["workload"]) for _ in range(500)} == {"get", "insert"}
    assert generator[0]["rate"] == 5000
    assert "5,000 a second due" in result.stdout


def test_bench_knows_the_workloads_that_there_are() -> None:
    from fastkv.cli.bench import WORKLOADS
    from fastkv.client.load import MIXES

    assert tuple(MIXES) == WORKLOADS


def test_bench_json_is_one_document(generator: list[dict[str, Any]]) -> None:
    answer = json.loads(run("bench", "--json", "--seconds", "2").stdout)
    assert answer["latency_us"]["p99"] == 300.0
    assert (answer["leader"], answer["workload"]) == ("kv:9002", "writes")
    assert generator[0]["max_seconds"] == 2.0
    assert generator[0]["count"] > 10**9, "only the time is to end it"


def test_bench_fails_where_operations_failed(generator: list[dict[str, Any]]) -> None:
    result = run("bench", "--seed", "13")
    assert result.exit_code == 1
    assert "OVERLOADED: 3" in result.stdout


def test_bench_loads_the_keys_first_when_asked(generator: list[dict[str, Any]]) -> None:
    assert run("bench", "--workload", "reads", "--fill", "--keys", "50").exit_code == 0
    assert generator[0]["workload"] is None
    assert generator[0]["keys"] == 50
    assert generator[1]["workload"].sample()[1] < 50
