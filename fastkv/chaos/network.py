"""The network of a run, as faults see it: rules for each direction between two nodes, and where to reach whom.

`Proxies` needs no rights: a proxy in front of each node (`links`). `namespaces.Namespaces` gives each node a network
stack of its own, and cuts packets. Clients are on the network, too: under the name `links.CLIENT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastkv.chaos.links import PASS, Links, Rule
from fastkv.chaos.ports import free_ports
from fastkv.errors import FastKVError

DELAY, LOSS, HALF_OPEN = "delay", "loss", "half-open"


class MissingError(FastKVError):
    """A tool or a right that a run needs is not there; the text says which, and how to get it."""

    code = "MISSING"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node listens, and where everybody else reaches its raw-TCP port."""

    host: str
    raft_port: int
    http_port: int
    reached_port: int

    @property
    def raft(self) -> str:
        """What others dial."""
        return f"{self.host}:{self.reached_port}"

    @property
    def http(self) -> str:
        """Where HTTP is spoken; no proxy is in front of it."""
        return f"{self.host}:{self.http_port}"


class Network(Protocol):
    """What carries the traffic of a run."""

    places: dict[str, Place]
    abilities: frozenset[str]
    """Which of `DELAY`, `LOSS` and `HALF_OPEN` it can do; every network can block."""

    async def start(self) -> None:
        """Be there. OSError or MissingError where that cannot be."""

    async def close(self) -> None:
        """Leave nothing behind."""

    async def set(self, rules: dict[tuple[str, str], Rule]) -> None:
        """From now on these rules hold, for (source, target), and no others."""

    async def deaden(self, one: str, other: str) -> int:
        """Make the connections between two nodes half-open; how many."""

    async def revive(self) -> None:
        """End the half-open connections."""

    async def withheld(self) -> int:
        """How much was kept from its target so far, in bytes or packets: it grows where a fault meets traffic."""

    def command(self, node: str, command: Sequence[str]) -> list[str]:
        """What to run so that `command` runs on this node."""


class Proxies:
    """A network on 127.0.0.1, by proxies in this process."""

    abilities = frozenset({DELAY, LOSS, HALF_OPEN})

    def __init__(self, names: Sequence[str], *, seed: int = 0) -> None:
        ports = free_ports(3 * len(names))
        self.places = {
            name: Place("127.0.0.1", *ports[3 * number : 3 * number + 3]) for number, name in enumerate(names)
        }
        self.links = Links({n: (place.reached_port, place.raft_port) for n, place in self.places.items()}, seed=seed)
        self._ruled: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Listen."""
        await self.links.start()

    async def close(self) -> None:
        """Cut every connection."""
        await self.links.close()

    async def set(self, rules: dict[tuple[str, str], Rule]) -> None:
        """See `Network.set`."""
        for pair in self._ruled - rules.keys():
            self.links.set(*pair, PASS)
        for pair, rule in rules.items():
            self.links.set(*pair, rule)
        self._ruled = set(rules)

    async def deaden(self, one: str, other: str) -> int:
        """See `Network.deaden`."""
        return self.links.deaden(one, other)

    async def revive(self) -> None:
        """See `Network.revive`."""
        self.links.revive()

    async def withheld(self) -> int:
        """Bytes."""
        return self.links.withheld

    def command(self, node: str, command: Sequence[str]) -> list[str]:
        """As it is: all nodes are on this machine."""
        return list(command)
