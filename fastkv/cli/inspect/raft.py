"""`fastkv inspect raft`: the log itself, of nodes that run and of one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fastkv.cli.inspect.show import looked, table, text_of, watch_option
from fastkv.cli.options import endpoints_option, json_option, timeout_option
from fastkv.cli.output import Exit, reported, say_json
from fastkv.errors import FastKVError
from fastkv.wire.client import LOG_ENTRIES, MAX_LOG_ENTRIES

HEADINGS = ("index", "term", "kind", "bytes", "key", "")


@click.command()
@click.option("--first", type=click.IntRange(min=1), help="The first entry to show. [default: the newest ones]")
@click.option("--limit", type=click.IntRange(1, MAX_LOG_ENTRIES), default=LOG_ENTRIES, show_default=True)
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="The directory of one node that does not run, DIR/NODE_ID, instead of --endpoints.",
)  # fmt: skip
@endpoints_option
@timeout_option
@watch_option
@json_option
def raft(
    first: int | None, limit: int, data_dir: Path | None, endpoints: str, timeout_s: float, every_s: float | None,
    as_json: bool,
) -> None:
    """Show the Raft log of each node: index, term, kind, size, key.

    Exit status 0, or 4 where a node cannot be reached.

    \b
    Example:
      fastkv inspect raft
      fastkv inspect raft --first 1000 --limit 100
      fastkv inspect raft --data-dir data/cluster/node-1
    """

    def look() -> Exit:
        with reported(as_json=as_json):
            start = first or 0
            logs = _offline(data_dir, start, limit) if data_dir else _online(endpoints, timeout_s, start, limit)
        if as_json:
            say_json({"logs": logs})
        else:
            for log in logs:
                _show(log)
        return Exit.UNREACHABLE if any("error" in log for log in logs) else Exit.DONE

    looked(look, every_s)


def _online(endpoints: str, timeout_s: float, first: int, limit: int) -> list[dict[str, Any]]:
    from fastkv.cli.endpoints import ask_each

    answers = ask_each(endpoints, timeout_s, lambda client: client.log(first, limit))
    return [
        {"address": endpoint, "error": str(answer), "code": answer.code}
        if isinstance(answer, FastKVError)
        else {"address": endpoint, **answer}
        for endpoint, answer in answers.items()
    ]


def _offline(directory: Path, first: int, limit: int) -> list[dict[str, Any]]:
    from fastkv.server.log_files import read_log

    return [read_log(directory, first, limit)]


def _show(log: dict[str, Any]) -> None:
    if "error" in log:
        click.echo(f"{log['address']}: {log['error']}", err=True)
        return
    where = log.get("address") or log["directory"]
    known = [f"{name} {log[field]:,}" for name, field in (
        ("durable to", "durable_index"), ("committed to", "commit_index"), ("applied to", "applied_index"),
    ) if log.get(field) is not None]
    click.echo(f"{log['node']} ({where}): entries {log['first_index']:,} to {log['last_index']:,}, term {log['term']}, "
               f"{', '.join(known)}")
    table(HEADINGS, [(_cells(entry, log), None) for entry in log["entries"]])


def _cells(entry: dict[str, Any], log: dict[str, Any]) -> list[str]:
    key = text_of(entry, "key")
    note = f"only at revision {entry['if_revision']}" if "if_revision" in entry else ""
    if log.get("commit_index") is not None and entry["index"] > log["commit_index"]:
        note = f"{note}  not committed".strip()
    return [f"{entry['index']:,}", str(entry["term"]), entry["kind"], f"{entry['bytes']:,}", key, note]
