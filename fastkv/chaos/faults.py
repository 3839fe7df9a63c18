"""What can be done to a cluster, one fault a function: begin it, hold it for a while, undo it.

A fault is told its `Step`: how long it lasts, and numbers from which it picks whom it meets. It returns whom it met.
Whatever happens in between, it leaves no rule and no paused process behind.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from fastkv.chaos.cluster import Cluster
from fastkv.chaos.links import CLIENT, Rule
from fastkv.chaos.network import DELAY, HALF_OPEN, LOSS

BLOCKED = Rule(blocked=True)
FLAP_S = 0.25
T = TypeVar("T")


class Step(NamedTuple):
    """A fault that is due: all that is drawn of it."""

    gap_s: float
    """How long the cluster is left in peace before it."""
    kind: str
    hold_s: float
    first: float
    second: float
    """From 0 to 1: what is picked among those that may be picked."""


def pick(among: Sequence[T], number: float) -> T:
    """One of them, by a number from 0 to 1."""
    return among[min(int(number * len(among)), len(among) - 1)]


@dataclass
class World:
    """What faults act on."""

    cluster: Cluster
    hold: Callable[[float], Awaitable[None]] = asyncio.sleep
    leader_kills: list[tuple[float, float]] = field(default_factory=list)
    """When a leader was killed, and when it was started again, by `time.monotonic`."""

    async def leader(self) -> str:
        """Who leads; the fault waits until there is somebody."""
        return await self.cluster.agreed_leader()

    async def one(self, role: str, number: float) -> str:
        """The leader, a follower, or any node."""
        leader = await self.leader()
        if role == "leader":
            return leader
        return pick([name for name in self.cluster.names if role == "any" or name != leader], number)

    async def ruled(self, rules: dict[tuple[str, str], Rule], hold_s: float) -> None:
        """Let rules hold for a while."""
        network = self.cluster.network
        try:
            await network.set(rules)
            await self.hold(hold_s)
        finally:
            await network.set({})


# -- processes ---------------------------------------------------------------------------------------------------------


async def kill_leader(world: World, step: Step) -> str:
    """kill -9, and a new start after a while."""
    return await _kill(world, step, "leader")


async def kill_follower(world: World, step: Step) -> str:
    """kill -9, and a new start after a while."""
    return await _kill(world, step, "follower")


async def _kill(world: World, step: Step, role: str) -> str:
    name = await world.one(role, step.first)
    killed = time.monotonic()
    await world.cluster.nodes[name].kill()
    await world.hold(step.hold_s)
    world.cluster.nodes[name].start()
    if role == "leader":
        world.leader_kills.append((killed, time.monotonic()))
    return name


async def kill_all(world: World, step: Step) -> str:
    """kill -9 for every node at once: what was acknowledged is on the disks."""
    nodes = list(world.cluster.nodes.values())
    await asyncio.gather(*(node.kill() for node in nodes))
    await world.hold(step.hold_s)
    for node in nodes:
        node.start()
    return "all"


async def pause_leader(world: World, step: Step) -> str:
    """SIGSTOP for longer than an election takes: another one leads when it goes on."""
    return await _pause(world, step, "leader")


async def pause_follower(world: World, step: Step) -> str:
    """SIGSTOP, and all that queued up is read late."""
    return await _pause(world, step, "follower")


async def _pause(world: World, step: Step, role: str) -> str:
    node = world.cluster.nodes[await world.one(role, step.first)]
    try:
        node.signal(signal.SIGSTOP)
        await world.hold(step.hold_s)
    finally:
        node.signal(signal.SIGCONT)
    return node.name


async def rolling_restart(world: World, step: Step) -> str:
    """Every node in turn is stopped cleanly and started again."""
    for node in world.cluster.nodes.values():
        status = await node.stop()
        if status != 0:
            world.cluster.ended_by_themselves.append(f"{node.name} was asked to stop, and ended with status {status}")
        node.start()
        await world.leader()
    return "all, one by one"


async def replace_member(world: World, step: Step) -> str:
    """A member is removed, its disk emptied, and it comes back as a new member under the same name."""
    cluster = world.cluster
    node = cluster.nodes[await world.one("any", step.first)]
    await cluster.remove(node.name)
    node.wipe()
    await world.hold(step.hold_s)
    node.start(join=True)
    await cluster.add(node.name)
    return node.name


# -- links that work badly ---------------------------------------------------------------------------------------------


def _between(one: Sequence[str], other: Sequence[str], rule: Rule) -> dict[tuple[str, str], Rule]:
    """The rule in both directions."""
    rules = {}
    for a in one:
        for b in other:
            if a != b:
                rules[a, b] = rules[b, a] = rule
    return rules


async def slow_links(world: World, step: Step) -> str:
    """What a node sends and gets takes 5 to 45 ms longer each way."""
    name = await world.one("any", step.first)
    rule = Rule(delay_s=0.005 + 0.04 * step.second)
    await world.ruled(_between([name], world.cluster.names, rule), step.hold_s)
    return f"{name}, {rule.delay_s * 1000:.0f} ms"


async def lossy_links(world: World, step: Step) -> str:
    """All links lose 1 to 6 % of what they carry."""
    rule = Rule(loss=0.01 + 0.05 * step.second)
    await world.ruled(_between(world.cluster.names, world.cluster.names, rule), step.hold_s)
    return f"all, {rule.loss:.0%}"


async def half_open(world: World, step: Step) -> str:
    """The connections between two nodes, or of clients to a node, are up, and all that is sent on them vanishes."""
    leader = await world.leader()
    others = [name for name in world.cluster.names if name != leader]
    one, other = (leader, CLIENT) if step.first < 0.5 else (leader, pick(others, step.second))
    network = world.cluster.network
    try:
        await network.deaden(one, other)
        await world.hold(step.hold_s)
    finally:
        await network.revive()
    return f"{one} and {other or 'clients'}"


# -- links that are cut ------------------------------------------------------------------------------------------------


async def one_way(world: World, step: Step) -> str:
    """Nothing gets from the leader to a follower, or from it to the leader; the other direction works."""
    leader = await world.leader()
    follower = pick([name for name in world.cluster.names if name != leader], step.first)
    source, target = (leader, follower) if step.second < 0.5 else (follower, leader)
    await world.ruled({(source, target): BLOCKED}, step.hold_s)
    return f"{source} to {target}"


async def isolate_leader(world: World, step: Step) -> str:
    """The leader hears nobody, and nobody it, but for clients."""
    leader = await world.leader()
    await world.ruled(_between([leader], world.cluster.names, BLOCKED), step.hold_s)
    return leader


async def isolate_node(world: World, step: Step) -> str:
    """A node is cut off from all others and from clients."""
    name = await world.one("any", step.first)
    await world.ruled(_between([name], [*world.cluster.names, CLIENT], BLOCKED), step.hold_s)
    return name


async def split(world: World, step: Step) -> str:
    """The nodes fall into a majority and a minority."""
    names = world.cluster.names
    start = int(step.first * len(names))
    turned = [*names[start:], *names[:start]]
    minority = turned[: (len(names) - 1) // 2]
    await world.ruled(_between(minority, [name for name in names if name not in minority], BLOCKED), step.hold_s)
    return " and ".join(sorted(minority))


async def bridge(world: World, step: Step) -> str:
    """Two halves that hear each other only through one node, which hears everybody."""
    leader = await world.leader()
    followers = [name for name in world.cluster.names if name != leader]
    middle = pick(followers, step.first)
    ends = [leader, *(name for name in followers if name != middle)]
    half = len(ends) // 2
    await world.ruled(_between(ends[:half], ends[half:], BLOCKED), step.hold_s)
    return f"over {middle}"


async def cut_clients(world: World, step: Step) -> str:
    """Clients do not reach the leader, and the nodes know nothing of it."""
    leader = await world.leader()
    await world.ruled(_between([leader], [CLIENT], BLOCKED), step.hold_s)
    return leader


async def flapping(world: World, step: Step) -> str:
    """The leader is cut off, and not, and cut off, several times a second."""
    leader = await world.leader()
    for _ in range(max(2, int(step.hold_s / (2 * FLAP_S)))):
        await world.ruled(_between([leader], world.cluster.names, BLOCKED), FLAP_S)
        await world.hold(FLAP_S)
    return leader


class Fault(NamedTuple):
    """A fault, and what it takes."""

    act: Callable[[World, Step], Awaitable[str]]
    meets_traffic: bool = False
    """It counts only where something was kept from its target."""
    needs: str | None = None
    """The ability that the network must have."""


FAULTS = {
    "kill-leader": Fault(kill_leader),
    "kill-follower": Fault(kill_follower),
    "kill-all": Fault(kill_all),
    "pause-leader": Fault(pause_leader),
    "pause-follower": Fault(pause_follower),
    "rolling-restart": Fault(rolling_restart),
    "replace-member": Fault(replace_member),
    "slow-links": Fault(slow_links, needs=DELAY),
    "lossy-links": Fault(lossy_links, needs=LOSS),
    "half-open": Fault(half_open, meets_traffic=True, needs=HALF_OPEN),
    "one-way": Fault(one_way, meets_traffic=True),
    "isolate-leader": Fault(isolate_leader, meets_traffic=True),
    "isolate-node": Fault(isolate_node, meets_traffic=True),
    "split": Fault(split, meets_traffic=True),
    "bridge": Fault(bridge, meets_traffic=True),
    "cut-clients": Fault(cut_clients, meets_traffic=True),
    "flapping": Fault(flapping, meets_traffic=True),
}
"""All there are, by the names that verdicts and charts use."""
