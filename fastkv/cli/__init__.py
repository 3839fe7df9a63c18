"""The `fastkv` command: one module a command group.

* `serve`: run one node; `cluster`: several nodes on this machine, kept by `local/`
* `member`, `leader`: who belongs to a cluster, and who leads it
* `check`: check and repair the data directory of a stopped node
* `kv`: get, put, del, scan; `bench`: measure; both talk to a cluster through the client library
* `output` and `options`: what all commands share: exit codes, error lines, `--json`, `--endpoints`
"""

from __future__ import annotations

import click

from fastkv.cli.bench import bench
from fastkv.cli.check import check, repair
from fastkv.cli.cluster import cluster
from fastkv.cli.kv import delete, get, put, scan
from fastkv.cli.member import leader, member
from fastkv.cli.serve import serve
from fastkv.cli.version import version
from fastkv.version import __version__

EPILOG = "Exit status: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 no leader or unreachable, 5 outcome unknown."


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=EPILOG)
@click.version_option(__version__, prog_name="fastkv")
def cli() -> None:
    """A replicated, strongly consistent key-value store.

    \b
    Example:
      fastkv cluster up --detach
      fastkv put greeting hello
      fastkv get greeting
    """


for command in (serve, cluster, member, leader, check, repair, get, put, delete, scan, bench, version):
    cli.add_command(command)


def main() -> None:
    """The console script's entry."""
    cli(prog_name="fastkv")
