"""Links to the other nodes: one outgoing connection for each peer, kept up for as long as the node runs.

A link is one-way: this node's frames travel on the connection that it dialled, the peer's on the one the peer dialled.
So two nodes that dial each other at once need no tie-break, and a link's state has one owner. A link may lose
everything it holds when it breaks; Raft expects no more of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Callable, Mapping
from typing import cast

from fastkv._core.codes import Opcode, Status
from fastkv._core.frames import FrameReader, FrameTooLarge, encode_frame
from fastkv.wire.client import PEER_ROLE, encode_hello_body

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.02
LAST_BACKOFF_S = 0.5
CONNECT_TIMEOUT_S = 2.0
USER_TIMEOUT_MS = 3000
"""The kernel gives up a link whose bytes are not acknowledged for this long: a cable cut sends no FIN."""
ANSWER_LIMIT_BYTES = 65536


class PeerLink(asyncio.Protocol):
    """One connection to one peer; `ready` is set once the peer has accepted HELLO."""

    def __init__(self, hello: bytes, on_ready: Callable[[PeerLink], None]) -> None:
        self.ready = False
        self.refusal = ""
        self._hello = hello
        self._on_ready = on_ready
        self._reader = FrameReader(ANSWER_LIMIT_BYTES)
        self._transport: asyncio.Transport | None = None
        self._pending: list[bytes] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)      # uvloop's are no subclass of asyncio's
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        self._transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._reader.feed(data)
        except FrameTooLarge:
            self.abort()
            return
        for opcode, _, code, _, body in frames:
            if opcode == Opcode.HELLO and code == Status.OK:
                self.ready = True
                self._on_ready(self)
            else:
                self.refusal = body.decode(errors="replace") or f"status {code}"
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

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()


class PeerLinks:
    """The node's transport over TCP: keeps a link to each peer up, and tells when one comes or goes."""

    def __init__(
        self,
        node_id: str,
        cluster: str,
        addresses: Mapping[str, tuple[str, int]],
        *,
        output_limit_bytes: int,
        on_linked: Callable[[str], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._hello = encode_frame(Opcode.HELLO, 0, 0, 0, encode_hello_body(PEER_ROLE, node_id, cluster))
        self._addresses = dict(addresses)
        self._output_limit_bytes = output_limit_bytes
        self._on_linked = on_linked
        self._on_lost = on_lost
        self._links: dict[str, PeerLink] = {}
        self._dirty: list[PeerLink] = []
        self._nudges = {peer: asyncio.Event() for peer in addresses}
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        # Only the spread of reconnection attempts hangs on this; no decision of consensus does.
        self._jitter = random.Random()

    def start(self) -> None:
        """Begin to dial every peer."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(peer), name=f"link to {peer}") for peer in self._addresses]

    async def close(self) -> None:
        """Drop every link and stop dialling."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._links.values():
            link.abort()
        self._links.clear()

    def send(self, node_id: str, frame: bytes) -> bool:
        """Queue a frame for a peer; False when there is no link to it."""
        link = self._links.get(node_id)
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
        if node_id in self._nudges:
            self._nudges[node_id].set()

    def linked(self, node_id: str) -> bool:
        """Whether frames to this peer would be sent."""
        link = self._links.get(node_id)
        return link is not None and link.ready

    async def _keep(self, peer: str) -> None:
        backoff = FIRST_BACKOFF_S
        said = ""
        while not self._closing:
            link = await self._dial(peer)
            if link is not None:
                self._links[peer] = link
                await link.closed
                del self._links[peer]
                if link.refusal and link.refusal != said:
                    said = link.refusal
                    log.error("%s refuses our link: %s", peer, said)
                elif not link.refusal:
                    backoff = FIRST_BACKOFF_S
                    log.info("link to %s lost", peer)
                self._on_lost(peer)
            await self._pause(peer, backoff * (0.5 + self._jitter.random()))
            backoff = min(backoff * 2, LAST_BACKOFF_S)

    async def _dial(self, peer: str) -> PeerLink | None:
        host, port = self._addresses[peer]

        def ready(link: PeerLink) -> None:
            log.info("link to %s up", peer)
            self._on_linked(peer)

        loop = asyncio.get_running_loop()
        connecting = loop.create_connection(lambda: PeerLink(self._hello, ready), host, port)
        try:
            # Not wait_for: on Python 3.11 it drops a cancellation that comes as the connection does.
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, link = await connecting
        except (TimeoutError, OSError) as error:
            log.debug("cannot reach %s at %s:%d: %s", peer, host, port, error)
            return None
        return link

    async def _pause(self, peer: str, seconds: float) -> None:
        nudge = self._nudges[peer]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await nudge.wait()
        nudge.clear()
