"""The comparison's own arithmetic: what is asked, what a tool's output means, what the table says."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import Servers
from bench.rivals import __main__ as program
from bench.rivals import h2load, report, wrk
from bench.rivals.etcd import Etcd, _field, _grpc
from bench.rivals.loads import Data, Load
from bench.rivals.redis import _set_batches
from bench.rivals.rival import Measurement, RivalError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("put-c64x16", Load("put", 64, 16)),
        ("get-c1", Load("get", 1, 1)),
        ("http-get-c64", Load("http-get", 64, 1)),
        ("lease-get-c64", Load("lease-get", 64, 1)),
    ],
)
def test_a_load_is_read_and_written(text: str, expected: Load) -> None:
    assert Load.parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize("text", ["", "put", "scan-c1", "put-c0", "put-c1x0", "put-c1x99999", "put-c1x1x1", "xput-c1"])
def test_what_is_no_load_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"load|connections"):
        Load.parse(text)


def test_the_rivals_store_keys_and_values_of_one_size() -> None:
    data = Data(2500, 128)
    assert len(data.key(7)) == 16
    batches = list(_set_batches(data))
    assert [count for count, _ in batches] == [1000, 1000, 500]
    assert batches[0][1].startswith(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000000\r\n$128\r\n" + b"v" * 128 + b"\r\n")


def test_a_grpc_body_is_framed_protobuf() -> None:
    message = _field(1, b"k") + _field(2, b"v" * 200)
    assert message == b"\x0a\x01k" + b"\x12\xc8\x01" + b"v" * 200
    assert _grpc(message) == b"\0" + struct.pack(">I", len(message)) + message


SAID = """
finished in 2.10s, 14291.74 req/s, 958.90KB/s
requests: 30010 total, 30010 started, 30000 done, 29990 succeeded, 10 failed, 3 errored, 0 timeout
status codes: 29980 2xx, 0 3xx, 10 4xx, 0 5xx
traffic: 1.97MB (2061158) total, 59.34KB (60768) headers (space savings 94.67%), 1009.27KB (1033492) data
"""


def scripted(monkeypatch: pytest.MonkeyPatch, said: str, log: str = "", code: int = 0) -> list[list[str]]:
    """Let h2load say something; the commands it was called with."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        for argument in command:
            if argument.startswith("--log-file="):
                Path(argument.partition("=")[2]).write_text(log)
        return subprocess.CompletedProcess(command, code, said, "its complaint")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_h2load_is_called_and_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = "".join(f"1700000000\t200\t{took}\n" for took in range(1000, 0, -1))
    commands = scripted(monkeypatch, SAID, log)
    result = h2load.run(
        "http://x/", Load("put", 64, 16), 2.4, body=tmp_path / "b", headers=["a: b"], log=tmp_path / "l"
    )
    assert {"--duration=2", "--clients=64", "--max-concurrent-streams=16", "--header=a: b"} < set(commands[0])
    assert (result.throughput, result.succeeded, result.failed, result.body_bytes) == (14291.74, 29980, 13, 1033492)
    assert (result.percentile_us(50), result.percentile_us(99), result.percentile_us(100)) == (501, 991, 1000)


@pytest.mark.parametrize(("said", "code"), [("", 0), (SAID, 1), ("finished in 1.00s, 5 req/s, 1KB/s", 0)])
def test_h2load_failing_is_no_figure(monkeypatch: pytest.MonkeyPatch, said: str, code: int) -> None:
    scripted(monkeypatch, said, code=code)
    with pytest.raises(RivalError, match="h2load failed"):
        h2load.run("http://x/", Load("get", 1, 1), 1)


def test_percentiles_that_were_not_taken_are_not_made_up() -> None:
    with pytest.raises(RivalError):
        h2load.Result(1.0, 1, 0, 1, 1.0, []).percentile_us(50)


def test_etcd_answers_are_checked_against_what_was_counted() -> None:
    put, get, data = Load("put", 1, 1), Load("get", 1, 1), Data(10, 128)
    Etcd()._check(put, data, 1000, 0, 1000)
    Etcd()._check(get, data, 1000, 128_000, 0)
    with pytest.raises(RivalError, match="999 writes"):
        Etcd()._check(put, data, 1000, 0, 999)
    with pytest.raises(RivalError, match="without their values"):
        Etcd()._check(get, data, 1000, 40_000, 0)


WRK_SAID = """Running 2s test @ http://x/
  1 threads and 64 connections
{"requests": 1010, "duration_us": 2000000, "bytes": 300000, "failed": 10, "p50": 800, "p99": 2000, "p999": 9000}
"""


