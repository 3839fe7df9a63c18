"""Setting damaged files aside, so that a node gets them back from the other members. Nothing is ever deleted.

What may be given up is decided by what the node has promised with it (docs/adr/0010):

| damaged | set aside | the node comes back as |
|---|---|---|
| a snapshot on its way | that snapshot | itself; another one is made or fetched |
| the store, and its log goes back to the beginning | the store | itself: it makes the state anew from its log |
| the store, and its log has been cut | the store | itself: with its log, term and vote; it fetches a snapshot |
| the log, or whose directory it is | everything | a new member: it has forgotten what it acknowledged and voted |

Each step leaves a directory that a node refuses to start with, or may start with: also where a crash comes in between.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from fastkv.storage.check import COPY, IDENTITY, LOG, STORE, Report
from fastkv.storage.directory import AWAITS_FILE
from fastkv.storage.identity import FORMAT, IDENTITY_FILE, draw_disk, write_identity
from fastkv.storage.sync import sync_directory

NOTHING, COPIES, REPLAY, FETCH, NEW_MEMBER = "nothing", "copies", "replay", "fetch", "new member"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, and what the node will do then."""

    kind: str
    set_aside: tuple[Path, ...]
    """In the order in which they go."""
    then: str


def plan(report: Report) -> Plan:
    """What the damages of a directory ask for."""
    path, parts = report.path, report.damaged_parts
    copies = tuple(sorted({_copy_of(path, damage.path) for damage in report.damages if damage.part == COPY}))
    if parts & {LOG, IDENTITY}:
        # First what says whose data it is: without that, a node refuses what is still there.
        names = (IDENTITY_FILE, "wal", "store", "store.part", "store.ready", "store.old", "snapshots")
        there = tuple(path / name for name in names if (path / name).exists())
        return Plan(NEW_MEMBER, there, "the node has to be removed from the cluster, and added as a new member")
    if STORE in parts and report.log.base_index == 0:
        return Plan(REPLAY, (*copies, path / "store"), "the node makes its state anew from its log")
    if STORE in parts:
        index = report.log.base_index
        then = f"the node keeps its log and its vote, and fetches a snapshot of entry {index} or later from the others"
        return Plan(FETCH, (*copies, path / "store"), then)
    if copies:
        return Plan(COPIES, copies, "the node goes on as it was; another snapshot is made or fetched where need be")
    return Plan(NOTHING, (), "there is nothing to repair")


def _copy_of(path: Path, damaged: Path) -> Path:
    """What is moved as a whole: a directory of the data directory."""
    return path / damaged.relative_to(path).parts[0]


def carry_out(report: Report, chosen: Plan) -> Path | None:
    """Set aside what the plan names, durably; where it is now. OSError where the disk fails or is full."""
    path = report.path
    if chosen.kind == NOTHING:
        return None
    aside = _new_directory(path)
    for one in chosen.set_aside:
        one.rename(aside / one.name)
        sync_directory(aside)
        sync_directory(path)
    if chosen.kind in (REPLAY, FETCH):
        (path / "store").mkdir()
        if chosen.kind == FETCH:
            (path / "store" / AWAITS_FILE).touch()
            sync_directory(path / "store")
        sync_directory(path)
    elif chosen.kind == NEW_MEMBER:
        known = report.identity or _identity_of_the_store(report)
        if known:
            names = {name: known[name] for name in ("cluster", "node_id")}
            write_identity(path / IDENTITY_FILE, {"format": FORMAT, **names, "disk": draw_disk(), "joins": True})
    return aside


def _new_directory(path: Path) -> Path:
    stamp = time.strftime("damaged-%Y-%m-%d-%H%M%S", time.gmtime())
    number = 1
    while (aside := path / (stamp if number == 1 else f"{stamp}-{number}")).exists():
        number += 1
    aside.mkdir()
    sync_directory(path)
    return aside


def _identity_of_the_store(report: Report) -> dict[str, object]:
    """Cluster and node as the store knows them; empty where it does not."""
    cluster, _, node_id = report.store.identity.decode(errors="replace").partition("\0")
    return {"cluster": cluster, "node_id": node_id} if node_id else {}


