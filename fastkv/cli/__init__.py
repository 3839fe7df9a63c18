"""The `fastkv` command: one module a command group.

* `serve`: run one node; `cluster`: several nodes on this machine, kept by `local/`
* `member`, `leader`: who belongs to a cluster, and who leads it
* `inspect/`: what is in each node: health, data, log
* `snapshot`: back a cluster up, and restore it
* `check`: check and repair the data directory of a stopped node
* `kv`: get, mget, put, del, scan; `changes`: cas, incr; `bench`: measure; they use the client library
* `chaos`: faults on a cluster of processes, and a verdict on what its clients saw
* `completion`, `man`: for shells, and for who reads; both are made from the commands themselves (`manual/`)
* `output`, `advice` and `options`: what all commands share: exit codes, errors and hints, `--json`, `--endpoints`
"""

from __future__ import annotations

import difflib
import importlib

import click

from fastkv.version import __version__

EPILOG = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 no leader or unreachable, 5 outcome unknown."

COMMANDS = {
    "serve": "fastkv.cli.serve:serve",
    "cluster": "fastkv.cli.cluster:cluster",
    "member": "fastkv.cli.member:member",
    "leader": "fastkv.cli.member:leader",
    "check": "fastkv.cli.check:check",
    "repair": "fastkv.cli.check:repair",
    "snapshot": "fastkv.cli.snapshot:snapshot",
    "get": "fastkv.cli.kv:get",
    "mget": "fastkv.cli.kv:mget",
    "put": "fastkv.cli.kv:put",
    "del": "fastkv.cli.kv:delete",
    "scan": "fastkv.cli.kv:scan",
    "cas": "fastkv.cli.changes:cas",
    "incr": "fastkv.cli.changes:incr",
    "inspect": "fastkv.cli.inspect:inspect",
    "bench": "fastkv.cli.bench:bench",
    "chaos": "fastkv.cli.chaos:chaos",
    "completion": "fastkv.cli.completion:completion",
    "man": "fastkv.cli.man:man",
    "version": "fastkv.cli.version:version",
}
"""Where each command is. A node that starts again, and a get from a script, wait for no other command's imports."""


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, as `--help` lists them."""
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The command of that name, or None."""
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """click's own, and for a name that is nearly one, that one."""
        near = [] if args[0] in COMMANDS else difflib.get_close_matches(args[0], COMMANDS, n=1)
        if near and not args[0].startswith("-") and not context.resilient_parsing:
            context.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(context, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(__version__, prog_name="fastkv")
def cli() -> None:
    """A replicated, strongly consistent key-value store.

    \b
    Example:
      fastkv cluster up --detach
      fastkv put greeting hello
      fastkv get greeting
    """


def main() -> None:
    """The console script's entry."""
    cli(prog_name="fastkv")
