"""What a node offers its faces: the seam between the HTTP server and the node behind it.

HTTP knows nothing of Raft, and the node nothing of HTTP. Between them stands `Service`: requests go in as the bytes
that the log stores, answers come back through a callback. No future and no task is made for a request, because at tens
of thousands of them a second those would cost more than the request itself.

Everything here runs on the node's event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fastkv.config import NodeConfig

Deliver = Callable[[int, int, int, bytes], None]
"""`deliver(status, flags, revision, payload)`: the answer to one request, called exactly once, on the loop.

`status` is a `Status`, `flags` are `FrameFlag` bits without RESPONSE, `revision` is what a write's result carries (0
otherwise), and `payload` is the body of a read's answer, or a UTF-8 text for a person where `status` is an error. The
call may come before the method that was given `deliver` has returned.
"""


class Service(Protocol):
    """One node, as a face sees it. Implemented by `local_service.LocalService`, and by a dictionary in the tests."""

    @property
    def config(self) -> NodeConfig:
        """The node's configuration: its id, its cluster's name, its limits."""

    @property
    def ready(self) -> bool:
        """Whether the node can serve: a leader is known and storage works. Equals `health()["status"] == "ok"`."""

    def write(self, kind: int, command: bytes, deliver: Deliver) -> None:
        """Propose a command, on any node.

        `kind` is `Kind.ENTRY_PUT` or `Kind.ENTRY_DELETE`; `command` comes from `encode_command`. Delivered are:

        * OK with the write's revision, and the flag CREATED where a PUT made a new key;
        * KEY_NOT_FOUND for a DELETE of a key that does not exist, with the cluster's revision;
        * PRECONDITION_FAILED with the key's current mod revision, 0 where it does not exist;
        * NO_LEADER, OVERLOADED, NO_SPACE, SHUTTING_DOWN: provably not done;
        * OUTCOME_UNKNOWN: it may or may not have been done;
        * INVALID_KEY, KEY_TOO_LARGE, VALUE_TOO_LARGE, INVALID_REQUEST, UNSUPPORTED: never attempted.
        """

    def read(self, key: bytes, consistency: int, deliver: Deliver) -> None:
        """Read one key with a `Consistency`.

        Delivered are OK with the key's record as payload (32 bytes of header, then the value), or KEY_NOT_FOUND. With
        the flag STALE either payload begins with u64 applied index, u32 age in milliseconds, u32 0. Errors: NO_LEADER,
        TIMEOUT, OVERLOADED, SHUTTING_DOWN, and what is wrong with the request itself.
        """

    def scan(self, body: bytes, deliver: Deliver) -> None:
        """Read one page of a range. `body` is a SCAN request's body and the payload of OK a SCAN response's.

        Errors: as for `read`, and CURSOR_EXPIRED where the cursor's snapshot is gone.
        """

    def admin(self, request: dict[str, Any], deliver: Callable[[int, dict[str, Any]], None]) -> None:
        """Ask for other members or another leader, on any node.

        What may be asked, and what is delivered, stands in `fastkv.node.admin`; an error's answer is `{"error": text}`.
        """

    def cluster_status(self) -> dict[str, Any]:
        """What `GET /cluster/status` answers: `{"cluster_size", "is_leader", "local_node_id", "nodes", "timestamp"}`.

        `nodes` maps a node's id to `{"id", "address", "is_leader", "state", "term"}`; `state` is Leader, Follower,
        Candidate, Learner, or Unknown (with term 0) for a node that was not heard from.
        """

    def health(self) -> dict[str, Any]:
        """What `GET /health` answers: `{"status": "ok" | "unavailable", "checks": {name: passed}, …}`.

        Beside these: node, leader (None where there is none), term, commit_index, applied_index, state_hash (16
        hexadecimal digits: of the state after entry applied_index), keys, log_bytes.
        """

    def overview(self) -> dict[str, Any]:
        """What `GET /cluster/overview` answers, and the console shows: the whole cluster, as this node knows it.

        The members are described in `fastkv.server.overview`; beside them cluster, version, console_writes (whether the
        console may offer to write), and what `health` says.
        """

    def log(self, first: int, limit: int) -> dict[str, Any]:
        """At most `limit` entries of this node's own log from index `first` on, the newest where that is 0.

        For a person: the log's `first_index`, `last_index`, `durable_index`, `commit_index`, `applied_index`, the
        node's `term`, and `entries`, as `fastkv.node.log_page` describes them; fewer than `limit` where they are large.
        """

    def metrics(self) -> bytes:
        """Every metric of the node in Prometheus' text format 0.0.4."""
