"""Options that several commands share, so that they are spelled and explained the same everywhere."""

from __future__ import annotations

from pathlib import Path

import click

DEFAULT_ENDPOINTS = "localhost:9001,localhost:9002,localhost:9003"


def check_endpoints(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """The text itself, once every address in it can be read."""
    from fastkv.client.addresses import parse_endpoints

    try:
        parse_endpoints(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    return value


endpoints_option = click.option(
    "--endpoints",
    callback=check_endpoints,
    metavar="HOST:PORT,…",
    envvar="FASTKV_ENDPOINTS",
    show_envvar=True,
    default=DEFAULT_ENDPOINTS,
    show_default=True,
    help="Raw-TCP addresses of the cluster's nodes; one that answers is enough.",
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to go on trying.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON, errors too.")
consistency_option = click.option(
    "--consistency",
    type=click.Choice(["linearizable", "lease", "stale"]),
    default="linearizable",
    show_default=True,
    help="How fresh the answer has to be. stale: what the node has, at once.",
)
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Configuration file (YAML). Also KV_CONFIG.",
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where nodes keep their data, each in DIR/NODE_ID. Also KV_DATA_DIR.",
)
log_level_option = click.option("--log-level", help="debug, info, warning or error. Also KV_LOG_LEVEL.")
log_format_option = click.option("--log-format", help="console or json. Also KV_LOG_FORMAT.")
