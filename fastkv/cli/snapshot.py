"""`fastkv snapshot`: back a cluster up while it runs, look at a backup, restore one."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from fastkv.cli.options import config_option, data_dir_option, endpoints_option, json_option
from fastkv.cli.output import Exit, fail, reported, say_json
from fastkv.errors import BackupExists

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
Report = Callable[[int, int], None]
NICE = 10


@click.group()
def snapshot() -> None:
    """Back up and restore.

    \b
    Example:
      fastkv snapshot save cluster.fkvbackup
      fastkv snapshot status cluster.fkvbackup
      fastkv snapshot restore cluster.fkvbackup --config new-cluster.yaml --node-id node-1
    """


@snapshot.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead of FILE: make a file there, named by cluster, date and log index.",
)
@click.option(
    "--keep", type=click.IntRange(min=1), metavar="N", help="With --directory: then remove all but the newest N."
)
@click.option(
    "--archive",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --keep: also remove what no backup there needs any more from this archive of the log.",
)
@click.option("--stale", is_flag=True, help="What one node has, whatever the others say: where there is no majority.")
@click.option("--cluster", default="", metavar="NAME", help="Refuse where it is another cluster that answers.")
@endpoints_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a node may take to make the snapshot.",
)
@json_option
def save(
    file: Path | None,
    directory: Path | None,
    keep: int | None,
    archive: Path | None,
    stale: bool,
    cluster: str,
    endpoints: str,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Save everything that the cluster has acknowledged until now to FILE, while it runs.

    One of the nodes makes the snapshot: of those that --endpoints names a follower, where one can. FILE is verified
    before it takes its name; one that is there already is left as it is. Whatever else runs on this machine goes first:
    the command lowers its own priority (nice 10).

    \b
    Example:
      fastkv snapshot save cluster.fkvbackup
      fastkv snapshot save --directory /backup --keep 14
    """
    from fastkv.cli.backup_source import fetch
    from fastkv.server import backups

    if (file is None) == (directory is None):
        raise click.UsageError("give FILE, or --directory")
    if (keep and not directory) or (archive and not keep):
        raise click.UsageError("--keep goes with --directory, and --archive with --keep")
    place = directory if directory is not None else file.parent if file is not None else Path()
    with _reported(as_json), _progress("save", quiet=as_json) as on_progress:
        if file is not None and file.exists():
            raise BackupExists(f"{file} is there already, and is left as it is")
        _give_way()

        def name(backup: Any) -> Path:
            return file if file is not None else backups.dated(place, backup)

        saved = fetch(endpoints, place, name, cluster, stale, timeout_s, on_progress)
        if directory is not None and keep:
            removed = backups.retain(directory, keep, Path(saved["file"]))
            if archive is not None:
                removed += backups.prune_archive(directory, archive, saved["cluster"])
            saved["removed"] = [str(path) for path in removed]
    if as_json:
        say_json(saved)
        return
    click.echo(f"saved {saved['file']}: {_summary(saved)}, from {saved['node']}")
    for path in saved.get("removed", ()):
        click.echo(f"removed {path}")


@snapshot.command()
@file_argument
@json_option
def status(file: Path, as_json: bool) -> None:
    """Verify FILE down to the last byte, and say what is in it. Needs no cluster.

    \b
    Example:
      fastkv snapshot status cluster.fkvbackup
    """
    from fastkv.server import backups

    with _reported(as_json), _progress("verify", quiet=as_json) as on_progress:
        described = backups.status(file, on_progress)
    if as_json:
        say_json(described)
        return
    for heading in ("cluster", "node", "made_at", "index", "term", "revision", "keys", "bytes", "state_hash"):
        value = described[heading]
        shown = f"{value:,}" if heading in ("keys", "bytes") else value
        click.echo(f"{heading.replace('_', ' '):<12}{shown}")
    click.echo(f"{'checksum':<12}{described['image_checksum']}")
    click.echo(f"{click.style('whole', fg='green', bold=True)}       every byte was read, and is what was written")


