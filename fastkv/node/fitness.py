"""May this node lead? Not while its disk does not answer, its state is in doubt, or it is about to stop.

Each of these makes a leader hand leadership over, and step down where nobody can take it; and keeps a follower from
campaigning. That costs the cluster a few milliseconds instead of an election timeout.

A leader's disk is judged by the others': only where they have committed what it does not answer for would somebody else
lead better. Where all disks are slow, as those of one machine under one load, a change of leaders would only add an
election to the wait, whose votes have to get through the same disks.

A leader whose disk is full refuses everybody's writes: it hands over to somebody whose disk is not. But it may lead
where nobody else can, and reads go on there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from fastkv.raft import LEADER, ChangeRefused, Raft

OFFER_TIMEOUTS = 5
"""Election timeouts between two tries of a full node to hand leadership over."""


class Fitness:
    """Of one node. Times are ticks."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._drained: Callable[[], None] | None = None
        self._deadline = 0
        self._next_offer = 0

    def drain(self, done: Callable[[], None], now: int) -> None:
        """The node is to be stopped: `done` is called once somebody else leads, or nobody else can."""
        self._drained = done
        self._deadline = now + 2 * self._raft.config.election_ticks

    def judge(self, now: int, disk_silent_ticks: int, *, alarm: bool) -> None:
        """Called each tick. `disk_silent_ticks`: how long the oldest write has been under way."""
        raft = self._raft
        limit = raft.config.election_ticks
        stalled = disk_silent_ticks >= limit        # the watchdog's measure: what a silent leader would be given
        if raft.role == LEADER:
            stalled = stalled and raft.commit_index > raft.log.durable_index
        draining = self._drained is not None
        raft.may_lead = not (stalled or alarm or draining)
        if raft.role == LEADER and not raft.may_lead and not raft.transferee:
            self._hand_over(now, wait=draining and not stalled)
        elif raft.role == LEADER and stalled and disk_silent_ticks >= 2 * limit:
            raft.step_down()                        # the transfer waits for the very disk that does not answer
        if draining and (now >= self._deadline or raft.leader not in ("", raft.node_id)):
            done, self._drained = self._drained, None
            assert done is not None
            done()

    def crowded(self, now: int, with_room: Iterable[str]) -> None:
        """Called each tick in which this node's disk takes no more; those say that theirs do."""
        raft = self._raft
        if raft.role != LEADER or raft.transferee or now < self._next_offer:
            return
        self._next_offer = now + OFFER_TIMEOUTS * raft.config.election_ticks
        for peer in with_room:
            with contextlib.suppress(ChangeRefused):
                raft.transfer(peer)
                return

    def _hand_over(self, now: int, *, wait: bool) -> None:
        raft = self._raft
        try:
            raft.transfer()
        except ChangeRefused:
            if wait:        # nobody may ever be able to; but a follower may be a message away from it
                self._deadline = min(self._deadline, now + raft.config.heartbeat_ticks)
            else:
                raft.step_down()
