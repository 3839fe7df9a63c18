"""The log of a node that does not run, for people: a page of it, read from its files. Changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastkv._core.append import fill
from fastkv.errors import NoDataDirectory
from fastkv.node.log_page import PAGE_BYTES, described, first_of_page
from fastkv.storage.check import locked
from fastkv.storage.formats import refuse_newer
from fastkv.storage.identity import IDENTITY_FILE, read_identity
from fastkv.storage.wal_format import log_identity
from fastkv.storage.wal_recovery import scan

EVERYTHING = 1 << 62


def read_log(path: Path, first: int, limit: int) -> dict[str, Any]:
    """At most `limit` entries from index `first` on, the newest where that is 0, as a running node describes its log.

    `commit_index` is what the node had written down of it, which may lag; `applied_index` is not known here.
    NoDataDirectory where it is none, DirectoryInUse where a node runs, DamagedLog where the log is not whole,
    NewerVersion for the data of a newer release.
    """
    with locked(path):
        refuse_newer(path)
        identity = read_identity(path / IDENTITY_FILE)
        cluster, node_id = str(identity["cluster"]), str(identity["node_id"])
        found = scan(
            path / "wal",
            log_identity(cluster, node_id),
            keep_above=max(first - 1, 0),
            keep_bytes=EVERYTHING if first else PAGE_BYTES,
        )
    if found is None:
        raise NoDataDirectory(f"{path} has no log yet")
    index, state = found.index, found.hard_state
    start = first_of_page(first, limit, index.base_index, index.last_index)
    if found.tail:
        start = max(start, found.tail[0].first_index)
    behind = [segment for segment in found.tail if segment.last_index >= start]
    return {
        "node": node_id,
        "directory": str(path),
        "term": state.term,
        "voted_for": state.vote or None,
        "first_index": index.base_index + 1,
        "last_index": index.last_index,
        "durable_index": index.last_index,
        "commit_index": state.commit,
        "applied_index": None,
        "entries": described(fill(behind, start, PAGE_BYTES, limit) if behind else []),
    }
