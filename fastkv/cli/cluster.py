"""`fastkv cluster up`, `status` and `stop`: a cluster on this machine, or a look at one anywhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from fastkv.cli.local import detached
from fastkv.cli.local.plan import DEFAULT_CLUSTER, Plan, check_members, check_ports, clean, make_plan
from fastkv.cli.local.supervisor import supervise
from fastkv.cli.options import (
    config_option,
    data_dir_option,
    endpoints_option,
    json_option,
    log_format_option,
    log_level_option,
    timeout_option,
)
from fastkv.cli.output import Exit, fail, reported, say_json
from fastkv.errors import FastKVError

DEFAULT_DATA_DIR = str(DEFAULT_CLUSTER["cluster"]["data_dir"])


@click.group()
def cluster() -> None:
    """Run a cluster on this machine, or look at one.

    \b
    Example:
      fastkv cluster up --detach
      fastkv cluster status
      fastkv cluster stop
    """


@cluster.command()
@config_option
@click.option("--nodes", type=click.IntRange(1, 99), help="How many nodes. [default: those of the configuration]")
@data_dir_option
@click.option("--base-http-port", type=int, help="node-i serves HTTP on this port + i - 1.")
@click.option("--base-raft-port", type=int, help="node-i serves raw TCP on this port + i - 1.")
@click.option("--clean", "clean_first", is_flag=True, help="Remove the data of the cluster that was here before.")
@click.option("--detach", is_flag=True, help="Return once there is a leader; `fastkv cluster stop` ends it.")
@click.option(
    "--wait", "deadline_s", type=click.FloatRange(min=0.1), default=60.0, show_default=True, metavar="SECONDS",
    help="How long to wait for a leader.",
)  # fmt: skip
@log_level_option
@log_format_option
@json_option
def up(
    config: Path | None,
    nodes: int | None,
    data_dir: Path | None,
    base_http_port: int | None,
    base_raft_port: int | None,
    clean_first: bool,
    detach: bool,
    deadline_s: float,
    log_level: str | None,
    log_format: str | None,
    as_json: bool,
) -> None:
    """Start a cluster of nodes on this machine, and wait until it has a leader.

    In the foreground it shows the nodes' logs until Ctrl-C, which stops all of them. A node that ends meanwhile is
    reported, with the command that starts it again.

    \b
    Example:
      fastkv cluster up --config config/multi-node-cluster.yaml
      fastkv cluster up --nodes 5 --base-http-port 8181 --base-raft-port 9101 --data-dir /tmp/five --detach
    """
    if as_json and not detach:
        raise click.UsageError("--json needs --detach: in the foreground there are the nodes' logs")
    levels = (("--log-level", log_level), ("--log-format", log_format))
    serve_options = tuple(part for option, value in levels if value is not None for part in (option, value))
    with reported(as_json=as_json):
        plan = make_plan(
            os.environ,
            config=config,
            nodes=nodes,
            data_dir=data_dir,
            base_http_port=base_http_port,
            base_raft_port=base_raft_port,
            serve_options=serve_options,
        )
        detached.check_not_running(plan.data_dir)
        check_ports(plan)
        if clean_first:
            for path in clean(plan):
                if not as_json:
                    _say(f"removed {path}")
        check_members(plan)
        if not detach:
            status = supervise(plan, say=_say, ready=lambda leader: _introduce(plan, leader), deadline_s=deadline_s)
            sys.exit(status)
        _up_detached(plan, deadline_s, as_json)


def _up_detached(plan: Plan, deadline_s: float, as_json: bool) -> None:
    try:
        detached.start(plan)
        leader = detached.wait_for_leader(plan, deadline_s=deadline_s)
    except BaseException:
        detached.stop(plan.data_dir)
        raise
    if leader is None:
        detached.stop(plan.data_dir)
        logs = detached.log_path(plan.data_dir, "node-*")
        message = f"no leader within {deadline_s:g} s; stopped again. The logs: {logs}"
        fail(message, "NO_LEADER", Exit.UNREACHABLE, as_json=as_json)
    if as_json:
        nodes = next(iter(plan.nodes.values())).cluster.nodes
        addresses = {name: {"raft": str(node.raft), "http": str(node.http)} for name, node in nodes.items()}
        say_json({"leader": leader, "nodes": addresses, "data_dir": str(plan.data_dir)})
        return
    _introduce(plan, leader)
    _say(f"runs in the background, logs in {plan.data_dir}; to stop it:")
    _say(f"  fastkv cluster stop --data-dir {plan.data_dir}")


@cluster.command()
@data_dir_option
@json_option
def stop(data_dir: Path | None, as_json: bool) -> None:
    """Stop the cluster that `cluster up --detach` started, and nothing else.

    Does nothing where none is running.

    \b
    Example:
      fastkv cluster stop --data-dir ./data/cluster
    """
    directory = _data_dir(data_dir)
    with reported(as_json=as_json):
        try:
            outcome = detached.stop(directory)
        except PermissionError as error:
            message = f"the nodes belong to another user ({error.strerror}): stop them as that one"
            fail(message, "FAILED", Exit.FAILED, as_json=as_json)
    if as_json:
        say_json({"data_dir": str(directory), "nodes": outcome})
    elif not outcome:
        _say(f"nothing to stop: no cluster was started with --detach in {directory}")
    else:
        for name, became in outcome.items():
            _say(f"{name}: {became}")
    if "still running" in outcome.values():
        sys.exit(Exit.FAILED)


@cluster.command()
@endpoints_option
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Ask the cluster that was started here with --detach, instead of --endpoints.",
)
@timeout_option
@json_option
def status(endpoints: str, data_dir: Path | None, timeout_s: float, as_json: bool) -> None:
    """Ask every node what it is. Exit status 0 with a leader, 4 without.

    \b
    Example:
      fastkv cluster status
      fastkv cluster status --endpoints localhost:9101,localhost:9102,localhost:9103 --json
    """
    with reported(as_json=as_json):
        if data_dir is not None:
            started = detached.read_record(data_dir)
            if not started:
                message = (
                    f"no cluster was started with --detach in {data_dir}; to start one: "
                    f"`fastkv cluster up --detach --data-dir {data_dir}`"
                )
                fail(message, "FAILED", Exit.FAILED, as_json=as_json)
            endpoints = ",".join(str(node.raft) for node in started.values())
        view = _ask(endpoints, timeout_s)
    if as_json:
        say_json(view)
    else:
        _show(view)
    sys.exit(Exit.DONE if view["leader"] else Exit.UNREACHABLE)


def _ask(endpoints: str, timeout_s: float) -> dict[str, Any]:
    """Every endpoint's answer about itself, and together who leads."""
    # Here and not above: neither `up` nor `stop` needs a client.
    from fastkv.cli.endpoints import ask_status, leader_among, own_state

    answers = ask_status(endpoints, timeout_s)
    nodes: dict[str, dict[str, Any]] = {}
    for endpoint, answer in answers.items():
        if isinstance(answer, FastKVError):
            unreachable = {"id": None, "address": endpoint, "state": "Unreachable", "term": None}
            nodes[endpoint] = {**unreachable, "error": str(answer)}
        else:
            state, term = own_state(answer)
            own = {"id": answer["local_node_id"], "address": endpoint, "state": state, "term": term}
            nodes[endpoint] = {**own, **_versions(answer)}
    return {"leader": leader_among(answers.values()), "nodes": list(nodes.values())}


