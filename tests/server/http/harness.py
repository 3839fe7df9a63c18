"""An HTTP server on a real socket, over a service that is a dictionary and does as it is told."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastkv._core.codes import FrameFlag, Kind, Status
from fastkv.config import Limits, NodeConfig
from fastkv.server.http import HttpServer
from fastkv.server.service import Deliver

T = TypeVar("T")

NODES = {
    "node-1": {"id": "node-1", "address": "localhost:9001", "is_leader": False, "state": "Follower", "term": 3},
    "node-2": {"id": "node-2", "address": "localhost:9002", "is_leader": True, "state": "Leader", "term": 3},
    "node-3": {"id": "node-3", "address": "localhost:9003", "is_leader": False, "state": "Unknown", "term": 0},
}
APPLIED_INDEX, AGE_MS = 41, 7


@dataclass
class Stored:
    """One key's record."""

    mod_revision: int
    create_revision: int
    version: int
    value: bytes

    def record(self) -> bytes:
        return struct.pack("<QQQQ", self.mod_revision, self.create_revision, self.version, 0) + self.value


@dataclass
class FakeService:
    """A `Service` over a dictionary. Reads the bytes of the contract by itself, so that the face's are checked."""

    config: NodeConfig = field(default_factory=NodeConfig)
    data: dict[bytes, Stored] = field(default_factory=dict)
    revision: int = 0
    forced: deque[tuple[int, int, int, bytes]] = field(default_factory=deque)
    """Answers to give instead of the true ones, first come first served."""
    hold: bool = False
    held: list[Callable[[], None]] = field(default_factory=list)
    """Answers that are ready and not yet delivered, in the order of the requests."""
    checks: dict[str, bool] = field(default_factory=lambda: {"leader": True, "log": True})
    nodes: dict[str, dict[str, Any]] = field(default_factory=lambda: NODES)
    snapshots: dict[int, list[tuple[bytes, Stored]]] = field(default_factory=dict)
    admin_answer: tuple[int, dict[str, Any]] = (Status.OK, {"members": []})
    asked: list[tuple[str, Any]] = field(default_factory=list)
    once: list[tuple[int, ...] | None] = field(default_factory=list)
    """The idempotency key of each write."""
    fault: Exception | None = None

    @property
    def ready(self) -> bool:
        return all(self.checks.values())

    def _answer(self, deliver: Deliver, status: int, flags: int = 0, revision: int = 0, payload: bytes = b"") -> None:
        if self.fault is not None:
            raise self.fault
        answer = self.forced.popleft() if self.forced else (status, flags, revision, payload)
        if self.hold:
            self.held.append(lambda: deliver(*answer))
        else:
            deliver(*answer)

    def write(self, kind: int, command: bytes, deliver: Deliver) -> None:
        key_bytes, flags, _ = struct.unpack_from("<HBB", command)
        rest = command[4:]
        compare = None
        if flags & 1:
            (compare,) = struct.unpack_from("<Q", rest)
            rest = rest[8:]
        self.once.append(struct.unpack_from("<QQ", rest) if flags & 4 else None)
        if flags & 4:
            rest = rest[16:]
        key, value = rest[:key_bytes], rest[key_bytes:]
        self.asked.append(("put" if kind == Kind.ENTRY_PUT else "delete", (key, value, compare)))
        before = self.data.get(key)
        if compare is not None and compare != (before.mod_revision if before else 0):
            self._answer(deliver, Status.PRECONDITION_FAILED, 0, before.mod_revision if before else 0)
        elif kind == Kind.ENTRY_PUT:
            self.revision += 1
            created, version = (before.create_revision, before.version + 1) if before else (self.revision, 1)
            self.data[key] = Stored(self.revision, created, version, value)
            self._answer(deliver, Status.OK, 0 if before else FrameFlag.CREATED, self.revision)
        elif before is None:
            self._answer(deliver, Status.KEY_NOT_FOUND, 0, self.revision)
        else:
            self.revision += 1
            del self.data[key]
            self._answer(deliver, Status.OK, 0, self.revision)

    def read(self, key: bytes, consistency: int, deliver: Deliver) -> None:
        self.asked.append(("get", (key, consistency)))
        stored = self.data.get(key)
        prefix = struct.pack("<QII", APPLIED_INDEX, AGE_MS, 0) if consistency == 2 else b""
        flags = FrameFlag.STALE if consistency == 2 else 0
        if stored is None:
            self._answer(deliver, Status.KEY_NOT_FOUND, flags, 0, prefix)
        else:
            self._answer(deliver, Status.OK, flags, 0, prefix + stored.record())

    def scan(self, body: bytes, deliver: Deliver) -> None:
        consistency, flags, start_len, end_len, cursor_len, limit, _ = struct.unpack_from("<BBHHHII", body)
        rest = body[16:]
        start, end, cursor = rest[:start_len], rest[start_len:][:end_len], rest[start_len + end_len :]
        assert len(cursor) == cursor_len
        reverse, keys_only = bool(flags & 1), bool(flags & 2)
        self.asked.append(("scan", (start, end, reverse, keys_only, consistency, limit)))
        if cursor:
            (snapshot_id,) = struct.unpack_from("<Q", cursor)
            items = self.snapshots.pop(snapshot_id, None)
            if items is None:
                self._answer(deliver, Status.CURSOR_EXPIRED)
                return
        else:
            items = [(key, self.data[key]) for key in sorted(self.data) if start <= key and (not end or key < end)]
            if reverse:
                items.reverse()
        page, left = items[:limit], items[limit:]
        following = b""
        if left:
            snapshot_id = len(self.asked)
            self.snapshots[snapshot_id] = left
            following = struct.pack("<Q", snapshot_id) + page[-1][0]
        payload = struct.pack("<QIHH", self.revision, len(page), len(following), 0) + following
        for key, stored in page:
            value = b"" if keys_only else stored.value
            payload += struct.pack("<HHI", len(key), 0, len(value)) + stored.record()[:32] + key + value
        self._answer(deliver, Status.OK, 0, 0, payload)

    def admin(self, request: dict[str, Any], deliver: Callable[[int, dict[str, Any]], None]) -> None:
        self.asked.append(("admin", request))
        deliver(*self.admin_answer)

    def cluster_status(self) -> dict[str, Any]:
        return {
            "cluster_size": len(self.nodes),
            "is_leader": False,
            "local_node_id": "node-1",
            "nodes": self.nodes,
            "timestamp": 1_700_000_000,
        }

    def health(self) -> dict[str, Any]:
        return {
            "status": "ok" if self.ready else "unavailable",
            "checks": self.checks,
            "node": "node-1",
            "leader": "node-2",
            "term": 3,
            "commit_index": 9,
            "applied_index": 8,
            "state_hash": "00000000000000a1",
            "keys": len(self.data),
            "log_bytes": 1 << 20,
        }

    def overview(self) -> dict[str, Any]:
        return {"cluster": "fastkv", "console_writes": False, "health": self.health(), "members": []}

    def log(self, first: int, limit: int) -> dict[str, Any]:
        entry = {"index": first or 9, "term": 3, "kind": "put", "bytes": 12, "key": "a", "value_bytes": 3}
        return {"node": "node-1", "term": 3, "first_index": 1, "last_index": 9, "entries": [entry] * limit}

    def metrics(self) -> bytes:
        return b"# TYPE fastkv_keys gauge\nfastkv_keys 1.0\n"


