"""Links to the other nodes: one outgoing connection for each peer, kept up for as long as the node runs.

A link is one-way: this node's frames travel on the connection that it dialled, the peer's on the one the peer dialled.
So two nodes that dial each other at once need no tie-break, and a link's state has one owner. A link may lose
everything it holds when it breaks; Raft expects no more of it. Whom to reach, and where, changes with the members.

A link begins in the newest version of the protocol that this node speaks; the peer takes the newest that both know. One
that knows no ranges of versions refuses that HELLO, and is dialled again in version 1.

Each link is pinged once a second, behind whatever else travels on it: how long the answer takes is what a heartbeat
would have to wait. Nothing but the metrics hangs on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable
from typing import cast

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import FrameReader, FrameTooLarge, encode_frame
from fastkv.node import Addresses
from fastkv.server.names import Names
from fastkv.version import OLDEST_PROTOCOL_VERSION
from fastkv.wire.client import PEER_ROLE, HelloReply, decode_hello_reply, encode_hello_body

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.02
LAST_BACKOFF_S = 0.5
CONNECT_TIMEOUT_S = 2.0
USER_TIMEOUT_MS = 3000
"""The kernel gives up a link whose bytes are not acknowledged for this long: a cable cut sends no FIN."""
ANSWER_LIMIT_BYTES = 65536
PING_INTERVAL_S = 1.0
_PING = encode_frame(Opcode.PING, 0, 0, 0, b"")


class PeerLink(asyncio.Protocol):
    """One connection to one peer; `ready` once the peer has accepted HELLO, and `on_answer` the peer."""

    def __init__(self, hello: bytes, on_answer: Callable[[PeerLink, HelloReply], bool]) -> None:
        self.ready = False
        self.accepted = False
        self.refusal: tuple[int, str] | None = None
        """The status and the text with which the peer turned us away."""
        self._hello = hello
        self._on_answer = on_answer
        self._reader = FrameReader(ANSWER_LIMIT_BYTES)
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self._pinged: float | None = None
        self._round_trip_s: float | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)      # uvloop's are no subclass of asyncio's
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        try:
            for opcode, _, code, _, body in self._reader.feed(data):
                self._answered(opcode, code, body)
        except (FrameTooLarge, ValueError):
            self.abort()

    def _answered(self, opcode: int, code: int, body: bytes) -> None:
        if opcode == Opcode.HELLO and code == Status.OK:
            self.ready = self.accepted = self._on_answer(self, decode_hello_reply(body, PEER_ROLE))
            if not self.ready:
                self.abort()
        elif opcode == Opcode.PING and self._pinged is not None:
            self._round_trip_s, self._pinged = time.monotonic() - self._pinged, None
        else:
            self.refusal = code, body.decode(errors="replace") or f"status {code}"
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.ready = False
        self._transport = None
        self._pending.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def queue(self, frame: bytes) -> bool:
        """Queue a frame for the next flush. Returns whether the link now wants one."""
        self._pending.append(frame)
        return len(self._pending) == 1

    def flush(self, limit_bytes: int) -> None:
        """Write what is queued. A peer that lets more than `limit_bytes` pile up is hung: the link is dropped."""
        pending = self._pending
        transport = self._transport
        if not pending or transport is None:
            return
        if transport.get_write_buffer_size() > limit_bytes:
            self.abort()
            return
        transport.write(pending[0] if len(pending) == 1 else b"".join(pending))
        self._pending = []

    def ping(self) -> None:
        """Measure a round trip, unless one is being measured."""
        if self.ready and self._pinged is None and self._transport is not None:
            self._pinged = time.monotonic()
            self._transport.write(_PING)

    @property
    def round_trip_s(self) -> float | None:
        """The latest round trip, or how long the one under way takes already where that is longer. None before any."""
        waited = 0.0 if self._pinged is None else time.monotonic() - self._pinged
        return self._round_trip_s if self._round_trip_s is None else max(self._round_trip_s, waited)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.ready = False
        if self._transport is not None:
            self._transport.abort()


class _Peer:
    """Somebody to be reached."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        self.addresses = addresses
        self.dialled = ""
        """Where the link goes, or the last attempt went."""
        self.attempts = 0
        self.version = 0
        """Of the HELLO to dial with where the newest was refused; else 0."""
        self.nudge = asyncio.Event()
        self.link: PeerLink | None = None
        self.task: asyncio.Task[None] | None = None

    def next_address(self) -> tuple[str, int] | None:
        if not self.addresses:
            return None
        self.dialled = self.addresses[self.attempts % len(self.addresses)]
        self.attempts += 1
        host, _, port = self.dialled.rpartition(":")
        return host.strip("[]"), int(port)


