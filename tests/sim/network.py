"""A network between simulated nodes: every frame is delayed; it may be lost, duplicated or overtaken; links break.

What it models of TCP: a frame reaches the right node or nobody, whole; a broken link is noticed by its sender, sooner
or later. What it makes worse than TCP: Raft's own frames may be lost, duplicated and reordered on a link that is up.
Forwarded client batches are never duplicated: TCP does not, and nothing above it protects them yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastkv._core.codes import Opcode
from fastkv._core.frames import FrameReader
from tests.sim.events import MS, Events

DUPLICABLE = (Opcode.RAFT, Opcode.APPEND)
Deliver = Callable[[str, int, int, int, bytes], None]


@dataclass
class Weather:
    """How bad it is; drawn by the seed."""

    loss: float = 0.0
    duplicate: float = 0.0
    slow: float = 0.0
    """Share of frames that take up to `slow_us`."""
    slow_us: int = 60 * MS


class Network:
    """Delivers frames between nodes; `cut` holds the one-way links that lose everything."""

    def __init__(self, events: Events) -> None:
        self.weather = Weather()
        self.cut: set[tuple[str, str]] = set()
        self.delivered = 0
        self.lost = 0
        self._events = events
        self._up: dict[str, Deliver] = {}
        self._lost: dict[str, Callable[[str], None]] = {}
        self._lives: dict[str, int] = {}

    def plug_in(self, node: str, deliver: Deliver, lost: Callable[[str], None]) -> None:
        """A node starts: frames to it are delivered from now on."""
        self._up[node] = deliver
        self._lost[node] = lost
        self._lives[node] = self._lives.get(node, 0) + 1

    def unplug(self, node: str) -> None:
        """A node crashes: what is under way to it is lost, and the others notice after a while."""
        del self._up[node], self._lost[node]
        for other in sorted(self._up):
            self._notice_later(other, node)

    def is_up(self, node: str) -> bool:
        return node in self._up

    def partition(self, sides: list[set[str]], *, one_way: bool = False) -> None:
        """Cut every link from one side to another; with `one_way`, only from an earlier side to a later."""
        self.heal()
        for i, left in enumerate(sides):
            for right in sides[i + 1 :]:
                for a in sorted(left):
                    for b in sorted(right):
                        self._cut(a, b)
                        if not one_way:
                            self._cut(b, a)

    def heal(self) -> None:
        self.cut.clear()

    def send(self, sender: str, receiver: str, frame: bytes) -> bool:
        """False when the receiver is down, which the sender's kernel would have told it by now."""
        if receiver not in self._up:
            return False
        rng, weather = self._events.rng, self.weather
        if (sender, receiver) in self.cut or rng.random() < weather.loss:
            self.lost += 1
            return True
        copies = 2 if frame[4] in DUPLICABLE and rng.random() < weather.duplicate else 1
        for _ in range(copies):
            delay = rng.randint(50, 500)
            if rng.random() < weather.slow:
                delay += rng.randint(0, weather.slow_us)
            self._later(delay, sender, receiver, self._lives[receiver], frame)
        return True

    def _later(self, delay: int, sender: str, receiver: str, life: int, frame: bytes) -> None:
        def arrive() -> None:
            if self._lives[receiver] != life or receiver not in self._up or (sender, receiver) in self.cut:
                self.lost += 1
                return
            self.delivered += 1
            reader = FrameReader(1 << 26)
            for opcode, _, code, request_id, body in reader.feed(frame):
                self._up[receiver](sender, opcode, code, request_id, body)

        self._events.after(delay, arrive)

    def _cut(self, sender: str, receiver: str) -> None:
        self.cut.add((sender, receiver))
        if sender in self._up and self._events.rng.random() < 0.5:
            self._notice_later(sender, receiver)

    def _notice_later(self, who: str, lost: str) -> None:
        def notice() -> None:
            if who in self._lost:
                self._lost[who](lost)

        self._events.after(self._events.rng.randint(0, 50 * MS), notice)
