"""The raw-TCP port: who may connect, what HELLO says, and the requests that are not hot.

GET, PUT and DELETE never come here: the compiled connection puts them straight into the node's ingress.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from fastkv._core.codes import Opcode, Status
from fastkv._core.connection import Connection, Role
from fastkv._core.replies import text_for
from fastkv.config import NodeConfig
from fastkv.node import Node
from fastkv.server.backup import BackupServer
from fastkv.server.handshake import VERSION_WITHOUT_RANGES, agree
from fastkv.server.local_service import LocalService
from fastkv.wire.client import (
    CLIENT_ROLE,
    PEER_ROLE,
    HelloReply,
    decode_hello,
    decode_log_request,
    encode_hello_reply,
)

if TYPE_CHECKING:
    from fastkv.server.tracing import Tracing

log = logging.getLogger(__name__)

_TRACE = int(Opcode.TRACE)

HELLO_TIMEOUT_S = 5.0


class RawServer:
    """Accepts clients and peers on one port. `on_peer` is told when a peer has dialled us."""

    def __init__(
        self,
        config: NodeConfig,
        node: Node,
        service: LocalService,
        backups: BackupServer,
        *,
        disk: int,
        restored: str,
        on_peer: Callable[[str], None],
        on_broken: Callable[[BaseException], None],
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._node = node
        self._service = service
        self._backups = backups
        self._disk = disk
        self._restored = restored
        self._on_peer = on_peer
        self._on_broken = on_broken
        self._tracing = tracing
        self._server: asyncio.Server | None = None
        self._unknown: dict[Connection, asyncio.TimerHandle] = {}
        self._closing = False
        self._disks: dict[Connection, int] = {}
        self.connections: set[Connection] = set()

    async def start(self, host: str, port: int) -> None:
        """Listen. OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, host, port, backlog=1024)

    def drop_removed(self) -> None:
        """Tell nodes that were removed, and do not know it yet because nobody replicates to them any more."""
        removed = self._node.removed_disks()
        for connection, disk in list(self._disks.items()):
            if disk in removed:
                text = f"{connection.peer_id} was removed from the cluster"
                connection.break_off(Status.REMOVED, text)

    def stop_accepting(self) -> None:
        """Stop listening: whoever connects now goes to another node."""
        self._closing = True
        if self._server is not None:
            self._server.close()

    def stop_taking(self) -> None:
        """Take no more requests from clients. What was taken is still answered; what comes now is never executed."""
        for connection in self.connections:
            connection.stop_taking()

    async def close(self) -> None:
        """Stop listening, tell clients that what is not answered was not done, and close every connection."""
        self.stop_accepting()
        for connection in list(self.connections):
            connection.say_goodbye()
        if self._server is not None:
            await self._server.wait_closed()

    def count(self, role: Role) -> int:
        """How many connections of a role there are."""
        return sum(connection.role == role for connection in self.connections)

    def _accept(self) -> Connection:
        limits = self._config.limits
        return Connection(
            self._node.outbox,
            self._node.ingress,
            self,
            hello_limit_bytes=limits.hello_bytes,
            output_limit_bytes=limits.output_bytes,
        )

    # -- what a connection tells its owner ---------------------------------------------------------------------------

    def connection_made(self, connection: Connection) -> None:
        """A new connection; it has a little time to say HELLO."""
        self.connections.add(connection)
        if self._closing:       # accepted just before we stopped listening
            connection.abort()
            return
        if len(self.connections) > self._config.limits.connections:
            connection.break_off(Status.OVERLOADED, "this node has as many connections as it may (limits.connections)")
            return
        loop = asyncio.get_running_loop()
        self._unknown[connection] = loop.call_later(HELLO_TIMEOUT_S, connection.abort)

    def connection_lost(self, connection: Connection) -> None:
        """The connection is closed, from whichever side."""
        self.connections.discard(connection)
        self._disks.pop(connection, None)
        self._backups.forget(connection)
        self._forget_timer(connection)

    def broken(self, connection: Connection, status: int, text: str) -> None:
        """The other side broke the protocol."""
        log.warning("closing a connection: %s", text, extra={"peer": connection.peer_id or None, "status": status})

    def hello(self, connection: Connection, request_id: int, body: bytes) -> None:
        """The first frame: who is there, and may they come in."""
        try:
            hello = decode_hello(body)
        except ValueError as error:
            connection.break_off(Status.INVALID_REQUEST, f"not a HELLO: {error}")
            return
        cluster = self._config.cluster.name
        limits = self._config.limits
        newest = self._node.versions.newest
        version, refusal = agree(hello, newest, self._node.versions.in_force)
        if not version:
            connection.break_off(Status.UNSUPPORTED_VERSION, refusal)
        elif hello.cluster != cluster and (hello.cluster or hello.role == PEER_ROLE):
            text = f"this node belongs to cluster {cluster!r}, not {hello.cluster!r}"
            connection.break_off(Status.WRONG_CLUSTER, text)
        elif hello.restored and self._restored and hello.restored != self._restored:
            text = (
                f"{hello.id} was restored from another backup than this node, or to another moment: restore every node "
                "of a cluster from the same file, in the same way"
            )
            connection.break_off(Status.WRONG_CLUSTER, text)
        elif hello.role not in (CLIENT_ROLE, PEER_ROLE):
            connection.break_off(Status.INVALID_REQUEST, f"role {hello.role} is neither client (1) nor peer (2)")
        else:
            is_peer = hello.role == PEER_ROLE
            if is_peer:
                status, text = self._node.hear_hello(hello.id, hello.disk, hello.address)
                if status != Status.OK:
                    connection.break_off(status, text)
                    return
                self._drop_peer(hello.id)       # of one node only the newest link counts
                self._disks[connection] = hello.disk
            self._forget_timer(connection)
            frame_bytes = limits.peer_frame_bytes if is_peer else limits.client_frame_bytes
            connection.become(Role.PEER if is_peer else Role.CLIENT, hello.id if is_peer else "", frame_bytes)
            leader, address = self._service.leader()
            reply = HelloReply(
                version,
                frame_bytes,
                limits.value_bytes,
                self._config.node_id,
                cluster,
                leader,
                address,
                self._disk if is_peer else 0,
                newest if newest > VERSION_WITHOUT_RANGES else 0,
            )
            self._reply(connection, request_id, Opcode.HELLO, Status.OK, encode_hello_reply(reply))
            if is_peer:
                self._on_peer(hello.id)

    def request(self, connection: Connection, opcode: int, request_id: int, body: bytes) -> None:
        """A client's request that is not hot."""
        asked_us = self._node.outbox.tally.now_us
        if opcode == Opcode.SCAN:

            def deliver(status: int, flags: int, revision: int, payload: bytes) -> None:
                self._reply(connection, request_id, Opcode.SCAN, status, payload or text_for(status), asked_us)

            self._service.scan(body, deliver)
        elif opcode == Opcode.ADMIN:
            self._admin(connection, request_id, body)
        elif opcode == Opcode.LOG:
            self._log(connection, request_id, body)
        elif opcode == Opcode.BACKUP:
            self._backup(connection, request_id, body)
        elif opcode == Opcode.STATUS:
            self._reply(connection, request_id, opcode, Status.OK, orjson.dumps(self._service.status_with_leader()))
        else:
            self._reply(connection, request_id, opcode, Status.UNKNOWN_OPCODE, f"unknown opcode {opcode:#x}".encode())

    def _admin(self, connection: Connection, request_id: int, body: bytes) -> None:
        asked_us = self._node.outbox.tally.now_us

        def deliver(status: int, answer: dict[str, Any]) -> None:
            self._reply(connection, request_id, Opcode.ADMIN, status, orjson.dumps(answer), asked_us)

        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError:
            asked = None
        if isinstance(asked, dict):
            self._service.admin(asked, deliver)
        else:
            deliver(Status.INVALID_REQUEST, {"error": "an ADMIN body is a JSON object"})

    def _log(self, connection: Connection, request_id: int, body: bytes) -> None:
        try:
            first, limit = decode_log_request(body)
        except ValueError as error:
            self._reply(connection, request_id, Opcode.LOG, Status.INVALID_REQUEST, str(error).encode())
        else:
            answer = orjson.dumps(self._service.log(first, limit))
            self._reply(connection, request_id, Opcode.LOG, Status.OK, answer)

    def _backup(self, connection: Connection, request_id: int, body: bytes) -> None:
        asked_us = self._node.outbox.tally.now_us

        def deliver(status: int, answer: bytes) -> None:
            self._reply(connection, request_id, Opcode.BACKUP, status, answer, asked_us)

        try:
            self._backups.asked(connection, body, deliver)
        except ValueError as error:
            deliver(Status.INVALID_REQUEST, str(error).encode())

    def peer_frame(self, node_id: str, opcode: int, code: int, request_id: int, body: bytes) -> None:
        """A frame of another node."""
        try:
            if self._tracing is not None:
                self._tracing.heard(node_id, opcode, request_id, body)
            if opcode != _TRACE:        # not the node's business, and nobody's where tracing is off
                self._node.peer_frame(node_id, opcode, code, request_id, body)
        except ValueError as error:
            # A decoder refused the bytes: nothing of them was taken in. The peer dials again and Raft repairs.
            log.error("closing the link from %s: %s", node_id, error)
            self._drop_peer(node_id)
        except Exception as error:
            self._on_broken(error)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _reply(
        self,
        connection: Connection,
        request_id: int,
        opcode: int,
        status: int,
        body: bytes,
        asked_us: int | None = None,
    ) -> None:
        connection.reply(request_id, opcode, status, 0, body, asked_us)
        self._node.ingress.request_wake()

    def _drop_peer(self, node_id: str) -> None:
        for connection in list(self.connections):
            if connection.role == Role.PEER and connection.peer_id == node_id:
                connection.abort()

    def _forget_timer(self, connection: Connection) -> None:
        timer = self._unknown.pop(connection, None)
        if timer is not None:
            timer.cancel()
