"""Linearizable reads on any node: ReadIndex (thesis section 6.4), one round for all reads that wait for it.

A read batch asks for a read index under a fresh context. While that question is under way, later reads gather in the
ingress; they must not share the round, because it may have been confirmed before they arrived. When the answer comes,
the batch waits until the state machine has applied that index, and is then served from local memory.

A question that is not answered for a while is put again, under another context. The answer to any of its tries will do:
all of them were put after the last read of the batch had arrived. Were it only the newest one's, no read would ever end
where the leader is farther away than the time between two tries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastkv._core.apply import Table
from fastkv._core.codes import Status
from fastkv._core.ingress import ReadBatch


@dataclass(slots=True)
class _Question:
    batch: ReadBatch
    leader_deadline: int
    deadline: int
    asked: int = 0
    first_context: int = 0
    """Of the first try; those of the others follow."""
    context: int = 0
    """Of the newest try."""
    refused: bool = False
    """The newest try found nobody to ask."""


class Reads:
    """The reads of this node that are not yet served.

    `ask(context)` puts the question to Raft; it is answered through `confirmed` or `failed`, or never (a message was
    lost): then `expire` asks anew. No two tries have the same context, so that an answer to an old question can never
    serve a new one.
    Contexts go on from `first_context`, another one in each life of a node: its former life may have asked as well.
    """

    def __init__(self, ask: Callable[[int], None], *, retry_ticks: int, first_context: int) -> None:
        self._ask = ask
        self._retry_ticks = retry_ticks
        self._question: _Question | None = None
        self._last_context = first_context
        self._confirmed: list[tuple[int, ReadBatch, int]] = []

    @property
    def waiting(self) -> bool:
        """Whether anybody waits for an answer."""
        return self._question is not None or bool(self._confirmed)

    @property
    def busy(self) -> bool:
        """Whether a question is under way, so that new reads have to wait for the next."""
        return self._question is not None

    def start(self, batch: ReadBatch, now: int, leader_wait_ticks: int, timeout_ticks: int) -> None:
        """Ask for a read index for this batch. Only while not busy."""
        assert self._question is None, "one question at a time"
        self._question = _Question(batch, now + leader_wait_ticks, now + timeout_ticks)
        self._put(now)

    def _put(self, now: int) -> None:
        question = self._question
        assert question is not None
        self._last_context += 1
        question.context = self._last_context
        question.first_context = question.first_context or question.context
        question.refused = False
        question.asked = now
        self._ask(question.context)

    def confirmed(self, context: int, index: int) -> None:
        """The state at `index` or later answers the question `context`. An old question's answer is ignored."""
        question = self._question
        if question is not None and question.first_context <= context <= question.context:
            self._question = None
            self._confirmed.append((index, question.batch, question.deadline))

    def failed(self, context: int) -> None:
        """Nobody to ask now. The question is put again on a later tick, until its time is up."""
        question = self._question
        if question is not None and question.context == context:
            question.refused = True

    def serve(self, table: Table, applied_index: int) -> None:
        """Serve every confirmed batch that the applied state is new enough for."""
        if not self._confirmed:
            return
        waiting = []
        for index, batch, deadline in self._confirmed:
            if index <= applied_index:
                batch.serve(table)
            else:
                waiting.append((index, batch, deadline))
        self._confirmed = waiting

    def expire(self, now: int, *, has_leader: bool) -> None:
        """Called each tick: put lost questions again, and end what is past its deadline."""
        question = self._question
        if question is not None:
            if now >= question.deadline:
                self._end(question, Status.TIMEOUT)
            elif not has_leader and now >= question.leader_deadline:
                self._end(question, Status.NO_LEADER)
            elif (question.refused and has_leader) or now - question.asked >= self._retry_ticks:
                self._put(now)
        for position in range(len(self._confirmed) - 1, -1, -1):
            _, batch, deadline = self._confirmed[position]
            if now >= deadline:
                del self._confirmed[position]
                batch.fail(Status.TIMEOUT)

    def fail_all(self, status: int) -> None:
        """The node stops: end everything."""
        if self._question is not None:
            self._end(self._question, status)
        for _, batch, _ in self._confirmed:
            batch.fail(status)
        self._confirmed = []

    def _end(self, question: _Question, status: int) -> None:
        self._question = None
        question.batch.fail(status)
