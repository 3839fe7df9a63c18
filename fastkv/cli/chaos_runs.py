"""The runs of `fastkv chaos`: a command for each mode. A real cluster under faults, and a verdict."""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastkv.cli.options import json_option
from fastkv.cli.output import Exit, fail, reported, say_json

if TYPE_CHECKING:
    from fastkv.chaos.judge import Judgement
    from fastkv.chaos.run import Plan

MODES = {
    "random-failures": "Kill, pause, restart and replace nodes; slow, lossy and half-open links.",
    "network-partition": "Cut links: one way, both ways, around the leader, into parts, again and again.",
    "load-test-with-failures": "Many more clients and larger values, with the faults of both, more seldom.",
}
DEFAULT_OUTPUT = Path("data") / "chaos"
SEED_LIMIT = 1 << 32


def _command(mode: str, text: str) -> click.Command:
    @click.command(name=mode, help=f"{text}\n\n\b\nExample:\n  fastkv chaos {mode} --seconds 60 --seed 7 --json")
    @click.option("--seconds", type=click.FloatRange(1, 86_400), default=120.0, show_default=True,
                  help="How long clients and faults are at work; longer where that was too little.")  # fmt: skip
    @click.option("--seed", type=click.IntRange(0, SEED_LIMIT - 1), metavar="S",
                  help="The same seed draws the same faults. [default: another one each time]")  # fmt: skip
    @click.option("--nodes", type=click.Choice(["3", "5"]), default="3", show_default=True)
    @click.option("--network", type=click.Choice(["proxies", "namespaces"]), default="proxies", show_default=True,
                  help="How links are cut: proxies need no rights, namespaces drop packets and need root.")  # fmt: skip
    @click.option("--output", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
                  help="Where history, verdict and chart go. [default: data/chaos/MODE-SEED]")  # fmt: skip
    @json_option
    def command(
        seconds: float, seed: int | None, nodes: str, network: str, output: Path | None, as_json: bool
    ) -> None:
        _run(mode, seconds, seed, int(nodes), network, output, as_json)

    return command


COMMANDS = [_command(mode, text) for mode, text in MODES.items()]


def _run(
    mode: str, seconds: float, seed: int | None, nodes: int, network: str, output: Path | None, as_json: bool
) -> None:
    from fastkv.chaos import namespaces
    from fastkv.chaos.network import MissingError
    from fastkv.chaos.run import Plan

    seed = random.randrange(SEED_LIMIT) if seed is None else seed
    with reported(as_json=as_json):
        try:
            if network == "namespaces":
                namespaces.check()
                namespaces.enter()
            directory = _directory(output, f"{mode}-{seed}")
            verdict = _carried_out(Plan(mode, seconds, seed, nodes, network, directory))
        except MissingError as missing:
            fail(str(missing), missing.code, Exit.USAGE, as_json=as_json)
        except OSError as error:
            fail(f"cannot run: {error}", "FAILED", Exit.FAILED, as_json=as_json)
        except KeyboardInterrupt:
            fail("stopped before its end: nothing was judged", "INTERRUPTED", Exit.FAILED, as_json=as_json)
    described = {**verdict.as_dict(), "mode": mode, "seed": seed, "nodes": nodes, "network": network}
    if as_json:
        say_json({**described, "directory": str(directory)})
    else:
        _show(described, directory)
    sys.exit(Exit.DONE if verdict.passed else Exit.FAILED)


def _directory(output: Path | None, name: str) -> Path:
    """An empty directory, made where there is none. Two runs are never mixed."""
    if output is None:
        names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(2)))
        output = next(DEFAULT_OUTPUT / each for each in names if not (DEFAULT_OUTPUT / each).exists())
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        fail(f"{output} is not empty: choose another --output", "USAGE", Exit.USAGE)
    return output.absolute()


def _carried_out(plan: Plan) -> Judgement:
    """The run, on a loop of its own. KeyboardInterrupt where it is stopped by Ctrl-C or SIGTERM."""
    import uvloop

    from fastkv.chaos.progress import Progress
    from fastkv.chaos.run import run

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:     # as in the background of a shell: SIGTERM needs it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        try:
            return runner.run(run(plan, Progress()))
        finally:
            signal.signal(signal.SIGTERM, before)


def _show(said: dict[str, Any], directory: Path) -> None:
    """The verdict for a person."""
    figures = said["figures"]
    gap = figures["median_gap_after_leader_kill_ms"]
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(figures["faults"].items()))
    lines = {
        "operations": f"{figures['operations']:,}: {figures['ok']:,} ok, {figures['failed']:,} failed, "
                      f"{figures['unknown']:,} unknown",
        "acknowledged lost": f"{figures['acknowledged_lost']} of {figures['acknowledged_writes']:,} writes",
        "linearizable": figures["linearizable"],
        "availability": f"{figures['availability']:.2%} answered within a second, by clients that know all nodes",
        "longest write gap": f"{figures['longest_write_gap_s']:.2f} s",
        "after a leader kill": "none was killed" if gap is None else f"{gap:.0f} ms without a write (median of "
                                                                   f"{figures['leader_kills']})",
        "leader changes": str(figures["leader_changes"]),
        "faults": f"{faults}; {figures['faults_without_effect']} without effect",
        "left in": str(directory),
    }  # fmt: skip
    click.echo(f"{said['mode']}, seed {said['seed']}, {said['nodes']} nodes, {figures['seconds']:.0f} s")
    for name, text in lines.items():
        click.echo(f"  {name:<20} {text}")
    for text in said["violations"]:
        click.echo(click.style(f"  violation: {text}", fg="red"))
    for text in said["missing"]:
        click.echo(click.style(f"  too little: {text}", fg="yellow"))
    if said["explanation"]:
        click.echo(said["explanation"])
    colour = {"PASS": "green", "FAIL": "red"}.get(said["outcome"], "yellow")
    click.echo(click.style(said["outcome"], fg=colour, bold=True))
