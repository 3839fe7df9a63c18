"""What waits for this node's disk: messages that promise something of it, and the word to Raft that entries are there.

The log's thread can signal that more is durable, and each signal costs a turn of the loop. It is asked for only where
something follows from it. For a follower that is its acknowledgement. A leader's own disk brings nothing about before
enough others have the entries: until then, what it has by now is counted when the next answer comes, or the next tick.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fastkv.log_types import Segment
from fastkv.raft import LEADER, Message, Raft
from fastkv.storage.interfaces import LogStore


@dataclass(slots=True)
class _Held:
    """What one write of the log holds up."""

    ticket: int
    messages: list[Message]
    index: int
    term: int
    since: int


class Persistence:
    """Of one node. `send` is given what may go out."""

    def __init__(self, raft: Raft, log: LogStore, send: Callable[[list[Message]], None]) -> None:
        self._raft = raft
        self._log = log
        self._send = send
        self._held: deque[_Held] = deque()

    def hold(self, ticket: int, messages: list[Message], segments: list[Segment], now: int) -> None:
        """Keep messages until `ticket`, under which the entries of `segments` were written, is durable."""
        index, term = (segments[-1].last_index, segments[-1].term) if segments else (0, 0)
        self._held.append(_Held(ticket, messages, index, term, now))

    def release(self) -> None:
        """Let go of everything that is durable by now."""
        held = self._held
        if not held:
            return
        durable = self._log.durable_ticket
        while held and held[0].ticket <= durable:
            released = held.popleft()
            if released.index:
                self._raft.persisted(released.index, released.term)
            self._send(released.messages)

    def listen(self) -> bool:
        """Have the log's thread signal where something follows from it. True where that is durable already."""
        ticket = self._awaited()
        return bool(ticket) and not self._log.notify_at(ticket)

    def _awaited(self) -> int:
        """The first write from which something follows as soon as it is durable; 0 where there is none."""
        held, raft = self._held, self._raft
        if held and (raft.role != LEADER or raft.waits_for_disk):
            return held[0].ticket
        for one in held:
            if one.messages:
                return one.ticket
        return 0

    def waits(self, now: int) -> int:
        """For how many ticks the oldest of them has waited."""
        return now - self._held[0].since if self._held else 0
