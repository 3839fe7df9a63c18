"""Restoring a backup: the data directory of one node of a new cluster, made from a file.

Every node of the new cluster is restored from the same file, in the same way, and so they agree before they have said
a word. The new cluster has the old one's keys and a life of its own:

* another name, unless that is asked for, so that nothing of the old one talks to it; data directories with numbers that
  nobody has seen; the members that the configuration names. Nodes that were restored differently refuse each other;
* log indexes and revisions that begin far behind all that the old one can have given out: a client never sees another
  state under a revision that it has seen, and no session that the lost part of the old log opened is taken for a new
  one. Sessions and idempotency keys that are in the backup are restored: a write that is in it is not carried out anew.

With an archive of the log (`storage.archive`), committed entries are replayed over the backup by the state machine that
every node has, up to an entry, a revision, or a time.

The directory is made under another name, and takes its own when all of it is durable: a restore that is cut short
leaves nothing that a node would start from.
"""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lmdb
from xxhash import xxh3_64_intdigest

from fastkv.config import NodeConfig
from fastkv.errors import BadArchive, DirectoryInUse, NoDataDirectory, NoSpace, RestoreRefused, StorageError
from fastkv.kv.state import StateMachine
from fastkv.kv.store import StoreFull, StoreMeta
from fastkv.raft import Member, Membership
from fastkv.storage.archive_read import ArchivedLog, find_runs
from fastkv.storage.backup_file import Backup, Progress, copy_image, no_progress, read_backup, verify_image
from fastkv.storage.check import locked
from fastkv.storage.directory import DataDirectory
from fastkv.storage.lmdb_errors import has_room, is_input_output, is_no_space
from fastkv.storage.lmdb_format import DATA_FILE, identity_of
from fastkv.storage.lmdb_image import READERS, read_meta, reserve_lock_file, set_meta
from fastkv.storage.lmdb_store import LmdbStore
from fastkv.storage.sync import sync_directory, sync_file
from fastkv.storage.wal import Wal

BUMP = 1_000_000_000
"""More writes than any cluster makes between its last backup and its loss."""


