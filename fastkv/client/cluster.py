"""The cluster as a client sees it: which node to talk to, and what to do when that does not work.

One connection carries all requests. Any node will do, since followers forward; the leader is best, so whenever the
connection's node is not known to lead, a background task looks for the one that does and moves over: requests in
flight end on the old connection, new ones go to the new one.

What may be tried again is decided here and nowhere else:

* a request that was never sent, or whose answer says that nothing was done: again, until its deadline;
* a read: again, until its deadline;
* a write that was sent and not answered: only under a sequence of a session, which makes it one write however often it
  is sent (`session`). Else never: it may have been applied, and only the caller knows whether twice is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Sequence

from fastkv._core.codes import FrameFlag, Opcode, Status
from fastkv.client.addresses import Address
from fastkv.client.backoff import Backoff
from fastkv.client.connection import Connection, Reply
from fastkv.client.faults import ClientClosed, ConnectionLostError, DeadlinePassedError
from fastkv.client.settings import Settings
from fastkv.errors import (
    FastKVError,
    OutcomeUnknown,
    ProtocolError,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unsupported,
    WrongCluster,
    error_for,
)

# Provably not done, and likely to work in a moment.
_TRY_AGAIN = frozenset(
    {
        Status.NO_LEADER, Status.NOT_LEADER, Status.OVERLOADED, Status.SHUTTING_DOWN, Status.TIMEOUT,
        Status.CORRUPT_STATE,
    }
)  # fmt: skip
# Of these, the ones that another node may not have.
_TRY_ELSEWHERE = (_TRY_AGAIN - {Status.OVERLOADED}) | {Status.OUTCOME_UNKNOWN}
# A server that says one of these says it again.
_REFUSALS = (Unauthenticated, Unsupported, WrongCluster)
_LOOK_CAP_S = 5.0


class _Tries:
    """What came of the tries of one request so far."""

    def __init__(self, *, writes: bool, repeatable: bool = False) -> None:
        self.writes = writes
        self.repeatable = repeatable
        """Whether carrying it out twice is the same as once."""
        self.may_be_done = False
        """It is a write, and one that was sent has not been answered."""

    @property
    def harmless(self) -> bool:
        """Whether it may be sent again although it was sent."""
        return not self.writes or self.repeatable

    def unanswered(self, *, sent: bool) -> None:
        self.may_be_done = self.may_be_done or (self.writes and sent)

    def is_answer(self, reply: Reply) -> bool:
        """Whether it ends the tries."""
        if reply.status == Status.OUTCOME_UNKNOWN:
            return self.writes and not self.repeatable
        return reply.status not in _TRY_AGAIN

    def outcome(self, failure: FastKVError) -> FastKVError:
        """What the caller is told where the last try failed so."""
        if not self.may_be_done:
            return failure
        return OutcomeUnknown(f"the write was sent, and may or may not be applied: {failure}")


class Cluster:
    """Carries requests to whichever node can take them. Lives on one event loop."""

    def __init__(self, endpoints: Sequence[Address], settings: Settings) -> None:
        self._settings = settings
        self._rng = random.Random()
        self._endpoints = list(endpoints)
        self._learned: list[Address] = []  # where a node said that nodes are
        self._leader_address: Address | None = None
        self._avoided: Address | None = None  # the last node that had no leader
        self._slots = asyncio.Semaphore(settings.max_in_flight)
        self._connections: set[Connection] = set()
        self._current: Connection | None = None
        self._leads = False  # whether the current connection's node is known to lead
        self._dialling: asyncio.Task[FastKVError | None] | None = None
        self._dial_backoff = Backoff(self._rng)
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    # -- requests ----------------------------------------------------------------------------------------------------

    async def request(self, opcode: int, body: bytes, *, writes: bool, timeout_s: float | None = None) -> Reply:
        """Carry out one request. The answer's status is none of those that say *try again*.

        Timeout, Unavailable, Overloaded: not done within the deadline. OutcomeUnknown: a write that was sent and not
        answered. ClientClosed: after `close`.
        """
        reply, _ = await self.request_from(opcode, body, writes=writes, timeout_s=timeout_s)
        return reply

    async def request_from(
        self, opcode: int, body: bytes, *, writes: bool, timeout_s: float | None = None
    ) -> tuple[Reply, Connection]:
        """The same, and the connection that answered: for requests that have a sequel on the same node."""
        return await self._carry_out(opcode, body, self.deadline(timeout_s), _Tries(writes=writes))

    async def ask(self, opcode: int, body: bytes, deadline: float) -> Reply:
        """Carry out a request that nobody has to know about where its answer is lost: again, until its deadline."""
        reply, _ = await self._carry_out(opcode, body, deadline, _Tries(writes=False))
        return reply

    async def repeat(self, opcode: int, body: bytes, deadline: float) -> tuple[Reply, bool]:
        """Carry out a write that does no harm when it is carried out twice: again, until an answer comes.

        Also whether an earlier try than the answered one may have been carried out. OutcomeUnknown where the deadline
        passes and any may have been.
        """
        tries = _Tries(writes=True, repeatable=True)
        reply, _ = await self._carry_out(opcode, body, deadline, tries)
        return reply, tries.may_be_done

    async def follow_up(self, before: Connection, opcode: int, body: bytes, *, timeout_s: float | None = None) -> Reply:
        """A read that only the node of an earlier answer can serve. Unavailable where that node cannot be reached."""
        deadline = await self._begin(self.deadline(timeout_s))
        try:
            connection = before if before.usable else await self._open(before.address)
            if connection.hello.node_id != before.hello.node_id:
                connection.retire()
                raise Unavailable(f"{before.address} is now node {connection.hello.node_id!r}")
            try:
                return await connection.request(opcode, body, deadline)
            finally:
                if connection is not before:
                    connection.retire()
        except (OSError, ConnectionLostError) as error:
            raise Unavailable(f"{before.address} is gone: {error}") from None
        except DeadlinePassedError:
            raise Timeout from None
        finally:
            self._slots.release()

    async def _carry_out(self, opcode: int, body: bytes, deadline: float, tries: _Tries) -> tuple[Reply, Connection]:
        await self._begin(deadline)
        try:
            return await self._try_until(deadline, opcode, body, tries)
        finally:
            self._slots.release()

    async def _begin(self, deadline: float) -> float:
        """Wait for a slot, until the request's deadline."""
        if not self._slots.locked():
            await self._slots.acquire()  # takes it at once
            return deadline
        try:
            async with asyncio.timeout_at(deadline):
                await self._slots.acquire()
        except TimeoutError:
            raise Timeout(f"{self._settings.max_in_flight} other requests were in flight all the time") from None
        return deadline

    def deadline(self, timeout_s: float | None) -> float:
        """When a request that begins now has to be done, by the loop's clock."""
        if self._closed:
            raise ClientClosed
        timeout_s = self._settings.timeout_s if timeout_s is None else timeout_s
        if not timeout_s > 0:
            raise ValueError(f"a timeout is a number of seconds above 0, not {timeout_s}")
        return asyncio.get_running_loop().time() + timeout_s

    async def _try_until(self, deadline: float, opcode: int, body: bytes, tries: _Tries) -> tuple[Reply, Connection]:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._rng)
        while True:
            try:
                connection = await self._connected(deadline)
            except FastKVError as error:
                raise tries.outcome(error) from None
            try:
                reply = await connection.request(opcode, body, deadline, repeatable=tries.harmless)
            except DeadlinePassedError as passed:
                tries.unanswered(sent=passed.sent)
                raise tries.outcome(Timeout("no answer within the deadline")) from None
            except ConnectionLostError as lost:
                tries.unanswered(sent=lost.sent)
                if self._closed or (tries.may_be_done and not tries.repeatable):
                    raise tries.outcome(ClientClosed() if self._closed else Unavailable(str(lost))) from None
                failure: FastKVError = Unavailable(str(lost))
            else:
                self._learn_from(reply, connection)
                if tries.is_answer(reply):
                    return reply, connection
                tries.unanswered(sent=reply.status == Status.OUTCOME_UNKNOWN)
                failure = error_for(reply.status, reply.body.decode(errors="replace"))
            pause_s = backoff.next_s()
            if loop.time() + pause_s >= deadline:
                raise tries.outcome(failure)
            await asyncio.sleep(pause_s)

    def _learn_from(self, reply: Reply, connection: Connection) -> None:
        """Notice in an answer that the connection's node does not lead."""
        if connection is not self._current:
            return
        if reply.status in _TRY_ELSEWHERE:
            self._avoided = connection.address
            self._current = None
            connection.retire()
        elif reply.flags & FrameFlag.FORWARDED and self._leads:
            self._leads = False
            self._look_for_leader()

    # -- connecting --------------------------------------------------------------------------------------------------

    async def connect(self, timeout_s: float | None = None) -> None:
        """Be connected to some node. Unavailable where none answers in time; the error of a node that refuses us."""
        await self._connected(self.deadline(timeout_s))

    async def _connected(self, deadline: float) -> Connection:
        """The connection to use now; made first where there is none. All who wait share one attempt."""
        failure: FastKVError | None = None
        while True:
            if self._closed:
                raise ClientClosed
            if self._current is not None and self._current.usable:
                return self._current
            if self._dialling is None or self._dialling.done():
                self._dialling = asyncio.create_task(self._dial())
            dialling = self._dialling
            left_s = deadline - asyncio.get_running_loop().time()
            done, _ = await asyncio.wait((dialling,), timeout=max(left_s, 0))
            if self._closed or dialling.cancelled():
                raise ClientClosed
            if done:
                failure = dialling.result()
                if isinstance(failure, _REFUSALS):
                    raise failure
            elif left_s <= 0:
                raise failure or Unavailable("no node answered in time")

    async def _dial(self) -> FastKVError | None:
        """Try every known node once. What went wrong, after a pause, where none took us."""
        tried: list[str] = []
        refusal: FastKVError | None = None
        for address in self._candidates():
            try:
                self._adopt(await self._open(address))
                self._look_for_leader()
                return None
            except (OSError, FastKVError) as error:
                tried.append(f"{address}: {str(error) or type(error).__name__}")
                if isinstance(error, _REFUSALS):
                    refusal = error
        if refusal is not None:
            return refusal
        await asyncio.sleep(self._dial_backoff.next_s())
        return Unavailable("no node could be reached: " + "; ".join(tried))

    def _candidates(self) -> list[Address]:
        """The leader as last heard of, then the endpoints and what was learned, each group in random order."""
        known = [] if self._leader_address is None else [self._leader_address]
        known += self._rng.sample(self._endpoints, len(self._endpoints))
        known += self._rng.sample(self._learned, len(self._learned))
        known.sort(key=lambda address: address == self._avoided)  # stable: the avoided one comes last
        return list(dict.fromkeys(known))

    async def _open(self, address: Address) -> Connection:
        connection = await Connection.open(address, self._settings, self._lost, self._silent)
        if self._closed:
            connection.lose(ClientClosed())
            raise ClientClosed
        self._connections.add(connection)
        connection.closed.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    def _adopt(self, connection: Connection) -> None:
        before, self._current = self._current, connection
        self._dial_backoff.reset()
        hello = connection.hello
        self._leads = hello.leader_id == hello.node_id
        if before is not None and before is not connection:
            before.retire()
        if self._leads:
            self._leader_address = connection.address
            self._avoided = None

    def _lost(self, connection: Connection) -> None:
        if connection is self._current:
            self._current = None
            self._avoided = connection.address
            if connection.address == self._leader_address:
                self._leader_address = None

    def _silent(self, connection: Connection) -> bool:
        """A node answers nothing for too long: leave it, where there is another one."""
        known = {*self._endpoints, *self._learned}
        if known <= {connection.address}:
            return False
        self._avoided = connection.address
        if connection.address == self._leader_address:
            self._leader_address = None
        if connection is self._current:
            self._current = None
        connection.retire()
        return True

    # -- finding the leader ------------------------------------------------------------------------------------------

    def _look_for_leader(self) -> None:
        """Begin to look, at once: a search under way may be pausing."""
        if self._looking is not None:
            self._looking.cancel()
        if self._settings.follow_leader and not self._closed:
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Ask the current node where the nodes and the leader are, and move there, until the current one leads."""
        backoff = Backoff(self._rng, cap_s=_LOOK_CAP_S)
        while True:
            asked = self._current
            if asked is None or not asked.usable:
                return  # the next connection looks for itself
            # Unreachable for now is no failure: the node that we have goes on forwarding.
            with contextlib.suppress(OSError, ConnectionLostError, DeadlinePassedError, FastKVError):
                await self._move_to_leader(asked)
            if self._leads:
                return
            await asyncio.sleep(backoff.next_s())

    async def _move_to_leader(self, asked: Connection) -> None:
        deadline = asyncio.get_running_loop().time() + self._settings.connect_timeout_s
        reply = await asked.request(Opcode.STATUS, b"", deadline)
        leader_id, leader, nodes = parse_status(reply)
        self._learned = nodes
        if leader is None or asked is not self._current:
            return
        if leader_id == asked.hello.node_id:
            self._leads = True
            self._leader_address = asked.address
            return
        connection = await self._open(leader)
        if connection.hello.leader_id == connection.hello.node_id:
            self._adopt(connection)
        else:
            connection.retire()  # it leads no more, or does not know it yet

    # -- the end -----------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Close every connection and end every task. Requests in flight end with ClientClosed or OutcomeUnknown."""
        self._closed = True
        tasks = [task for task in (self._dialling, self._looking) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        connections = list(self._connections)
        for connection in connections:
            connection.lose(ClientClosed())
        if tasks:
            await asyncio.wait(tasks)
        if connections:
            await asyncio.wait([connection.closed for connection in connections])


def parse_status(reply: Reply) -> tuple[str, Address | None, list[Address]]:
    """The leader's id and address, None where there is no leader, and every node's address, from a STATUS answer."""
    if reply.status != Status.OK:
        raise error_for(reply.status, reply.body.decode(errors="replace"))
    try:
        status = json.loads(reply.body)
        nodes = [Address.parse(node["address"]) for node in status["nodes"].values()]
        leader = status["leader"]
        if leader is None:
            return "", None, nodes
        return leader["id"], Address.parse(leader["address"]), nodes
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProtocolError(f"the server's status cannot be read: {error!r}") from None
