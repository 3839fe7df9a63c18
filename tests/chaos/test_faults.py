"""Each fault on a cluster that only notes what is done to it: it does what its name says, and undoes it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import cast

import pytest

from fastkv.chaos.cluster import Cluster
from fastkv.chaos.faults import FAULTS, Step, World, pick
from fastkv.chaos.links import CLIENT, Rule

NAMES = [f"node-{number}" for number in range(1, 6)]
LEADER = "node-2"


class FakeNode:
    def __init__(self, name: str, said: list[str]) -> None:
        self.name = name
        self._said = said
        self.log_path = Path(f"{name}.log")

    async def kill(self) -> None:
        self._said.append(f"kill {self.name}")

    async def stop(self) -> int:
        self._said.append(f"stop {self.name}")
        return 0

    def start(self, *, join: bool = False) -> None:
        self._said.append(f"{'join' if join else 'start'} {self.name}")

    def wipe(self) -> None:
        self._said.append(f"wipe {self.name}")

    def signal(self, number: signal.Signals) -> None:
        self._said.append(f"{number.name} {self.name}")


class FakeNetwork:
    def __init__(self, said: list[str]) -> None:
        self._said = said
        self.rules: list[dict[tuple[str, str], Rule]] = []

    async def set(self, rules: dict[tuple[str, str], Rule]) -> None:
        self._said.append("cut" if rules else "heal")
        self.rules.append(rules)

    async def deaden(self, one: str, other: str) -> int:
        self._said.append(f"deaden {one} {other or 'clients'}")
        return 1

    async def revive(self) -> None:
        self._said.append("revive")


class FakeCluster:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.names = NAMES
        self.nodes = {name: FakeNode(name, self.said) for name in NAMES}
        self.network = FakeNetwork(self.said)
        self.ended_by_themselves: list[str] = []

    async def agreed_leader(self) -> str:
        return LEADER

    async def remove(self, name: str) -> None:
        self.said.append(f"remove {name}")

    async def add(self, name: str) -> None:
        self.said.append(f"add {name}")


async def carried_out(kind: str, first: float = 0.0, second: float = 0.0, hold_s: float = 1.0) -> FakeCluster:
    cluster = FakeCluster()

    async def hold(seconds: float) -> None:
        cluster.said.append("hold")

    world = World(cast(Cluster, cluster), hold)
    await FAULTS[kind].act(world, Step(0.0, kind, hold_s, first, second))
    cluster.said.append(f"leader kills {len(world.leader_kills)}")
    return cluster


async def cut(kind: str, first: float = 0.0, second: float = 0.0) -> set[tuple[str, str]]:
    """Which directions a fault cuts; it heals them."""
    cluster = await carried_out(kind, first, second)
    *cuts, healed = cluster.network.rules
    assert healed == {}
    assert all(rule.blocked for rules in cuts for rule in rules.values())
    return set(cuts[0])


def both_ways(one: set[str], other: set[str]) -> set[tuple[str, str]]:
    return {pair for a in one for b in other for pair in ((a, b), (b, a))}


async def test_processes() -> None:
    assert (await carried_out("kill-leader")).said == [
        f"kill {LEADER}", "hold", f"start {LEADER}", "leader kills 1"
    ]  # fmt: skip
    assert (await carried_out("kill-follower")).said == ["kill node-1", "hold", "start node-1", "leader kills 0"]
    assert (await carried_out("pause-leader")).said[:3] == [f"SIGSTOP {LEADER}", "hold", f"SIGCONT {LEADER}"]
    assert (await carried_out("pause-follower", 0.99)).said[:3] == ["SIGSTOP node-5", "hold", "SIGCONT node-5"]
    everybody = (await carried_out("kill-all")).said
    assert everybody[:6] == [*(f"kill {name}" for name in NAMES), "hold"]
    assert everybody[6:11] == [f"start {name}" for name in NAMES]
    rolling = (await carried_out("rolling-restart")).said
    assert rolling[:4] == ["stop node-1", "start node-1", "stop node-2", "start node-2"]
    replaced = (await carried_out("replace-member", 0.99)).said
    assert replaced[:-1] == ["remove node-5", "wipe node-5", "hold", "join node-5", "add node-5"]


async def test_cut_links() -> None:
    others = set(NAMES) - {LEADER}
    assert await cut("one-way", 0.0, 0.0) == {(LEADER, "node-1")}
    assert await cut("one-way", 0.99, 0.99) == {("node-5", LEADER)}
    assert await cut("isolate-leader") == both_ways({LEADER}, others)
    assert await cut("isolate-node", 0.99) == both_ways({"node-5"}, {*NAMES, CLIENT} - {"node-5"})
    assert await cut("cut-clients") == both_ways({LEADER}, {CLIENT})
    assert await cut("split", 0.0) == both_ways({"node-1", "node-2"}, {"node-3", "node-4", "node-5"})
    assert await cut("split", 0.99) == both_ways({"node-5", "node-1"}, {"node-2", "node-3", "node-4"})
    assert await cut("bridge", 0.0) == both_ways({LEADER, "node-3"}, {"node-4", "node-5"})
    flaps = await carried_out("flapping")
    assert [bool(rules) for rules in flaps.network.rules] == [True, False] * (len(flaps.network.rules) // 2)
    assert len(flaps.network.rules) >= 4


async def test_bad_links() -> None:
    slow = (await carried_out("slow-links", 0.0, 0.5)).network.rules
    assert set(slow[0]) == both_ways({"node-1"}, set(NAMES) - {"node-1"})
    assert all(0.02 < rule.delay_s < 0.03 for rule in slow[0].values())
    lossy = (await carried_out("lossy-links", 0.0, 1.0)).network.rules
    assert len(lossy[0]) == 20
    assert all(rule.loss == pytest.approx(0.06) for rule in lossy[0].values())
    assert slow[-1] == lossy[-1] == {}
    assert (await carried_out("half-open", 0.0)).said[:3] == [f"deaden {LEADER} clients", "hold", "revive"]
    assert (await carried_out("half-open", 0.9, 0.9)).said[:3] == [f"deaden {LEADER} node-5", "hold", "revive"]


@pytest.mark.parametrize("kind", ["pause-leader", "half-open", "split", "slow-links", "isolate-node"])
async def test_a_fault_that_is_broken_off_is_undone(kind: str) -> None:
    cluster = FakeCluster()

    class BrokenOffError(Exception):
        pass

    async def hold(seconds: float) -> None:
        raise BrokenOffError

    with pytest.raises(BrokenOffError):
        await FAULTS[kind].act(World(cast(Cluster, cluster), hold), Step(0.0, kind, 1.0, 0.0, 0.0))
    assert cluster.said[-1] in (f"SIGCONT {LEADER}", "revive", "heal")


def test_picking() -> None:
    assert [pick("abc", number) for number in (0.0, 0.32, 0.34, 0.67, 0.999, 1.0)] == list("aabccc")
