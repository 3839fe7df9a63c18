"""A simulated machine: its disk and its clock outlive the processes that run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastkv.raft import LEADER
from fastkv.storage.memory_log import MemoryDisk
from fastkv.storage.memory_store import StoredState
from tests.sim.clients import Deliver
from tests.sim.process import Process

if TYPE_CHECKING:
    from tests.sim.world import World


class Machine:
    """Where one node lives. `process` is None while it is down."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = MemoryDisk()
        self.disks = [self.disk]
        """All that this node has ever had; the last one is in use."""
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
        self.disk.crash(self.world.events.rng)

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
