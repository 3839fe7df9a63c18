"""Moving snapshots between nodes: one serves what it has, the other fetches, checks, and goes on after any break.

The node that needs a snapshot is the one that asks, chunk by chunk: so it decides from whom, how fast, and where to go
on; whoever serves remembers nothing of it but which image was last asked for. It asks the others first and the leader
last, who has enough to do. A member that falls silent, or has nothing of use, is passed over; the bytes that are here
stay for as long as the same image can be had.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from fastkv._core.codes import Status
from fastkv.errors import DamagedStore
from fastkv.kv.store import Image, ImageInfo, ImageRefused, Incoming, Store, StoreFull
from fastkv.node.ports import NodeSettings
from fastkv.storage.sync import lacks_space
from fastkv.wire.peer import (
    SnapshotAsk,
    SnapshotChunk,
    decode_snapshot_ask,
    decode_snapshot_chunk,
    encode_no_snapshot,
    encode_snapshot_ask,
    encode_snapshot_chunk,
)

Send = Callable[[str, bytes], bool]

KEPT_TIMEOUTS = 30
"""An image that nobody has asked for is kept open for so many times `snapshot_timeout_ticks`."""


MAKING_TIMEOUTS = 10
"""So many times `snapshot_timeout_ticks` whoever is asked may take until the first chunk."""


class ImageServer:
    """Serves this node's images to whoever asks. `on_damaged` is told where the store itself is not whole."""

    def __init__(
        self, store: Store, send: Send, settings: NodeSettings, on_damaged: Callable[[str], None] = lambda why: None
    ) -> None:
        self._on_damaged = on_damaged
        self._store = store
        self._send = send
        self._chunk_bytes = settings.snapshot_chunk_bytes
        self._patience_ticks = KEPT_TIMEOUTS * settings.snapshot_timeout_ticks
        self._image: Image | None = None
        self._waiting: dict[str, SnapshotAsk] = {}
        self._making = False
        self._unused_ticks = 0
        self.sent_bytes = 0

    def asked(self, node_id: str, body: bytes) -> None:
        """A node asks for a chunk. ValueError where the body is no such question."""
        ask = decode_snapshot_ask(body)
        image = self._image
        self._unused_ticks = 0
        if image is not None and self._is_asked_for(image.info, ask):
            self._serve(node_id, image, ask)
        elif ask.index or self._store.meta.applied_index < ask.min_index:
            self._send(node_id, encode_no_snapshot(Status.KEY_NOT_FOUND))
        else:
            self._waiting[node_id] = ask        # the newest question of a node is the one that counts
            if not self._making:
                self._making = True
                self._store.image(self._made)

    def _is_asked_for(self, info: ImageInfo, ask: SnapshotAsk) -> bool:
        if ask.index:
            return (ask.index, ask.checksum) == (info.applied_index, info.checksum)
        return info.applied_index >= ask.min_index

    def _made(self, image: Image | None, error: BaseException | None) -> None:
        self._making = False
        if isinstance(error, DamagedStore):
            self._on_damaged(str(error))
        waiting, self._waiting = self._waiting, {}
        if image is not None:
            self.close()
            self._image = image
        for node_id, ask in waiting.items():
            if image is not None and self._is_asked_for(image.info, ask):
                self._serve(node_id, image, ask)
            else:
                full = isinstance(error, StoreFull)
                self._send(node_id, encode_no_snapshot(Status.NO_SPACE if full else Status.KEY_NOT_FOUND))

    def _serve(self, node_id: str, image: Image, ask: SnapshotAsk) -> None:
        info = image.info
        data = image.read(ask.offset, min(ask.nbytes, self._chunk_bytes))
        chunk = SnapshotChunk(
            info.applied_index, info.applied_term, info.nbytes, info.checksum, info.kind, ask.offset, data
        )
        if self._send(node_id, encode_snapshot_chunk(chunk)):
            self.sent_bytes += len(data)

    def tick(self) -> None:
        """One tick: let go of an image that nobody asks for."""
        self._unused_ticks += 1
        if self._unused_ticks > self._patience_ticks:
            self.close()

    def close(self) -> None:
        """Let go of the image."""
        if self._image is not None:
            self._image.close()
            self._image = None


