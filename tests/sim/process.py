"""One life of a node: production consensus, state machine and node, and the loop that a server would turn around them.

What a crash ends and a restart begins anew. While it is paused (SIGSTOP, a machine that swaps), time goes on, frames
and requests queue up, and all of it is handled in a burst when it resumes; its clock has jumped then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastkv._core.frames import FrameReader
from fastkv._core.replies import CallbackSink
from fastkv.raft import LEADER
from tests.sim.assembly import assemble
from tests.sim.clients import Deliver
from tests.sim.events import MS
from tests.sim.links import Links
from tests.sim.promises import check_commit
from tests.sim.truth import Violation

if TYPE_CHECKING:
    from tests.sim.machine import Machine


class DiskFailed(OSError):
    """The simulated disk has failed: the process has to end, and nothing may be said after it."""


class Process:
    """The loop of one process. `alive` until it ends."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.world = machine.world
        self.node_id = machine.node_id
        self.alive = True
        self.paused = False
        self.draining = False
        self._missed: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._reader = FrameReader(1 << 26)
        self._turn_due = False
        self._syncing = False
        self._finishing = self._working = False
        self._last_tick_ns = machine.now_ns()
        self.links = Links(self)
        parts = assemble(self, on_removed=self._removed)
        self.store, self.state, self.log, self.raft, self.node = (
            parts.store, parts.state, parts.log, parts.raft, parts.node
        )  # fmt: skip
        self.node.ingress.session_limit = self.world.plan.session_limit or 1
        self._committed = self.raft.commit_index
        self._applied = -1
        self._sink = CallbackSink(self.node.outbox, _raise)

    def start(self) -> None:
        """On the network, and ticking."""
        self.world.network.plug_in(self.node_id, self)
        members = self.raft.membership.members
        self.links.reach({member.node_id: (member.raft,) for member in members if member.node_id != self.node_id})
        self._tick_later()

    # -- what happens to it --------------------------------------------------------------------------------------------

    def hear(self, sender: str, frame: bytes) -> None:
        """A frame arrives."""
        if self.paused:
            self._missed.append((self.hear, (sender, frame)))
            return
        for opcode, _, code, request_id, body in self._reader.feed(frame):
            self.node.peer_frame(sender, opcode, code, request_id, body)

    def lost(self, peer: str) -> None:
        """Somebody notices that the link to a peer broke."""
        self._happens(self.links.broke, peer)

    def ask(self, opcode: int, body: bytes, deliver: Deliver) -> None:
        """A client's request arrives."""
        self._happens(self._ask, opcode, body, deliver)

    def _ask(self, opcode: int, body: bytes, deliver: Deliver) -> None:
        ingress = self.node.ingress
        ingress.submit(self._sink, self._sink.expect(deliver), opcode, body)
        ingress.request_wake()

    def admin(self, request: dict[str, Any], deliver: Callable[[int, dict[str, Any]], None]) -> None:
        """An operator's request arrives."""
        self._happens(self.node.admin, request, deliver)

    def drain(self) -> None:
        """A clean stop begins: leadership is handed over, then requests are answered, then the process ends."""
        if not self.draining:
            self.draining = True
            self._happens(self.node.drain, self._drained)

    def _drained(self) -> None:
        self._finish(20)

    def _finish(self, polls: int) -> None:
        if self.node.busy and polls:
            self.later(self.world.plan.tick_us, self._finish, polls - 1)
        else:
            self.later(1, self.world.stops, self.machine)

    def _removed(self, text: str) -> None:
        self.later(1, self.world.retires, self.machine, text)

    def pause(self) -> None:
        """It stops in its tracks; it does not notice."""
        self.paused = True

    def resume(self) -> None:
        """It goes on, and finds all that has come since."""
        self.paused = False
        missed, self._missed = self._missed, []
        if self.world.events.chance(0.5):       # timers that are due come before what has arrived
            missed.sort(key=lambda item: item[0] != self._tick)
        for action, arguments in missed:
            self._happens(action, *arguments)

    def fail_disk(self) -> None:
        """The write or sync under way fails: whatever the process touches of its log next ends it."""
        self.log.fail(DiskFailed("the simulated disk has failed"))

    # -- the loop that a server would turn -----------------------------------------------------------------------------

    def later(self, delay: int, action: Callable[..., None], *arguments: Any) -> None:
        """Have something happen to this process, if it lives then; when it goes on, if it is paused."""
        self.world.events.after(delay, self._happens, action, *arguments)

    def _happens(self, action: Callable[..., None], *arguments: Any) -> None:
        if not self.alive:
            return
        if self.paused:
            self._missed.append((action, arguments))
            return
        try:
            action(*arguments)
        except DiskFailed:
            self.world.ends(self.machine, "its disk failed")

    def wake(self) -> None:
        """The node has something to do."""
        if not self._turn_due:
            self._turn_due = True
            self.later(1 + int(self.world.events.rng.random() * self.world.plan.turn_us), self._due_turn)

    def _due_turn(self) -> None:
        if self._turn_due:      # else a tick has taken it already
            self._turn()

    def _turn(self) -> None:
        self._turn_due = False
        self.node.pump()
        self._check()
        if not self._syncing:
            self._sync()
        if self.store.jobs and not self._working:
            self._working = True
            self.later(self.world.events.between(1 * MS, 20 * MS), self._work)
        if self.store.pending and not self._finishing:
            self._finishing = True
            self.later(self.world.events.between(1 * MS, 50 * MS), self._finish_checkpoint)

    def _sync(self) -> None:
        """The log's writer: one sync at a time, for everything that was written before it began."""
        ticket = self.log.submitted_ticket
        self._syncing = ticket > self.log.durable_ticket
        if self._syncing:
            self.later(self.machine.fsync_us(), self._synced, ticket)

    def _synced(self, ticket: int) -> None:
        self.log.complete(ticket)
        self._sync()
        if self.log.take_signal():
            self.node.durable()

    def _work(self) -> None:
        """An image is made, or verified: the threads of the store are done with it."""
        self._working = False
        self.store.step()

    def _finish_checkpoint(self) -> None:
        self._finishing = False
        self.store.complete()

    def _tick_later(self) -> None:
        due_ns = self._last_tick_ns + self.world.plan.tick_us * 1000 - self.machine.now_ns()
        late = int(self.world.events.rng.random() * 200)
        self.later(max(1, int(due_ns / self.machine.clock_rate) // 1000) + late, self._tick)

    def _tick(self) -> None:
        """Count the ticks that have passed, as the server does: after a pause a leader makes up for more of them."""
        tick_ns = self.world.plan.tick_us * 1000
        passed = (self.machine.now_ns() - self._last_tick_ns) // tick_ns
        self._last_tick_ns += passed * tick_ns
        plan = self.world.plan
        limit = 2 * plan.election_ticks if self.raft.role == LEADER else plan.heartbeat_ticks
        self._turn_due = True       # at the end of this function
        for _ in range(min(passed, limit)):
            self.node.tick()
        self._tick_later()
        self._turn()

    # -- invariants ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        raft, truth = self.raft, self.world.truth
        if raft.role == LEADER and truth.leads(self.node_id, raft.term, raft.log):
            self.world.note(f"{self.node_id} leads term {raft.term}")
        index = raft.commit_index
        if index != self._committed:
            if index < self._committed:
                raise Violation(f"{self.node_id}'s commit index goes back from {self._committed} to {index}")
            self._committed = index
            truth.commits(index, raft.term)
            if raft.role == LEADER:
                check_commit(self, index)
        if raft.applied_index != self._applied:
            self._applied = raft.applied_index
            truth.has_state(self.node_id, self._applied, self.state.state_hash)
        if self.node.alarm:
            raise Violation(f"{self.node_id} raises an alarm: {self.node.alarm}")


def _raise(error: BaseException) -> None:
    raise error
