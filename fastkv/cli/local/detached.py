"""Nodes in the background: started, recorded in a file beside their data, found again, and stopped.

The record is `<data-dir>/cluster.json`. `cluster stop` goes by it alone, so that it stops what was started there and
nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fastkv.cli.local.plan import CannotStartError, Plan, node_environment
from fastkv.cli.local.probe import PROBE_INTERVAL_S, agreed_leader, fetch_all
from fastkv.cli.local.processes import Handle, ProcessRecord, stop_all, wait_any
from fastkv.config import HostPort, parse_host_port
from fastkv.errors import FastKVError

RECORD = "cluster.json"
STOP_DEADLINE_S = 15.0


class BadRecordError(FastKVError):
    """The record of a detached cluster cannot be read."""

    code = "BAD_RECORD"


@dataclass(frozen=True)
class DetachedNode:
    """One node in the record."""

    process: ProcessRecord
    raft: HostPort
    http: HostPort


def read_record(data_dir: Path) -> dict[str, DetachedNode]:
    """The nodes that were started here; empty where none were. BadRecordError where the file is not one of ours."""
    path = data_dir / RECORD
    try:
        nodes = json.loads(path.read_bytes())["nodes"]
        return {
            name: DetachedNode(ProcessRecord(**node["process"]), _address(node["raft"]), _address(node["http"]))
            for name, node in nodes.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRecordError(f"{path} cannot be read ({error!r}); stop the nodes by hand, and remove it") from None


def _address(text: str) -> HostPort:
    address = parse_host_port(text)
    if address is None:
        raise ValueError(f"{text!r} is no address")
    return address


def _write_record(data_dir: Path, nodes: Mapping[str, DetachedNode]) -> None:
    content = {
        name: {"process": asdict(node.process), "raft": str(node.raft), "http": str(node.http)}
        for name, node in nodes.items()
    }
    temporary = data_dir / (RECORD + ".tmp")
    temporary.write_text(json.dumps({"nodes": content}, indent=2) + "\n")
    temporary.replace(data_dir / RECORD)


def check_not_running(data_dir: Path) -> None:
    """CannotStartError where nodes that were started here with --detach are still running."""
    processes = {name: node.process for name, node in read_record(data_dir).items()}
    alive = [f"{name} (process {process.pid})" for name, process in processes.items() if process.running]
    if alive:
        raise CannotStartError(
            f"the cluster in {data_dir} is already running: {', '.join(alive)}; "
            f"`fastkv cluster stop --data-dir {data_dir}` stops it"
        )


def log_path(data_dir: Path, node_id: str) -> Path:
    """Where a detached node's log lines go."""
    return data_dir / f"{node_id}.log"


def start(plan: Plan) -> None:
    """Start every node in a session of its own and record it. On failure, stop those that were started."""
    plan.data_dir.mkdir(parents=True, exist_ok=True)
    started: dict[str, DetachedNode] = {}
    try:
        for name, node in plan.nodes.items():
            with log_path(plan.data_dir, name).open("ab") as log:
                process = subprocess.Popen(
                    plan.command(name),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=node_environment(os.environ),
                    start_new_session=True,
                )
            process.returncode = 0  # it outlives us on purpose: nobody is to wait for it, or to warn that nobody did
            address = node.cluster.nodes[name]
            started[name] = DetachedNode(ProcessRecord.of(process.pid), address.raft, address.http)
            # After each one, so that not even a kill -9 of this command leaves a node that `stop` does not know.
            _write_record(plan.data_dir, started)
    except BaseException:
        stop(plan.data_dir)
        raise


def wait_for_leader(plan: Plan, *, deadline_s: float) -> str | None:
    """Wait until every running node knows the leader. None where that does not come to pass in time.

    CannotStartError, at once, when too few nodes are left for a majority.
    """
    nodes = read_record(plan.data_dir)
    deadline = time.monotonic() + deadline_s
    handles: dict[str, Handle] = {}
    ended: set[str] = set()
    for name, node in nodes.items():
        try:
            handles[name] = Handle(node.process)
        except ProcessLookupError:
            ended.add(name)
    try:
        while time.monotonic() < deadline:
            if len(handles) < plan.quorum:
                logs = ", ".join(str(log_path(plan.data_dir, name)) for name in sorted(ended))
                raise CannotStartError(f"{', '.join(sorted(ended))} ended at the start; see {logs}")
            leader = agreed_leader(fetch_all({name: nodes[name].http for name in handles}))
            if leader:
                return leader
            for name in wait_any(handles, PROBE_INTERVAL_S):
                handles.pop(name).close()
                ended.add(name)
    finally:
        for handle in handles.values():
            handle.close()
    return None


def stop(data_dir: Path, *, deadline_s: float = STOP_DEADLINE_S) -> dict[str, str]:
    """Stop what was started here; what became of each node. Empty where nothing was started here.

    The record is removed once nothing of it runs any more.
    """
    nodes = read_record(data_dir)
    outcome = stop_all({name: node.process for name, node in nodes.items()}, deadline_s=deadline_s)
    if "still running" not in outcome.values():
        (data_dir / RECORD).unlink(missing_ok=True)
    return outcome
