"""`fastkv member` and `fastkv leader`: who belongs to a cluster, and who leads it."""

from __future__ import annotations

from typing import Any

import click

from fastkv.cli.options import endpoints_option, json_option, timeout_option
from fastkv.cli.output import reported, say_json
from fastkv.client import connect


@click.group()
def member() -> None:
    """See and change who belongs to the cluster.

    \b
    Example:
      fastkv member list
      fastkv member add node-4 localhost:9004 localhost:8084
      fastkv member remove node-2
    """


@member.command(name="list")
@endpoints_option
@timeout_option
@json_option
def list_members(endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Show every member: its role, its addresses, and how much of the log it has.

    \b
    Example:
      fastkv member list --json
    """
    _ask({"do": "members"}, endpoints, timeout_s, as_json)


@member.command()
@click.argument("node_id")
@click.argument("raft")
@click.argument("http", default="")
@click.option("--learner", is_flag=True, help="It is to have the data, and no vote.")
@click.option("--replaces", default="", metavar="NODE_ID", help="A voter that is gone, and gives up its place.")
@endpoints_option
@timeout_option
@json_option
def add(
    node_id: str, raft: str, http: str, learner: bool, replaces: str, endpoints: str, timeout_s: float, as_json: bool
) -> None:
    """Add NODE_ID, which is reached at RAFT (and HTTP), both host:port.

    Start it with `fastkv serve --join`. It begins as a learner, and votes once it has caught up.

    \b
    Example:
      fastkv member add node-4 localhost:9004 localhost:8084
      fastkv member add node-5 db5:9001 db5:8081 --replaces node-2
    """
    request = {"do": "add", "id": node_id, "raft": raft, "http": http, "vote": not learner, "replaces": replaces}
    _ask(request, endpoints, timeout_s, as_json)


@member.command()
@click.argument("node_id")
@endpoints_option
@timeout_option
@json_option
def promote(node_id: str, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Let the learner NODE_ID vote. Refused while it lags.

    \b
    Example:
      fastkv member promote node-4
    """
    _ask({"do": "promote", "id": node_id}, endpoints, timeout_s, as_json)


@member.command()
@click.argument("node_id")
@endpoints_option
@timeout_option
@json_option
def remove(node_id: str, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Remove NODE_ID. Its process stops by itself; its data directory is of no use any more.

    \b
    Example:
      fastkv member remove node-2
    """
    _ask({"do": "remove", "id": node_id}, endpoints, timeout_s, as_json)


@member.command()
@click.argument("node_id")
@click.argument("raft")
@click.argument("http", default="")
@endpoints_option
@timeout_option
@json_option
def update(node_id: str, raft: str, http: str, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Tell the cluster that NODE_ID is at RAFT (and HTTP) from now on.

    \b
    Example:
      fastkv member update node-2 10.0.0.7:9001 10.0.0.7:8081
    """
    _ask({"do": "update", "id": node_id, "raft": raft, "http": http}, endpoints, timeout_s, as_json)


@click.group()
def leader() -> None:
    """Have another node lead; `fastkv cluster status` says which one does.

    \b
    Example:
      fastkv leader transfer node-2
    """


@leader.command()
@click.argument("node_id", default="")
@click.option("--from", "leaving", default="", metavar="NODE_ID", help="Only if this node leads; done, if it does not.")
@endpoints_option
@timeout_option
@json_option
def transfer(node_id: str, leaving: str, endpoints: str, timeout_s: float, as_json: bool) -> None:
    """Hand leadership over to NODE_ID, or to whoever can take it best.

    \b
    Example:
      fastkv leader transfer node-2
      fastkv leader transfer --from node-1      # before node-1 is stopped
    """
    _ask({"do": "transfer", "to": node_id}, endpoints, timeout_s, as_json, leaving=leaving)


def _ask(request: dict[str, Any], endpoints: str, timeout_s: float, as_json: bool, *, leaving: str = "") -> None:
    """Have a request carried out and show the members. With `leaving`, only where that node leads."""
    with reported(as_json=as_json), connect(endpoints, timeout=timeout_s) as kv:
        answer = kv.admin({"do": "members"}) if leaving else {}
        if not leaving or any(one["id"] == leaving and one["is_leader"] for one in answer["members"]):
            answer = kv.admin(request)
    if as_json:
        say_json(answer)
    else:
        _show(answer["members"])


def _show(members: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("member", "role", "raw TCP", "HTTP", "entries"):
        table.add_column(heading)
    for one in members:
        role = "leader" if one["is_leader"] else one["role"]
        match = "" if one["match"] is None else str(one["match"])
        table.add_row(one["id"], role, one["raft"], one["http"], match, style="green" if one["is_leader"] else None)
    Console(highlight=False, soft_wrap=True).print(table)
