"""A cluster in the hands of a test: what the labs of MIT 6.5840 (formerly 6.824) do to a Raft, done to this one.

A `Lab` is a `World` in which nothing goes wrong but what the test does: it cuts nodes off and joins them again, crashes
and starts them, makes the network lose and delay, and says how long virtual time goes on in between. Durations are
counted in *elections*, the smallest election timeout of the plan, as the labs count theirs in seconds. The invariants
of `truth` and `promises` are checked at every step, whatever a test looks at besides; `finish` checks the rest.

Commands go in by the front door of some node, as a client's do, and are sent again where they were not done or nobody
knows. Which node, and all else that a test leaves to chance, is drawn by the seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastkv._core.codes import Kind, Opcode, Status
from fastkv._core.entry import DecodedCommand, decode_command, encode_command
from fastkv.chaos.operations import FOREVER
from fastkv.raft.messages import KIND_NAMES
from fastkv.wire.peer import REJECT
from tests.sim.clients import Client
from tests.sim.endgame import check_history, check_stale_reads, check_states, converged
from tests.sim.events import MS
from tests.sim.machine import Machine
from tests.sim.network import FAIR, Network, Weather
from tests.sim.plan import draw
from tests.sim.process import Process
from tests.sim.promises import FRAME_HEADER_BYTES
from tests.sim.world import World

PATIENCE = 100
"""Elections within which whatever a test waits for has to come. The labs give some thirty; but then, their snapshots
come whole, in one message: here a lost question for the first chunk is asked again after ten."""

UNRELIABLE = Weather(loss=0.1, slow=0.3, slow_us=26 * MS)
"""The labs' unreliable network: one in ten is lost on its way there, one on its way back, others are late."""

ORDERLY: dict[str, Any] = {
    "detours": 0,
    "max_append_bytes": 8000,
    "max_append_entries": 128,
    "max_inflight_bytes": 1 << 16,
    "max_uncommitted_bytes": 1 << 16,
    "waiting_limit_bytes": 1 << 16,
}
"""For tests that count what is sent, or submit much at once: no limit is reached, and no frame overtakes another."""

SNAPSHOT_BYTES = 1000
SNAPSHOTS: dict[str, Any] = {
    "checkpoint_log_bytes": SNAPSHOT_BYTES,
    "snapshot_log_bytes": SNAPSHOT_BYTES,
    "snapshot_chunk_bytes": SNAPSHOT_BYTES // 2,
    "log_memory_bytes": SNAPSHOT_BYTES // 2,
}
"""For tests in which followers get snapshots: little of the log is kept, for them or in memory."""

LOG_LIMIT_BYTES = 8 * SNAPSHOT_BYTES
"""No log is longer then, as in the labs: for a follower that fetches four times as much is kept, and a checkpoint takes
a while."""

KEYS = 5


class Meter(Network):
    """The network, and how much it was given to carry."""

    frames: Counter[str]
    """By what they are: "Vote", "Heartbeat", "APPEND", "PEER_STATUS"…"""
    nbytes: Counter[str]
    """Of those frames, headers included."""
    refusals: Counter[str]
    """APPENDs that a node has refused because its log does not match, by node."""

    def count_anew(self) -> None:
        """All counts begin at 0."""
        self.frames, self.nbytes, self.refusals = Counter(), Counter(), Counter()

    def send(self, sender: str, receiver: str, host: Any, frame: bytes) -> None:
        name = Opcode(frame[4]).name
        if frame[4] == Opcode.RAFT:
            name, flags = KIND_NAMES[frame[FRAME_HEADER_BYTES]], frame[FRAME_HEADER_BYTES + 1]
            if name == "AppendReply" and flags & REJECT:
                self.refusals[sender] += 1
        self.frames[name] += 1
        self.nbytes[name] += len(frame)
        super().send(sender, receiver, host, frame)


@dataclass(slots=True, eq=False)
class Put:
    """A command that was submitted, perhaps several times."""

    body: bytes
    process: Process | None = None
    """Whom it was submitted to last."""
    status: int | None = None
    """The answer to the last try; None while there is none."""
    tries: int = 0

    @property
    def failed(self) -> bool:
        """Whether nothing is to be expected of the last try."""
        answered = self.status not in (None, Status.OK)
        return answered or (self.status is None and (self.process is None or not self.process.alive))


