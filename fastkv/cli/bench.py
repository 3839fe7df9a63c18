"""`fastkv bench`: load from the compiled generator, against the leader."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import click

from fastkv.cli.options import consistency_option, endpoints_option, json_option
from fastkv.cli.output import Exit, fail, reported, say_json
from fastkv.client.results import ConsistencyName

LEADER_TIMEOUT_S = 5.0
WITHOUT_END = 1 << 40
"""More operations than any bounded time allows: what --count is where only --seconds is given."""
DEFAULT_COUNT = 100_000
DEFAULT_LIMIT_S = 600.0


@click.command()
@click.option("--operation", type=click.Choice(["put", "get", "mixed"]), default="put", show_default=True)
@click.option("--connections", type=click.IntRange(1, 4096), default=16, show_default=True)
@click.option("--depth", type=click.IntRange(1, 65_536), default=16, show_default=True, help="In flight on each.")
@click.option("--count", type=click.IntRange(min=1), help=f"How many operations. [default: {DEFAULT_COUNT}]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="For how long; --count may end it sooner.")
@click.option("--keys", type=click.IntRange(min=1), default=100_000, show_default=True, help="Different keys.")
@click.option("--value-bytes", type=click.IntRange(min=0), default=128, show_default=True)
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=1, show_default=True)
@click.option("--load", "load_first", is_flag=True, help="Write every key once before a get or mixed run.")
@consistency_option
@endpoints_option
@json_option
def bench(
    operation: Literal["put", "get", "mixed"],
    connections: int,
    depth: int,
    count: int | None,
    seconds: float | None,
    keys: int,
    value_bytes: int,
    seed: int,
    load_first: bool,
    consistency: ConsistencyName,
    endpoints: str,
    as_json: bool,
) -> None:
    """Measure throughput and latency. It writes keys of its own, named key-…, into the cluster.

    The load is closed: each connection keeps --depth requests in flight. --connections 1 --depth 1 measures the
    latency of one operation; more of both measure what the cluster carries.

    \b
    Example:
      fastkv bench --operation put --connections 64 --depth 16 --seconds 5
      fastkv bench --operation get --load --count 1000000 --json
    """
    from fastkv._core.loadgen import load, run
    from fastkv.cli.endpoints import leader_address
    from fastkv.client.requests import consistency_code

    total = count if count is not None else (DEFAULT_COUNT if seconds is None else WITHOUT_END)
    shape: dict[str, Any] = {"keys": keys, "value_bytes": value_bytes, "seed": seed}
    with reported(as_json=as_json):
        leader = leader_address(endpoints, LEADER_TIMEOUT_S)
        try:
            if load_first:
                with _progress("load", keys, quiet=as_json) as on_progress:
                    load(leader.host, leader.port, on_progress=on_progress, **shape)
            with _progress(operation, None if total == WITHOUT_END else total, quiet=as_json) as on_progress:
                result = run(
                    leader.host,
                    leader.port,
                    operation=operation,
                    connections=connections,
                    depth=depth,
                    count=total,
                    max_seconds=seconds if seconds is not None else DEFAULT_LIMIT_S,
                    consistency=int(consistency_code(consistency)),
                    on_progress=on_progress,
                    **shape,
                )
        except OSError as error:
            fail(f"cannot reach the leader at {leader}: {error}", "NO_LEADER", Exit.UNREACHABLE, as_json=as_json)
        except ValueError as error:
            fail(str(error), "USAGE", Exit.USAGE, as_json=as_json)
    result["operation"], result["leader"] = operation, str(leader)
    result["connections"], result["depth"] = connections, depth
    if as_json:
        say_json(result)
    else:
        _show(result, keys, value_bytes)
    sys.exit(_verdict(result))


def _verdict(result: dict[str, Any]) -> Exit:
    """Failed where anything did not end as asked."""
    failed = sum(result["errors"].values()) + result["lost"] + result["unanswered"] + result["unexpected"]
    return Exit.FAILED if failed else Exit.DONE


@contextlib.contextmanager
def _progress(what: str, total: int | None, *, quiet: bool) -> Iterator[Callable[[int], object] | None]:
    """A progress bar, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda answers: bar.update(task, completed=answers)


def _show(result: dict[str, Any], keys: int, value_bytes: int) -> None:
    latency = result["latency_us"]
    load = f"{result['connections']} connections x {result['depth']} in flight"
    click.echo(f"{result['operation']} at {result['leader']}: {load}, {keys} keys, values of {value_bytes} bytes")
    click.echo(f"  {result['throughput']:,.0f} operations/s ({result['count']:,} in {result['seconds']:.2f} s)")
    for name in ("p50", "p90", "p99", "p999", "max"):
        click.echo(f"  {name:<5} {latency[name]:>12,.0f} µs")
    for name in ("missing", "forwarded", "lost", "unanswered", "unexpected"):
        if result[name]:
            click.echo(f"  {name}: {result[name]:,}")
    for code, number in result["errors"].items():
        click.echo(click.style(f"  {code}: {number:,}", fg="red"))
    click.echo(f"  the generator used {result['cpu_share']:.0%} of a core")
