"""Simulated clients: each has one operation under way, at a node of its choice, and writes down what it saw.

Where the seed says so they have sessions: a write whose outcome is unknown is sent again, somewhere else, until one of
the answers comes; it has to be the only one that there is.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple, Protocol

from fastkv._core.codes import OPEN_SESSION, SESSION_ENTRY_BYTES, Consistency, Kind, Opcode, Status
from fastkv._core.entry import encode_command
from fastkv.chaos.operations import FOREVER, UNSEEN, Operation
from fastkv.wire.client import encode_get
from tests.sim.events import Events
from tests.sim.plan import Plan
from tests.sim.truth import Violation

RECORD = struct.Struct("<QQQQ")
STALE_PREFIX = struct.Struct("<QII")
NOT_DONE = frozenset({Status.NO_LEADER, Status.OVERLOADED, Status.NO_SPACE, Status.SHUTTING_DOWN, Status.TIMEOUT})

Deliver = Callable[[int, int, int, bytes], None]


class Door(Protocol):
    """A node's front door, as a client sees it."""

    node_id: str

    def submit(self, opcode: int, body: bytes, deliver: Deliver) -> bool:
        """Hand over a request; False when nobody is there (it was certainly not taken)."""


class StaleRead(NamedTuple):
    """What a read that asked for no more than a local state has seen, and of which state it says that it is."""

    node: str
    applied_index: int
    key: str
    value: str | None
    revision: int


class Observations:
    """What all clients have seen. `enough` is called once there are as many operations as were wanted."""

    def __init__(self, wanted: int, enough: Callable[[], None]) -> None:
        self.history: list[Operation] = []
        self.stale: list[StaleRead] = []
        self.refused = 0
        """Attempts that were certainly not done; they are no part of the history."""
        self._wanted = wanted
        self._enough = enough

    @property
    def operations(self) -> int:
        """How many there have been, with and without a place in the history."""
        return len(self.history) + len(self.stale)

    def add(self, operation: Operation) -> None:
        self.history.append(operation)
        self._look()

    def add_stale(self, read: StaleRead) -> None:
        self.stale.append(read)
        self._look()

    def _look(self) -> None:
        if len(self.history) + len(self.stale) >= self._wanted:
            self._enough()


WRITES = frozenset({"put", "cas", "del"})
SESSION_BODY = bytes([OPEN_SESSION]).ljust(SESSION_ENTRY_BYTES, b"\0")


class _Open(NamedTuple):
    door: Door
    f: str
    key: str
    called: int
    argument: str
    expected: int
    sequence: int = 0
    """Its number in the session; 0 where there is none."""
    again: bool = False
    """It was sent before, and may have been done."""
    lease: bool = False
    """A get that a lease may answer."""


