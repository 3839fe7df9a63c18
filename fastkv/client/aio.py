"""The asyncio client: what applications call."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from fastkv._core.codes import Kind, Opcode, Status
from fastkv._core.entry import encode_command
from fastkv.client.addresses import DEFAULT_ENDPOINT, parse_endpoints
from fastkv.client.cluster import Cluster
from fastkv.client.connection import Reply
from fastkv.client.requests import (
    answer_error,
    consistency_code,
    item_answered,
    key_bytes,
    revision_bound,
    revision_of,
    text_bytes,
)
from fastkv.client.results import ConsistencyName, Item, Text
from fastkv.client.scan import Scan, scan_request
from fastkv.client.session import Sessions
from fastkv.client.settings import Settings
from fastkv.errors import ProtocolError, error_for
from fastkv.wire.client import LOG_ENTRIES, MAX_LOG_ENTRIES, encode_get, encode_log_request


class AsyncClient:
    """A client of a cluster for one event loop: pipelined, follows the leader, reconnects.

    `endpoints` are raw-TCP addresses, `"h1:9001,h2:9001"` or a list; one that answers is enough. `timeout` is how many
    seconds a call may take with all its tries, unless the call says otherwise. At most `max_in_flight` requests are
    under way at once; further calls wait for their turn, within their timeout. `cluster` is the cluster's name where
    only that one will do. `follow_leader=False` stays with the endpoints, for tools that look at one node.

    A write whose answer is lost is sent again, and carried out once: the client opens a session for that before its
    first write. `exactly_once=False` does without; then such a write ends with `OutcomeUnknown`.

    Every call may raise `Unavailable`, `Overloaded` and `Timeout` (nothing was done: trying again is safe), and
    `ClientClosed`. Writes may raise `OutcomeUnknown`: the write was sent, and no answer came in time.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str] = DEFAULT_ENDPOINT,
        *,
        timeout: float = 5.0,
        connect_timeout: float = 1.0,
        max_in_flight: int = 1024,
        cluster: str = "",
        credentials: Text = b"",
        follow_leader: bool = True,
        exactly_once: bool = True,
    ) -> None:
        settings = Settings(
            timeout_s=timeout,
            connect_timeout_s=connect_timeout,
            max_in_flight=max_in_flight,
            cluster=cluster,
            credentials=text_bytes(credentials, "credentials"),
            follow_leader=follow_leader,
        )
        self._cluster = Cluster(parse_endpoints(endpoints), settings)
        self._sessions = Sessions(self._cluster) if exactly_once else None

    async def connect(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Connect to some node, so that what is wrong shows here. Calls connect by themselves as well.

        Unavailable where no node answers in time; WrongCluster, Unauthenticated or Unsupported where all refuse us.
        """
        await self._cluster.connect(timeout)

    async def close(self) -> None:
        """Close the connections. Calls under way end with ClientClosed, and writes already sent with OutcomeUnknown."""
        await self._cluster.close()
        if self._sessions is not None:
            await self._sessions.close()

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def put(
        self,
        key: Text,
        value: Text,
        *,
        if_revision: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> int:
        """Store a value; the cluster's revision of this write.

        With `if_revision` only where the key is at that revision, 0 meaning that it must not exist; PreconditionFailed
        otherwise, with the key's current revision. InvalidKey, KeyTooLarge and ValueTooLarge for what cannot be stored.
        """
        compare = revision_bound(if_revision)
        encoded, data = key_bytes(key), text_bytes(value, "a value")

        def command(session: tuple[int, int] | None = None) -> bytes:
            return encode_command(Kind.ENTRY_PUT, encoded, data, compare=compare, session=session)

        reply = await self._write(Opcode.PUT, command, timeout)
        if reply.status != Status.OK:
            raise answer_error(reply)
        return revision_of(reply)

    async def delete(
        self,
        key: Text,
        *,
        if_revision: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> bool:
        """Delete a key; whether there was one. `if_revision` as for `put`."""
        encoded, compare = key_bytes(key), revision_bound(if_revision)

        def command(session: tuple[int, int] | None = None) -> bytes:
            return encode_command(Kind.ENTRY_DELETE, encoded, compare=compare, session=session)

        reply = await self._write(Opcode.DELETE, command, timeout)
        if reply.status not in (Status.OK, Status.KEY_NOT_FOUND):
            raise answer_error(reply)
        return reply.status == Status.OK

    async def _write(
        self, opcode: int, command: Callable[..., bytes], timeout_s: float | None
    ) -> Reply:
        if self._sessions is None:
            return await self._cluster.request(opcode, command(), writes=True, timeout_s=timeout_s)
        return await self._sessions.write(opcode, command, timeout_s)

    async def get(
        self,
        key: Text,
        *,
        consistency: ConsistencyName = "linearizable",
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Item:
        """Read a key; an item whose `value` is None where there is none.

        `linearizable` sees every write acknowledged before the call; `lease` too, with a leader that counts on its
        clock instead of asking the others; `stale` is what the node has, at once, with `applied_index` and `age_ms`.
        """
        encoded = key_bytes(key)
        request = encode_get(encoded, consistency_code(consistency))
        reply = await self._cluster.request(Opcode.GET, request, writes=False, timeout_s=timeout)
        if reply.status not in (Status.OK, Status.KEY_NOT_FOUND):
            raise answer_error(reply)
        return item_answered(encoded, reply)

    def scan(
        self,
        prefix: Text | None = None,
        *,
        start: Text | None = None,
        end: Text | None = None,
        limit: int | None = None,
        reverse: bool = False,
        keys_only: bool = False,
        consistency: ConsistencyName = "linearizable",
        timeout: float | None = None,
    ) -> Scan:
        """The items whose keys begin with `prefix`, or lie in [`start`, `end`); all of them by default.

        In the keys' byte order, or backwards with `reverse`; at most `limit`; without values with `keys_only`. All
        items are of one snapshot, whatever is written meanwhile. `timeout` is for each page.
        """
        request = scan_request(prefix, start, end, limit, reverse, keys_only, consistency_code(consistency))
        return Scan(self._cluster, request, limit, timeout)

    async def admin(
        self, request: dict[str, Any], *, timeout: float | None = None  # noqa: ASYNC109
    ) -> dict[str, Any]:
        """Ask for other members or another leader: what `POST /cluster/members` and its kin take, with `do`.

        Raises ChangeRefused where nothing was changed, OutcomeUnknown where the answer was lost: look before trying
        again.
        """
        asks = request.get("do") == "members"
        reply = await self._cluster.request(
            Opcode.ADMIN, json.dumps(request).encode(), writes=not asks, timeout_s=timeout
        )
        try:
            answer = json.loads(reply.body)
        except ValueError:
            raise answer_error(reply) from None
        if reply.status != Status.OK:
            raise error_for(reply.status, str(answer.get("error", "")))
        if not isinstance(answer, dict):
            raise ProtocolError("the server's answer is no JSON object")
        return answer

    async def status(self, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """The cluster as the connected node sees it: `GET /cluster/status`, `leader`, and the node's own `health`."""
        return await self._described(Opcode.STATUS, b"", timeout)

    async def log(
        self, first: int = 0, limit: int = LOG_ENTRIES, *, timeout: float | None = None  # noqa: ASYNC109
    ) -> dict[str, Any]:
        """Entries of the connected node's log, for a person to read: what `GET /cluster/log` answers.

        At most `limit` from index `first` on, the newest where that is 0. With `follow_leader=False` it is the log of
        the node that was asked for.
        """
        if not 0 <= first < 1 << 64 or not 1 <= limit <= MAX_LOG_ENTRIES:
            raise ValueError(f"first is an index, and limit 1 to {MAX_LOG_ENTRIES}, not {first} and {limit}")
        return await self._described(Opcode.LOG, encode_log_request(first, limit), timeout)

    async def _described(self, opcode: int, body: bytes, timeout_s: float | None) -> dict[str, Any]:
        """An answer that is a JSON object."""
        reply = await self._cluster.request(opcode, body, writes=False, timeout_s=timeout_s)
        if reply.status != Status.OK:
            raise answer_error(reply)
        try:
            answer = json.loads(reply.body)
        except ValueError as error:
            raise ProtocolError(f"the server's answer cannot be read: {error}") from None
        if not isinstance(answer, dict):
            raise ProtocolError("the server's answer is no JSON object")
        return answer
