"""What is in a stopped node's data directory, and whether all of it is whole. Changes nothing.

Everything is read: each record of the log, each page of the store and of the snapshots beside it, and their content,
against the hash that was written with it. A damage says in which part it is, because that decides what can be done:

* `identity`, `log`: what the node has promised. Without it the node is not the member that it was.
* `store`: what the node has made of the log. Another member has the same.
* `copy`: a snapshot on its way here, or to others. Nothing depends on it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fastkv.errors import DirectoryInUse, NoDataDirectory, StorageError
from fastkv.storage.directory import AWAITS_FILE, LOCK_NAME
from fastkv.storage.formats import refuse_newer
from fastkv.storage.identity import IDENTITY_FILE, read_identity
from fastkv.storage.lmdb_format import DATA_FILE, identity_of
from fastkv.storage.lmdb_pages import EVERYTHING, Survey, survey
from fastkv.storage.wal_check import LogSurvey, survey_log
from fastkv.storage.wal_format import log_identity

IDENTITY, LOG, STORE, COPY = "identity", "log", "store", "copy"


class Damage(NamedTuple):
    """One thing that is wrong, and what that means."""

    part: str
    path: Path
    offset: int
    what: str
    means: str


class Copy(NamedTuple):
    """A snapshot beside the store: to be served, on its way here, or ready to be installed."""

    path: Path
    nbytes: int
    applied_index: int
    """0 where it does not say, or is not whole yet."""
    state: str


@dataclass(slots=True)
class Report:
    """What was found."""

    path: Path
    identity: dict[str, object] = field(default_factory=dict)
    """What identity.json says; empty where it cannot be read."""
    log: LogSurvey = field(default_factory=LogSurvey)
    store: Survey = field(default_factory=Survey)
    awaits_snapshot: bool = False
    copies: list[Copy] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)

    @property
    def damaged_parts(self) -> set[str]:
        """Which of the parts are damaged."""
        return {damage.part for damage in self.damages}

    @property
    def membership(self) -> bytes:
        """The newest that log or store know; empty where neither says."""
        return self.log.membership or (self.store.meta.membership if self.store.meta else b"")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else uses the directory meanwhile. NoDataDirectory where it is none, DirectoryInUse where a node runs."""
    if not any((path / name).exists() for name in (IDENTITY_FILE, "wal", "store")):
        raise NoDataDirectory(f"{path} is no data directory of a node: those have a file {IDENTITY_FILE}")
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"{path / LOCK_NAME} cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip()
            raise DirectoryInUse(f"{path} is in use by process {holder or 'unknown'}: stop the node first") from None
        yield
    finally:
        os.close(fd)


def check(path: Path) -> Report:
    """Look at everything in a data directory that is `locked`. NewerVersion for one of a newer release."""
    refuse_newer(path)
    report = Report(path)
    _check_identity(report)
    said = report.identity
    known = (str(said["cluster"]), str(said["node_id"])) if said else None
    report.log = survey_log(path / "wal", log_identity(*known) if known else None)
    for spot in report.log.damages:
        report.damages.append(Damage(LOG, spot.path, spot.offset, spot.what, spot.means))
    report.awaits_snapshot = (path / "store" / AWAITS_FILE).exists()
    report.store = _survey(report, path / "store" / DATA_FILE, STORE) or Survey()
    if known and report.store.identity not in (b"", identity_of(*known)):
        whose = report.store.identity.decode(errors="replace").replace("\0", " / ")
        what = f"it is the store of {whose}"
        report.damages.append(Damage(STORE, path / "store" / DATA_FILE, 0, what, "it was put there by mistake"))
    _check_copies(report)
    _check_together(report)
    return report


def _check_identity(report: Report) -> None:
    path = report.path / IDENTITY_FILE
    try:
        report.identity = read_identity(path)
    except FileNotFoundError:
        means = "it is not known whose data this is"
        report.damages.append(Damage(IDENTITY, path, 0, "the file is missing", means))
    except (OSError, StorageError) as error:
        report.damages.append(Damage(IDENTITY, path, 0, str(error), "it is not known whose data this is"))


def _survey(report: Report, path: Path, part: str) -> Survey | None:
    """A store's file; None where there is none, or it cannot be read."""
    if not path.exists():
        return None
    means = {
        STORE: "the state cannot be believed; it can be had again from the log, or from another member",
        COPY: "the snapshot is of no use; another one will be made or fetched",
    }[part]
    try:
        found = survey(path, content_limit_bytes=EVERYTHING)
    except (OSError, StorageError) as error:
        report.damages.append(Damage(part, path, 0, str(error), means))
        return None
    report.damages += [Damage(part, path, damage.offset, damage.what, means) for damage in found.damages]
    return found


def _check_copies(report: Report) -> None:
    path = report.path
    images = sorted((path / "snapshots").glob("*.image"))
    for file, state in [*((image, "to be served") for image in images), (path / "store.ready" / DATA_FILE, "ready")]:
        found = _survey(report, file, COPY)
        if found is not None:
            index = found.meta.applied_index if found.meta else 0
            report.copies.append(Copy(file, found.nbytes, index, state))
    part = path / "store.part" / DATA_FILE
    if part.exists():
        report.copies.append(Copy(part, part.stat().st_size, 0, "on its way here"))


def _check_together(report: Report) -> None:
    """Do log and store go with each other? Asked only where each of them is whole."""
    if report.damaged_parts & {LOG, STORE}:
        return
    log, path = report.log, report.path
    applied = report.store.meta.applied_index if report.store.meta else 0
    ready = [copy for copy in report.copies if copy.state == "ready" and copy.applied_index > applied]
    if applied > log.last_index and not ready:
        what = f"the log ends with entry {log.last_index}, and the store has applied those up to {applied}"
        report.damages.append(Damage(LOG, path / "wal", 0, what, "the end of the log is lost"))
    elif applied < log.base_index and not report.awaits_snapshot and not ready:
        what = f"the store has applied the entries up to {applied}, and the log begins with {log.base_index + 1}"
        report.damages.append(Damage(STORE, path / "store" / DATA_FILE, 0, what, "the state is lost, or an old one"))
