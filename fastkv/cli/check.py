"""`fastkv check` and `fastkv repair`: a stopped node's data directory, when its disk is in doubt."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fastkv.cli.options import check_endpoints, json_option, timeout_option
from fastkv.cli.output import Exit, fail, reported, say_json
from fastkv.errors import DirectoryInUse, FastKVError, NoDataDirectory

directory_argument = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))


@click.command()
@directory_argument
@json_option
def check(directory: Path, as_json: bool) -> None:
    """Look whether the data in DIRECTORY, that of a stopped node, is whole.

    Reads every record of the log, every page of the store and every snapshot, with their checksums and the hash of the
    content; says what is there and what is damaged. Changes nothing. Exit status: 0 whole, 1 damaged, 2 no data
    directory, or a node is using it.

    \b
    Example:
      fastkv check data/cluster/node-2
    """
    from fastkv.server.offline import examine

    with reported(as_json=as_json), _usable(as_json):
        described = examine(directory)
    if as_json:
        say_json(described)
    else:
        _show(described)
        _show_damages(described)
    sys.exit(Exit.DONE if described["whole"] else Exit.FAILED)


@click.command()
@directory_argument
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option(
    "--endpoints",
    callback=lambda context, parameter, value: value and check_endpoints(context, parameter, value),
    metavar="HOST:PORT,…",
    help="Raw-TCP addresses of the other nodes: where the node has to come back as a new member, remove and add it.",
)
@timeout_option
@json_option
def repair(directory: Path, yes: bool, endpoints: str | None, timeout_s: float, as_json: bool) -> None:
    """Set aside what is damaged in DIRECTORY, so that its node gets it back from the other members.

    Stop the node first. Nothing is deleted: what is damaged goes to DIRECTORY/damaged-DATE. A damaged store is made
    anew from the log, or fetched. A node whose log is damaged has forgotten what it has promised: it has to be removed
    from the cluster and added as a new member, which --endpoints does. Exit status: 0 done, 1 failed, 2 no data
    directory, a node is using it, or nobody said yes.

    \b
    Example:
      fastkv repair data/cluster/node-2
      fastkv repair data/cluster/node-2 --yes --endpoints localhost:9001,localhost:9003
    """
    from fastkv.server import offline

    def decide(described: dict[str, Any]) -> bool:
        if not as_json:
            _show_damages(described)
        refused = described["repair"]["refused"]
        if refused:
            fail(refused, "CANNOT_REPAIR", Exit.FAILED, as_json=as_json)
        if yes:
            return True
        if as_json or not sys.stdin.isatty():
            fail("nothing was changed: say --yes to do it", "NOT_CONFIRMED", Exit.USAGE, as_json=as_json)
        return click.confirm("Set these files aside?")

    with reported(as_json=as_json), _usable(as_json):
        try:
            described = offline.repair(directory, decide)
        except OSError as error:
            fail(f"the files cannot be set aside: {error}", "STORAGE_ERROR", Exit.FAILED, as_json=as_json)
        done = described["whole"] or "set_aside_in" in described
        if done and described["repair"]["new_member"] and endpoints:
            described["added"] = _replace_member(described, endpoints, timeout_s)
    if as_json:
        say_json(described)
    else:
        _show_repaired(described, added=bool(described.get("added")))
    sys.exit(Exit.DONE if done else Exit.USAGE)


def _replace_member(described: dict[str, Any], endpoints: str, timeout_s: float) -> list[dict[str, Any]]:
    """Remove the node from its cluster, and add it as another member; the members then."""
    from fastkv.client import connect

    node_id = (described["identity"] or {}).get("node_id", "")
    with connect(endpoints, timeout=timeout_s) as kv:
        members = {member["id"]: member for member in kv.admin({"do": "members"})["members"]}
        known = members.get(node_id)
        if known is None:
            raise FastKVError(
                f"{node_id or 'the node'} is no member of that cluster; `fastkv member add {node_id} HOST:PORT` adds it"
            )
        kv.admin({"do": "remove", "id": node_id})
        addition = {"do": "add", "id": node_id, "raft": known["raft"], "http": known["http"]}
        answer = kv.admin({**addition, "vote": known["role"] != "learner"})
    added: list[dict[str, Any]] = answer["members"]
    return added


def _show(described: dict[str, Any]) -> None:
    identity, log, store = described["identity"], described["log"], described["store"]
    whose = "{node_id} of cluster {cluster}, disk {disk}".format(**identity) if identity else "not known"
    _line("node", whose)
    for member in described["members"]:
        _line("member", f"{member['id']}, {member['role']}, {member['raft']}")
    voted = f", voted for {log['vote']}" if log["vote"] else ""
    _line("log", f"entries {log['base_index'] + 1} to {log['last_index']}, term {log['term']}{voted}")
    for segment in log["segments"]:
        held = "entries {first_index} to {last_index} of terms {first_term} to {last_term}".format(**segment)
        held = f"{segment['records']} records, {held if segment['first_index'] else 'no entries'}"
        text = held if segment["begun"] else "not begun"
        _line("", f"{segment['file']}: {segment['bytes']:,} bytes, {text}")
    if log["torn"]:
        _line("", f"{log['torn']['file']} at byte {log['torn']['offset']}: {log['torn']['means']}")
    checked = "content checked" if store["content_checked"] else "content not checked"
    applied = f"applied up to entry {store['applied_index']} of term {store['applied_term']}"
    _line("store", f"{applied}, {store['keys']:,} keys")
    _line("", f"{store['file']}: {store['bytes']:,} bytes, state hash {store['state_hash']}, {checked}")
    if store["awaits_snapshot"]:
        _line("", "was set aside by a repair; the node fetches a snapshot when it is started")
    for copy in described["snapshots"]:
        _line("snapshot", f"{copy['file']}: entry {copy['applied_index']}, {copy['bytes']:,} bytes, {copy['state']}")


def _show_damages(described: dict[str, Any]) -> None:
    for damage in described["damages"]:
        _line("DAMAGED", f"{damage['file']} at byte {damage['offset']}: {damage['what']}", fg="red")
        _line("", f"{damage['means']}")
    if described["whole"]:
        _line("whole", "no damage was found", fg="green")
        return
    planned = described["repair"]
    if planned["refused"]:
        _line("repair", planned["refused"])
        return
    _line("repair", f"`fastkv repair {described['path']}` sets aside {', '.join(planned['set_aside'])}; then")
    _line("", planned["then"])


def _show_repaired(described: dict[str, Any], *, added: bool) -> None:
    if described["whole"]:
        _line("whole", "there is nothing to repair", fg="green")
        return
    if "set_aside_in" not in described:
        _line("repair", "nothing was changed")
        return
    _line("done", f"what is damaged is in {described['set_aside_in']}", fg="green")
    if not described["repair"]["new_member"] or added:
        _line("now", "start the node" + ("; it has been removed, and added as a new member" if added else ""))
        return
    node_id = (described["identity"] or {}).get("node_id", "NODE_ID")
    raft = next((member["raft"] for member in described["members"] if member["id"] == node_id), "") or "HOST:PORT"
    _line("now", "replace the member, and start the node:")
    _line("", f"fastkv member remove {node_id}")
    _line("", f"fastkv member add {node_id} {raft}")


def _line(heading: str, text: str, fg: str | None = None) -> None:
    click.echo(f"{click.style(f'{heading:<10}', fg=fg, bold=fg is not None)}{text}")


@contextlib.contextmanager
def _usable(as_json: bool) -> Iterator[None]:
    """A directory that cannot be looked at is wrong usage."""
    try:
        yield
    except (DirectoryInUse, NoDataDirectory) as error:
        fail(str(error), error.code, Exit.USAGE, as_json=as_json)
