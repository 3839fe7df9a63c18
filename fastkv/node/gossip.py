"""What nodes tell each other about themselves: role, term, indexes, addresses, the hashes of their states, by which
disks they know the members, and a report of the server's, which is handed on as it is.

Nothing of consensus hangs on it. It is told on a change and every `status_ticks`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import orjson

from fastkv._core.codes import Opcode
from fastkv._core.frames import encode_frame
from fastkv.node.audit import Audit
from fastkv.node.ports import NodeSettings, PeerStatus, Transport

POINTS_LIMIT = 64
"""Hashes that one status may carry."""


class Gossip:
    """What this node says of itself, and what it has heard of the others."""

    def __init__(
        self,
        settings: NodeSettings,
        transport: Transport,
        points: Callable[[], list[tuple[int, int]]],
        disks: Callable[[], dict[str, int]],
        report: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._points = points
        self._disks = disks
        self._report = report
        self._told: tuple[object, ...] = ()
        self._due = 0
        self._heard: dict[str, PeerStatus] = {}
        self.audit = Audit(settings.node_id, patience_ticks=settings.status_expiry_ticks)

    def is_due(self, role: int, term: int, now: int) -> bool:
        """Whether it is time to `tell`: role or term have changed, or the others have not heard of us for a while."""
        return now >= self._due or self._told != (role, term)

    def tell(
        self, peers: Iterable[str], role: int, term: int, commit: int, applied: int, leader: str, room: bool, now: int
    ) -> None:
        """Tell the others. `room` is whether the disk takes more."""
        self._told = (role, term)
        self._due = now + self._settings.status_ticks
        points = self._points()
        self.audit.heard(self._settings.node_id, points)
        self.audit.judge(now)
        said = {
            "role": role,
            "term": term,
            "commit": commit,
            "applied": applied,
            "leader": leader,
            "raft": self._settings.raft_address,
            "http": self._settings.http_address,
            "hashes": points[-POINTS_LIMIT:],
            "disks": self._disks(),
            "room": room,
            "report": self._report(),
        }
        frame = encode_frame(Opcode.PEER_STATUS, 0, 0, 0, orjson.dumps(said))
        for peer in peers:
            self._transport.send(peer, frame)

    def tell_soon(self) -> None:
        """A link has come up: whoever is there does not know us yet."""
        self._due = 0

    def heard(self, node_id: str, body: bytes, now: int) -> None:
        """A peer's status. ValueError where it is none."""
        try:
            said = orjson.loads(body)
            status = PeerStatus(
                int(said["role"]),
                int(said["term"]),
                int(said["commit"]),
                int(said["applied"]),
                str(said["leader"]),
                str(said["raft"]),
                str(said["http"]),
                now,
                {str(member): int(disk) for member, disk in said["disks"].items()},
                said.get("room") is not False,      # an older version says nothing of it
                dict(said.get("report", {})),       # nor of this
            )
            points = [(int(index), int(digest)) for index, digest in said["hashes"][:POINTS_LIMIT]]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a peer status: {error!r}") from error
        self._heard[node_id] = status
        self.audit.heard(node_id, points)

    def vouches(self, node_id: str, disk: int, but_for: Collection[str], *, beyond: int) -> bool:
        """Whether a node but for those has applied more than `beyond`, and knows that id by that disk."""
        return any(
            status.applied_index > beyond and status.disks.get(node_id) == disk
            for peer, status in self._heard.items()
            if peer != node_id and peer not in but_for
        )

    def with_room(self, peers: Iterable[str], now: int) -> list[str]:
        """Those of them whose disks take more, by what they said lately."""
        said = [(peer, self.status_of(peer, now)) for peer in peers]
        return [peer for peer, status in said if status is not None and status.room]

    def status_of(self, node_id: str, now: int) -> PeerStatus | None:
        """What a peer last said of itself, or None when it has not been heard from lately."""
        status = self._heard.get(node_id)
        if status is None or now - status.heard_tick > self._settings.status_expiry_ticks:
            return None
        return status
