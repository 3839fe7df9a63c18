"""The links that a process keeps to the others: it dials whom it is to reach, says who it is, and keeps trying.

A link carries frames one way, from the one who dialled. The other side hears an id, a disk's number and an address, and
lets it in or says why not; what is sent without a link is not sent. A link breaks where either process ends, where
somebody notices that the network is cut, and where the other side hangs up; then it is dialled again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv._core.codes import Opcode, Status
from tests.sim.promises import FRAME_HEADER_BYTES, PROMISING, check_frame

if TYPE_CHECKING:
    from fastkv.node.ports import Addresses
    from tests.sim.process import Process


class Line:
    """The far end of a link. Whoever was removed is hung up on there: of what is under way nothing arrives any more."""

    def __init__(self, process: Process, disk: int) -> None:
        self.process = process
        self._disk = disk
        """The dialler's."""

    @property
    def alive(self) -> bool:
        """Whether anybody hears."""
        return self.process.alive

    def hear(self, sender: str, frame: bytes) -> None:
        """A frame arrives."""
        if self._disk not in self.process.node.removed_disks():
            self.process.hear(sender, frame)

    def lost(self, peer: str) -> None:
        """Somebody notices that the link to a peer broke."""
        self.process.lost(peer)


class Links:
    """The outgoing links of one process: what its node takes for the transport."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world
        self._addresses: Addresses = {}
        self._tries = 0
        self._up: dict[str, Line] = {}
        self._dialling: set[str] = set()

    def reach(self, addresses: Addresses) -> None:
        """From now on these nodes are to be reached, at these addresses, and nobody else."""
        for node_id, line in list(self._up.items()):
            if line.process.machine.address not in addresses.get(node_id, ()):
                del self._up[node_id]
        self._addresses = addresses
        self._drop_removed()
        for node_id in addresses:
            self._dial_later(node_id, self._world.plan.wire_us)

    def _drop_removed(self) -> None:
        """Whoever was removed is hung up on; it finds out why when it dials again."""
        own, removed = self._process, self._process.node.removed_disks()
        for machine in self._world.machines.values():
            other = machine.process
            if machine.disk_number in removed and other is not None and other is not own and other.links.reaches(own):
                self._world.events.after(self._world.plan.wire_us, other.lost, own.node_id)

    def reaches(self, process: Process) -> bool:
        """Whether there is a link to that very process."""
        line = self._up.get(process.node_id)
        return line is not None and line.process is process

    def broke(self, node_id: str) -> None:
        """The link to a node is gone."""
        if self._up.pop(node_id, None) is not None:
            self._process.node.peer_lost(node_id)
            self._dial_later(node_id, self._world.plan.election_us // 4)

    # -- dialling ----------------------------------------------------------------------------------------------------

    def _dial_later(self, node_id: str, delay: int) -> None:
        if node_id not in self._dialling and node_id not in self._up and node_id in self._addresses:
            self._dialling.add(node_id)
            self._process.later(1 + int(self._world.events.rng.random() * delay), self._dial, node_id)

    def _dial(self, node_id: str) -> None:
        self._dialling.discard(node_id)
        addresses = self._addresses.get(node_id, ())
        if not addresses or node_id in self._up:
            return
        self._tries += 1
        address = addresses[self._tries % len(addresses)]
        listener, own = self._world.listener(address), self._process
        again_us = self._world.plan.election_us // 2
        if listener is not None and self._world.network.is_whole(own.node_id, node_id):
            status, text = listener.node.hear_hello(own.node_id, own.machine.disk_number, own.machine.address)
            if status == Status.OK:
                self._up[node_id] = Line(listener, own.machine.disk_number)
                if own.node.peer_linked(node_id, listener.machine.disk_number):
                    return
                del self._up[node_id]
            else:
                self._world.note_once(f"{node_id} does not let {own.node_id} in: {text}")
                own.node.refused_by(node_id, status, text)
            again_us *= 4
        self._dial_later(node_id, again_us)

    # -- the transport -----------------------------------------------------------------------------------------------

    def send(self, node_id: str, frame: bytes) -> bool:
        """Send a frame; False without a link."""
        line = self._up.get(node_id)
        if line is None:
            return False
        world, process = self._world, self._process
        world.trace.append((world.events.now, process.node_id, node_id, frame))
        if frame[4] == Opcode.RAFT and frame[FRAME_HEADER_BYTES] in PROMISING:
            check_frame(process, node_id, frame)
        world.network.send(process.node_id, node_id, line, frame)
        return True

    def flush(self) -> None:
        """Every frame has left in `send`."""