class Lab(World):
    """All nodes run from the beginning. `tuning` takes the place of what the seed's plan says."""

    def __init__(self, seed: int, *, nodes: int = 3, **tuning: Any) -> None:
        super().__init__(seed, nodes=nodes, plan=replace(draw(seed), **tuning))
        self.network: Meter = Meter(self.events, wire_us=self.plan.wire_us, detours=self.plan.detours)
        self.network.count_anew()
        self.rng = random.Random(f"lab {seed}")
        self.all = list(self.machines.values())
        self._side = dict.fromkeys(self.machines, 0)
        """Nodes of different sides do not hear each other. A test's commands go to side 0; below are those alone."""
        self._puts = 0
        self._installed = 0
        self._indexes: dict[bytes, int] = {}
        self._indexed = 0
        for machine in self.all:
            machine.start()

    # -- time ----------------------------------------------------------------------------------------------------------

    def pass_time(self, elections: float) -> None:
        """Let so many election timeouts pass."""
        self.events.run(self.events.now + round(elections * self.plan.election_us))

    def wait(self, happened: Callable[[], bool], what: str, *, elections: float = PATIENCE, step_us: int = MS) -> None:
        """Let time pass until something has happened, looked at every `step_us`. AssertionError where it does not."""
        deadline = self.events.now + round(elections * self.plan.election_us)
        while not happened():
            if self.events.now >= deadline:
                told = "\n".join(self.journal[-10:])
                raise AssertionError(f"seed {self.seed} at {self.events.now} us, waiting for {what}:\n{told}")
            self.events.run(self.events.now + step_us)

    # -- what happens to nodes -----------------------------------------------------------------------------------------

    def cut(self, *machines: Machine) -> None:
        """Each of these is alone from now on."""
        self._part({machine.node_id: -number for number, machine in enumerate(self.all, 1) if machine in machines})

    def join(self, *machines: Machine) -> None:
        """These are back among those who were not cut off."""
        self._part(dict.fromkeys((machine.node_id for machine in machines), 0))

    def split(self, *groups: Sequence[Machine]) -> None:
        """Everybody hears his own group. The first is where commands go; who is in none of them is alone."""
        alone = {machine.node_id: -number for number, machine in enumerate(self.all, 1)}
        self._part(alone | {machine.node_id: side for side, group in enumerate(groups) for machine in group})

    def _part(self, sides: dict[str, int]) -> None:
        self._side |= sides
        side = self._side
        self.note(f"sides: {' '.join(f'{node_id}={at}' for node_id, at in side.items())}")
        self.network.break_links([(a, b) for a in side for b in side if side[a] != side[b]])

    def crash(self, *machines: Machine) -> None:
        """The power of these goes, where they run."""
        for machine in machines:
            if machine.process is not None:
                self.note(f"{machine.node_id} crashes")
                self._installed += machine.process.node.snapshots_installed
                machine.crash()

    def start(self, *machines: Machine) -> None:
        """These run again, on what their disks have."""
        for machine in machines:
            self.starts(machine)

    def heal(self) -> None:
        """Everybody runs and hears everybody, at once and for certain."""
        self.network.weather = FAIR
        self.join(*self.all)
        self.start(*self.all)

    # -- looking -------------------------------------------------------------------------------------------------------

    @property
    def reachable(self) -> list[Machine]:
        """Those on the side where commands go that run."""
        return [machine for machine in self.all if machine.process is not None and not self._side[machine.node_id]]

    def others(self, *machines: Machine) -> list[Machine]:
        """All but these."""
        return [machine for machine in self.all if machine not in machines]

    def one_leader(self) -> Machine:
        """Whom all who are reachable follow, in one term, once there is such a leader."""
        self.wait(lambda: self._followed() is not None, "a leader that all follow")
        leader = self._followed()
        assert leader is not None
        return leader

    def _followed(self) -> Machine | None:
        rafts = [machine.process.raft for machine in self.reachable if machine.process is not None]
        leaders = [machine for machine in self.reachable if machine.leads]
        if len(leaders) != 1 or len({(raft.leader, raft.term) for raft in rafts}) != 1:
            return None
        return leaders[0]

    def ready(self) -> Machine:
        """The leader, once the cluster is up: all have the same log, and it says whose disk is whose."""

        def up() -> bool:
            return all(member.disk for member in self.truth.membership.members) and converged(self)

        self.wait(up, "a cluster that is up")
        return self.one_leader()

    @property
    def log_bytes(self) -> int:
        """Of the largest log that is on a disk now."""
        return max(sum(segment.nbytes for segment in machine.disk.durable.segments) for machine in self.all)

    @property
    def snapshots_installed(self) -> int:
        """How many nodes have taken in, in all their lives."""
        living = (machine.process.node.snapshots_installed for machine in self.all if machine.process is not None)
        return self._installed + sum(living)

    def commands(self) -> list[DecodedCommand]:
        """The puts and deletes that were decided, in order."""
        entries = [entry for _, entry in self.truth.applied]
        wanted = (Kind.ENTRY_PUT, Kind.ENTRY_DELETE)
        return [decode_command(entry.kind, entry.body) for entry in entries if entry.kind in wanted]

    # -- commands ------------------------------------------------------------------------------------------------------

    def put(self, at: Machine | None = None, *, nbytes: int = 0) -> Put:
        """Submit a command of its own, padded to `nbytes`, to some node; it is not sent again."""
        self._puts += 1
        value = f"value-{self._puts}".encode().ljust(nbytes, b".")
        put = Put(encode_command(Kind.ENTRY_PUT, b"k%d" % (self._puts % KEYS), value))
        self._submit(put, at)
        return put

    def _submit(self, put: Put, at: Machine | None = None) -> None:
        if at is None and not self.reachable:
            return
        machine = at or self.rng.choice(self.reachable)
        put.tries, put.process, put.status = put.tries + 1, machine.process, None
        life = put.tries

        def answered(status: int, *_: object) -> None:
            if put.tries == life:
                put.status = status

        machine.submit(Opcode.PUT, put.body, answered)

    def index(self, put: Put) -> int:
        """Where a command was decided first; 0 where it was not."""
        applied = self.truth.applied
        while self._indexed < len(applied):
            self._indexed += 1
            self._indexes.setdefault(applied[self._indexed - 1][1].body, self._indexed)
        return self._indexes.get(put.body, 0)

    def appliers(self, index: int) -> list[Machine]:
        """Who runs and has applied that entry. That it is the same entry everywhere, the truth has checked."""
        return [m for m in self.all if m.process is not None and index and m.process.raft.applied_index >= index]

    def agree(self, count: int = 1, *, on: int = 0, nbytes: int = 0) -> list[int]:
        """Have so many new commands decided, and applied by `on` nodes (0: all who are reachable); their indexes.

        They are submitted at once, and each until it is decided.
        """
        puts, wanted = [self.put(nbytes=nbytes) for _ in range(count)], on or len(self.reachable)

        def agreed() -> bool:
            for put in puts:
                if put.failed and not self.index(put):
                    self._submit(put)
            return all(len(self.appliers(self.index(put))) >= wanted for put in puts)

        self.wait(agreed, f"{count} commands that {wanted} nodes agree on")
        return [self.index(put) for put in puts]

    # -- clients -------------------------------------------------------------------------------------------------------

    def serve(self, clients: int, doors: Sequence[Machine] | None = None) -> list[Client]:
        """So many clients begin to do what the plan says, at any node or at `doors`."""
        numbers = range(len(self.clients), len(self.clients) + clients)
        new = [Client(number, self.events, self.plan, doors or self.doors, self.seen) for number in numbers]
        for client in new:
            client.start()
        self.clients += new
        return new

    @property
    def answered(self) -> int:
        """Operations of clients whose outcome they know."""
        return sum(operation.returned != FOREVER for operation in self.history)

    def acknowledged(self) -> set[str]:
        """The values that clients were told are written."""
        return {op.argument or "" for op in self.history if op.f in ("put", "cas") and op.outcome is True}

    def finish(self) -> None:
        """All heals, and clients stop. Then nodes converge to what the log says, and so did all that clients saw."""
        self.heal()
        for client in self.clients:
            client.stopped = True
        self._settle()
        check_states(self)
        check_stale_reads(self)
        check_history(self)
