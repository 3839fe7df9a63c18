"""`fastkv serve`: run one node until it is told to stop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fastkv.cli.options import config_option, data_dir_option, log_format_option, log_level_option
from fastkv.cli.output import reported
from fastkv.config import load_config


@click.command()
@config_option
@click.option("--node-id", help="Which of the cluster's nodes this is. Also RAFT_NODE_ID.")
@data_dir_option
@click.option("--http-port", type=int, help="Also KV_HTTP_PORT. [default: raw-TCP port - 920]")
@click.option("--raft-port", type=int, help="The raw-TCP port, for clients and nodes. Also KV_RAFT_PORT.")
@click.option("--host", help="The address to listen on. Also KV_HOST. [default: the node's own, or 127.0.0.1]")
@click.option("--join", is_flag=True, help="Wait to be added to a cluster that is there already. Also KV_JOIN.")
@click.option(
    "--protocol-version",
    help="The newest version of the protocol to speak: hold it, and a cluster can go back to the former release. "
    "Also KV_PROTOCOL_VERSION.",
)
@log_level_option
@log_format_option
def serve(config: Path | None, join: bool, **flags: object) -> None:
    """Run one node.

    Without a configuration it is a single durable node on 127.0.0.1: HTTP on 8081, raw TCP on 9001, data in
    ./data/node-1. SIGTERM or Ctrl-C stops it cleanly.

    \b
    Example:
      fastkv serve
      fastkv serve --config config/multi-node-cluster.yaml --node-id node-2
      fastkv serve --node-id node-4 --raft-port 9004 --join     # and then: fastkv member add node-4 localhost:9004
    """
    with reported():
        settings = load_config(config, os.environ, {**flags, "join": "true" if join else None})
        # Here and not above: every other command does without the server's half of the program.
        from fastkv.server.runtime import run

        status = run(settings)
    sys.exit(status)
