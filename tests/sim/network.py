"""A network between simulated nodes: every frame is delayed; it may be lost, duplicated or overtaken; links break.

What it models of TCP: a frame reaches the right process or nobody, whole; a broken link is noticed by its sender,
sooner or later. What it makes worse than TCP: Raft's own frames may be lost and duplicated, and those that take a
detour are overtaken, on a link that is up. Forwarded client batches are never duplicated: TCP does not, and nothing
above it protects them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from fastkv._core.codes import Opcode
from tests.sim.events import MS, Events

DUPLICABLE = frozenset({Opcode.RAFT, Opcode.APPEND})
Link = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad it is; drawn by the seed."""

    loss: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    """Share of frames that take up to `slow_us`."""
    slow_us: int = 60 * MS

    def __str__(self) -> str:
        if self == FAIR:
            return "fair weather"
        shares = f"{self.loss:.0%} lost, {self.duplicate:.0%} twice, {self.slow:.0%}"
        return f"bad weather: {shares} up to {self.slow_us // MS} ms late"


FAIR = Weather()


class Host(Protocol):
    """One process on the network. A node that restarts is another host."""

    alive: bool

    def hear(self, sender: str, frame: bytes) -> None:
        """A frame arrives."""

    def lost(self, peer: str) -> None:
        """Somebody notices that the link to a peer broke."""


class Network:
    """Delivers frames between nodes; `cut` holds the one-way links that lose everything."""

    def __init__(self, events: Events, *, wire_us: int = 450, detours: float = 0.0) -> None:
        self.weather = FAIR
        self.cut: set[Link] = set()
        self.delivered = 0
        self.lost = 0
        self._events = events
        self._wire_us = wire_us
        self._detours = detours
        self._hosts: dict[str, Host] = {}
        self._busy_until: dict[Link, int] = {}

    def plug_in(self, node: str, host: Host) -> None:
        """A process starts."""
        self._hosts[node] = host

    def unplug(self, node: str) -> None:
        """A process ends: what is under way to it is lost, and the others notice after a while."""
        del self._hosts[node]
        for other in self._hosts:
            self._notice_later(other, node)

    def is_whole(self, a: str, b: str) -> bool:
        """Whether nothing is cut between two nodes, either way: else no connection comes about."""
        return (a, b) not in self.cut and (b, a) not in self.cut

    def send(self, sender: str, receiver: str, host: Host, frame: bytes) -> None:
        """Carry a frame to a process, perhaps."""
        random, weather = self._events.rng.random, self.weather
        if (sender, receiver) in self.cut or (weather.loss and random() < weather.loss):
            self.lost += 1
            return
        self._arrives_later(sender, receiver, host, frame)
        if weather.duplicate and frame[4] in DUPLICABLE and random() < weather.duplicate:
            self._arrives_later(sender, receiver, host, frame)

    def _arrives_later(self, sender: str, receiver: str, host: Host, frame: bytes) -> None:
        events, weather = self._events, self.weather
        random = events.rng.random
        delay = 50 + int(random() * self._wire_us)
        if self._detours and random() < self._detours:
            delay *= 4
        elif weather.slow and random() < weather.slow:
            delay += int(random() * weather.slow_us)
        else:
            link, at = (sender, receiver), events.now + delay
            if at < self._busy_until.get(link, 0):
                at = self._busy_until[link]
                delay = at - events.now
            self._busy_until[link] = at
        events.after(delay, self._arrive, sender, receiver, host, frame)

    def _arrive(self, sender: str, receiver: str, host: Host, frame: bytes) -> None:
        if host.alive and (sender, receiver) not in self.cut:
            self.delivered += 1
            host.hear(sender, frame)
        else:
            self.lost += 1

    # -- broken links ------------------------------------------------------------------------------------------------

    def break_links(self, links: Iterable[Link]) -> None:
        """Only these links are cut from now on. Some senders notice, some do not."""
        self.cut.clear()
        for sender, receiver in links:
            self.cut.add((sender, receiver))
            if sender in self._hosts and self._events.chance(0.5):
                self._notice_later(sender, receiver)

    def heal(self) -> None:
        """Every link is whole."""
        self.cut.clear()

    def _notice_later(self, who: str, lost: str) -> None:
        self._events.after(self._events.between(0, 50 * MS), self._notice, self._hosts[who], lost)

    @staticmethod
    def _notice(host: Host, lost: str) -> None:
        if host.alive:
            host.lost(lost)


def between_sides(left: Iterable[str], right: Iterable[str], *, one_way: bool = False) -> list[Link]:
    """The links from one side to the other, and back unless `one_way`."""
    right = list(right)
    there = [(a, b) for a in left for b in right]
    return there if one_way else there + [(b, a) for a, b in there]