class ImageFetch:
    """Fetches one snapshot at a time. `on_ready` is called when it is here, verified, and can be installed."""

    def __init__(
        self, store: Store, send: Send, settings: NodeSettings, on_ready: Callable[[ImageInfo], None]
    ) -> None:
        self._store = store
        self._send = send
        self._chunk_bytes = settings.snapshot_chunk_bytes
        self._window_bytes = max(settings.snapshot_window_bytes, settings.snapshot_chunk_bytes)
        self._timeout_ticks = settings.snapshot_timeout_ticks
        self._on_ready = on_ready
        self._sources: deque[str] = deque()
        self._min_index = 0
        self._info: ImageInfo | None = None
        self._incoming: Incoming | None = None
        self._asked_to = 0
        self._early: dict[int, bytes | memoryview] = {}
        """Chunks that came before the one in front of them; at most a window of them."""
        self._silent_ticks = 0
        self._asked_again = False
        self._finishing = False
        self.received_bytes = 0
        self.problem = ""
        """What went wrong last, for people; empty while all goes well."""

    @property
    def active(self) -> bool:
        """Whether a snapshot is being fetched."""
        return bool(self._sources)

    @property
    def progress(self) -> tuple[int, int]:
        """(bytes that are here, bytes in all); zeros before the first chunk."""
        return (self._incoming.offset, self._info.nbytes) if self._incoming and self._info else (0, 0)

    def want(self, min_index: int, leader: str, others: Sequence[str]) -> None:
        """A snapshot of `min_index` or later is needed. May be said again and again."""
        sources = [*others, leader]
        if self._finishing or (self.active and (self._info is None or self._info.applied_index >= min_index)):
            self._min_index = max(self._min_index, min_index)
            if set(sources) != set(self._sources):
                self._exchange_sources(sources)     # another leader, or other members, than when it began
            return
        self.cancel()
        self._min_index = min_index
        self._sources = deque(sources)
        self._ask_anew()

    def _exchange_sources(self, sources: Sequence[str]) -> None:
        asked, self._sources = self._sources[0], deque(sources)
        if asked in sources:
            self._sources.rotate(-sources.index(asked))
        elif not self._finishing:
            self._ask_anew()

    def cancel(self) -> None:
        """It is not needed any more. What is here stays on the disk, for another time."""
        if self._incoming is not None:
            self._incoming.close()
        self._sources.clear()
        self._info = self._incoming = None
        self._early.clear()
        self._finishing = False

    def lost(self, node_id: str) -> None:
        """The link to a node broke."""
        if self.active and node_id == self._sources[0] and not self._finishing:
            self._next_source()

    def tick(self) -> None:
        """One tick: somebody who does not answer is passed over."""
        if not self.active or self._finishing:
            return
        self._silent_ticks += 1
        if self._info is None:
            # An image may have to be made first, which takes a while; but the question may have been lost as well.
            if self._silent_ticks >= MAKING_TIMEOUTS * self._timeout_ticks:
                self._next_source()
            elif self._silent_ticks % self._timeout_ticks == 0:
                self._ask_first()
        elif self._silent_ticks >= self._timeout_ticks:
            if self._asked_again:
                self._next_source()
            else:
                self._asked_again = True        # a frame was lost; another member's image would be another one
                self._ask_anew()

    def heard_chunk(self, node_id: str, status: int, body: bytes) -> None:
        """An answer. Late and duplicate ones, and those of others, are ignored. ValueError for what is none."""
        chunk = decode_snapshot_chunk(body) if status == Status.OK else None
        if not self.active or node_id != self._sources[0] or self._finishing:
            return
        if chunk is None:
            self.problem = f"{node_id} has no snapshot of entry {self._min_index} or later"
            if self._info is not None:
                self._forget()          # the one that was begun is gone there: perhaps there is a newer one
                self._ask_anew()
            else:
                self._next_source()
        elif self._begun(node_id, chunk):
            self._take(chunk)

    # -- steps -------------------------------------------------------------------------------------------------------

    def _ask_anew(self) -> None:
        """Which snapshot is there? With the answer comes its first chunk."""
        self._silent_ticks = 0
        if self._info is None:
            self._ask_first()
        else:
            assert self._incoming is not None
            self._asked_to = self._incoming.offset
            self._early.clear()
            self._ask_on()

    def _ask_first(self) -> None:
        ask = SnapshotAsk(self._min_index, 0, 0, 0, self._chunk_bytes)
        if not self._send(self._sources[0], encode_snapshot_ask(ask)):
            self._silent_ticks = MAKING_TIMEOUTS * self._timeout_ticks      # ask the next one on the next tick

    def _ask_on(self) -> None:
        """Keep the window full."""
        info, incoming = self._info, self._incoming
        assert info is not None
        assert incoming is not None
        while self._asked_to < info.nbytes and self._asked_to - incoming.offset < self._window_bytes:
            nbytes = min(self._chunk_bytes, info.nbytes - self._asked_to)
            ask = SnapshotAsk(self._min_index, info.applied_index, info.checksum, self._asked_to, nbytes)
            if not self._send(self._sources[0], encode_snapshot_ask(ask)):
                return                  # the timeout will see to it
            self._asked_to += nbytes

    def _next_source(self) -> None:
        self._asked_again = False
        self._sources.rotate(-1)
        self._ask_anew()

    def _forget(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
        self._info = self._incoming = None
        self._early.clear()

    def _begun(self, node_id: str, chunk: SnapshotChunk) -> bool:
        """Whether the chunk is of the snapshot that is being taken in; the first one begins it."""
        info = ImageInfo(chunk.index, chunk.term, chunk.total_bytes, chunk.checksum, chunk.kind)
        if self._info is not None:
            return info == self._info
        if info.applied_index < self._min_index:
            self._next_source()
            return False
        try:
            self._incoming = self._store.receive(info)
        except ImageRefused as error:
            self.problem = f"{node_id}: {error}"
            self._next_source()
            return False
        except OSError as error:
            self._lacks_space(error)
            return False
        self._info = info
        self._asked_to = self._incoming.offset
        if not self._asked_to:
            self._asked_to = len(chunk.data)    # of which this first chunk is the beginning
        return True

    def _take(self, chunk: SnapshotChunk) -> None:
        info, incoming = self._info, self._incoming
        assert info is not None
        assert incoming is not None
        if incoming.offset <= chunk.offset < self._asked_to and chunk.data:
            self._early[chunk.offset] = chunk.data
        try:
            while data := self._early.pop(incoming.offset, b""):
                incoming.write(data)
                self.received_bytes += len(data)
                self._silent_ticks, self._asked_again = 0, False
        except OSError as error:
            self._lacks_space(error)
            return
        self._asked_to = max(self._asked_to, incoming.offset)
        if incoming.offset == info.nbytes:
            self._finishing = True
            incoming.finish(self._finished)
        else:
            self._ask_on()

    def _lacks_space(self, error: OSError) -> None:
        """A full disk: `tick` tries again later, and goes on from here. Anything else ends the node."""
        if not lacks_space(error):
            raise error
        self._silent_ticks = 0
        self.problem = f"the snapshot cannot be written: {error}"

    def _finished(self, error: BaseException | None) -> None:
        info = self._info
        if not self._finishing or info is None:
            return                      # it was cancelled meanwhile
        self._finishing = False
        if error is None:
            self.problem = ""
            self.cancel()
            self._on_ready(info)
            return
        self.problem = str(error)
        self._forget()
        if isinstance(error, StoreFull):
            self._silent_ticks = 0      # `tick` asks again after a while; what is here stays
        elif isinstance(error, ImageRefused):
            self._next_source()
        else:
            raise error
