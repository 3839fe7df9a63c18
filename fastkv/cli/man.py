"""`fastkv man`: the manual, made from the commands."""

from __future__ import annotations

import click

VARIABLES = (
    ("FASTKV_ENDPOINTS", "raw-TCP addresses of the cluster's nodes, as --endpoints"),
    ("NO_COLOR", "no colours, also on a terminal"),
)


@click.command()
@click.option("--markdown", is_flag=True, help="The same as Markdown: the page docs/cli.md.")
@click.pass_context
def man(context: click.Context, markdown: bool) -> None:
    """Print the man page of fastkv, for `man` to show or to be installed as fastkv.1.

    \b
    Example:
      fastkv man | man -l -
      fastkv man > ~/.local/share/man/man1/fastkv.1
    """
    from fastkv.cli.manual.described import commands
    from fastkv.cli.manual.markdown import markdown_page
    from fastkv.cli.manual.roff import man_page
    from fastkv.config import ENVIRONMENT
    from fastkv.version import __version__

    described = commands(context.find_root().command)
    if markdown:
        click.echo(markdown_page(described), nl=False)
        return
    node = [(name, f"as --{flag.replace('_', '-')} of fastkv serve") for flag, name in ENVIRONMENT.items()]
    click.echo(man_page(described, __version__, [*VARIABLES, *node]), nl=False)
