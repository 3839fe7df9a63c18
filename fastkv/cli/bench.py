"""`fastkv bench`: load from the compiled generator, against the leader."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click

from fastkv.cli.options import consistency_option, endpoints_option, json_option
from fastkv.cli.output import Exit, fail, reported, say_json
from fastkv.client.results import ConsistencyName

LEADER_TIMEOUT_S = 5.0
DEFAULT_COUNT = 100_000
DEFAULT_LIMIT_S = 600.0
WORKLOADS = (
    "writes", "reads", "mixed", "ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f",
)  # fmt: skip


@click.command()
@click.option("--workload", type=click.Choice(WORKLOADS), default="writes", show_default=True, metavar="NAME",
              help="writes, reads or mixed (half and half), of uniformly drawn keys; or ycsb-a to ycsb-f.")  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 16_384), default=16, show_default=True)
@click.option("--depth", type=click.IntRange(1, 65_536), default=16, show_default=True, help="In flight on each.")
@click.option("--count", type=click.IntRange(min=1), help=f"How many operations. [default: {DEFAULT_COUNT}]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="For how long; --count may end it sooner.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), metavar="N",
              help="An open load: N operations a second are due, whatever the cluster does.")  # fmt: skip
@click.option("--keys", type=click.IntRange(min=1), default=100_000, show_default=True, help="Different keys.")
@click.option("--value-bytes", type=click.IntRange(min=0), default=128, show_default=True)
@click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), default=1, show_default=True)
@click.option("--fill", "fill_first", is_flag=True, help="Write every key once before the run, so that reads find it.")
@consistency_option
@endpoints_option
@json_option
def bench(
    workload: str,
    connections: int,
    depth: int,
    count: int | None,
    seconds: float | None,
    rate: float | None,
    keys: int,
    value_bytes: int,
    seed: int,
    fill_first: bool,
    consistency: ConsistencyName,
    endpoints: str,
    as_json: bool,
) -> None:
    """Measure throughput and latency. It writes keys of its own, named key-…, into the cluster.

    The load is closed: each connection keeps --depth requests in flight. --connections 1 --depth 1 measures the
    latency of one operation; more of both measure what the cluster carries. With --rate it is open: operations are due
    at random moments, and their latency counts from then, also where they had to wait for a connection.

    \b
    Example:
      fastkv bench --workload writes --connections 64 --depth 16 --seconds 5
      fastkv bench --workload ycsb-b --fill --rate 20000 --seconds 30
      fastkv bench --workload reads --fill --count 1000000 --json
    """
    from fastkv._core.workload import Workload
    from fastkv.cli.endpoints import leader_address
    from fastkv.client import load
    from fastkv.client.requests import consistency_code

    total = count if count is not None else (DEFAULT_COUNT if seconds is None else load.WITHOUT_END)
    with reported(as_json=as_json):
        leader = str(leader_address(endpoints, LEADER_TIMEOUT_S))
        mix, distribution = load.MIXES[workload]
        asked = Workload(
            mix, distribution=distribution, keys=keys, value_bytes=value_bytes, seed=seed,
            consistency=int(consistency_code(consistency)),
        )  # fmt: skip
        try:
            if fill_first:
                with _progress("fill", keys, quiet=as_json) as on_progress:
                    load.fill(leader, keys=keys, value_bytes=value_bytes, on_progress=on_progress)
            with _progress(workload, None if total == load.WITHOUT_END else total, quiet=as_json) as on_progress:
                result = load.run(
                    leader,
                    asked,
                    connections=connections,
                    depth=depth,
                    count=total,
                    rate=rate,
                    max_seconds=seconds if seconds is not None else DEFAULT_LIMIT_S,
                    seed=seed,
                    on_progress=on_progress,
                )
        except OSError as error:
            fail(f"cannot reach the leader at {leader}: {error}", "NO_LEADER", Exit.UNREACHABLE, as_json=as_json)
        except ValueError as error:
            fail(str(error), "USAGE", Exit.USAGE, as_json=as_json)
    result.update(workload=workload, leader=leader, connections=connections, depth=depth, rate=rate)
    if as_json:
        say_json(result)
    else:
        _show(result, keys, value_bytes)
    sys.exit(_verdict(result))


def _verdict(result: dict[str, Any]) -> Exit:
    """Failed where anything did not end as asked."""
    failed = sum(result["errors"].values()) + result["lost"] + result["unanswered"] + result["unexpected"]
    failed += result["unsent"]
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
    load = f"{result['connections']} connections x {result['depth']} in flight"
    if result["rate"]:
        load = f"{result['rate']:,.0f} a second due, on {load} at most"
    click.echo(f"{result['workload']} at {result['leader']}: {load}, {keys} keys, values of {value_bytes} bytes")
    click.echo(f"  {result['throughput']:,.0f} operations/s ({result['count']:,} in {result['seconds']:.2f} s)")
    _show_latency(result["latency_us"])
    if len(result["operations"]) > 1:
        for kind, said in result["operations"].items():
            click.echo(f"  {kind}: {said['count']:,}")
            _show_latency(said["latency_us"], "  ")
    for name in ("missing", "forwarded", "lost", "unanswered", "unsent", "unexpected"):
        if result[name]:
            click.echo(f"  {name}: {result[name]:,}")
    for code, number in result["errors"].items():
        click.echo(click.style(f"  {code}: {number:,}", fg="red"))
    click.echo(f"  the generator used {result['cpu_share']:.0%} of a core")


def _show_latency(latency: dict[str, float], indent: str = "") -> None:
    for name, text in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p999", "p99.9"), ("max", "max")):
        click.echo(f"  {indent}{text:<5} {latency[name]:>12,.0f} µs")
