"""A cluster in virtual time: production node, raft, kv, wire and compiled core over a simulated clock, network, disk.

A run lets clients work while faults strike, then heals everything and looks at the end:

* during the run the invariants of `truth` and `promises` are checked after each step;
* once faults stop, the cluster has to converge within a bound, to the state that a plain model makes of its log;
* the clients' history has to be linearizable, and what they read as stale has to be the state it says it is.
"""

from __future__ import annotations

import gc
import hashlib
from collections import deque
from itertools import count
from pathlib import Path

from fastkv.chaos.operations import Operation
from fastkv.raft import Member, Membership
from tests.sim.clients import Client, Observations
from tests.sim.endgame import check_history, check_stale_reads, check_states, converged
from tests.sim.events import MS, Events
from tests.sim.faults import Faults
from tests.sim.machine import Machine
from tests.sim.network import Network
from tests.sim.operator import Operator
from tests.sim.plan import Plan, draw
from tests.sim.process import Process
from tests.sim.truth import Truth, Violation

__all__ = ["Violation", "World"]

TRACED = 60
"""Frames that a failure's replay can show."""


class World:
    """The whole simulation for one seed."""

    def __init__(
        self,
        seed: int,
        *,
        nodes: int = 3,
        plan: Plan | None = None,
        skip_faults: frozenset[int] = frozenset(),
        real_logs: Path | None = None,
    ) -> None:
        self.seed = seed
        self.real_logs = real_logs
        """Where to tear real logs in a crash; None: as if they had been torn."""
        self.plan = plan or draw(seed)
        self.events = Events(seed)
        self.network = Network(self.events, wire_us=self.plan.wire_us, detours=self.plan.detours)
        self.journal: list[str] = []
        self._noted: set[str] = set()
        self.trace: deque[tuple[int, str, str, bytes]] = deque(maxlen=TRACED)
        """The last frames: time, sender, receiver, bytes."""
        self.slow_disk_us = 0
        self._ports, self._numbers = count(1), count(1)
        self.machines: dict[str, Machine] = {}
        """The machine that has each id now."""
        for _ in range(nodes):
            node_id = self.new_id()
            self.machines[node_id] = Machine(self, node_id, founder=True)
        self.founders = Membership.of(
            Member(node_id, machine.address, machine.address) for node_id, machine in self.machines.items()
        )
        self.truth = Truth(self.founders)
        self.faults = Faults(self, skip_faults)
        self.operator = Operator(self)
        self.seen = Observations(1 << 60, self.events.stop)
        self.clients: list[Client] = []
        self.doors = list(self.machines.values())
        """Whom clients know."""

    @property
    def history(self) -> list[Operation]:
        """What the clients did and saw."""
        return self.seen.history

    # -- the run -------------------------------------------------------------------------------------------------------

    def run(self, *, operations: int = 300, faults: bool = True) -> None:
        """Run until the clients have done `operations`, then heal and check. Raises Violation."""
        collecting = gc.isenabled()
        gc.disable()            # a run is short, and keeps nearly all that it makes
        try:
            self._run(operations, faults)
        except (AssertionError, ValueError) as error:       # ValueError: a log with a hole, for one
            key = error.key if isinstance(error, Violation) else ""
            raise Violation(f"seed {self.seed} at {self.events.now} us: {error}", key=key) from error
        finally:
            if collecting:
                gc.enable()

    def _run(self, operations: int, faults: bool) -> None:
        self.seen = Observations(operations, self.events.stop)
        self.clients = [Client(n, self.events, self.plan, self.doors, self.seen) for n in range(self.plan.clients)]
        for machine in self.machines.values():
            machine.start()
        for client in self.clients:
            client.start()
        if faults:
            self.faults.start()
            self.operator.start()
        if not self.events.run(600_000 * MS):
            raise Violation(f"only {self.seen.operations} of {operations} operations within ten minutes")
        self.faults.stop()
        self.operator.settle()
        for client in self.clients:
            client.stopped = True
        self._settle()
        check_states(self)
        check_stale_reads(self)
        check_history(self)

    def _settle(self) -> None:
        """Every client has its answer, and every node the same log, within a bound."""
        step, deadline = self.plan.election_us // 2, self.events.now + 200 * self.plan.election_us
        while True:
            self.events.run(self.events.now + step)
            if all(client.idle for client in self.clients) and self.operator.content and converged(self):
                return
            if self.events.now > deadline:
                raise Violation(f"no convergence within {200 * self.plan.election_us // MS} ms without faults")

    def digest(self) -> str:
        """A fingerprint of everything that happened: the same for the same seed, in every process."""
        said = repr((self.events.now, self.events.count, self.network.delivered, self.history, self.truth.applied))
        return hashlib.sha256(said.encode()).hexdigest()

    # -- what happens to machines --------------------------------------------------------------------------------------

    def new_address(self, node_id: str) -> str:
        """One that nobody has had yet."""
        return f"{node_id}:{next(self._ports)}"

    def new_id(self) -> str:
        """One that nobody has had yet."""
        return f"node-{next(self._numbers)}"

    def listener(self, address: str) -> Process | None:
        """Who takes connections there; nobody does while it is down or paused."""
        for machine in self.machines.values():
            if machine.address == address and machine.process is not None and not machine.process.paused:
                return machine.process
        return None

    def leader(self) -> Machine | None:
        """Whoever leads the latest term, or thinks so."""
        leaders = [machine for machine in self.machines.values() if machine.leads]
        return max(leaders, key=lambda machine: machine.term, default=None)

    def starts(self, machine: Machine) -> None:
        """A machine comes up, unless it runs or its node has left the cluster."""
        if machine.process is None and not machine.retired and self.machines.get(machine.node_id) is machine:
            self.note(f"{machine.node_id} starts")
            machine.start()

    def ends(self, machine: Machine, why: str) -> None:
        """A process ends itself; its machine starts it again."""
        self.note(f"{machine.node_id} ends: {why}")
        machine.crash()
        self.events.after(self.events.between(1 * MS, self.plan.lasting_us), self.starts, machine)

    def stops(self, machine: Machine) -> None:
        """A process has done all that there is to do before a clean stop; its machine starts it again."""
        self.note(f"{machine.node_id} stops")
        machine.stop()
        self.events.after(self.events.between(1 * MS, self.plan.lasting_us), self.starts, machine)

    def adds(self, node_id: str) -> Machine:
        """A new machine, perhaps under the id of one that has left; it knows nobody yet."""
        former = self.machines.get(node_id)
        if former is not None:
            if former.process is not None:
                former.crash()
            former.retired = True
            self.doors.remove(former)
        machine = self.machines[node_id] = Machine(self, node_id)
        self.doors.append(machine)
        self.starts(machine)
        return machine

    def loses(self, machine: Machine, how: str) -> None:
        """A machine's disk is gone for good."""
        self.note(f"{machine.node_id} {how}")
        if machine.process is not None:
            machine.crash()
        machine.lost = True

    def moves(self, machine: Machine) -> None:
        """A machine gets another address; its process begins anew there."""
        machine.address = self.new_address(machine.node_id)
        self.note(f"{machine.node_id} moves to {machine.address}")
        if machine.process is not None:
            machine.crash()
        self.events.after(self.events.between(1 * MS, self.plan.lasting_us), self.starts, machine)

    def retires(self, machine: Machine, text: str) -> None:
        """A node learns that it is a member no more, and stops for good."""
        if machine.disk_number not in self.truth.membership.removed:
            raise Violation(f"{machine.node_id} stops, and nobody has removed it: {text}")
        self.note(f"{machine.node_id} stops for good: {text}")
        machine.stop()
        machine.retired = machine.expelled = True

    # -- what a person reads -------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Something to be told in the replay."""
        self.journal.append(f"{self.events.now // MS:>8} ms  {text}")

    def note_once(self, text: str) -> None:
        """Something that happens again and again."""
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)
