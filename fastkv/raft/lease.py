"""Leases: reads without a round of messages, at the price of an assumption about clocks (thesis 6.4.1).

Who answers a leader's heartbeat votes for nobody else within an election timeout (stickiness, 4.2.3; a member that has
just started cannot know what it answered before, and waits as long). So a leader whose heartbeat a majority has
answered is the only one for that long, counted from when the heartbeat was *sent*; and because clocks run at slightly
different rates, a little less: `RaftConfig.lease_ns` is chosen by who knows the clock.

The clock is the caller's (`Raft.now_ns`), monotonic, and goes on while the process is paused or the machine suspended.
A lease is checked after the state that a read sees has been fixed, so that a pause between check and read is harmless.
"""

from __future__ import annotations

from collections import deque


class Lease:
    """A leader's lease in one term."""

    __slots__ = ("_given_up", "_length_ns", "_sent", "_until_ns", "confirmed_ns")

    def __init__(self, length_ns: int) -> None:
        self._length_ns = length_ns
        self.reset()

    def reset(self) -> None:
        """A new term of office, or none: nothing is known of a majority."""
        self._sent: deque[tuple[int, int]] = deque()
        self._until_ns = 0
        self.confirmed_ns = -1
        """When the newest round was sent that a majority has answered; -1 where none was, or that was not counted."""
        self._given_up = self._length_ns <= 0

    def give_up(self) -> None:
        """For the rest of this term: somebody is about to be allowed to campaign."""
        self._given_up = True

    def round_sent(self, round_number: int, now_ns: int) -> None:
        """A round of heartbeats leaves, at `now_ns` or a little later."""
        if not self._given_up:
            self._sent.append((round_number, now_ns))

    def round_confirmed(self, round_number: int) -> None:
        """A majority has answered that round."""
        sent = self._sent
        while sent and sent[0][0] <= round_number:
            self.confirmed_ns = sent.popleft()[1]
            self._until_ns = self.confirmed_ns + self._length_ns

    def holds(self, now_ns: int) -> bool:
        """Whether nobody else can lead at `now_ns`."""
        return not self._given_up and now_ns < self._until_ns
