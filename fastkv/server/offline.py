"""A stopped node's data directory, for people: what is in it, what is damaged, and what a repair would do about it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastkv.raft import Membership
from fastkv.storage.check import LOG, STORE, Copy, Damage, Report, check, locked
from fastkv.storage.lmdb_format import DATA_FILE
from fastkv.storage.repair import NEW_MEMBER, Plan, carry_out, plan
from fastkv.storage.wal_check import LogSurvey

Description = dict[str, Any]


def examine(path: Path) -> Description:
    """Everything that is in the directory, as plain values; `damages` is empty where all is whole.

    NoDataDirectory where it is none, DirectoryInUse where a node runs. Nothing is changed.
    """
    with locked(path):
        return describe(check(path))


def repair(path: Path, decide: Callable[[Description], bool]) -> Description:
    """Set damaged files aside, where `decide` says so of the description; it has `set_aside_in` then.

    Errors as of `examine`; OSError where the disk fails or is full.
    """
    with locked(path):
        report = check(path)
        described = describe(report)
        if described["damages"] and decide(described):
            aside = carry_out(report, plan(report))
            described["set_aside_in"] = str(aside) if aside else None
        return described


def describe(report: Report) -> Description:
    """A report as plain values."""
    chosen = plan(report)
    members = _members(report)
    return {
        "path": str(report.path),
        "whole": not report.damages,
        "identity": report.identity or None,
        "members": members,
        "log": _log(report.log, report.path),
        "store": _store(report),
        "snapshots": [_copy(copy, report.path) for copy in report.copies],
        "damages": [_damage(damage, report.path) for damage in report.damages],
        "repair": _repair(chosen, report, members),
    }


def _members(report: Report) -> list[Description]:
    try:
        membership = Membership.decode(report.membership)
    except ValueError:
        return []
    return [
        {
            "id": member.node_id,
            "raft": member.raft,
            "http": member.http,
            "role": "voter" if membership.votes(member.node_id) else "learner",
            "disk": member.disk,
        }
        for member in membership.members
    ]


def _log(log: LogSurvey, path: Path) -> Description:
    segments = [
        {
            "file": _name(segment.path, path),
            "bytes": segment.nbytes,
            "begun": segment.begun,
            "records": segment.records,
            "first_index": segment.first_index,
            "last_index": segment.last_index,
            "first_term": segment.first_term,
            "last_term": segment.last_term,
            "end": segment.end,
        }
        for segment in log.segments
    ]
    torn = log.torn
    return {
        "segments": segments,
        "base_index": log.base_index,
        "last_index": log.last_index,
        "term": log.hard_state.term,
        "vote": log.hard_state.vote,
        "commit_index": log.hard_state.commit,
        "torn": None if torn is None else {"file": _name(torn.path, path), "offset": torn.offset, "means": torn.means},
    }


def _store(report: Report) -> Description:
    store = report.store
    meta = store.meta
    return {
        "file": f"store/{DATA_FILE}",
        "bytes": store.nbytes,
        "pages": store.pages,
        "used_pages": store.used_pages,
        "free_pages": store.free_pages,
        "applied_index": meta.applied_index if meta else 0,
        "applied_term": meta.applied_term if meta else 0,
        "revision": meta.revision if meta else 0,
        "keys": meta.key_count if meta else 0,
        "state_hash": f"{meta.state_hash:016x}" if meta else None,
        "content_checked": store.content_checked,
        "awaits_snapshot": report.awaits_snapshot,
    }


def _copy(copy: Copy, path: Path) -> Description:
    return {
        "file": _name(copy.path, path),
        "bytes": copy.nbytes,
        "applied_index": copy.applied_index,
        "state": copy.state,
    }


def _damage(damage: Damage, path: Path) -> Description:
    return {
        "part": damage.part,
        "file": _name(damage.path, path),
        "offset": damage.offset,
        "what": damage.what,
        "means": damage.means,
    }


def _repair(chosen: Plan, report: Report, members: list[Description]) -> Description:
    """What a repair does, and why it cannot, where there is nobody to get anything from."""
    own = report.identity.get("node_id")
    alone = bool(members) and {member["id"] for member in members} == {own}
    from_others = chosen.kind == NEW_MEMBER or (report.damaged_parts & {STORE, LOG} and report.log.base_index > 0)
    refused = "this node is its cluster's only member: nobody else has what is damaged; restore a backup"
    return {
        "kind": chosen.kind,
        "set_aside": [_name(path, report.path) for path in chosen.set_aside],
        "then": chosen.then,
        "refused": refused if alone and from_others else "",
        "new_member": chosen.kind == NEW_MEMBER,
    }


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
