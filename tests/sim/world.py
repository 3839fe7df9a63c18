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

from fastkv.raft import Member, Membership
from tests.sim.clients import Client, Observations
from tests.sim.endgame import check_history, check_stale_reads, check_states, converged
from tests.sim.events import MS, Events
from tests.sim.faults import Faults
from tests.sim.linearizability import Operation
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
        self.truth = Truth()
        self.journal: list[str] = []
        self.trace: deque[tuple[int, str, str, bytes]] = deque(maxlen=TRACED)
        """The last frames: time, sender, receiver, bytes."""
        self.slow_disk_us = 0
        self._ports = count(1)
        self.machines: dict[str, Machine] = {}
        """The machine that has each id now."""
        for number in range(1, nodes + 1):
            self.machines[f"node-{number}"] = Machine(self, f"node-{number}", founder=True)
        self.founders = Membership.of(
            Member(node_id, machine.address, machine.address) for node_id, machine in self.machines.items()
        )
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
        except AssertionError as error:
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
            raise Violation(f"only {len(self.history)} of {operations} operations within ten minutes")
        self.operator.stop()
        self.faults.stop()
        for client in self.clients:
            client.stopped = True
        self._settle()
        check_states(self)
        check_stale_reads(self)
        check_history(self)

    def _settle(self) -> None:
        """Every client has its answer, and every node the same log, within a bound."""
        step, deadline = self.plan.election_us // 2, self.events.now + 100 * self.plan.election_us
        while True:
            self.events.run(self.events.now + step)
            if all(client.idle for client in self.clients) and converged(self):
                return
            if self.events.now > deadline:
                raise Violation(f"no convergence within {(deadline - self.events.now) // MS} ms without faults")

    def digest(self) -> str:
        """A fingerprint of everything that happened: the same for the same seed, in every process."""
        said = repr((self.events.now, self.events.count, self.network.delivered, self.history, self.truth.applied))
        return hashlib.sha256(said.encode()).hexdigest()

    # -- what happens to machines --------------------------------------------------------------------------------------

    def next_port(self) -> int:
        """One that nobody has had yet."""
        return next(self._ports)

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

    def retires(self, machine: Machine, text: str) -> None:
        """A node learns that it is a member no more, and stops for good."""
        self.note(f"{machine.node_id} stops for good: {text}")
        machine.stop()
        machine.retired = True

    # -- what a person reads -------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Something to be told in the replay."""
        self.journal.append(f"{self.events.now // MS:>8} ms  {text}")
