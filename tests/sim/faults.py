"""What goes wrong in a run: drawn by the seed, one after another, each undone after a while. Several overlap.

Every fault has a number and random numbers of its own. So a run can be repeated with some of them left out, and the
others strike as before: that is how a failing seed is made shorter (`shrink`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.sim.events import MS
from tests.sim.network import FAIR, Link, Weather, between_sides

if TYPE_CHECKING:
    from tests.sim.machine import Machine
    from tests.sim.world import World


class Faults:
    """Strikes until the world says stop. `skip` holds the numbers of faults that are left out."""

    def __init__(self, world: World, skip: frozenset[int]) -> None:
        self.world = world
        self.struck: list[int] = []
        self.stopped = False
        self._skip = skip
        self._number = 0
        self._rng = random.Random(f"faults {world.seed}")
        self._partition = 0
        self._names = [name for name, _ in world.plan.faults]
        self._weights = [weight for _, weight in world.plan.faults]

    def start(self) -> None:
        """Let the first one come."""
        self._next(self._rng)

    def _next(self, rng: random.Random) -> None:
        self.world.events.after(rng.randint(*self.world.plan.fault_us), self._strike)

    def _strike(self) -> None:
        if self.stopped:
            return
        self._number += 1
        self._rng = random.Random(f"fault {self.world.seed} {self._number}")
        name = self._rng.choices(self._names, self._weights)[0]
        self._next(self._rng)
        if self._number not in self._skip:
            self.struck.append(self._number)
            getattr(self, "_" + name.replace(" ", "_").replace("-", "_"))()

    def stop(self) -> None:
        """All is well from now on, and stays so."""
        world = self.world
        self.stopped = True
        world.note("all heals")
        self._partition += 1
        world.network.heal()
        world.network.weather = FAIR
        world.slow_disk_us = 0
        for machine in list(world.machines.values()):
            machine.stall_until = 0
            machine.disk.full = False
            if machine.process is None:
                if not machine.lost:
                    world.starts(machine)
            elif machine.process.paused:
                self._resume(machine)

    # -- whom, and for how long ----------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        self.world.note(f"#{self._number} {text}")

    def _later(self, undo: Callable[..., None], *arguments: object, shortest_us: int = MS) -> None:
        lasting_us = self._rng.randint(shortest_us, shortest_us + self.world.plan.lasting_us)
        self.world.events.after(lasting_us, undo, *arguments)

    def _running(self) -> list[Machine]:
        return [machine for machine in self.world.machines.values() if machine.process is not None]

    def _one(self) -> Machine | None:
        running = self._running()
        return self._rng.choice(running) if running else None

    def _others(self, machine: Machine) -> list[str]:
        return [node_id for node_id in self.world.machines if node_id != machine.node_id]

    # -- processes -----------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        self._crash_one(self._one())

    def _crash_leader(self) -> None:
        self._crash_one(self.world.leader())

    def _crash_all(self) -> None:
        for machine in self._running():
            self._crash_one(machine)

    def _crash_one(self, machine: Machine | None) -> None:
        if machine is not None:
            self._note(f"{machine.node_id} crashes")
            machine.crash()
            self._later(self._start, machine)

    def _start(self, machine: Machine) -> None:
        self.world.starts(machine)

    def _pause(self) -> None:
        self._pause_one(self._one())

    def _pause_leader(self) -> None:
        self._pause_one(self.world.leader())

    def _pause_one(self, machine: Machine | None) -> None:
        if machine is not None and machine.process is not None and not machine.process.paused:
            self._note(f"{machine.node_id} is paused")
            machine.process.pause()
            self._later(self._resume, machine, shortest_us=self.world.plan.election_us // 4)

    def _resume(self, machine: Machine) -> None:
        if machine.process is not None and machine.process.paused:
            self.world.note(f"{machine.node_id} goes on")
            machine.process.resume()

    def _drifting_clocks(self) -> None:
        for machine in self.world.machines.values():
            machine.drift()
        self._note("clocks run at other rates")

    # -- the network ---------------------------------------------------------------------------------------------------

    def _break(self, links: list[Link], text: str) -> None:
        self._note(text)
        self._partition += 1
        self.world.network.break_links(links)
        self._later(self._mend, self._partition)

    def _mend(self, partition: int) -> None:
        if partition == self._partition:
            self.world.note("the network is whole")
            self.world.network.heal()

    def _sides(self) -> tuple[list[str], list[str]]:
        nodes = list(self.world.machines)
        self._rng.shuffle(nodes)
        at = self._rng.randint(1, len(nodes) - 1)
        return nodes[:at], nodes[at:]

    def _split(self) -> None:
        left, right = self._sides()
        self._break(between_sides(left, right), f"{_list(left)} -x- {_list(right)}")

    def _one_way(self) -> None:
        left, right = self._sides()
        self._break(between_sides(left, right, one_way=True), f"{_list(left)} -x-> {_list(right)}")

    def _bridge(self) -> None:
        """Nodes in a row: each hears its neighbours only, and nobody sees the whole."""
        nodes = list(self.world.machines)
        self._rng.shuffle(nodes)
        if self._rng.random() < 0.5 and len(nodes) > 3:
            middle = len(nodes) // 2        # two halves that share one node
            left, right = nodes[:middle], nodes[middle + 1 :]
            self._break(between_sides(left, right), f"{_list(left)} -x- {_list(right)}, {nodes[middle]} sees both")
            return
        whole = {*pairwise(nodes), *pairwise(reversed(nodes))}
        links = [link for link in between_sides(nodes, nodes, one_way=True) if link not in whole and link[0] != link[1]]
        self._break(links, f"only {' - '.join(nodes)}")

    def _scatter(self) -> None:
        """Everybody is alone: when they meet again they all want to lead."""
        nodes = list(self.world.machines)
        links = [link for link in between_sides(nodes, nodes, one_way=True) if link[0] != link[1]]
        self._break(links, "nobody hears anybody")

    def _cut_off_leader(self) -> None:
        """A leader that does not know yet that it leads nobody is the one that serves stale reads."""
        leader = self.world.leader()
        if leader is not None:
            self.cut_off(leader)

    def cut_off(self, machine: Machine) -> None:
        """Nobody hears it, and it hears nobody."""
        if not self.stopped:
            self._break(between_sides([machine.node_id], self._others(machine)), f"{machine.node_id} is cut off")

    def _deaf_leader(self) -> None:
        """Its heartbeats arrive, and nothing comes back; or nobody hears it, and it hears all."""
        leader = self.world.leader()
        if leader is not None:
            others = self._others(leader)
            deaf = self._rng.random() < 0.5
            links = between_sides(others, [leader.node_id], one_way=True)
            if not deaf:
                links = [(b, a) for a, b in links]
            self._break(links, f"{leader.node_id}, which leads, {'hears nobody' if deaf else 'is not heard'}")

    def _weather(self) -> None:
        rng, network = self._rng, self.world.network
        network.weather = Weather(
            loss=rng.choice([0, 0.02, 0.2]), duplicate=rng.choice([0, 0.1, 0.5]), slow=rng.choice([0, 0.1, 0.3])
        )
        self._note(str(network.weather))

    # -- disks ---------------------------------------------------------------------------------------------------------

    def _slow_disks(self) -> None:
        self.world.slow_disk_us = self._rng.choice([0, 5 * MS, self.world.plan.election_us * 4 // 5])
        self._note(f"a sync takes {self.world.slow_disk_us // MS} ms more")

    def _stalled_disk(self) -> None:
        """One sync takes longer than an election."""
        machine = (self.world.leader() if self._rng.random() < 0.5 else None) or self._one()
        if machine is not None:
            stall_us = int(self.world.plan.election_us * (1 + 3 * self._rng.random()))
            machine.stall_until = self.world.events.now + stall_us
            self._note(f"{machine.node_id}'s disk stalls for {stall_us // MS} ms")

    def _full_disk(self) -> None:
        machine = (self.world.leader() if self._rng.random() < 0.5 else None) or self._one()
        if machine is not None:
            self._fill([machine])

    def _full_disks(self) -> None:
        self._fill(self._running())

    def _fill(self, machines: list[Machine]) -> None:
        for machine in machines:
            self._note(f"{machine.node_id}'s disk is full")
            machine.disk.full = True
            self._later(self._make_room, machine)

    def _make_room(self, machine: Machine) -> None:
        if machine.disk.full:
            self.world.note(f"{machine.node_id}'s disk has room")
            machine.disk.full = False

    def _failing_disk(self) -> None:
        """A sync fails: the process has to end, and says nothing of what it does not know to be there."""
        machine = self._one()
        if machine is not None and machine.process is not None:
            self._note(f"{machine.node_id}'s disk fails")
            machine.process.fail_disk()


def _list(nodes: list[str]) -> str:
    return "+".join(sorted(nodes))