class PeerLinks:
    """The node's transport over TCP: keeps a link to each peer up, and tells when one comes or goes.

    `on_linked(peer, disk)` says whether whoever answered is the peer; `on_refused(peer, status, text)` is told why a
    peer does not let this node in. Nobody is linked with who does not speak `cluster_version()`.
    """

    def __init__(
        self,
        node_id: str,
        cluster: str,
        *,
        disk: int,
        address: str,
        restored: str = "",
        protocol_version: int,
        output_limit_bytes: int,
        on_linked: Callable[[str, int], bool],
        on_lost: Callable[[str], None],
        on_refused: Callable[[str, int, str], None],
        cluster_version: Callable[[], int] = lambda: OLDEST_PROTOCOL_VERSION,
        names: Names | None = None,
    ) -> None:
        self._newest = protocol_version
        self._hellos = {
            version: encode_frame(Opcode.HELLO, 0, 0, 0, encode_hello_body(
                PEER_ROLE, node_id, cluster, disk=disk, address=address, restored=restored, version=version,
            ))
            for version in {protocol_version, OLDEST_PROTOCOL_VERSION}
        }  # fmt: skip
        self._output_limit_bytes = output_limit_bytes
        self._on_linked = on_linked
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._cluster_version = cluster_version
        self._names = names or Names()
        self._peers: dict[str, _Peer] = {}
        self._dirty: list[PeerLink] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._started = False
        self._ping_timer: asyncio.TimerHandle | None = None
        # Only the spread of reconnection attempts hangs on this; no decision of consensus does.
        self._jitter = random.Random()

    def start(self) -> None:
        """Begin to dial every peer."""
        self._started = True
        for name, peer in self._peers.items():
            self._begin(name, peer)
        self._ping()

    def set_peers(self, addresses: Addresses) -> None:
        """From now on these are to be reached, each at one of its addresses, and nobody else."""
        for name in [name for name in self._peers if name not in addresses]:
            self._end(self._peers.pop(name))
        for name, candidates in addresses.items():
            peer = self._peers.get(name)
            if peer is None:
                peer = self._peers[name] = _Peer(candidates)
                if self._started:
                    self._begin(name, peer)
            elif peer.addresses != candidates:
                peer.addresses = candidates
                if peer.link is not None and peer.dialled not in candidates:
                    peer.link.abort()
                peer.nudge.set()

    async def close(self) -> None:
        """Drop every link and stop dialling."""
        if self._ping_timer is not None:
            self._ping_timer.cancel()
        self.set_peers({})
        await asyncio.gather(*self._ending, return_exceptions=True)

    def send(self, node_id: str, frame: bytes) -> bool:
        """Queue a frame for a peer; False when there is no link to it."""
        peer = self._peers.get(node_id)
        link = peer.link if peer is not None else None
        if link is None or not link.ready:
            return False
        if link.queue(frame):
            self._dirty.append(link)
        return True

    def flush(self) -> None:
        """One write for each link that has something queued."""
        dirty, self._dirty = self._dirty, []
        for link in dirty:
            link.flush(self._output_limit_bytes)

    def nudge(self, node_id: str) -> None:
        """The peer has just dialled us, so it is there: dial it now rather than after the backoff."""
        peer = self._peers.get(node_id)
        if peer is not None:
            peer.nudge.set()

    def linked(self, node_id: str) -> bool:
        """Whether frames to this peer would be sent."""
        peer = self._peers.get(node_id)
        return peer is not None and peer.link is not None and peer.link.ready

    @property
    def round_trips_s(self) -> dict[str, float]:
        """The latest round trip to each peer that a link is up to, in seconds."""
        measured = {name: peer.link.round_trip_s for name, peer in self._peers.items() if peer.link and peer.link.ready}
        return {name: seconds for name, seconds in measured.items() if seconds is not None}

    def _ping(self) -> None:
        for peer in self._peers.values():
            if peer.link is not None:
                peer.link.ping()
        self._ping_timer = asyncio.get_running_loop().call_later(PING_INTERVAL_S, self._ping)

    # -- one peer ----------------------------------------------------------------------------------------------------

    def _begin(self, name: str, peer: _Peer) -> None:
        peer.task = asyncio.get_running_loop().create_task(self._keep(name, peer), name=f"link to {name}")

    def _end(self, peer: _Peer) -> None:
        if peer.task is not None:
            peer.task.cancel()
            self._ending.add(peer.task)
            peer.task.add_done_callback(self._ending.discard)
        if peer.link is not None:
            peer.link.abort()
            peer.link = None

    async def _keep(self, name: str, peer: _Peer) -> None:
        backoff = FIRST_BACKOFF_S
        said = ""
        while True:
            link = await self._dial(name, peer)
            if link is not None:
                peer.link = link
                await link.closed
                peer.link = None
                if self._step_down(peer, link):
                    continue
                if link.accepted:
                    backoff = FIRST_BACKOFF_S
                    log.info("link to %s lost", name)
                if link.refusal is not None:
                    status, text = link.refusal
                    if text != said:
                        said = text
                        log.error("%s refuses our link: %s", name, text)
                    self._on_refused(name, status, text)
                self._on_lost(name)
            await self._pause(peer, backoff * (0.5 + self._jitter.random()))
            backoff = min(backoff * 2, LAST_BACKOFF_S)

    def _step_down(self, peer: _Peer, link: PeerLink) -> bool:
        """Whether to dial again, in an older version: the peer may be of a release that knows no other."""
        refused = link.refusal is not None and link.refusal[0] == Status.UNSUPPORTED_VERSION
        again = refused and not peer.version and self._newest > OLDEST_PROTOCOL_VERSION
        peer.version = OLDEST_PROTOCOL_VERSION if again else 0
        return again

    async def _dial(self, name: str, peer: _Peer) -> PeerLink | None:
        address = peer.next_address()
        if address is None:
            return None

        def answered(link: PeerLink, reply: HelloReply) -> bool:
            if reply.version < self._cluster_version():
                log.warning("%s speaks version %d of the protocol, and the cluster a later one", name, reply.version)
                return False
            if reply.node_id != name or not self._on_linked(name, reply.disk):
                log.warning("%s at %s is another node than the member", reply.node_id, peer.dialled)
                return False
            log.info("link to %s up", name)
            return True

        host, port = address
        hello = self._hellos[peer.version or self._newest]
        try:
            candidates = await self._names.addresses(host, CONNECT_TIMEOUT_S)
            # Not wait_for: on Python 3.11 it drops a cancellation that comes as the connection does.
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connect(lambda: PeerLink(hello, answered), candidates, port)
        except (TimeoutError, OSError) as error:
            log.debug("cannot reach %s at %s: %s", name, peer.dialled, error)
            return None

    async def _connect(self, factory: Callable[[], PeerLink], candidates: list[str], port: int) -> PeerLink:
        """A connection to the first of some addresses that takes one. The last one's OSError otherwise."""
        *others, last = candidates
        loop = asyncio.get_running_loop()
        for candidate in others:
            with contextlib.suppress(OSError):
                return (await loop.create_connection(factory, candidate, port))[1]
        return (await loop.create_connection(factory, last, port))[1]

    async def _pause(self, peer: _Peer, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await peer.nudge.wait()
        peer.nudge.clear()
