"""`fastkv inspect`: what is in a cluster, node by node.

* `status`: each node's health; * `data`: every pair on every node, and whether the nodes agree;
* `raft`: the log itself, of nodes that run and of one that does not; * `test`: put, get and delete across the nodes
"""

from __future__ import annotations

import click

from fastkv.cli.inspect.data import data
from fastkv.cli.inspect.raft import raft
from fastkv.cli.inspect.status import status
from fastkv.cli.inspect.trial import trial


@click.group()
def inspect() -> None:
    """Look at every node of a cluster: its health, its data, its log.

    \b
    Example:
      fastkv inspect status --watch 1
      fastkv inspect data --prefix user:
      fastkv inspect raft --limit 50
      fastkv inspect test
    """


for command in (status, data, raft, trial):
    inspect.add_command(command)