def _versions(answer: dict[str, Any]) -> dict[str, Any]:
    """A node's release, what it speaks at most, and what its cluster speaks; None each from a release before 0.2.0."""
    known = answer["nodes"].get(answer["local_node_id"], {})
    return {
        "release": known.get("release"),
        "protocol_version": known.get("protocol_version"),
        "cluster_protocol_version": answer.get("protocol_version"),
    }


def _show(view: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("node", "address", "state", "term", "release", "protocol"):
        table.add_column(heading)
    for node in view["nodes"]:
        style = {"Leader": "green", "Unreachable": "red"}.get(node["state"])
        cells = [node["id"] or "?", node["address"], node["state"], *(str(node.get(name) or "") for name in (
            "term", "release", "protocol_version",
        ))]  # fmt: skip
        table.add_row(*cells, style=style)
    Console(highlight=False, soft_wrap=True).print(table)
    for node in view["nodes"]:
        if "error" in node:
            click.echo(f"{node['address']}: {node['error']}", err=True)
    click.echo(f"leader: {view['leader'] or 'none'}")
    spoken = {version for node in view["nodes"] if (version := node.get("cluster_protocol_version"))}
    if spoken:
        click.echo(f"the cluster speaks version {max(spoken)} of the protocol")


def _data_dir(given: Path | None) -> Path:
    return (given or Path(os.environ.get("KV_DATA_DIR") or DEFAULT_DATA_DIR)).absolute()


def _say(line: str) -> None:
    click.echo(f"{click.style('cluster', bold=True)} | {line}")
    sys.stdout.flush()


def _introduce(plan: Plan, leader: str) -> None:
    """The addresses, and three commands to try."""
    first = next(iter(plan.nodes.values()))
    addresses = first.cluster.nodes
    _say(f"{len(addresses)} nodes of {first.cluster.name} are up; {leader} leads. Data in {plan.data_dir}")
    for name, address in addresses.items():
        _say(f"  {name}   http://{address.http}   raw TCP {address.raft}")
    one, other = addresses[first.node_id].http, list(addresses.values())[-1].http
    _say("try:")
    _say(f"  curl http://{one}/cluster/status")
    _say(f"  curl -X PUT http://{one}/kv/greeting -d 'hello world'")
    _say(f"  curl http://{other}/kv/greeting")
