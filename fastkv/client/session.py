"""Writes that are carried out once, however often they have to be sent (thesis of Raft, 6.3).

A session is a number that the cluster gives out. A write in it has a sequence; sent again under the same sequence, to
whichever node, it is answered with the result of its first time. So a write whose answer was lost is simply sent again.

The cluster remembers `SESSION_WINDOW` results of a session, and a bounded number of sessions. This file keeps within
the first bound by waiting; the second may end a session that was not used for long. A write that was never answered and
finds its session gone is the one case in which nobody can say whether it was done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastkv._core.codes import OPEN_SESSION, SESSION_ENTRY_BYTES, SESSION_WINDOW, Opcode, Status
from fastkv.client.cluster import Cluster
from fastkv.client.connection import Reply
from fastkv.client.faults import ClientClosed
from fastkv.client.requests import answer_error, revision_of
from fastkv.errors import FastKVError, OutcomeUnknown, Timeout

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
        self._opening: asyncio.Task[FastKVError | None] | None = None
        self._opens_until = 0.0  # the deadline of the opening

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
                oldest = next(iter(session.due.values()))
                await self._until(oldest.wait(), deadline, "the writes before this one took all the time that it had")
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
        """The session to write in; opened first where there is none. All who wait share one opening."""
        while self._session is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.create_task(self._open(deadline))
                self._opens_until = deadline
            opening, its_deadline = self._opening, self._opens_until
            await self._until(asyncio.wait((opening,)), deadline, "no session was opened in time")
            if opening.cancelled():
                raise ClientClosed
            failure = opening.result()
            # Begun for a call with less time than this one has, it may have failed for no other reason.
            if failure is not None and deadline <= its_deadline:
                raise failure
        return self._session

    async def _open(self, deadline: float) -> FastKVError | None:
        """Open a session; what went wrong where that cannot be done."""
        try:
            # One too many does no harm: an opening whose answer was lost is asked for again.
            reply = await self._cluster.ask(Opcode.SESSION, _OPEN, deadline)
            if reply.status != Status.OK:
                return answer_error(reply)
            self._session = _Session(revision_of(reply))
        except FastKVError as error:
            return error
        return None

    @staticmethod
    async def _until(what: Awaitable[object], deadline: float, otherwise: str) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await what
        except TimeoutError:
            raise Timeout(otherwise) from None

    async def close(self) -> None:
        """Open nothing any more."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.wait((self._opening,))
