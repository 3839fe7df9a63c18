"""The newest entries of a log, gathered while it is read.

A quiet cluster's log has one small entry a record. Consecutive ones of a term are joined, so that a start makes an
object for each 64 KiB of them and not for each record.
"""

from __future__ import annotations

from collections import deque

from fastkv._core.codes import Kind
from fastkv._core.entry import EntryBatch
from fastkv.log_types import Segment

JOIN_BYTES = 64 * 1024
ENTRY_KIND = 4
"""Where an entry's kind stands."""


def holds_configuration(count: int, payload: bytes) -> bool:
    """Whether a record's payload is a membership: such an entry always has a record, and a run, of its own."""
    return count == 1 and payload[ENTRY_KIND] == Kind.ENTRY_CONFIG


class Tail:
    """The entries above `keep_above`, the last `keep_bytes` of them and at least one run.

    Every method raises ValueError where payloads do not have the entries that their records announced.
    """

    def __init__(self, keep_above: int, keep_bytes: int) -> None:
        self._keep_above = keep_above
        self._keep_bytes = keep_bytes
        self._runs: deque[Segment] = deque()
        self._runs_bytes = 0
        # The run that is being joined.
        self._first_index = 0
        self._last_index = 0
        self._term = 0
        self._payloads: list[bytes] = []
        self._joined_bytes = 0

    def add(self, first_index: int, count: int, term: int, payload: bytes) -> None:
        """A record's entries. What was there from `first_index` on must have been `cut`."""
        if first_index + count - 1 <= self._keep_above:
            return
        alone = holds_configuration(count, payload)
        follows = self._payloads and first_index == self._last_index + 1 and term == self._term
        if not follows or alone or self._joined_bytes + len(payload) > JOIN_BYTES:
            self._close_run()
            self._first_index, self._term = first_index, term
        self._last_index = first_index + count - 1
        self._payloads.append(payload)
        self._joined_bytes += len(payload)
        if alone:
            self._close_run()

    def cut(self, last_index: int) -> None:
        """Forget the entries above `last_index`."""
        self._close_run()
        runs = self._runs
        while runs and runs[-1].last_index > last_index:
            run = runs.pop()
            self._runs_bytes -= run.nbytes
            if run.first_index <= last_index:
                runs.append(run.slice(run.first_index, last_index))
                self._runs_bytes += runs[-1].nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._payloads.clear()
        self._runs.clear()
        self._joined_bytes = self._runs_bytes = 0

    def segments(self) -> list[Segment]:
        """What was gathered."""
        self._close_run()
        runs = [run for run in self._runs if run.last_index > self._keep_above]
        if runs and runs[0].first_index <= self._keep_above:
            runs[0] = runs[0].slice(self._keep_above + 1, runs[0].last_index)
        return runs

    def _close_run(self) -> None:
        if not self._payloads:
            return
        try:
            batch = EntryBatch(b"".join(self._payloads), self._last_index - self._first_index + 1)
        except ValueError as error:
            raise ValueError(f"entries {self._first_index} to {self._last_index} are none: {error}") from error
        self._runs.append(Segment(self._first_index, self._term, batch))
        self._runs_bytes += batch.nbytes
        self._payloads.clear()
        self._joined_bytes = 0
        while self._runs_bytes > self._keep_bytes and len(self._runs) > 1:
            self._runs_bytes -= self._runs.popleft().nbytes