def _moment(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise click.BadParameter("a time with its offset from UTC, as in 2026-11-27T19:30:00Z", context, parameter)
    return moment.timestamp()


@snapshot.command()
@file_argument
@config_option
@click.option("--node-id", help="Which of the new cluster's nodes this is. Also RAFT_NODE_ID.")
@data_dir_option
@click.option(
    "--archive",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Go on from the backup with the log that was archived there.",
)
@click.option("--to-index", type=click.IntRange(min=1), help="With --archive: up to this entry of the log.")
@click.option("--to-revision", type=click.IntRange(min=1), help="With --archive: up to this revision.")
@click.option(
    "--to-time", callback=_moment, metavar="TIME", help="With --archive: what was known to be committed by then."
)
@click.option(
    "--bump-revision",
    "bump",
    type=click.IntRange(min=1, max=1 << 52),
    default=1_000_000_000,
    show_default=True,
    metavar="N",
    help="Go on with revisions and log indexes so far behind those restored: more than the old cluster can have made "
    "since.",
)
@click.option("--keep-name", is_flag=True, help="The new cluster has the old one's name, of which no node is left.")
@click.option("--from-cluster", default="", metavar="NAME", help="Refuse a backup of another cluster.")
@json_option
def restore(
    file: Path,
    config: Path | None,
    node_id: str | None,
    data_dir: Path | None,
    archive: Path | None,
    to_index: int | None,
    to_revision: int | None,
    to_time: float | None,
    bump: int,
    keep_name: bool,
    from_cluster: str,
    as_json: bool,
) -> None:
    """Make the data directory of one node of a new cluster from FILE.

    Do so for every node that the configuration names, with the same FILE and the same options, and start them. The
    directory must not be there yet. The new cluster needs another name than the old one.

    \b
    Example:
      fastkv snapshot restore cluster.fkvbackup --config new-cluster.yaml --node-id node-1
      fastkv snapshot restore cluster.fkvbackup --node-id node-1 --archive /archive --to-time 2026-11-27T19:30:00Z
    """
    from fastkv.config import load_config
    from fastkv.server.restore import Plan, Target, restore

    if sum(one is not None for one in (to_index, to_revision, to_time)) > 1:
        raise click.UsageError("--to-index, --to-revision and --to-time exclude each other")
    if archive is None and (to_index or to_revision or to_time):
        raise click.UsageError("to go on from the backup, --archive is needed")
    with _reported(as_json):
        settings = load_config(config, os.environ, {"node_id": node_id, "data_dir": data_dir})
        target = Target(to_index, to_revision, to_time)
        plan = Plan(file, settings, archive, target, bump, keep_name=keep_name, from_cluster=from_cluster)
        with _progress("restore", quiet=as_json) as on_progress:
            done = restore(plan, on_progress)
    if as_json:
        say_json(done)
        return
    click.echo(f"restored {done['directory']}: {done['node']} of cluster {done['cluster']}")
    click.echo(f"from {done['from']['file']}, up to entry {done['index']} and revision {done['revision']}")
    click.echo(f"{done['keys']:,} keys, state hash {done['state_hash']}; restore {done['restored']}, as on every node")
    click.echo(f"goes on with revision {done['first_revision']}; members {', '.join(done['members'])}")


def _give_way() -> None:
    """Let the nodes and clients that share this machine go first."""
    os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def _summary(saved: dict[str, Any]) -> str:
    return (
        f"{saved['keys']:,} keys, {saved['bytes']:,} bytes, revision {saved['revision']}, entry {saved['index']}, "
        f"state hash {saved['state_hash']}"
    )


@contextlib.contextmanager
def _reported(as_json: bool) -> Iterator[None]:
    """A file or directory that cannot be used is an error of its own."""
    try:
        with reported(as_json=as_json):
            yield
    except OSError as error:
        fail(str(error), "STORAGE_ERROR", Exit.FAILED, as_json=as_json)


@contextlib.contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Report]:
    """A progress bar, on a terminal only. What is told begins anew where another part begins."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
