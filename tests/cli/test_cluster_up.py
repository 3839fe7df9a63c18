"""`fastkv cluster up` in the foreground and detached, with real processes that stand in for nodes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

from fastkv.cli.local.processes import ProcessRecord
from tests.cli.conftest import LIMIT_S, ROOT, Fastkv

pytestmark = pytest.mark.e2e


def pids(supervisor: int) -> dict[str, int]:
    """The nodes' process ids: the supervisor's children, as the kernel has them."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            words = (entry / "cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since it was listed
        if parent == supervisor and "--node-id" in words:
            found[words[words.index("--node-id") + 1]] = int(entry.name)
    return found


# -- the foreground --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_says_where_it_is_and_what_to_try_and_stops_all_nodes(fastkv: Fastkv, number: signal.Signals) -> None:
    running = fastkv.up()
    running.wait_for("3 nodes of distributed-kv-cluster are up; node-1 leads")
    commands = [running.wait_for(f"curl {rest}").partition("| ")[2] for rest in ("http", "-X PUT", "http")]
    for i in range(3):
        assert f"raw TCP localhost:{fastkv.base + i}" in running.text
    assert commands[0].strip() == f"curl http://localhost:{fastkv.base + 5}/cluster/status"
    nodes = pids(running.process.pid)
    assert sorted(nodes) == ["node-1", "node-2", "node-3"]
    running.signal(number)
    assert running.finish() == 0, running.text
    assert running.lines[-1] == "cluster | all nodes stopped"
    assert not any(Path(f"/proc/{pid}").exists() for pid in nodes.values())


def test_every_log_line_says_whose_it_is(fastkv: Fastkv) -> None:
    running = fastkv.up()
    running.wait_for("are up")
    running.signal(signal.SIGINT)
    running.finish()
    for name in ("node-1", "node-2", "node-3"):
        assert f"{name} Follower  0 | here with []" in running.lines, "a line that says so itself stays as it is"
        assert f"{name} | a line without a name" in running.lines


