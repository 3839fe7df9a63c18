"""`fastkv inspect status`: each node's health, and who leads."""

from __future__ import annotations

from typing import Any

import click

from fastkv.cli.inspect.show import looked, table, watch_option
from fastkv.cli.options import endpoints_option, json_option, timeout_option
from fastkv.cli.output import Exit, reported, say_json
from fastkv.errors import FastKVError

HEADINGS = ("node", "address", "state", "term", "commit", "applied", "revision", "keys", "log", "health")


@click.command()
@endpoints_option
@timeout_option
@watch_option
@json_option
def status(endpoints: str, timeout_s: float, every_s: float | None, as_json: bool) -> None:
    """Show each node's health, and who leads.

    Exit status 0 where all is well, 1 where a node is not, 4 without a leader.

    \b
    Example:
      fastkv inspect status
      fastkv inspect status --watch 1
    """

    def look() -> Exit:
        with reported(as_json=as_json):
            view = view_of(endpoints, timeout_s)
        if as_json:
            say_json(view)
        else:
            _show(view)
        if view["leader"] is None:
            return Exit.UNREACHABLE
        return Exit.DONE if all(node["health"] == "ok" for node in view["nodes"]) else Exit.FAILED

    looked(look, every_s)


def view_of(endpoints: str, timeout_s: float) -> dict[str, Any]:
    """Every endpoint's word about itself, and together who leads."""
    from fastkv.cli.endpoints import ask_status, leader_among

    answers = ask_status(endpoints, timeout_s)
    nodes = [_node(endpoint, answer) for endpoint, answer in answers.items()]
    return {"leader": leader_among(answers.values()), "nodes": nodes}


def _node(endpoint: str, answer: dict[str, Any] | FastKVError) -> dict[str, Any]:
    if isinstance(answer, FastKVError):
        nothing = dict.fromkeys(("term", "commit_index", "applied_index", "revision", "keys", "log_bytes"))
        unreachable = {"id": None, "address": endpoint, "state": "Unreachable", **nothing}
        return {**unreachable, "health": "unreachable", "problems": [str(answer)]}
    from fastkv.cli.endpoints import own_state

    health = answer["health"]
    failed = [name for name, passed in health["checks"].items() if not passed]
    return {
        "id": answer["local_node_id"],
        "address": endpoint,
        "state": own_state(answer)[0],
        "term": health["term"],
        **{name: health[name] for name in ("commit_index", "applied_index", "revision", "keys", "log_bytes")},
        "health": health["status"],
        "problems": [*(f"check {name!r} fails" for name in failed), *health["problems"]],
    }


def _show(view: dict[str, Any]) -> None:
    rows = []
    for node in view["nodes"]:
        numbers = [node[name] for name in ("term", "commit_index", "applied_index", "revision", "keys")]
        log = "" if node["log_bytes"] is None else f"{node['log_bytes'] / (1 << 20):,.0f} MiB"
        cells = [node["id"] or "?", node["address"], node["state"], *("" if n is None else f"{n:,}" for n in numbers)]
        style = "green" if node["state"] == "Leader" else None
        rows.append(([*cells, log, node["health"]], style if node["health"] == "ok" else "red"))
    table(HEADINGS, rows)
    for node in view["nodes"]:
        for problem in node["problems"]:
            click.echo(f"{node['id'] or node['address']}: {problem}")
    click.echo(f"leader: {view['leader'] or 'none'}")