def test_wrk_is_called_and_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands = scripted(monkeypatch, WRK_SAID)
    result = wrk.run("http://x/", Load("http-put", 64, 1), 2.4, tmp_path, method="PUT", body='{"value": "v"}')
    assert {"--connections=64", "--duration=2s", "http://x/"} < set(commands[0])
    assert (result.throughput, result.succeeded, result.failed) == (500, 1000, 10)
    assert (result.p50_us, result.p99_us, result.p999_us, result.answer_bytes) == (800, 2000, 9000, 300_000)
    script = (tmp_path / "wrk.lua").read_text()
    assert 'wrk.method = "PUT"' in script
    assert 'wrk.body = "\\123\\034value\\034\\058\\032\\034v\\034\\125"' in script


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [("", 0, "wrk failed"), (WRK_SAID, 1, "wrk failed"), (WRK_SAID.replace(": 10,", ": 1010,"), 0, "no request")],
)
def test_wrk_failing_is_no_figure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, code: int, text: str
) -> None:
    scripted(monkeypatch, said, code=code)
    with pytest.raises(RivalError, match=text):
        wrk.run("http://x/", Load("http-get", 64, 1), 2, tmp_path, method="GET")


def test_http_has_no_pipelines(tmp_path: Path) -> None:
    with pytest.raises(RivalError, match="one request in flight"):
        wrk.run("http://x/", Load("http-get", 64, 2), 2, tmp_path, method="GET")


def measured(throughput: float, p99_us: float, p999_us: float | None = None) -> Measurement:
    return Measurement(throughput, p99_us / 2, p99_us, p999_us, 1, 1000, 2.0, 0.5, {"a": 0.01, "b": 0.02})


def test_rows_are_medians_and_ratios_of_medians() -> None:
    by_rival = {
        "etcd": {"put-c1": [measured(100, 900), measured(90, 800), measured(300, 1000)]},
        "fastkv": {"put-c1": [measured(400, 100, 200), measured(500, 90, 300), measured(600, 110, 400)], "get-c1": []},
    }
    etcd, fastkv = report.rows(by_rival, ["put-c1", "get-c1"])
    assert (etcd.rival, etcd.throughput, etcd.lowest, etcd.highest, etcd.p99_us) == ("etcd", 100, 90, 300, 900)
    assert etcd.ratio == 5.0
    assert etcd.p99_ratio == pytest.approx(100 / 900)
    assert etcd.cpu_us_each == pytest.approx(30)
    assert etcd.tool_share == 0.25
    assert etcd.failed == 3
    assert etcd.p999_us is None
    assert (fastkv.ratio, fastkv.p99_ratio, fastkv.p999_us) == (None, None, 300)


def test_the_table_is_markdown() -> None:
    found = report.rows(
        {"etcd": {"put-c1": [measured(12345, 900)]}, "fastkv": {"put-c1": [measured(400, 100)]}}, ["put-c1"]
    )
    lines = report.table(found).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert len({line.count("|") for line in lines}) == 1
    assert "12,345" in lines[2]
    assert "0.03" in lines[2]


def test_wrong_use_is_told() -> None:
    for wrong in (["--rivals", "mongodb"], ["--loads", "scan-c1"], ["--rounds", "0"]):
        with pytest.raises(SystemExit) as ended:
            program.parse(wrong)
        assert ended.value.code == 2


def test_what_is_missing_is_named_and_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("bench.rivals.etcd.program", lambda: None)
    assert program.main(["--rivals", "etcd,redis"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("etcd-server", "nghttp2-client", "redis-server", "Debian: wrk"))


def test_servers_are_watched_and_always_stopped(tmp_path: Path) -> None:
    program_text = """if True:
        import signal, time
        while time.process_time() < 0.2:
            pass
        print("up", flush=True)
        signal.pause()
    """
    with Servers(tmp_path) as servers:
        servers.start("one", [sys.executable, "-c", program_text])
        servers.until(lambda: "up" in (tmp_path / "one.log").read_text())
        process = servers._processes["one"]
        assert 0.1 < servers.cpu_seconds()["one"] < 5
        assert servers.resident_bytes()["one"] > 1 << 20
    assert process.returncode is not None


def test_servers_are_stopped_where_the_program_is_told_to_end(tmp_path: Path) -> None:
    program_text = f"""if True:
        import sys, time
        from pathlib import Path
        from bench.processes import Servers
        with Servers(Path({str(tmp_path)!r})) as servers:
            servers.start("sleeper", [sys.executable, "-c", "import time; time.sleep(600)"])
            print(servers._processes["sleeper"].pid, flush=True)
            time.sleep(600)
    """
    running = subprocess.Popen([sys.executable, "-c", program_text], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert running.stdout is not None
    pid = int(running.stdout.readline())
    running.terminate()
    assert running.wait(60) == 128 + 15
    running.stdout.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Servers(tmp_path) as servers:
        servers.start("one", [sys.executable, "-c", "print('no such disk')"])
        with pytest.raises(TimeoutError, match="no such disk"):
            servers.until(lambda: False)

