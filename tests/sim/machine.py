"""A simulated machine: its disk and its clock outlive the processes that run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import LEADER, Membership
from fastkv.storage.memory_log import MemoryDisk
from fastkv.storage.memory_store import StoredState
from tests.sim import real_log
from tests.sim.clients import Deliver
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.world import World


class Machine:
    """Where one node lives. `process` is None while it is down."""

    def __init__(self, world: World, node_id: str, *, founder: bool = False) -> None:
        self.world = world
        self.node_id = node_id
        self.address = world.new_address(node_id)
        self.founder = founder
        self.retired = False
        """It is not to be started again."""
        self.expelled = False
        """Its node was removed from the cluster: nobody will talk to one with its disk."""
        self.lost = False
        """Its disk is gone, and with it all that its node had acknowledged: it is no member any more."""
        self.disk = MemoryDisk()
        self.disks = [self.disk]
        """All that this node has ever had; the last one is in use."""
        self.disk_number = world.events.rng.getrandbits(63) | 1
        self.stored = StoredState()
        self.process: Process | None = None
        self.stall_until = 0
        """No sync ends before this time."""
        self._clock_ns = 0
        self._clock_set_at = 0
        self.clock_rate = 1.0
        self.drift()

    @property
    def leads(self) -> bool:
        """Whether its node takes itself for the leader."""
        return self.process is not None and self.process.raft.role == LEADER

    @property
    def term(self) -> int:
        """The term that its node is in; 0 while it is down."""
        return 0 if self.process is None else self.process.raft.term

    # -- the clock -----------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """What this machine's monotonic clock says."""
        return self._clock_ns + int((self.world.events.now - self._clock_set_at) * self.clock_rate * 1000)

    def drift(self) -> None:
        """From now on the clock runs at another rate, within what the plan allows."""
        self._clock_ns, self._clock_set_at = self.now_ns(), self.world.events.now
        slowest, fastest = self.world.plan.clock_rates
        self.clock_rate = slowest + self.world.events.rng.random() * (fastest - slowest)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process begins on what the disk has."""
        assert self.process is None
        self.process = Process(self)
        self.process.start()

    def crash(self) -> None:
        """Power off: the disk keeps what was synced, and a random part of what was not."""
        assert self.process is not None
        self.process.alive = False
        self.process = None
        self.world.network.unplug(self.node_id)
        self.stored.crash()
        if self.world.real_logs is None:
            self.disk.crash(self.world.events.rng)
        else:
            real_log.crash(self.disk, self.world.events.rng, self.world.real_logs)

    def stop(self) -> None:
        """A clean end: what was written is made durable."""
        process = self.process
        assert process is not None
        process.node.stop()
        process.log.close()
        process.alive = False
        self.process = None
        self.world.network.unplug(self.node_id)

    def wipe(self) -> None:
        """The disk is lost; the machine gets a new one. It is down."""
        assert self.process is None
        self.lost = True
        self.disk = MemoryDisk()
        self.disks.append(self.disk)
        self.disk_number = self.world.events.rng.getrandbits(63) | 1
        self.stored = StoredState()

    def disown(self) -> None:
        """Its node has heard that it is none of the founders; that is put down on the disk."""
        self.founder = False

    @property
    def first_membership(self) -> Membership:
        """What its configuration says while its disk says nothing."""
        return self.world.founders if self.founder else Membership()

    def fsync_us(self) -> int:
        """How long a sync takes that begins now."""
        world = self.world
        usual = world.events.between(world.plan.fsync_us // 5, world.plan.fsync_us) + world.slow_disk_us
        return max(usual, self.stall_until - world.events.now)

    def submit(self, opcode: int, body: bytes, deliver: Deliver) -> bool:
        """The front door; False while the machine is off."""
        if self.process is None:
            return False
        self.process.ask(opcode, body, deliver)
        return True