def test_a_node_that_ends_is_reported_with_the_command_that_starts_it_again(fastkv: Fastkv) -> None:
    running = fastkv.up()
    running.wait_for("are up")
    victim = pids(running.process.pid)["node-2"]
    os.kill(victim, signal.SIGKILL)
    assert f"node-2 (process {victim}) was killed by SIGKILL" in running.wait_for("Start it again with")
    command = running.wait_for("fake_node.py").partition("| ")[2]
    assert running.process.poll() is None, "the others go on"
    # The very command, from another directory and with an environment that would mislead a node that looked at it.
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RAFT_NODE_ID": "node-9", "KV_DATA_DIR": "/nowhere"}
    again = subprocess.Popen(shlex.split(command), cwd="/", stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert again.stdout is not None
        assert again.stdout.readline().startswith("node-2 ")
    finally:
        again.kill()
        again.communicate()
    running.signal(signal.SIGINT)
    assert running.finish() == 0, "what ended before the stop is no failure of the stop"


def test_the_printed_command_is_the_real_one_in_a_real_start() -> None:
    from fastkv.cli.local.plan import Plan

    plan = Plan(Path("/c/o n.yaml"), Path("/d"), {}, ("--log-level", "debug"))
    assert plan.command("node-2") == [
        sys.executable, "-m", "fastkv", "serve", "--config", "/c/o n.yaml", "--node-id", "node-2", "--data-dir", "/d",
        "--log-level", "debug",
    ]  # fmt: skip
    assert shlex.split(plan.command_line("node-2")) == plan.command("node-2")


def test_two_of_three_are_enough_to_start(fastkv: Fastkv) -> None:
    running = fastkv.up(FAKE_NODES="node-3=exit:3")
    running.wait_for("node-1 leads")
    assert "ended with status 3" in running.wait_for("node-3 (process")
    running.signal(signal.SIGINT)
    assert running.finish() == 0


def test_too_few_nodes_end_the_start_at_once(fastkv: Fastkv) -> None:
    running = fastkv.up(FAKE_NODES="node-3=exit:3,node-2=exit:1")
    assert running.finish() == 1
    assert "too few nodes are left for a majority" in running.text
    assert "stopping node-1" in running.text


def test_no_leader_in_time_stops_the_nodes_and_is_exit_status_4(fastkv: Fastkv) -> None:
    running = fastkv.up("--wait", "0.5", FAKE_NODES="node-1=leaderless,node-2=leaderless,node-3=leaderless")
    assert running.finish() == 4
    assert "no leader within 0.5 s" in running.text
    assert running.lines[-1] == "cluster | all nodes stopped"


def test_a_second_interrupt_does_not_wait(fastkv: Fastkv) -> None:
    running = fastkv.up(FAKE_NODES="node-2=stubborn")
    running.wait_for("are up")
    running.signal(signal.SIGINT)
    running.wait_for("stopping node-1, node-2, node-3")
    running.signal(signal.SIGINT)
    assert running.finish() == 1
    assert "node-2 did not stop in time and is killed" in running.text


def test_when_nobody_reads_any_more_the_nodes_are_stopped(fastkv: Fastkv) -> None:
    process = fastkv.open("cluster", "up", *fastkv.ports, "--data-dir", str(fastkv.data))
    assert process.stdout is not None
    while "raw TCP" not in process.stdout.readline():
        assert process.poll() is None
    nodes = pids(process.pid)
    assert len(nodes) == 3
    process.stdout.close()
    os.kill(nodes["node-2"], signal.SIGKILL)  # something to say, which shows that there is nobody to say it to
    process.wait(LIMIT_S)
    assert not any(Path(f"/proc/{pid}").exists() for pid in nodes.values())


def test_a_port_in_use_is_named_before_anything_is_started(fastkv: Fastkv) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", fastkv.base + 1))
        taken.listen()
        running = fastkv.up()
        assert running.finish() == 1
    assert f"127.0.0.1:{fastkv.base + 1} (raw TCP of node-2): already in use" in running.text
    assert "here with" not in running.text
    assert not (fastkv.data / "node-1").exists()


def test_variables_that_are_a_node_s_own_are_not_handed_to_all(fastkv: Fastkv) -> None:
    running = fastkv.up(RAFT_NODE_ID="node-3", KV_HTTP_PORT="1", KV_RAFT_PORT="1", KV_HOST="10.1.2.3")
    running.wait_for("node-1 leads")
    assert "node-2 Follower  0 | here with []" in running.lines
    running.signal(signal.SIGINT)
    assert running.finish() == 0


# -- detached --------------------------------------------------------------------------------------------------------


def test_detach_returns_with_a_leader_and_stop_ends_it(fastkv: Fastkv) -> None:
    running = fastkv.up("--detach")
    assert running.finish() == 0, running.text
    assert "node-1 leads" in running.text
    record = json.loads((fastkv.data / "cluster.json").read_text())["nodes"]
    assert sorted(record) == ["node-1", "node-2", "node-3"]
    with urllib.request.urlopen(f"http://127.0.0.1:{fastkv.base + 6}/cluster/status", timeout=LIMIT_S) as answer:
        assert json.load(answer)["local_node_id"] == "node-2"
    for name, node in record.items():
        assert os.getsid(node["process"]["pid"]) == node["process"]["pid"], "a session of its own"
        assert f"{name} Follower" in (fastkv.data / f"{name}.log").read_text()

    status, text = fastkv.run("cluster", "stop", "--data-dir", str(fastkv.data))
    assert (status, text.splitlines()) == (0, [f"cluster | node-{i}: stopped" for i in (1, 2, 3)])
    assert not any(ProcessRecord(**node["process"]).running for node in record.values())
    status, text = fastkv.run("cluster", "stop", "--data-dir", str(fastkv.data))
    assert status == 0
    assert "nothing to stop" in text


def test_a_running_detached_cluster_is_not_started_again(fastkv: Fastkv) -> None:
    assert fastkv.up("--detach").finish() == 0
    for again in (fastkv.up("--detach"), fastkv.up("--clean")):
        assert again.finish() == 1
        assert "is already running: node-1 (process" in again.text
    assert (fastkv.data / "node-1").exists(), "--clean must not touch the data of running nodes"


def test_detached_nodes_that_end_at_the_start_are_a_failure_and_leave_nothing(fastkv: Fastkv) -> None:
    running = fastkv.up("--detach", FAKE_NODES="node-1=exit:2,node-3=exit:2")
    assert running.finish() == 1
    assert "node-1, node-3 ended at the start; see" in running.text
    assert str(fastkv.data / "node-3.log") in running.text
    assert not (fastkv.data / "cluster.json").exists()


def test_detached_without_a_leader_is_exit_status_4_and_leaves_nothing(fastkv: Fastkv) -> None:
    everyone = ",".join(f"node-{i}=leaderless" for i in (1, 2, 3))
    running = fastkv.up("--detach", "--wait", "0.5", FAKE_NODES=everyone)
    assert running.finish() == 4
    assert "no leader within 0.5 s" in running.text
    assert not (fastkv.data / "cluster.json").exists()


def test_stop_never_touches_a_process_that_is_not_the_recorded_one(fastkv: Fastkv) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        true = ProcessRecord.of(stranger.pid)
        assert true.running
        for false in ({"started": true.started - 1}, {"boot": "another boot"}):
            process = {"pid": true.pid, "started": true.started, "boot": true.boot, **false}
            fastkv.data.mkdir(exist_ok=True)
            node = {"process": process, "raft": "localhost:1", "http": "localhost:2"}
            (fastkv.data / "cluster.json").write_text(json.dumps({"nodes": {"node-1": node}}))
            status, text = fastkv.run("cluster", "stop", "--data-dir", str(fastkv.data))
            assert (status, text) == (0, "cluster | node-1: not running")
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"nodes": {"node-1": {}}}', '{"nodes": {"a": {"process": 1}}}'])
def test_a_record_that_cannot_be_read_is_said_so(fastkv: Fastkv, content: str) -> None:
    fastkv.data.mkdir()
    record = fastkv.data / "cluster.json"
    record.write_text(content)
    status, text = fastkv.run("cluster", "stop", "--data-dir", str(fastkv.data))
    assert status == 1
    assert f"{record} cannot be read" in text
    assert "Traceback" not in text
    record.unlink()


