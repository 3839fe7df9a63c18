"""The ways in which the clients of a run reach the cluster: the client library, and HTTP.

Whatever a door is made of, an operation ends in one of three ways: with its answer, with `NotDone`, or with
`OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fastkv.chaos.http_door import Answer, DoorError, HttpDoor
from fastkv.client import AsyncClient
from fastkv.client.results import ConsistencyName
from fastkv.errors import NotDone, OutcomeUnknown, PreconditionFailed

TIMEOUT_S = 5.0
"""How long an operation may take, with all its tries."""
TRY_S = 1.0
"""How long one try over HTTP may take."""
PAUSE_S = (0.02, 0.1)
NOT_DONE_CODES = frozenset({"NO_LEADER", "OVERLOADED", "UNAVAILABLE", "SHUTTING_DOWN", "NOT_LEADER", "CORRUPT_STATE"})
"""Errors of HTTP that say that a write was not done, and that another try, or another node, may have more luck."""


class Read(NamedTuple):
    """What a key holds; None and 0 where there is no key."""

    value: str | None
    revision: int


class Door(Protocol):
    """A way into the cluster, for one operation at a time."""

    kind: str
    node: str | None
    """The one node that it leads to; None where it leads to whichever works."""

    async def get(self, key: str, consistency: ConsistencyName) -> Read:
        """Read a key."""

    async def put(self, key: str, value: str, expected: int | None) -> int:
        """Store a value; the revision. PreconditionFailed where the key has another revision than the expected one."""

    async def delete(self, key: str) -> int | None:
        """Delete a key: the revision, -1 where the answer does not say it, None where there was no key."""

    async def close(self) -> None:
        """Hang up."""


class LibraryDoor:
    """`fastkv.AsyncClient`."""

    def __init__(self, kind: str, endpoints: str, node: str | None) -> None:
        self.kind = kind
        self.node = node
        self._client = AsyncClient(endpoints, timeout=TIMEOUT_S, follow_leader=node is None)

    async def get(self, key: str, consistency: ConsistencyName) -> Read:
        """See `Door`."""
        item = await self._client.get(key, consistency=consistency)
        return Read(item.text, item.revision)

    async def put(self, key: str, value: str, expected: int | None) -> int:
        """See `Door`."""
        return await self._client.put(key, value, if_revision=expected)

    async def delete(self, key: str) -> int | None:
        """See `Door`."""
        return -1 if await self._client.delete(key) else None

    async def close(self) -> None:
        """See `Door`."""
        await self._client.close()


class WebDoor:
    """HTTP to one node after the other. A write has an `Idempotency-Key`, so that it may be sent again anywhere."""

    def __init__(self, addresses: Sequence[str], rng: random.Random) -> None:
        self.kind = "http"
        self.node: str | None = None
        self._doors = [HttpDoor(address) for address in addresses]
        self._rng = rng
        self._at = rng.randrange(len(addresses))

    async def get(self, key: str, consistency: ConsistencyName) -> Read:
        """See `Door`."""
        answer = await self._ask("GET", f"/kv/{key}?consistency={consistency}")
        if answer.status == 404:
            return Read(None, 0)
        said = answer.json()
        return Read(said["value"], said["revision"])

    async def put(self, key: str, value: str, expected: int | None) -> int:
        """See `Door`."""
        query = "" if expected is None else f"?if_revision={expected}"
        answer = await self._ask("PUT", f"/kv/{key}{query}", value.encode())
        revision: int = answer.json()["revision"]
        if answer.status == 412:
            raise PreconditionFailed(revision=revision)
        return revision

    async def delete(self, key: str) -> int | None:
        """See `Door`."""
        answer = await self._ask("DELETE", f"/kv/{key}")
        return None if answer.status == 404 else int(answer.json()["revision"])

    async def _ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Ask until somebody answers, at another node each time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TIMEOUT_S
        headers = {} if method == "GET" else {"Idempotency-Key": uuid.UUID(int=self._rng.getrandbits(128)).hex}
        may_be_done = False
        while True:
            left_s = min(TRY_S, deadline - loop.time())
            try:
                answer = await self._doors[self._at].request(method, path, body, headers, within_s=left_s)
            except DoorError as error:
                may_be_done |= error.sent and bool(headers)
                reason = str(error)
            else:
                if answer.status in (200, 201, 404, 412):
                    return answer
                reason = str(answer.json().get("code"))
                may_be_done |= bool(headers) and reason not in NOT_DONE_CODES
            self._at = (self._at + 1) % len(self._doors)
            pause_s = self._rng.uniform(*PAUSE_S)
            if loop.time() + pause_s >= deadline:
                raise OutcomeUnknown(reason) if may_be_done else NotDone(reason)
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """See `Door`."""
        for door in self._doors:
            door.close()