@dataclass(frozen=True)
class Answer:
    """A response as http.client read it."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        assert self.content.endswith(b"\n")
        assert not self.content.endswith(b"\n\n")
        return json.loads(self.content)


class Face:
    """A running `HttpServer` and its service; everything of the loop's runs on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits | None = None, **options: Any) -> None:
        self.limits = limits or Limits()
        self.service = FakeService()
        self.loop = loop
        self._thread = threading.Thread(target=loop.run_forever, daemon=True)
        self._thread.start()
        self.server = self.call(lambda: HttpServer(self.service, self.limits, **options))
        self.wait(self.server.start("127.0.0.1", 0))
        self.port = self.server.port

    def wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout=60)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the loop's thread."""

        async def run() -> T:
            return function()

        result: T = self.wait(run())
        return result

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait, on the loop's thread, until something holds."""

        async def watch() -> None:
            while not condition():  # noqa: ASYNC110 -- what is waited for is any state at all, without an event
                await asyncio.sleep(0.001)

        self.wait(asyncio.wait_for(watch(), 50))

    def close(self) -> None:
        self.wait(self.server.close(grace_s=0.1))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(timeout=60)
        self.loop.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def raw(self, data: bytes, *, more: bool = False) -> bytes:
        """Send bytes, and read until the server closes; `more` leaves our half open."""
        with self.connect() as connection:
            connection.sendall(data)
            if not more:
                connection.shutdown(socket.SHUT_WR)
            return receive_all(connection)


def receive_all(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def split_responses(data: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each response in a connection's bytes. All must have a Content-Length."""
    responses = []
    while data:
        top, _, data = data.partition(b"\r\n\r\n")
        lines = top.split(b"\r\n")
        status = int(lines[0].split()[1])
        lengths = [int(line.split(b":")[1]) for line in lines[1:] if line.lower().startswith(b"content-length:")]
        length = lengths[0] if lengths else 0
        responses.append((status, data[:length]))
        data = data[length:]
    return responses


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    lines = [f"GET {path} HTTP/{version}", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode()


def put(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def release(face: Face, *, backwards: bool = False) -> int:
    """Deliver the answers held so far. Returns how many there were."""

    def deliver() -> int:
        held, face.service.held = face.service.held, []
        for answer in reversed(held) if backwards else held:
            answer()
        return len(held)

    return face.call(deliver)


def read_response(connection: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of the next response."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(1)
        assert part, received
        received += part
    top = received.removesuffix(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in top.split(b"\r\n") if line.startswith(b"Content-Length")]
    body = b""
    while lengths and len(body) < int(lengths[0]):
        body += connection.recv(int(lengths[0]) - len(body))
    return top, body


MakeFace = Callable[..., Face]