@dataclass(frozen=True, slots=True)
class Target:
    """How far to go: at most one of these; by default as far as what there is goes."""

    index: int | None = None
    revision: int | None = None
    time: float | None = None
    """Seconds since 1970, by the clock of the node whose archive it is."""

    def __str__(self) -> str:
        if self.index is not None:
            return f"entry {self.index}"
        if self.revision is not None:
            return f"revision {self.revision}"
        return "that time" if self.time is not None else "the end"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to restore, and how; checked by `check`."""

    file: Path
    config: NodeConfig
    archive: Path | None = None
    target: Target = Target()
    bump: int = BUMP
    keep_name: bool = False
    from_cluster: str = ""


def restore(plan: Plan, progress: Progress = no_progress) -> dict[str, Any]:
    """Make the node's data directory; what is in it, as plain values.

    BadBackup, BadArchive; RestoreRefused where it is not to be done so; DirectoryInUse; NoSpace. Nothing is left then,
    and nothing was changed. OSError where a disk fails.
    """
    backup = read_backup(plan.file)
    target = plan.config.data_dir
    _check(plan, backup, target)
    unfinished = target.with_name(f".{target.name}.restoring")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftover(unfinished)
        directory = DataDirectory.open(unfinished, cluster=plan.config.cluster.name, node_id=plan.config.node_id)
        try:
            with directory:     # nobody else touches it until it has its name
                return _make(plan, backup, directory, target, progress)
        except lmdb.Error as error:
            if is_input_output(error) and not has_room(directory.store_path / DATA_FILE):
                raise StoreFull(f"no room for the store: {error}") from error     # a write that fell short
            raise
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    except (OSError, lmdb.Error, StoreFull) as error:
        if is_no_space(error) or isinstance(error, StoreFull):
            raise NoSpace(f"there is no room to restore in {target.parent}: nothing was kept") from error
        if isinstance(error, lmdb.Error):
            raise StorageError(f"the restored store cannot be written: {error}") from error
        raise


def _check(plan: Plan, backup: Backup, target: Path) -> None:
    old, new = backup.cluster, plan.config.cluster.name
    if plan.from_cluster and old != plan.from_cluster:
        raise RestoreRefused(f"{plan.file} is a backup of cluster {old!r}, not of {plan.from_cluster!r}")
    if plan.keep_name and old != new:
        raise RestoreRefused(f"{plan.file} is a backup of cluster {old!r}, and the configuration is of {new!r}")
    if not plan.keep_name and old == new:
        raise RestoreRefused(
            f"{plan.file} is a backup of cluster {old!r}, and the configuration gives the new cluster the same name: "
            "nodes of the old one could talk to it. Set another cluster.name, or say --keep-name where none is left"
        )
    _check_empty(target)
    if plan.target != Target() and plan.archive is None:
        raise RestoreRefused(f"to go on to {plan.target}, the archive of the log is needed")


def _check_empty(target: Path) -> None:
    if not target.exists():
        return
    if not target.is_dir() or any(target.iterdir()):
        _refuse_used(target, f"a node runs on {target}")
        raise RestoreRefused(f"{target} is not empty: restore into a directory that is not there yet")


def _make(
    plan: Plan, backup: Backup, directory: DataDirectory, target: Path, progress: Progress
) -> dict[str, Any]:
    config, store = plan.config, directory.store_path
    cluster, node_id = config.cluster.name, config.node_id
    members = _members(config)
    _copy_store(plan.file, backup, store, progress)
    meta, _ = read_meta(store / DATA_FILE)
    set_meta(store, meta, identity_of(cluster, node_id))
    if plan.archive is not None:
        meta = _replay(plan, backup, meta, store, progress)
    index, revision = meta.applied_index, meta.revision
    meta = replace(
        meta, applied_index=index + plan.bump, revision=revision + plan.bump, membership=members.encode()
    )
    set_meta(store, meta, identity_of(cluster, node_id))
    reserve_lock_file(store, READERS)
    sync_directory(store)
    Wal(
        directory.wal_path, cluster=cluster, node_id=node_id, segment_bytes=config.storage.segment_bytes,
        keep_above=meta.applied_index, restart_at=(meta.applied_index, meta.applied_term),
    ).close()  # fmt: skip
    directory.note_restored(_fingerprint(cluster, meta))
    _check_empty(target)
    directory.path.rename(target)
    sync_directory(target.parent)
    return {
        "directory": str(target),
        "cluster": cluster,
        "node": node_id,
        "disk": f"{directory.disk:016x}",
        "restored": directory.restored,
        "members": [member.node_id for member in members.members],
        "from": {"file": str(plan.file), "cluster": backup.cluster, "index": backup.index, "revision": backup.revision},
        "index": index,
        "revision": revision,
        "first_index": meta.applied_index + 1,
        "first_revision": meta.revision + 1,
        "keys": meta.key_count,
        "state_hash": f"{meta.state_hash:016x}",
    }


def _remove_leftover(unfinished: Path) -> None:
    """Remove what a restore has left that was killed. RestoreRefused where one is under way."""
    if unfinished.exists():
        _refuse_used(unfinished, "another restore is under way")
        shutil.rmtree(unfinished)


def _refuse_used(directory: Path, what: str) -> None:
    """RestoreRefused where a process has the directory; one without even a lock is nobody's."""
    try:
        with locked(directory):
            pass
    except DirectoryInUse as error:
        raise RestoreRefused(f"{what}: {error}") from None
    except NoDataDirectory:
        pass


def _members(config: NodeConfig) -> Membership:
    """The configuration's nodes, all of which vote. Their disks become known when they meet."""
    return Membership.of(
        Member(node_id, str(address.raft), str(address.http)) for node_id, address in config.cluster.nodes.items()
    )


def _fingerprint(cluster: str, meta: StoreMeta) -> str:
    """Equal for all nodes whose logs may go on from each other: nodes refuse one that has another."""
    ids = Membership.decode(meta.membership).voters
    said = (cluster, ids, meta.applied_index, meta.applied_term, meta.revision, meta.state_hash)
    return f"{xxh3_64_intdigest(repr(said).encode()):016x}"


