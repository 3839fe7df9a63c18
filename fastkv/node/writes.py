"""What this node has promised to answer: its own proposals, and batches it forwarded to the leader.

The rule of this file: an answer says *not done* only where that is provable (the batch was never sent, or was refused
before it was appended). Whatever was handed to a log and then lost sight of is answered OUTCOME_UNKNOWN.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fastkv._core.codes import RESULT_BYTES, FrameFlag, Status
from fastkv._core.entry import EntryBatch
from fastkv._core.replies import Waiters


class Answer(Protocol):
    """Someone to be told the results of a batch's commands."""

    def deliver(self, results: bytes, start: int) -> None:
        """Take the results of commands `start`, `start + 1`, … (16 bytes each); called in order."""

    def fail(self, status: int, start: int = 0) -> None:
        """Commands from `start` on end with an error."""


@dataclass(slots=True)
class RemoteAnswer:
    """The node that forwarded a batch; told once, when every result is there."""

    node_id: str
    forward_id: int
    send: Callable[[str, int, int, bytes], None]
    """`send(node_id, forward_id, status, results)`"""
    results: list[bytes] = field(default_factory=list)
    missing: int = 0

    def deliver(self, results: bytes, start: int) -> None:
        self.results.append(results)
        self.missing -= len(results) // RESULT_BYTES
        if self.missing == 0:
            self.send(self.node_id, self.forward_id, Status.OK, b"".join(self.results))

    def fail(self, status: int, start: int = 0) -> None:
        self.send(self.node_id, self.forward_id, status, b"")


@dataclass(slots=True)
class WaitingBatch:
    """A batch that no log has seen yet: it waits for a leader to be known."""

    batch: EntryBatch
    waiters: Waiters
    leader_deadline: int
    deadline: int


@dataclass(slots=True)
class ForwardedBatch:
    """A batch that was sent to `leader`."""

    batch: EntryBatch
    waiters: Waiters
    leader: str
    leader_deadline: int
    deadline: int


@dataclass(slots=True)
class Proposal:
    """A batch in this leader's log, entries `first_index` to `last_index`, not yet applied."""

    first_index: int
    last_index: int
    term: int
    answer: Answer
    deadline: int


class Proposals:
    """The leader's proposals in log order."""

    def __init__(self) -> None:
        self._queue: deque[Proposal] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, proposal: Proposal) -> None:
        self._queue.append(proposal)

    def entries(self, applied_index: int) -> int:
        """How many entries are not applied yet."""
        return sum(max(0, one.last_index - max(one.first_index - 1, applied_index)) for one in self._queue)

    def next_from(self, index: int) -> Proposal | None:
        """The first proposal that has entries at or behind `index`; those before it are forgotten."""
        queue = self._queue
        while queue and queue[0].last_index < index:
            queue.popleft()
        return queue[0] if queue else None

    def fail_all(self, applied_index: int, status: int) -> int:
        """Leadership is lost: what was not applied is answered with `status`. Returns how many entries."""
        queue, self._queue = self._queue, deque()
        return sum(self._fail(proposal, applied_index, status) for proposal in queue)

    def expire(self, now: int, applied_index: int) -> int:
        """Give up on proposals past their deadline: they may still be applied later, so their outcome is unknown.

        Returns how many entries.
        """
        queue = self._queue
        failed = 0
        while queue and queue[0].deadline <= now:
            failed += self._fail(queue.popleft(), applied_index, Status.OUTCOME_UNKNOWN)
        return failed

    @staticmethod
    def _fail(proposal: Proposal, applied_index: int, status: int) -> int:
        start = max(0, applied_index + 1 - proposal.first_index)
        proposal.answer.fail(status, start)
        return max(0, proposal.last_index + 1 - proposal.first_index - start)


class Forwards:
    """Batches that were sent to a leader and not answered yet.

    Ids go on from `first_id`, another one in each life of a node: an answer to its former life is nobody's.
    """

    def __init__(self, first_id: int) -> None:
        self._sent: dict[int, ForwardedBatch] = {}
        self._last_id = first_id
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._sent)

    @property
    def entries(self) -> int:
        """How many commands are in those batches."""
        return sum(forwarded.batch.count for forwarded in self._sent.values())

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def add(self, forward_id: int, forwarded: ForwardedBatch) -> None:
        self._sent[forward_id] = forwarded
        self.nbytes += forwarded.batch.nbytes

    def take(self, forward_id: int, leader: str, result_bytes: int | None) -> ForwardedBatch | None:
        """The batch that `leader` answers; None for an answer that comes too late or from another node.

        `result_bytes` is the length of its results, None where it refused. ValueError where they do not fit the batch.
        """
        forwarded = self._sent.get(forward_id)
        if forwarded is None or forwarded.leader != leader:
            return None
        if result_bytes is not None and result_bytes != RESULT_BYTES * forwarded.batch.count:
            raise ValueError(f"{result_bytes} bytes of results for a batch of {forwarded.batch.count} commands")
        del self._sent[forward_id]
        self.nbytes -= forwarded.batch.nbytes
        return forwarded

    def fail_where(self, lost: Callable[[ForwardedBatch], bool]) -> int:
        """Batches whose answer can no longer come: they may have been applied, so their outcome is unknown.

        Returns how many commands they hold.
        """
        failed = 0
        for forward_id in [key for key, forwarded in self._sent.items() if lost(forwarded)]:
            forwarded = self._sent.pop(forward_id)
            self.nbytes -= forwarded.batch.nbytes
            failed += forwarded.batch.count
            forwarded.waiters.fail(Status.OUTCOME_UNKNOWN)
        return failed

    @staticmethod
    def deliver(forwarded: ForwardedBatch, results: bytes) -> None:
        """Relay the leader's results to the clients that wait here."""
        forwarded.waiters.deliver(results, 0, FrameFlag.FORWARDED)