# -- the data directory ----------------------------------------------------------------------------------------------


def test_clean_removes_nodes_data_and_nothing_else(fastkv: Fastkv) -> None:
    fastkv.data.mkdir()
    for name in ("node-1", "node-7"):
        (fastkv.data / name / "wal").mkdir(parents=True)
        (fastkv.data / name / "old").touch()
    (fastkv.data / "mine").mkdir()
    (fastkv.data / "mine" / "thesis.tex").touch()
    (fastkv.data / "notes.txt").touch()
    (fastkv.data / "members").write_text("node-1\nnode-7\n")
    running = fastkv.up("--clean", "--detach")
    assert running.finish() == 0, running.text
    assert not (fastkv.data / "node-7").exists()
    assert not (fastkv.data / "node-1" / "old").exists()
    assert (fastkv.data / "mine" / "thesis.tex").exists()
    assert (fastkv.data / "notes.txt").exists()


def test_old_data_of_other_members_is_refused(fastkv: Fastkv) -> None:
    assert fastkv.up("--nodes", "2", "--detach").finish() == 0
    fastkv.run("cluster", "stop", "--data-dir", str(fastkv.data))
    running = fastkv.up("--nodes", "3")
    assert running.finish() == 1
    assert "has the data of a cluster of node-1, node-2, not of node-1, node-2, node-3" in running.text
    assert fastkv.up("--nodes", "3", "--clean", "--detach").finish() == 0


def test_the_configuration_beside_the_data_keeps_the_rest_of_the_given_one(fastkv: Fastkv) -> None:
    given = fastkv.directory / "given.yaml"
    given.write_text(
        'cluster:\n  name: mine\n  nodes: {a: "localhost:9001", b: "localhost:9002"}\n'
        "limits:\n  value_bytes: 4096\n"
    )
    assert fastkv.up("--config", str(given), "--detach").finish() == 0
    written = yaml.safe_load((fastkv.data / "cluster.yaml").read_text())
    assert written["limits"] == {"value_bytes": 4096}
    assert written["cluster"]["name"] == "mine"
    assert written["cluster"]["nodes"] == {
        f"node-{i + 1}": {"raft": f"localhost:{fastkv.base + i}", "http": f"localhost:{fastkv.base + 5 + i}"}
        for i in range(2)
    }
