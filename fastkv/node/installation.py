"""The log's old end: how much of it is kept, and what happens where a snapshot takes its place.

The log is cut below what the state machine's store has durably, and no further than somebody may need it: what every
member has nobody needs, and for members that lag `snapshot_log_bytes` are kept. Who needs more fetches a snapshot.

To install one: first the log restarts behind it, durably, then the store is exchanged, then Raft is told. A crash
between the first two leaves a log that begins behind what the store has; the snapshot is still there, and the next
start completes what was begun (see `Store.install`). While the log is being replaced, consensus is deaf: whatever is
said in these milliseconds will be said again.
"""

from __future__ import annotations

from collections.abc import Callable

from fastkv.kv.state import StateMachine
from fastkv.kv.store import ImageInfo
from fastkv.raft import LEADER, Membership, Raft
from fastkv.storage.interfaces import LogStore

RESTART_ROOM_BYTES = 1 << 62
"""More than any segment has: the log restarts in a new one, for which there has to be room."""
LAGGARD_FACTOR = 4
"""While a member fetches a snapshot, so many times the log is kept as otherwise: it has to go on from there."""


class Installation:
    """Of one node. `on_installed` is called once log, store and Raft are at the snapshot."""

    def __init__(
        self, raft: Raft, machine: StateMachine, log: LogStore, *, keep_bytes: int, on_installed: Callable[[], None]
    ) -> None:
        self._raft = raft
        self._machine = machine
        self._log = log
        self._keep_bytes = keep_bytes
        self._on_installed = on_installed
        self._image: ImageInfo | None = None
        self._log_kept = False
        self._ticket: int | None = None
        """The write that restarts the log."""

    @property
    def restarting(self) -> bool:
        """Whether the log is being replaced: consensus must not touch it, and hears nothing."""
        return self._ticket is not None

    @property
    def busy(self) -> bool:
        """Whether a snapshot is here that is not installed yet: another one would take its place on the disk."""
        return self._image is not None

    def fetched(self, image: ImageInfo) -> None:
        """A snapshot is here, whole and verified; `go_on` installs it."""
        self._image = image

    def go_on(self) -> None:
        """Take the next step, where there is one and its time has come."""
        image = self._image
        if image is None or self._machine.checkpointing:
            return
        if self._ticket is None:
            self._begin(image)
        if self._ticket is not None and not self._log.notify_at(self._ticket):
            self._finish(image)

    def _begin(self, image: ImageInfo) -> None:
        """Restart the log behind the image, unless it is of no use any more, or there is no room yet."""
        raft = self._raft
        if image.applied_index <= raft.applied_index or raft.role == LEADER:
            self._image = None          # caught up by the log meanwhile
        elif self._log.has_room(RESTART_ROOM_BYTES):
            index, term = image.applied_index, image.applied_term
            self._log_kept = raft.log.matches(index, term)
            self._ticket = self._log.restart(index, term)

    def _finish(self, image: ImageInfo) -> None:
        self._machine.install()
        membership = Membership.decode(self._machine.membership)
        self._raft.restored(image.applied_index, image.applied_term, membership, log_kept=self._log_kept)
        self._image = self._ticket = None
        self._on_installed()

    def trim(self) -> None:
        """Cut the log behind its old end."""
        if self.restarting:
            return
        raft, log, durable = self._raft, self._log, self._machine.durable_applied_index
        if durable <= raft.log.base_index:
            return
        if raft.low_water < durable:
            kept = self._keep_bytes * (LAGGARD_FACTOR if raft.someone_fetches else 1)
            durable = min(durable, max(raft.low_water, log.index_behind(kept)))
        log.compact(durable)
        base_index = log.first_index - 1
        if raft.log.base_index < base_index:
            raft.log.cut(base_index, log.term_at(base_index))
