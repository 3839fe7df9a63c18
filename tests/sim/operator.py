"""What operators do to a cluster while clients work and faults strike: drawn by the seed, like faults."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from fastkv._core.codes import Status

if TYPE_CHECKING:
    from tests.sim.process import Process
    from tests.sim.world import World


class Operator:
    """Asks for one thing after the other, of whichever node is there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.stopped = False
        self._number = 0
        self._rng = random.Random()
        self._names = [name for name, _ in world.plan.changes]
        self._weights = [weight for _, weight in world.plan.changes]

    def start(self) -> None:
        """Let the first change come."""
        if self._names:
            self._next(random.Random(f"operator {self.world.seed}"))

    def stop(self) -> None:
        """Nothing more is asked for."""
        self.stopped = True

    def _next(self, rng: random.Random) -> None:
        self.world.events.after(rng.randint(*self.world.plan.change_us), self._act)

    def _act(self) -> None:
        if self.stopped:
            return
        self._number += 1
        self._rng = random.Random(f"change {self.world.seed} {self._number}")
        name = self._rng.choices(self._names, self._weights)[0]
        self._next(self._rng)
        getattr(self, "_" + name.replace(" ", "_"))()

    # -- asking --------------------------------------------------------------------------------------------------------

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

        at.admin(request, answered)

    # -- what is asked for ---------------------------------------------------------------------------------------------

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