class Client:
    """Issues operations until the world says stop. A client that loses an answer goes on under a new name."""

    def __init__(self, number: int, events: Events, plan: Plan, doors: Sequence[Door], seen: Observations) -> None:
        self._number = number
        self._life = 0
        self._events = events
        self._plan = plan
        self._doors = doors
        self._seen = seen
        self._names = [name for name, _ in plan.operations]
        self._weights = list(accumulate(weight for _, weight in plan.operations))
        self._patience_us = plan.election_us * 6
        self._revisions: dict[str, int] = {}
        self._attempt = 0
        self._issued = 0
        self._session = 0
        self._sequence = 0
        self._open: _Open | None = None
        self.stopped = False

    @property
    def name(self) -> str:
        """Of its present life."""
        return f"c{self._number}.{self._life}"

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return self._open is None

    def start(self) -> None:
        """Begin, at a moment of its own."""
        self._events.after(self._events.between(0, self._plan.think_us), self._next)
        self._events.after(self._patience_us, self._lose_patience)

    def _next(self) -> None:
        if self.stopped:
            return
        events = self._events
        key = f"k{events.between(1, self._plan.keys)}"
        f = events.rng.choices(self._names, cum_weights=self._weights)[0]
        lease, sequence = f == "lease", 0
        if lease:
            f = "get"
        if self._plan.session_limit and f in WRITES:
            if self._session:
                self._sequence = sequence = self._sequence + 1
            else:
                f = "session"
        argument = f"{self.name}-{self._attempt + 1}"
        revision = self._revisions.get(key, 0)
        self._issue(_Open(self._door(), f, key, events.now, argument, revision, sequence, lease=lease))

    def _door(self) -> Door:
        return self._doors[self._events.between(1, len(self._doors)) - 1]

    def _issue(self, operation: _Open) -> None:
        self._attempt += 1
        self._issued = self._events.now
        key, f = operation.key.encode(), operation.f
        session = (self._session, operation.sequence) if operation.sequence else None
        if f == "session":
            opcode, body = Opcode.SESSION, SESSION_BODY
        elif f == "get":
            consistency = Consistency.LEASE_READ if operation.lease else Consistency.LINEARIZABLE
            opcode, body = Opcode.GET, encode_get(key, consistency)
        elif f == "stale":
            opcode, body = Opcode.GET, encode_get(key, Consistency.STALE_READ)
        elif f == "del":
            opcode, body = Opcode.DELETE, encode_command(Kind.ENTRY_DELETE, key, session=session)
        else:
            compare = operation.expected if f == "cas" else None
            value = operation.argument.encode()
            opcode = Opcode.PUT
            body = encode_command(Kind.ENTRY_PUT, key, value, compare=compare, session=session)
        self._open = operation
        if not operation.door.submit(opcode, body, partial(self._heard, self._attempt)):
            self._heard(self._attempt, Status.NO_LEADER, 0, 0, b"")

    def _lose_patience(self) -> None:
        """One timer for all operations: nothing is scheduled for each of them."""
        operation, now = self._open, self._events.now
        waited = 0 if operation is None else now - self._issued
        if waited >= self._patience_us:
            self._heard(self._attempt, Status.OUTCOME_UNKNOWN, 0, 0, b"")
            waited = 0
        if not (self.stopped and self.idle):
            self._events.after(self._patience_us - waited, self._lose_patience)

    def _heard(self, attempt: int, status: int, flags: int, revision: int, payload: bytes) -> None:
        operation = self._open
        if attempt != self._attempt or operation is None:
            return                  # it came after the client had given up
        pause_us = self._plan.think_us
        if operation.sequence and (status == Status.OUTCOME_UNKNOWN or (status in NOT_DONE and operation.again)):
            again = operation._replace(door=self._door(), again=operation.again or status == Status.OUTCOME_UNKNOWN)
            self._events.after(self._events.between(0, pause_us + self._plan.election_us // 4), self._send_again, again)
            return
        self._open = None
        if operation.f == "session":
            self._session, self._sequence = (revision, 0) if status == Status.OK else (0, 0)
        elif status == Status.SESSION_EXPIRED:
            self._session = 0
            if operation.again:
                self._record(operation, Status.OUTCOME_UNKNOWN, 0, b"")
        elif status in NOT_DONE:
            self._seen.refused += 1
            pause_us += self._plan.election_us // 4
        elif operation.f == "stale":
            self._read_stale(operation, status, payload)
        else:
            self._record(operation, status, revision, payload)
        self._events.after(self._events.between(0, pause_us), self._next)

    def _send_again(self, operation: _Open) -> None:
        if self._open is not None and self._open.sequence == operation.sequence:
            self._issue(operation)

    def _read_stale(self, operation: _Open, status: int, payload: bytes) -> None:
        if status == Status.OUTCOME_UNKNOWN:
            return
        applied_index, _, _ = STALE_PREFIX.unpack_from(payload)
        value, revision = None, 0
        if status == Status.OK:
            revision = RECORD.unpack_from(payload, STALE_PREFIX.size)[0]
            value = payload[STALE_PREFIX.size + RECORD.size :].decode()
        self._seen.add_stale(StaleRead(operation.door.node_id, applied_index, operation.key, value, revision))

    def _record(self, operation: _Open, status: int, revision: int, payload: bytes) -> None:
        f, key = operation.f, operation.key
        if status == Status.OUTCOME_UNKNOWN:
            self._answered(operation, FOREVER, None, UNSEEN)
            self._life += 1
        elif f == "get":
            if status == Status.OK:
                self._revisions[key] = seen = RECORD.unpack_from(payload)[0]
                self._answered(operation, self._events.now, payload[RECORD.size :].decode(), seen)
            else:
                self._expect(operation, status, Status.KEY_NOT_FOUND)
                self._revisions[key] = 0
                self._answered(operation, self._events.now, None, 0)
        elif status == Status.OK:
            self._revisions[key] = 0 if f == "del" else revision
            self._answered(operation, self._events.now, True, revision)
        elif f == "del":
            self._expect(operation, status, Status.KEY_NOT_FOUND)
            self._revisions[key] = 0
            self._answered(operation, self._events.now, False, 0)
        else:
            self._expect(operation, status, Status.PRECONDITION_FAILED if f == "cas" else Status.OK)
            self._revisions[key] = revision
            self._answered(operation, self._events.now, False, revision)

    @staticmethod
    def _expect(operation: _Open, status: int, expected: int) -> None:
        if status != expected:
            raise Violation(f"a {operation.f} at {operation.door.node_id} was answered with status {status}")

    def _answered(self, operation: _Open, returned: int, outcome: str | bool | None, revision: int) -> None:
        _, f, key, called, argument, expected, *_ = operation
        self._seen.add(Operation(self.name, key, f, called, returned, argument, expected, outcome, revision))
