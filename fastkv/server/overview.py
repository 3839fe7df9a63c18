"""The whole cluster on one page: what a node knows of every member, for people to look at.

Each node tells the others, beside consensus, how it is used and how far away they are (`report`); so the one node that
somebody asks can show all of them, and a browser never has to reach a second one. Counters are told, not rates: who
looks draws the difference over the times of two looks, and a report that is lost costs nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any

from fastkv.node import Node, PeerStatus
from fastkv.raft import CANDIDATE, FOLLOWER, LEADER, LEARNER, PRE_CANDIDATE
from fastkv.server.metrics import REQUEST_BOUNDS_S, Figures, Requests

STATE_NAMES = {
    FOLLOWER: "Follower",
    PRE_CANDIDATE: "Candidate",
    CANDIDATE: "Candidate",
    LEADER: "Leader",
    LEARNER: "Learner",
}

READ_OPS = frozenset({"get", "scan"})
WRITE_OPS = frozenset({"put", "delete"})
FAULTS = frozenset(
    {"NO_LEADER", "OVERLOADED", "NO_SPACE", "TIMEOUT", "OUTCOME_UNKNOWN", "CORRUPT_STATE", "INTERNAL_ERROR"}
)
"""Codes that say that the cluster, and not its client, is what went wrong."""

LEADERSHIPS = 100
"""The latest changes of the leader that are remembered."""


class Overview:
    """One node's view of its cluster. `round_trips_s` are those to its peers."""

    def __init__(
        self, node: Node, faces: Iterable[Requests], round_trips_s: Callable[[], Mapping[str, float]]
    ) -> None:
        self._node = node
        self._faces = tuple(faces)
        self._round_trips_s = round_trips_s
        self._leaderships: deque[dict[str, Any]] = deque(maxlen=LEADERSHIPS)

    def led_by(self, leader: str, term: int) -> None:
        """Note who leads from now on; empty for nobody. Called as often as one likes."""
        last = self._leaderships[-1] if self._leaderships else {"leader": None, "term": 0}
        if last["leader"] != (leader or None) or (leader and last["term"] != term) or not self._leaderships:
            self._leaderships.append({"at_ms": _now_ms(), "leader": leader or None, "term": term})

    # -- what the others are told ------------------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """What this node says of itself: load, round trips and, where it leads, how far behind the others are.

        How far behind a member is only the leader can say, by what it has at that moment: the two indexes of two
        members are known here as of different moments, and what came between them would look like a lag.
        """
        raft = self._node.raft
        said: dict[str, Any] = {
            "load": self._load(),
            "round_trips_ms": {peer: round(1000 * took, 3) for peer, took in self._round_trips_s().items()},
        }
        if raft.role == LEADER:
            behind = {member: max(0, raft.commit_index - progress.match) for member, progress in raft.progress.items()}
            said["lags"] = {**behind, raft.node_id: raft.commit_index - raft.applied_index}
        return said

    def _load(self) -> dict[str, Any]:
        reads, writes, failed = _nothing(), _nothing(), 0
        for face in self._faces:
            for op, duration in face.durations.items():
                if op in READ_OPS:
                    reads = _sum(reads, duration.counts)
                elif op in WRITE_OPS:
                    writes = _sum(writes, duration.counts)
            ours = READ_OPS | WRITE_OPS
            failed += sum(count for (op, code), count in face.totals.items() if op in ours and code in FAULTS)
        return {"reads": reads, "writes": writes, "failed": failed}

    # -- what a person is shown --------------------------------------------------------------------------------------

    def describe(self, figures: Figures) -> dict[str, Any]:
        """The members and their leaders. A member that was not heard from lately is Unknown, with nulls.

        `counted_at_ms` is when the member's counters were what they are, by this node's clock; counters begin anew with
        a process. `bounds_ms` are the upper bounds of their buckets, but for the last, which has none.
        """
        node = self._node
        now_ms, own = _now_ms(), self.report()
        lags = self._lags(own)
        members = []
        for member in node.members():
            node_id = member["id"]
            if node_id == node.raft.node_id:
                described = self._own(own, now_ms)
            else:
                described = self._other(node.peer_status(node_id), now_ms)
            address = {"address": member["raft"], "http": member["http"], "role": member["role"]}
            members.append({"id": node_id, **address, **described, "lag": lags.get(node_id)})
        return {
            "now_ms": now_ms,
            "members": members,
            "leaderships": list(self._leaderships),
            "bounds_ms": [round(1000 * bound, 3) for bound in REQUEST_BOUNDS_S],
            "store_bytes": figures.store_bytes,
            "disk_bytes": figures.disk_bytes,
            "disk_free_bytes": figures.disk_free_bytes,
            "proposals_pending": figures.proposals_pending,
            "connections": dict(figures.connections),
        }

    def _own(self, report: dict[str, Any], now_ms: int) -> dict[str, Any]:
        raft = self._node.raft
        return {
            "state": STATE_NAMES[raft.role],
            "term": raft.term,
            "commit_index": raft.commit_index,
            "applied_index": raft.applied_index,
            "heard_ms": 0,
            "counted_at_ms": now_ms,
            **_known(report),
        }

    def _other(self, status: PeerStatus | None, now_ms: int) -> dict[str, Any]:
        if status is None:
            unknown = dict.fromkeys(("commit_index", "applied_index", "heard_ms", "counted_at_ms", "load"))
            return {"state": "Unknown", "term": 0, **unknown, "round_trips_ms": {}}
        heard_ms = round((self._node.now - status.heard_tick) * self._node.settings.tick_ms)
        return {
            "state": STATE_NAMES[status.role],
            "term": status.term,
            "commit_index": status.commit_index,
            "applied_index": status.applied_index,
            "heard_ms": heard_ms,
            "counted_at_ms": now_ms - heard_ms,
            **_known(status.report),
        }

    def _lags(self, own: dict[str, Any]) -> dict[str, int]:
        """What the leader says of how far behind everybody is; nothing where there is none."""
        raft = self._node.raft
        if raft.role == LEADER:
            said = own["lags"]
        else:
            status = self._node.peer_status(raft.leader) if raft.leader else None
            said = status.report.get("lags") if status is not None else None
        if not isinstance(said, dict):
            return {}
        return {member: lag for member, lag in said.items() if isinstance(lag, int)}


def _known(report: dict[str, Any]) -> dict[str, Any]:
    """Of what a node of any version has reported, the part that makes sense here."""
    load, round_trips = report.get("load"), report.get("round_trips_ms")
    return {
        "load": load if isinstance(load, dict) and load.keys() >= {"reads", "writes", "failed"} else None,
        "round_trips_ms": round_trips if isinstance(round_trips, dict) else {},
    }


def _nothing() -> list[int]:
    return [0] * (len(REQUEST_BOUNDS_S) + 1)


def _sum(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip_longest(one, other, fillvalue=0)]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
