"""Simulated clients: each has one operation under way, at a node of its choice, and writes down what it saw."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

from fastkv._core.codes import Consistency, Kind, Opcode, Status
from fastkv._core.entry import encode_command
from fastkv.wire.client import encode_get
from tests.sim.events import MS, Events
from tests.sim.linearizability import FOREVER, UNSEEN, Operation

RECORD = struct.Struct("<QQQQ")
NOT_DONE = frozenset({Status.NO_LEADER, Status.OVERLOADED, Status.NO_SPACE, Status.SHUTTING_DOWN, Status.TIMEOUT})

Deliver = Callable[[int, int, int, bytes], None]


class Door(Protocol):
    """A node's front door, as a client sees it."""

    def submit(self, opcode: int, body: bytes, deliver: Deliver) -> bool:
        """Hand over a request; False when nobody is there (it was certainly not taken)."""


class Client:
    """Issues operations until the world says stop. A client that loses an answer goes on under a new name."""

    def __init__(self, number: int, events: Events, doors: Callable[[], list[Door]], history: list[Operation]) -> None:
        self._number = number
        self._life = 0
        self._events = events
        self._doors = doors
        self._history = history
        self._revisions: dict[str, int] = {}
        self.stopped = False
        self.idle = True

    @property
    def name(self) -> str:
        return f"c{self._number}.{self._life}"

    def start(self) -> None:
        self._events.after(self._events.rng.randint(0, 10 * MS), self._next)

    def _next(self) -> None:
        if self.stopped:
            return
        rng = self._events.rng
        key = f"k{rng.randrange(4)}"
        f = rng.choices(["get", "put", "cas", "delete"], [5, 4, 2, 1])[0]
        door = rng.choice(self._doors())
        self._issue(door, f, key, f"{self.name}-{len(self._history)}-{self._events.now}")

    def _issue(self, door: Door, f: str, key: str, value: str) -> None:
        called, name = self._events.now, self.name
        expected = self._revisions.get(key, 0)
        name_bytes = key.encode()
        if f == "get":
            opcode, body = Opcode.GET, encode_get(name_bytes, Consistency.LINEARIZABLE)
        elif f == "delete":
            opcode, body = Opcode.DELETE, encode_command(Kind.ENTRY_DELETE, name_bytes)
        else:
            compare = expected if f == "cas" else None
            opcode, body = Opcode.PUT, encode_command(Kind.ENTRY_PUT, name_bytes, value.encode(), compare=compare)
        open_op = {"client": name, "key": key, "f": f, "called": called, "argument": value, "expected": expected}
        answered = False

        def deliver(status: int, flags: int, revision: int, payload: bytes) -> None:
            nonlocal answered
            if answered:
                return          # came after the client had given up
            answered = True
            self._record(open_op, status, revision, payload)
            self._events.after(self._events.rng.randint(0, 30 * MS), self._next)

        def give_up() -> None:
            deliver(Status.OUTCOME_UNKNOWN, 0, 0, b"")

        self.idle = False
        if not door.submit(opcode, body, deliver):
            deliver(Status.NO_LEADER, 0, 0, b"")
        else:
            self._events.after(2000 * MS, give_up)

    def _record(self, op: dict[str, object], status: int, revision: int, payload: bytes) -> None:
        self.idle = True
        now, f, key = self._events.now, op["f"], str(op["key"])
        if f == "get":
            if status == Status.OK:
                seen = RECORD.unpack_from(payload)[0]
                self._revisions[key] = seen
                self._answered(op, now, payload[RECORD.size :].decode(), seen)
            elif status == Status.KEY_NOT_FOUND:
                self._revisions[key] = 0
                self._answered(op, now, None, 0)
        elif status == Status.OK:
            self._revisions[key] = 0 if f == "delete" else revision
            self._answered(op, now, True, revision)
        elif status == Status.KEY_NOT_FOUND:
            self._answered(op, now, False, 0)
        elif status == Status.PRECONDITION_FAILED:
            self._revisions[key] = revision
            self._answered(op, now, False, revision)
        elif status not in NOT_DONE:
            assert status == Status.OUTCOME_UNKNOWN, f"{f} was answered with status {status}"
            self._life += 1
            self._answered(op, FOREVER, None, UNSEEN)

    def _answered(self, op: dict[str, object], returned: int, outcome: object, revision: int) -> None:
        self._history.append(
            Operation(returned=returned, outcome=outcome, revision=revision, **op)  # type: ignore[arg-type]
        )
