"""A network between nodes that can be made slow or cut, by a proxy in front of each node.

Nodes are told (in `cluster.nodes`) to reach each other at the proxies' ports, and listen on their own
(`server.raft_port`). Whoever dials says in HELLO who it is, so each direction between two nodes has a rule of its own.
What a rule holds back is delivered later and in order, as TCP delivers what a network has lost; nothing is dropped from
within a connection. Only one that was made half-open (`deaden`) loses all that is sent on it, and is cut in the end
(`revive`), as if one of its machines had been replaced unseen.

Everything belongs to one event loop. Delays of less than a millisecond need one whose timers are that fine:
`precise_loop`.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

from fastkv._core.codes import Opcode
from fastkv._core.frames import FrameReader, FrameTooLarge
from fastkv.wire.client import PEER_ROLE, decode_hello

HELLO_LIMIT_BYTES = 1 << 16
HELD_LIMIT_BYTES = 64 << 20
"""What one direction of one connection may hold: no more is read from the sender, whose own buffers fill up then."""

CLIENT = ""
"""Stands for everybody who is no node."""

RETRANSMISSION_S = 0.2
"""What TCP waits at least, on Linux, before it sends again what was lost; twice as long for what is lost again."""


@dataclass(frozen=True, slots=True)
class Rule:
    """For one direction between two nodes."""

    delay_s: float = 0.0
    """From when bytes arrive at the proxy until they leave it."""
    blocked: bool = False
    """Nothing gets through; it does once the rule is another one."""
    loss: float = 0.0
    """How much of what arrives is lost, from 0 to 1: it comes after one or more retransmissions, and all behind it."""


PASS = Rule()


class Links:
    """Proxies in front of nodes. `nodes` says for each where the proxy listens, and where the node does."""

    def __init__(self, nodes: Mapping[str, tuple[int, int]], host: str = "127.0.0.1", *, seed: int = 0) -> None:
        self._nodes = dict(nodes)
        self._host = host
        self._rng = random.Random(seed)
        self._rules: dict[tuple[str, str], Rule] = {}
        self._servers: list[asyncio.Server] = []
        self.pipes: set[Pipe] = set()
        self.withheld = 0
        """Bytes that found their link blocked or dead, so far: a fault that met no traffic shows here."""

    async def start(self) -> None:
        """Listen. OSError where a port is taken."""
        loop = asyncio.get_running_loop()
        for node, (port, _) in self._nodes.items():
            self._servers.append(await loop.create_server(partial(_Dialled, self, node), self._host, port))

    async def connect(self, node: str) -> _End:
        """A connection to the node itself. OSError where it does not listen."""
        loop = asyncio.get_running_loop()
        _, end = await loop.create_connection(_End, self._host, self._nodes[node][1])
        return end

    def rule(self, source: str, target: str) -> Rule:
        """What holds from one node to another; clients' traffic passes unless a rule for `CLIENT` says otherwise."""
        return self._rules.get((source, target), PASS)

    def set(self, source: str, target: str, rule: Rule) -> None:
        """From now on, also for connections that are up."""
        self._rules[source, target] = rule
        for pipe in list(self.pipes):
            pipe.deliver()

    def set_all(self, rule: Rule) -> None:
        """The same rule between all nodes."""
        for source in self._nodes:
            for target in self._nodes:
                if source != target:
                    self.set(source, target, rule)

    def retransmissions_s(self, rule: Rule) -> float:
        """How much later than otherwise something arrives where the rule may lose it."""
        waited, next_s = 0.0, RETRANSMISSION_S
        while rule.loss and self._rng.random() < min(rule.loss, 0.9):
            waited += next_s
            next_s *= 2
        return waited

    def deaden(self, one: str, other: str) -> int:
        """Make the connections that are up between two nodes half-open; how many. New ones are as ever."""
        dead = [pipe for pipe in self.pipes if {pipe.source, pipe.target} == {one, other}]
        for pipe in dead:
            pipe.deaden()
        return len(dead) // 2

    def revive(self) -> None:
        """Cut every half-open connection: whoever still holds one learns at last that nobody is there."""
        for pipe in list(self.pipes):
            if pipe.dead:
                pipe.cut()

    async def close(self) -> None:
        """Stop listening, and cut every connection."""
        for server in self._servers:
            server.close()
        for pipe in list(self.pipes):
            pipe.cut()
        for server in self._servers:
            await server.wait_closed()


