"""What a leader knows of one follower, and how much it may send it.

* PROBE: where the logs part is not known; one APPEND at a time, until one is answered.
* REPLICATE: the logs match up to `match`; APPENDs are pipelined (thesis 10.2.1). `next` is moved on as they are sent,
  before any answer, and the bytes under way stay within a window.
* CUT: the follower needs entries that this leader has cut. It is told so, and sent heartbeats; it fetches a snapshot.
"""

from __future__ import annotations

from collections import deque

PROBE = 0
REPLICATE = 1
CUT = 2

STATE_NAMES = ("probe", "replicate", "cut")


class Progress:
    """One follower, as seen by the leader of one term."""

    __slots__ = ("_inflight", "check_due", "heard", "inflight_bytes", "match", "next", "probing", "state")

    def __init__(self, next_index: int, now: int) -> None:
        self.state = PROBE
        self.match = 0
        """The last entry known to be durable there and equal to ours."""
        self.next = next_index
        """The next entry to send."""
        self.probing = False
        """A probe is under way: send no second one."""
        self.check_due = False
        """A heartbeat interval has passed since it was last asked whether anything was lost."""
        self.heard = now
        """The tick in which it was last heard from; that of its beginning, so that everybody has a first chance."""
        self.inflight_bytes = 0
        self._inflight: deque[tuple[int, int]] = deque()

    def sent(self, last_index: int, nbytes: int) -> None:
        """Entries up to `last_index` are on their way."""
        if self.state == REPLICATE:
            self.next = last_index + 1
            self._inflight.append((last_index, nbytes))
            self.inflight_bytes += nbytes
        else:
            self.probing = True

    def acknowledged(self, index: int) -> bool:
        """Entries up to `index` are durable there. False when that is no news."""
        inflight = self._inflight
        while inflight and inflight[0][0] <= index:
            self.inflight_bytes -= inflight.popleft()[1]
        news = index > self.match
        if news:
            self.match = index
            self.next = max(self.next, index + 1)
        if self.state != REPLICATE and index >= self.match:
            self.state = REPLICATE
            self.next = self.match + 1
            self.probing = False
        return news

    def refused(self, rejected_index: int, next_index: int) -> bool:
        """The follower has no entry `rejected_index` that matches; `next_index` is where to try. False when stale."""
        if self.state == REPLICATE:
            if rejected_index <= self.match:
                return False
            self.back_to_probe()
            return True
        if rejected_index != self.next - 1:
            return False            # an answer to a probe before this one
        self.next = max(min(rejected_index, next_index), self.match + 1)
        self.probing = False
        return True

    def cut_off(self) -> None:
        """It needs what has been cut: nothing is sent to it until it says that it has restored a snapshot."""
        self.back_to_probe()
        self.state = CUT

    def back_to_probe(self) -> None:
        """What is under way may be lost: find out again where the logs match."""
        if self.state == REPLICATE:
            # Only here is `match` known; while probing it may still be 0, and `next` is the better knowledge.
            self.state = PROBE
            self.next = self.match + 1
        self.probing = False
        self._inflight.clear()
        self.inflight_bytes = 0
