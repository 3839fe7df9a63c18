"""Writes that are carried out once, however often they have to be sent (thesis of Raft, 6.3).

A session is a number that the cluster gives out. A write in it has a sequence; sent again under the same sequence, to
whichever node, it is answered with the result of its first time. So a write whose answer was lost is simply sent again.

The cluster remembers `SESSION_WINDOW` results of a session, and a bounded number of sessions. This file keeps within
the first bound by waiting; the second may end a session that was not used for long. A write that was never answered and
finds its session gone is the one case in which nobody can say whether it was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastkv._core.codes import OPEN_SESSION, SESSION_ENTRY_BYTES, SESSION_WINDOW, Opcode, Status
from fastkv.client.cluster import Cluster
from fastkv.client.connection import Reply
from fastkv.client.requests import answer_error, revision_of
from fastkv.errors import OutcomeUnknown, Timeout

_OPEN = bytes([OPEN_SESSION]).ljust(SESSION_ENTRY_BYTES, b"\0")


class _Session:
    """One that is open, and the sequences in it whose answers are due, oldest first."""

    def __init__(self, session_id: int) -> None:
        self.id = session_id
        self.last = 0
        self.due: dict[int, asyncio.Event] = {}

    def is_full(self) -> bool:
        """Whether the next sequence would be too far ahead of the oldest one that may have to be sent again."""
        return bool(self.due) and self.last + 1 - next(iter(self.due)) >= SESSION_WINDOW

    def begin(self) -> int:
        self.last += 1
        self.due[self.last] = asyncio.Event()
        return self.last

    def end(self, sequence: int) -> None:
        self.due.pop(sequence).set()


class Sessions:
    """A client's session, opened before its first write and replaced where the cluster has dropped it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._session: _Session | None = None
        self._opening: asyncio.Task[_Session] | None = None

    async def write(
        self, opcode: int, command: Callable[[tuple[int, int]], bytes], timeout_s: float | None
    ) -> Reply:
        """Carry out a write once; `command` makes its bytes from session and sequence.

        Raises as `Cluster.request` does; OutcomeUnknown only where the deadline passes, or where the session was
        dropped, after the write was sent.
        """
        deadline = self._cluster.deadline(timeout_s)
        while True:
            session = await self._opened(deadline)
            while session.is_full():
                await self._until(next(iter(session.due.values())).wait(), deadline)
            sequence = session.begin()
            try:
                reply, may_be_done = await self._cluster.repeat(opcode, command((session.id, sequence)), deadline)
            finally:
                session.end(sequence)
            if reply.status != Status.SESSION_EXPIRED:
                return reply
            if self._session is session:
                self._session = None
            if may_be_done:
                raise OutcomeUnknown("the client's session was dropped before the write was answered")

    async def _opened(self, deadline: float) -> _Session:
        if self._session is not None:
            return self._session
        if self._opening is None or self._opening.done():
            self._opening = asyncio.create_task(self._open(deadline))
        opening = self._opening
        await self._until(asyncio.shield(opening), deadline)
        return opening.result()

    async def _open(self, deadline: float) -> _Session:
        # One too many does no harm: an opening whose answer was lost is asked for again.
        reply, _ = await self._cluster.repeat(Opcode.SESSION, _OPEN, deadline)
        if reply.status != Status.OK:
            raise answer_error(reply)
        self._session = _Session(revision_of(reply))
        return self._session

    @staticmethod
    async def _until(what: asyncio.Future[object] | object, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await what  # type: ignore[misc]
        except TimeoutError:
            raise Timeout("the writes before this one took all the time that it had") from None

    async def close(self) -> None:
        """Open nothing any more."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait((self._opening,))
