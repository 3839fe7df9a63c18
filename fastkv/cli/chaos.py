"""`fastkv chaos`: a cluster under faults, and what its clients saw."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastkv.cli.chaos_runs import COMMANDS, MODES
from fastkv.cli.options import json_option
from fastkv.cli.output import Exit, fail, say_json

if TYPE_CHECKING:
    from fastkv.chaos.verdict import Report


class _Group(click.Group):
    """One line for a mode that does not exist."""

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(context, name) is None and not name.startswith("-"):
            fail(f"there is no mode {name!r}: choose {', '.join(MODES)}", "USAGE", Exit.USAGE)
        return super().resolve_command(context, args)


@click.group(cls=_Group)
def chaos() -> None:
    """Faults on a cluster of real processes, and a verdict on what its clients saw.

    Exit status 0 only where nothing acknowledged was lost, the clients' history is linearizable, all nodes agree in the
    end, and enough was tried to say so.

    \b
    Example:
      fastkv chaos random-failures --seconds 60 --seed 7
      fastkv chaos check data/chaos/random-failures-7/history.jsonl
    """


for command in COMMANDS:
    chaos.add_command(command)


@chaos.command()
@click.argument("history", type=click.Path(path_type=Path))
@click.option("--max-steps", type=click.IntRange(min=1), metavar="N",
              help="Steps of the search for each key. [default: as many as the key's operations deserve]")  # fmt: skip
@json_option
def check(history: Path, max_steps: int | None, as_json: bool) -> None:
    """Say whether HISTORY, a file of JSON lines, is linearizable, and show the smallest part of it that is not.

    Exit status: 0 linearizable; 1 not, or not known in so many steps; 2 no history.

    \b
    Example:
      fastkv chaos check history.jsonl
      fastkv chaos check history.jsonl --json
    """
    from fastkv.chaos.history import HistoryError, read_history
    from fastkv.chaos.verdict import judge

    try:
        operations = read_history(history)
    except OSError as error:
        fail(f"cannot read {history}: {error.strerror}", "INVALID_HISTORY", Exit.USAGE, as_json=as_json)
    except HistoryError as error:
        fail(f"{history}, {error}", error.code, Exit.USAGE, as_json=as_json, line=error.line)
    report = judge(operations, max_steps=max_steps)
    if report.answered == 0:
        fail(f"{history} has no answered operation", "INVALID_HISTORY", Exit.USAGE, as_json=as_json)
    if as_json:
        say_json(_as_json(report))
    else:
        for line in report.lines():
            click.echo(line)
    sys.exit(Exit.DONE if report.linearizable else Exit.FAILED)


def _as_json(report: Report) -> dict[str, Any]:
    return {
        "verdict": report.verdict.value,
        "operations": report.operations,
        "answered": report.answered,
        "failed": report.failed,
        "open": report.open,
        "keys": report.keys,
        "key": report.key,
        "violation": None if report.finding is None else report.finding.kind.value,
        "reason": report.reason or None,
        "window": report.window_lines,
    }
