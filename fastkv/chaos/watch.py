"""Looks at a cluster during a run, without taking part in it: who leads, and what the nodes take of their machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fastkv.chaos import resources
from fastkv.chaos.cluster import Cluster
from fastkv.chaos.record import Reign

LEADER_EVERY_S = 0.1
LEADER_WITHIN_S = 0.3
RESOURCES_EVERY_S = 1.0


class Watch:
    """`now` gives the run's time."""

    def __init__(self, cluster: Cluster, now: Callable[[], float]) -> None:
        self._cluster = cluster
        self._now = now
        self._tasks: list[asyncio.Task[None]] = []
        self.reigns: list[Reign] = []
        self.samples: list[resources.Sample] = []

    def start(self) -> None:
        """Begin to look."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._every(LEADER_EVERY_S, self._look_for_leader)),
            loop.create_task(self._every(RESOURCES_EVERY_S, self._look_at_resources)),
        ]

    async def stop(self) -> None:
        """Look no more. Raises what went wrong meanwhile."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _every(self, seconds: float, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await look()
            await asyncio.sleep(seconds)

    async def _look_for_leader(self) -> None:
        self._cluster.look()
        leader, term = await self._cluster.leader(within_s=LEADER_WITHIN_S)
        if not self.reigns or (leader, term) != self.reigns[-1][1:]:
            self.reigns.append(Reign(self._now(), leader, term))

    async def _look_at_resources(self) -> None:
        for name, node in self._cluster.nodes.items():
            pid = node.pid
            seen = None if pid is None else resources.sample(self._now(), name, pid, node.data_path)
            if seen is not None:
                self.samples.append(seen)