def _copy_store(file: Path, backup: Backup, store: Path, progress: Progress) -> None:
    data = store / DATA_FILE
    copy = os.open(data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        copy_image(file, copy, backup, progress)
        sync_file(copy)
    finally:
        os.close(copy)
    verify_image(data, backup)


# -- on to a later moment ------------------------------------------------------------------------------------------


def _replay(plan: Plan, backup: Backup, meta: StoreMeta, store: Path, progress: Progress) -> StoreMeta:
    """Apply what the archive has behind the backup, up to the target; what the store has then."""
    assert plan.archive is not None
    archive = _choose(plan.archive, backup, plan.target)
    last = _last_index(archive, backup, plan.target)
    if last == backup.index and plan.target.revision in (None, backup.revision):
        return meta
    return _Replay(plan, store).run(archive, backup.index + 1, last, plan.target.revision, progress)


def _choose(directory: Path, backup: Backup, target: Target) -> ArchivedLog:
    """The run that goes on where the backup ends, and farthest. BadArchive where there is none."""
    runs = find_runs(directory)
    if not runs:
        raise BadArchive(f"{directory} is no archive of a log")
    found: list[ArchivedLog] = []
    problems: list[str] = []
    for run in runs:
        try:
            archive = ArchivedLog(run, backup.index)
        except BadArchive as error:
            problems.append(str(error))
            continue
        if archive.cluster != backup.cluster:
            problems.append(f"{run} is of cluster {archive.cluster!r}, and the backup of {backup.cluster!r}")
        elif not archive.first - 1 <= backup.index <= archive.last:
            problems.append(
                f"{run} has entries {archive.first} to {archive.last}, and the backup ends with {backup.index}"
            )
        else:
            found.append(archive)
    if not found:
        raise BadArchive("no archive goes on where the backup ends: " + "; ".join(problems))
    if target.time is not None:
        dated = [archive for archive in found if archive.index_at(target.time) >= backup.index]
        return max(dated or found, key=lambda archive: archive.index_at(target.time or 0.0))
    return max(found, key=lambda archive: archive.last)


def _last_index(archive: ArchivedLog, backup: Backup, target: Target) -> int:
    """The entry to stop at. RestoreRefused for a target before the backup, BadArchive for one behind the archive."""
    last = archive.last
    if target.index is not None:
        last = target.index
    elif target.time is not None:
        last = min(last, archive.index_at(target.time))
    elif target.revision is not None and target.revision < backup.revision:
        raise RestoreRefused(f"the backup is of revision {backup.revision} already; take an older one")
    if last < backup.index:
        raise RestoreRefused(f"the backup goes up to entry {backup.index}, and {target} is before; take an older one")
    if last > archive.last:
        raise BadArchive(f"the archive in {archive.path} ends with entry {archive.last}, before {target}")
    return last


class _Replay:
    """The state machine over a store that nobody else has, without a loop: what others post to it waits in a queue."""

    def __init__(self, plan: Plan, path: Path) -> None:
        config = plan.config
        self._posted: queue.SimpleQueue[tuple[Callable[..., object], tuple[object, ...]]] = queue.SimpleQueue()
        self._store = LmdbStore(
            path,
            cluster=config.cluster.name,
            node_id=config.node_id,
            map_bytes=config.storage.lmdb_map_bytes,
            poster=lambda callback, *arguments: self._posted.put((callback, arguments)),
            verify_bytes=0,
        )
        self._machine = StateMachine(
            self._store,
            memtable_bytes=config.storage.memtable_bytes,
            checkpoint_log_bytes=config.storage.checkpoint_wal_bytes,
            checkpoint_age_ticks=1 << 62,
            retry_ticks=1 << 62,
            snapshots=1,
            snapshot_ttl_ticks=1,
            first_snapshot_id=1,
        )

    def run(
        self, archive: ArchivedLog, first: int, last: int, revision: int | None, progress: Progress
    ) -> StoreMeta:
        """Apply the entries, as far as the revision where one is given. BadArchive where they do not go so far."""
        machine = self._machine
        try:
            for segment in archive.entries(first, last):
                at = segment.first_index
                while at <= segment.last_index and machine.revision != revision:
                    # No entry adds more than one to the revision: so many of them cannot go beyond it.
                    count = segment.last_index - at + 1 if revision is None else revision - machine.revision
                    stop = min(segment.last_index, at + count - 1)
                    machine.apply(segment, at, stop, None)
                    at = stop + 1
                self._checkpoint_where_due()
                progress(machine.applied_index - first + 1, last - first + 1)
                if machine.revision == revision:
                    break
            if revision is not None and machine.revision != revision:
                raise BadArchive(f"the archive in {archive.path} ends with revision {machine.revision}")
            while machine.durable_applied_index < machine.applied_index:
                machine.checkpoint_soon(_raise)
                self._checkpoint_where_due()
                self._take_posted()
            return self._store.meta
        finally:
            machine.close()
            self._store.close()

    def _checkpoint_where_due(self) -> None:
        if self._machine.checkpoint_due:
            self._machine.start_checkpoint()
        while self._machine.over_limit:
            self._take_posted()

    def _take_posted(self) -> None:
        callback, arguments = self._posted.get()
        callback(*arguments)
        error = self._machine.checkpoint_error
        if error is not None:
            raise error


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error
