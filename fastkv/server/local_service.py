"""The node as the faces see it: requests with callbacks, and the state of the cluster as plain values."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from fastkv._core.codes import Consistency, Kind, Opcode, Status
from fastkv._core.replies import CallbackSink, text_for
from fastkv.config import NodeConfig
from fastkv.errors import CursorExpired
from fastkv.node import Node, PeerStatus
from fastkv.node.log_page import PAGE_BYTES, described, first_of_page
from fastkv.raft import LEADER
from fastkv.server.overview import STATE_NAMES
from fastkv.server.service import Deliver
from fastkv.version import __version__
from fastkv.wire.client import ScanRequest, decode_scan_request, encode_get, encode_scan_page

log = logging.getLogger(__name__)


class LocalService:
    """Implements `service.Service` over a node in this process. Runs on the node's loop."""

    def __init__(
        self,
        config: NodeConfig,
        node: Node,
        metrics: Callable[[], bytes],
        overview: Callable[[], dict[str, Any]],
    ) -> None:
        self.config = config
        self._node = node
        self._metrics = metrics
        self._overview = overview
        self._sink = CallbackSink(node.outbox, self._callback_failed)

    # -- requests ----------------------------------------------------------------------------------------------------

    def write(self, kind: int, command: bytes, deliver: Deliver) -> None:
        """Propose a command; see `service.Service.write`."""
        opcode = Opcode.PUT if kind == Kind.ENTRY_PUT else Opcode.DELETE
        self._node.ingress.submit(self._sink, self._sink.expect(deliver), opcode, command)
        self._node.ingress.request_wake()

    def read(self, key: bytes, consistency: int, deliver: Deliver) -> None:
        """Read one key; see `service.Service.read`."""
        self._node.ingress.submit(self._sink, self._sink.expect(deliver), Opcode.GET, encode_get(key, consistency))
        self._node.ingress.request_wake()

    def scan(self, body: bytes, deliver: Deliver) -> None:
        """Read one page; `body` is a SCAN request's, the payload a SCAN response's."""
        try:
            request = decode_scan_request(body)
        except ValueError as error:
            deliver(Status.INVALID_REQUEST, 0, 0, str(error).encode())
            return

        def serve() -> None:
            self._serve_scan(request, deliver)

        def fail(status: int) -> None:
            deliver(status, 0, 0, text_for(status))

        ingress = self._node.ingress
        if ingress.refuse_reads:
            fail(ingress.refuse_reads)
        elif request.cursor or request.consistency == Consistency.STALE_READ:
            serve()     # a cursor's snapshot was confirmed when it was opened
        else:
            ingress.add_read_task(serve, fail)

    def _serve_scan(self, request: ScanRequest, deliver: Deliver) -> None:
        limits = self.config.limits
        try:
            page = self._node.machine.scan(
                request,
                max_items=limits.scan_page_items,
                max_bytes=min(limits.scan_page_bytes, limits.client_frame_bytes),
            )
        except CursorExpired as error:
            deliver(Status.CURSOR_EXPIRED, 0, 0, str(error).encode())
        else:
            deliver(Status.OK, 0, 0, encode_scan_page(page.revision, page.count, page.cursor, page.items))

    def _callback_failed(self, error: BaseException) -> None:
        log.error("an answer could not be delivered", exc_info=error)

    def admin(self, request: dict[str, Any], deliver: Callable[[int, dict[str, Any]], None]) -> None:
        """Ask for other members or another leader; see `fastkv.node.admin`."""
        self._node.admin(request, deliver)

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether this node can serve: a leader is known and storage works."""
        return all(self._checks().values())

    def leader(self) -> tuple[str, str]:
        """The leader's id and raw-TCP address; two empty strings while there is none."""
        leader = self._node.raft.leader
        member = self._node.raft.membership.get(leader) if leader else None
        return (leader, member.raft) if member is not None else ("", "")

    def cluster_status(self) -> dict[str, Any]:
        """The shape of GET /cluster/status. Each node's state is what that node itself last said."""
        node, raft = self._node, self._node.raft
        described = {}
        for member in raft.membership.members:
            node_id = member.node_id
            status: PeerStatus | None = None
            if node_id == self.config.node_id:
                role, term = STATE_NAMES[raft.role], raft.term
            else:
                status = node.peer_status(node_id)
                role, term = (STATE_NAMES[status.role], status.term) if status else ("Unknown", 0)
            described[node_id] = {
                "id": node_id,
                "address": member.raft,
                "is_leader": role == "Leader",
                "state": role,
                "term": term,
            }
        return {
            "cluster_size": len(described),
            "is_leader": raft.role == LEADER,
            "local_node_id": self.config.node_id,
            "nodes": described,
            "timestamp": int(time.time()),
        }

    def status_with_leader(self) -> dict[str, Any]:
        """What the STATUS request answers: the cluster's status, where the leader is, and this node's health."""
        leader, address = self.leader()
        return {
            **self.cluster_status(),
            "leader": {"id": leader, "address": address} if leader else None,
            "health": self.health(),
        }

    def _checks(self) -> dict[str, bool]:
        node = self._node
        return {
            "leader": bool(node.raft.leader),
            "log": node.log.has_room(node.ingress.open_limit_bytes),
            "checkpoint": not node.machine.over_limit,
            "state": not node.alarm,
            "membership": not node.refusal,
        }

    def health(self) -> dict[str, Any]:
        """What GET /health says."""
        node = self._node
        checks = self._checks()
        return {
            "status": "ok" if all(checks.values()) else "unavailable",
            "checks": checks,
            "node": self.config.node_id,
            "leader": node.raft.leader or None,
            "term": node.raft.term,
            "commit_index": node.raft.commit_index,
            "applied_index": node.raft.applied_index,
            "state_hash": f"{node.machine.state_hash:016x}",    # a text: 64 bits are too many for a number of JSON
            "revision": node.machine.revision,
            "keys": node.machine.key_count,
            "log_bytes": node.log.bytes_on_disk,
            "problems": [text for text in (node.alarm, node.refusal, *node.doubts, node.fetch_problem) if text],
            "snapshot": node.fetch_progress,
        }

    def log(self, first: int, limit: int) -> dict[str, Any]:
        """A page of this node's log; see `service.Service.log`."""
        raft = self._node.raft
        first = first_of_page(first, limit, raft.log.base_index, raft.log.last_index)
        return {
            "node": self.config.node_id,
            "term": raft.term,
            "first_index": raft.log.base_index + 1,
            "last_index": raft.log.last_index,
            "durable_index": raft.log.durable_index,
            "commit_index": raft.commit_index,
            "applied_index": raft.applied_index,
            "entries": described(raft.log.slice(first, PAGE_BYTES, limit)),
        }

    def overview(self) -> dict[str, Any]:
        """What GET /cluster/overview says; see `server.overview`."""
        console = self.config.console
        return {
            "cluster": self.config.cluster.name,
            "version": __version__,
            "console_writes": console.enabled and console.writes,
            "health": self.health(),
            **self._overview(),
        }

    def metrics(self) -> bytes:
        """What GET /metrics says."""
        return self._metrics()
