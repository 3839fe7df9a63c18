"""How the inspections speak: tables for a person, one look or a look every so often."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from fastkv.cli.output import Exit, shown

VALUE_SHOWN = 60
"""Characters of a value in a table."""
WIDE = 10_000
"""Columns where there is no terminal that has a width."""

watch_option = click.option(
    "--watch", "every_s", type=click.FloatRange(min=0.1), metavar="SECONDS",
    help="Look again every so often, until Ctrl-C.",
)  # fmt: skip


def table(headings: Sequence[str], rows: Iterable[tuple[Sequence[str], str | None]]) -> None:
    """Print rows, each with its style (None for plain), under headings. Columns are as wide as they have to be."""
    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold", no_wrap=True)
    for cells, style in rows:
        made.add_row(*cells, style=style)
    width = None if sys.stdout.isatty() else WIDE      # what reads a pipe wants whole cells
    Console(highlight=False, soft_wrap=True, markup=False, width=width).print(made)


def shortened(text: str) -> str:
    """A value as a table shows it."""
    return text if len(text) <= VALUE_SHOWN else f"{text[:VALUE_SHOWN - 1]}…"


def text_of(fields: Mapping[str, Any], name: str) -> str:
    """What `output.as_fields` made of bytes, as one line; empty where there is none of that name."""
    if name in fields:
        return shown(str(fields[name]).encode())
    return f"base64:{fields[f'{name}_base64']}" if f"{name}_base64" in fields else ""


def looked(look: Callable[[], Exit], every_s: float | None) -> None:
    """Look once, and end with what that says; or again and again, on a screen that is cleared before each look."""
    while True:
        if every_s is not None and sys.stdout.isatty():
            click.clear()
        verdict = look()
        if every_s is None:
            sys.exit(verdict)
        sys.stdout.flush()
        try:
            time.sleep(every_s)
        except KeyboardInterrupt:
            sys.exit(verdict)
