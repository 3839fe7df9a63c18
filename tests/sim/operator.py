"""What operators do to a cluster while clients work and faults strike: drawn by the seed, like faults.

Members are added, promoted, removed, replaced; machines move, lose their disks, are given up; removed ones come back.
Whatever is asked for may be refused, or its outcome stay unknown. So an operator also does what operators do: looks at
the members now and then, and puts right what is wrong (`_repair`); at the end until nothing is.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from fastkv._core.codes import Status

if TYPE_CHECKING:
    from fastkv.raft import Membership
    from tests.sim.machine import Machine
    from tests.sim.process import Process
    from tests.sim.world import World

MAX_MEMBERS = 6
MIN_VOTERS = 3


class Operator:
    """Asks for one thing after the other, of whichever node is there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.done: dict[str, int] = {}
        """How often each request was carried out."""
        self._settling = False
        self._number = 0
        self._rng = random.Random(f"operator {world.seed}")
        self._names = [name for name, _ in world.plan.changes]
        self._weights = [weight for _, weight in world.plan.changes]

    def start(self) -> None:
        """Let the first change come."""
        if self._names:
            self._next(self._rng)

    def settle(self) -> None:
        """Ask for nothing new; put right what is wrong, until nothing is."""
        self._settling = True
        self._repair()
        self.world.events.after(self.world.plan.election_us, self.settle)

    def _next(self, rng: random.Random) -> None:
        self.world.events.after(rng.randint(*self.world.plan.change_us), self._act)

    def _act(self) -> None:
        if self._settling:
            return
        self._number += 1
        self._rng = random.Random(f"change {self.world.seed} {self._number}")
        name = self._rng.choices(self._names, self._weights)[0]
        self._next(self._rng)
        if self._rng.random() < 0.3 and self._repair():
            return
        getattr(self, "_" + name.replace(" ", "_"))()

    # -- looking and asking --------------------------------------------------------------------------------------------

    def _running(self) -> list[Process]:
        return [machine.process for machine in self.world.machines.values() if machine.process is not None]

    def _ask(self, request: dict[str, Any], at: Process | None = None) -> None:
        """Of a node that runs; what comes of it is noted."""
        running = self._running()
        if not running:
            return
        at = at or self._rng.choice(running)
        said = " ".join(str(value) for value in request.values() if value != "")
        self.world.note(f"operator asks {at.node_id}: {said}")

        def answered(status: int, answer: dict[str, Any]) -> None:
            self.world.note(f"operator hears of {said!r}: {Status(status).name} {answer.get('error', '')}")
            if status == Status.OK:
                self.done[request["do"]] = self.done.get(request["do"], 0) + 1

        at.admin(request, answered)

    def _members(self) -> Membership | None:
        """Those of now, where a leader is there and no change under way."""
        leader = self.world.leader()
        if leader is None or leader.process is None:
            return None
        raft = leader.process.raft
        settled = raft.history.index <= raft.commit_index and not raft.membership.outgoing
        return raft.membership if settled else None

    def _machines(self, node_ids: tuple[str, ...]) -> list[Machine]:
        return [self.world.machines[node_id] for node_id in node_ids if node_id in self.world.machines]

    def _may_lose(self, members: Membership) -> list[Machine]:
        """Voters whose disk may go: one at a time, and everybody would know another disk for what it is."""
        if not self.content or len(members.voters) < MIN_VOTERS:
            return []
        known = {member.node_id for member in members.members if member.disk}
        return [machine for machine in self._machines(members.voters) if machine.node_id in known]

    def _repair(self) -> bool:
        """Ask for the first thing that the members need. Whether there was any."""
        members = self._members()
        if members is None:
            return self._settling
        for member in members.members:
            machine = self.world.machines[member.node_id]
            if machine.lost or machine.retired:
                self._ask({"do": "remove", "id": member.node_id})
                return True
            if machine.address != member.raft:
                self._ask({"do": "update", "id": member.node_id, "raft": machine.address, "http": machine.address})
                return True
        return False

    @property
    def content(self) -> bool:
        """Whether the members are as they should be."""
        members = self._members()
        return members is not None and all(
            not machine.lost and not machine.retired and machine.address == member.raft
            for member in members.members
            for machine in [self.world.machines[member.node_id]]
        )

    # -- members -------------------------------------------------------------------------------------------------------

    def _add(self, replaces: str = "") -> None:
        members = self._members()
        if members is None or len(members.members) >= MAX_MEMBERS:
            return
        waiting = [machine for machine in self.world.machines.values() if not machine.lost and not machine.expelled]
        waiting = [machine for machine in waiting if members.get(machine.node_id) is None]
        if waiting:
            machine = self._rng.choice(waiting)     # one that was to join before, and did not
        else:
            gone = [node_id for node_id in self.world.machines if members.get(node_id) is None]
            node_id = self._rng.choice(gone) if gone and self._rng.random() < 0.5 else self.world.new_id()
            machine = self.world.adds(node_id)
        request = {"do": "add", "id": machine.node_id, "raft": machine.address, "http": machine.address}
        self._ask({**request, "vote": self._rng.random() < 0.8, "replaces": replaces})

    def _promote(self) -> None:
        members = self._members()
        if members is not None and members.learners:
            self._ask({"do": "promote", "id": self._rng.choice(members.learners)})

    def _remove(self) -> None:
        members = self._members()
        if members is None:
            return
        able = members.learners if len(members.voters) <= MIN_VOTERS else tuple(m.node_id for m in members.members)
        if able:
            leader = self.world.leader()
            at_the_top = leader is not None and leader.node_id in able and self._rng.random() < 0.3
            self._ask({"do": "remove", "id": leader.node_id if at_the_top and leader else self._rng.choice(able)})

    def _replace(self) -> None:
        """A machine is given up; another takes its place, in one step."""
        members = self._members()
        able = self._may_lose(members) if members is not None else []
        if able:
            machine = self._rng.choice(able)
            self.world.loses(machine, "is given up")
            self._add(replaces=machine.node_id)

    def _wipe(self) -> None:
        """A machine loses its disk, and comes up under its old name with an empty one: nobody may fall for that."""
        members = self._members()
        able = self._may_lose(members) if members is not None else []
        if able:
            machine = self._rng.choice(able)
            self.world.loses(machine, "loses its disk")
            machine.wipe()
            self.world.events.after(self._rng.randint(0, self.world.plan.lasting_us), self.world.starts, machine)

    def _return(self) -> None:
        """One that was removed comes back, and does not know it."""
        able = [machine for machine in self.world.machines.values() if machine.retired and not machine.lost]
        if able:
            machine = self._rng.choice(able)
            machine.retired = False
            self.world.starts(machine)

    def _move(self) -> None:
        """A machine gets another address, and the others have to be told: one at a time."""
        members = self._members() if self.content else None
        if members is not None:
            machine = self._rng.choice(self._machines(tuple(member.node_id for member in members.members)))
            self.world.moves(machine)
            address = machine.address
            self._ask({"do": "update", "id": machine.node_id, "raft": address, "http": address})

    # -- leaders and stops ---------------------------------------------------------------------------------------------

    def _transfer(self) -> None:
        named = self._rng.random() < 0.7
        self._ask({"do": "transfer", "to": self._rng.choice(list(self.world.machines)) if named else ""})

    def _transfer_from_a_leader_that_is_cut_off(self) -> None:
        """Just as it hands over: it does not hear who leads now, and may think that it still does."""
        leader = self.world.leader()
        if leader is not None and leader.process is not None:
            self._ask({"do": "transfer", "to": ""}, leader.process)
            step_us = self.world.plan.turn_us + self.world.plan.wire_us
            self.world.events.after(self._rng.randint(0, 4 * step_us), self.world.faults.cut_off, leader)

    def _clean_stop(self) -> None:
        running = self._running()
        if running:
            process = self._rng.choice(running)
            self.world.note(f"{process.node_id} is asked to stop")
            process.drain()
