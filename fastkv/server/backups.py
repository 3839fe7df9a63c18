"""Backup files, for people: taking one in, looking at one, and keeping so many of them in a directory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastkv.errors import BadBackup
from fastkv.kv.store import ImageInfo
from fastkv.storage.archive_read import prune
from fastkv.storage.backup_file import (
    Backup,
    BackupWriter,
    Progress,
    no_progress,
    read_backup,
    verify_backup,
)
from fastkv.wire.backup import BackupOffer

SUFFIX = ".fkvbackup"
Room = Callable[[], memoryview]
"""Gives memory for what comes next."""
_NAME = re.compile(r"(?P<cluster>.+)-(?P<when>\d{8}T\d{6}Z)-(?P<index>\d+)\.fkvbackup")


def describe(path: Path, backup: Backup) -> dict[str, Any]:
    """A backup as plain values."""
    return {"file": str(path), "bytes": backup.file_bytes, **asdict(backup)}


def status(path: Path, progress: Progress = no_progress) -> dict[str, Any]:
    """Verify a file down to the last byte, and describe it. BadBackup, OSError."""
    return describe(path, verify_backup(path, progress))


def take_in(
    offer: BackupOffer,
    pieces: Callable[[Room], Iterator[int]],
    directory: Path,
    name: Callable[[Backup], Path],
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Take a snapshot piece by piece into a file of `directory`, verify it, and give it its name.

    `pieces` puts each into the room that it is given, and yields its length. BadBackup, BackupExists and NoSpace leave
    nothing, as does whatever ends the pieces.
    """
    image = ImageInfo(offer.index, offer.term, offer.nbytes, offer.state_hash, offer.kind)
    made_at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    writer = BackupWriter(directory, image)
    try:
        for nbytes in pieces(writer.room):
            writer.filled(nbytes)
            progress(writer.nbytes, image.nbytes)
        return describe(*writer.finish(made_at, name))
    finally:
        writer.abort()


def dated(directory: Path, backup: Backup) -> Path:
    """The name of a backup among others in a directory."""
    when = re.sub(r"[-:]", "", backup.made_at)
    cluster = re.sub(r"[^A-Za-z0-9._-]", "_", backup.cluster)
    return directory / f"{cluster}-{when}-{backup.index}{SUFFIX}"


def retain(directory: Path, keep: int, newest: Path) -> list[Path]:
    """Remove all but the newest `keep` of a cluster's backups in the directory. What was removed.

    Only files that have such a name and are of the same cluster as `newest`, which stays in any case.
    """
    cluster = read_backup(newest).cluster
    found = [path for path in directory.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name) and path != newest]
    ours = [path for path in found if _cluster_of(path) == cluster]
    ours.sort(key=_age, reverse=True)
    for path in ours[keep - 1 :]:
        path.unlink()
    return ours[keep - 1 :]


def prune_archive(directory: Path, archive: Path, cluster: str) -> list[Path]:
    """Remove the archived log that no backup of the cluster in `directory` needs any more. What was removed."""
    names = [path for path in directory.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name)]
    indexes = [int(_part(path, "index")) for path in names if _cluster_of(path) == cluster]
    return prune(archive, min(indexes)) if indexes else []


def _age(path: Path) -> tuple[str, int]:
    return _part(path, "when"), int(_part(path, "index"))


def _part(path: Path, part: str) -> str:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return match[part]


def _cluster_of(path: Path) -> str:
    """Of a file that cannot be read: nothing, so that it is left to a person."""
    try:
        return read_backup(path).cluster
    except BadBackup:
        return ""