class Pipe:
    """One direction of a proxied connection: bytes wait here until their time has come."""

    def __init__(self, links: Links, source: str, target: str, sender: _End, receiver: _End) -> None:
        self.source = source
        self.target = target
        self.dead = False
        self._links = links
        self._sender = sender
        self._receiver = receiver
        self._held: deque[tuple[float, float, bytes]] = deque()
        self._held_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._ending = False
        links.pipes.add(self)

    def take(self, data: bytes) -> None:
        """Bytes have arrived from the sender."""
        rule = self._links.rule(self.source, self.target)
        if rule.blocked or self.dead:
            self._links.withheld += len(data)
        if self.dead:
            return
        self._held.append((self._loop.time(), self._links.retransmissions_s(rule), data))
        self._held_bytes += len(data)
        self.deliver()

    def deliver(self) -> None:
        """Hand on what is due."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        rule = self._links.rule(self.source, self.target)
        now = self._loop.time()
        while self._held and not rule.blocked and self._due(rule) <= now:
            data = self._held.popleft()[2]
            self._held_bytes -= len(data)
            self._receiver.write(data)
        self._sender.throttle(self._held_bytes > HELD_LIMIT_BYTES)
        if self._held and not rule.blocked:
            self._timer = self._loop.call_at(self._due(rule), self.deliver)
        elif self._ending and not self._held:
            self._links.pipes.discard(self)
            self._receiver.end()

    def _due(self, rule: Rule) -> float:
        """When the first of what is held is to leave. Once nothing is lost any more, it has been sent again."""
        arrived, retransmissions_s, _ = self._held[0]
        return arrived + rule.delay_s + (retransmissions_s if rule.loss else 0.0)

    def deaden(self) -> None:
        """From now on what is sent vanishes, and neither side hears that the other is gone."""
        self.dead = True
        self._links.withheld += self._held_bytes
        self._held.clear()
        self._held_bytes = 0
        self._sender.throttle(False)

    def end(self) -> None:
        """The sender has closed: so will the receiver's side, behind what is held."""
        if not self.dead:
            self._ending = True
            self.deliver()

    def reset(self) -> None:
        """The sender's side has failed: so does the receiver's."""
        if not self.dead:
            self.cut()

    def cut(self) -> None:
        """Both sides are closed at once, and what is held is lost."""
        self._links.pipes.discard(self)
        self._held.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._sender.end()
        self._receiver.end()


class _End(asyncio.Protocol):
    """One of the two sockets of a proxied connection."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.outgoing: Pipe | None = None
        """Where what this socket receives goes."""
        self._throttled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HELD_LIMIT_BYTES)

    def data_received(self, data: bytes) -> None:
        assert self.outgoing is not None
        self.outgoing.take(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.outgoing is None:
            return
        if error is None:
            self.outgoing.end()
        else:
            self.outgoing.reset()

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def throttle(self, throttled: bool) -> None:
        if throttled == self._throttled or self.transport.is_closing():
            return
        self._throttled = throttled
        if throttled:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def end(self) -> None:
        self.transport.close()


class _Dialled(_End):
    """The socket that somebody has dialled: whoever it is says so first."""

    def __init__(self, links: Links, target: str) -> None:
        super().__init__()
        self._links = links
        self._target = target
        self._reader = FrameReader(HELLO_LIMIT_BYTES)
        self._first = b""
        self._connecting: asyncio.Task[None] | None = None

    def data_received(self, data: bytes) -> None:
        if self.outgoing is not None:
            self.outgoing.take(data)
            return
        self._first += data
        if self._connecting is None and (source := self._introduced(data)) is not None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(source))

    def _introduced(self, data: bytes) -> str | None:
        """Who dials; None while HELLO is not here as a whole."""
        try:
            for opcode, _, _, _, body in self._reader.feed(data):
                hello = decode_hello(body) if opcode == Opcode.HELLO else None
                return hello.id if hello is not None and hello.role == PEER_ROLE else CLIENT
        except (FrameTooLarge, ValueError):
            return CLIENT
        return None

    async def _connect(self, source: str) -> None:
        try:
            other = await self._links.connect(self._target)
        except OSError:
            self.transport.abort()      # as a port does that nobody listens on
            return
        self.outgoing = Pipe(self._links, source, self._target, self, other)
        other.outgoing = Pipe(self._links, self._target, source, other, self)
        if self.transport.is_closing():
            self.outgoing.cut()
            other.outgoing.cut()
            return
        self.outgoing.take(self._first)
        self._first = b""


def precise_loop() -> asyncio.AbstractEventLoop:
    """A loop whose timers are as fine as select(2) is; epoll's, and uvloop's, are whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())
