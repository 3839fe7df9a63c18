"""`fastkv completion`: what a shell needs to complete the command line."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script for SHELL (bash 4.4 or newer, zsh or fish) that completes commands, options and their values.

    \b
    For bash, into ~/.bashrc:             eval "$(fastkv completion bash)"
    For zsh, into ~/.zshrc:               eval "$(fastkv completion zsh)"
    For fish, into a file that it reads:  fastkv completion fish > ~/.config/fish/completions/fastkv.fish

    \b
    Example:
      fastkv completion bash > fastkv.bash
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    name = context.find_root().info_name or "fastkv"
    script = kind(context.find_root().command, {}, name, f"_{name}_COMPLETE".replace("-", "_").upper())
    # Not `source()`: for bash it runs one to look at its version, and complains about where there is none.
    click.echo(script.source_template % script.source_vars())
