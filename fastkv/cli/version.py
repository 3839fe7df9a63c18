"""`fastkv version`."""

from __future__ import annotations

import platform

import click

from fastkv.cli.options import json_option
from fastkv.cli.output import say_json
from fastkv.version import PROTOCOL_VERSION, __version__


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Say which fastkv this is.

    \b
    Example:
      fastkv version --json
    """
    if as_json:
        say_json({"version": __version__, "python": platform.python_version(), "protocol": PROTOCOL_VERSION})
    else:
        click.echo(f"fastkv {__version__} (Python {platform.python_version()})")
