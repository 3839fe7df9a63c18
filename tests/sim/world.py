"""A cluster in virtual time: production node, raft, kv, wire and compiled core over a simulated clock, network, disk.

After each step the invariants of the Raft paper (figure 3) are checked on what the nodes really did:

* election safety: one leader a term;
* state machine safety and leader completeness: every node applies the same entry at the same index;
* equal applied index means equal state.

At the end the faults stop, the cluster has to converge within a bound, and the clients' history has to be linearizable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from fastkv._core.replies import CallbackSink
from fastkv.kv.state import StateMachine
from fastkv.log_types import Segment
from fastkv.node import Node, NodeSettings
from fastkv.raft import LEADER, Membership, Raft, RaftConfig, RaftLog
from fastkv.raft import Member as RaftMember
from fastkv.storage.memory_log import MemoryDisk, MemoryLogStore
from fastkv.storage.memory_store import MemoryStore, StoredState
from tests.sim.clients import Client, Deliver
from tests.sim.events import MS, Events
from tests.sim.linearizability import Operation, Verdict, check
from tests.sim.network import Network, Weather

TICK = 5 * MS
ELECTION_TICKS = 20
HEARTBEAT_TICKS = 5


class Violation(AssertionError):
    """An invariant does not hold; the message says which, and with which seed to see it again."""


@dataclass
class Truth:
    """What has been decided, as seen from outside: grows only, and every node has to agree with it."""

    leaders: dict[int, str] = field(default_factory=dict)
    applied: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    states: dict[int, bytes] = field(default_factory=dict)

    def leads(self, node: str, term: int) -> None:
        if self.leaders.setdefault(term, node) != node:
            raise Violation(f"election safety: {self.leaders[term]} and {node} both lead term {term}")

    def applies(self, node: str, index: int, term: int, entry: bytes) -> None:
        if self.applied.setdefault(index, (term, entry)) != (term, entry):
            raise Violation(f"state machine safety: {node} applies another entry at index {index}")

    def has_state(self, node: str, applied_index: int, digest: bytes) -> None:
        if self.states.setdefault(applied_index, digest) != digest:
            raise Violation(f"{node} has another state than a node before it at applied index {applied_index}")


class ObservedMachine(StateMachine):
    """The production state machine; what it applies is told to the truth."""

    def observe(self, node: str, truth: Truth) -> None:
        self._node, self._truth = node, truth

    def apply(self, segment: Segment, index: int, last: int, results: object) -> None:
        entries = segment.batch.entries()
        for at in range(index, last + 1):
            entry = entries[at - segment.first_index]
            self._truth.applies(self._node, at, segment.term, bytes([entry.kind]) + bytes(entry.body))
        super().apply(segment, index, last, results)  # type: ignore[arg-type]


class Member:
    """One simulated machine: its disk survives crashes, everything else does not."""

    def __init__(self, world: World, node_id: str) -> None:
        self.world = world
        self.node_id = node_id
        self.disk = MemoryDisk()
        self.stored = StoredState()
        self.node: Node | None = None
        self._life = 0
        self._tick_us = TICK
        self._pump_scheduled = False

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        world, events = self.world, self.world.events
        self._life += 1
        life = self._life
        # Clocks run at different rates: nothing but availability may depend on them.
        self._tick_us = TICK * events.rng.randint(70, 140) // 100
        store = MemoryStore(self.stored)
        machine = ObservedMachine(
            store,
            memtable_bytes=1 << 19,         # two chunks of an arena, so that checkpoints happen all the time
            checkpoint_log_bytes=2048,
            checkpoint_age_ticks=200,
            retry_ticks=20,
            snapshots=4,
            snapshot_ttl_ticks=1000,
            first_snapshot_id=events.rng.getrandbits(64),
        )
        machine.observe(self.node_id, world.truth)
        log = MemoryLogStore(self.disk, keep_above=machine.applied_index)
        recovered = log.recovered
        raft = Raft(
            RaftConfig(
                node_id=self.node_id,
                election_ticks=ELECTION_TICKS,
                heartbeat_ticks=HEARTBEAT_TICKS,
                max_append_bytes=1024,
                max_append_entries=16,
                max_inflight_bytes=8192,
                max_uncommitted_bytes=1 << 16,
            ),
            recovered.hard_state,
            RaftLog(recovered.base_index, recovered.base_term, recovered.segments, log),
            events.rng,
            membership=Membership.of(RaftMember(node_id) for node_id in world.members),
            applied=machine.applied_index,
        )
        settings = NodeSettings(
            node_id=self.node_id,
            peers=tuple(peer for peer in world.members if peer != self.node_id),
            tick_ms=TICK / MS,
            request_timeout_ticks=200,
            leader_wait_ticks=100,
            read_retry_ticks=ELECTION_TICKS,
            status_ticks=100,
            status_expiry_ticks=300,
            waiting_limit_bytes=1 << 16,
            log_memory_bytes=4096,
        )
        self.node = Node(
            settings,
            raft,
            machine,
            log,
            _Transport(self),
            self._wake,
            value_limit_bytes=1 << 20,
            open_limit_bytes=1 << 16,
        )
        self.log, self.store, self.machine = log, store, machine
        self.sink = CallbackSink(self.node.outbox, _raise)
        world.network.plug_in(self.node_id, self.node.peer_frame, self.node.peer_lost)
        self._every_tick(life)

    def crash(self) -> None:
        """Power off: the disk keeps what was synced, and a random part of what was not."""
        assert self.node is not None
        self.node = None
        self._life += 1
        self._pump_scheduled = False
        self.world.network.unplug(self.node_id)
        self.disk.crash(self.world.events.rng)

    def submit(self, opcode: int, body: bytes, deliver: Deliver) -> bool:
        """The front door; False while the machine is off."""
        if self.node is None:
            return False
        self.node.ingress.submit(self.sink, self.sink.expect(deliver), opcode, body)
        self.node.ingress.request_wake()
        return True

    # -- the loop that a server would turn ---------------------------------------------------------------------------

    def _wake(self) -> None:
        if not self._pump_scheduled:
            self._pump_scheduled = True
            self._later(self.world.events.rng.randint(1, 100), self._pump)

    def _pump(self) -> None:
        self._pump_scheduled = False
        assert self.node is not None
        before = self.log.submitted_ticket
        self.node.pump()
        if self.node.raft.role == LEADER:
            self.world.truth.leads(self.node_id, self.node.raft.term)
        if self.log.submitted_ticket > before:
            self._later(self.world.fsync_delay(), self._sync)
        if self.store.pending:
            self._later(self.world.events.rng.randint(1, 50) * MS, self._finish_checkpoint)

    def _sync(self) -> None:
        assert self.node is not None
        self.log.complete(self.log.submitted_ticket)
        self.node.durable()

    def _finish_checkpoint(self) -> None:
        if self.store.pending:
            self.store.complete()

    def _every_tick(self, life: int) -> None:
        if self._life == life and self.node is not None:
            self.node.tick()
            self._later(self._tick_us + self.world.events.rng.randint(-200, 200), lambda: self._every_tick(life))

    def _later(self, delay: int, action: Callable[[], None]) -> None:
        life = self._life

        def still_alive() -> None:
            if self._life == life:
                action()

        self.world.events.after(delay, still_alive)


class _Transport:
    def __init__(self, member: Member) -> None:
        self._member = member

    def send(self, node_id: str, frame: bytes) -> bool:
        return self._member.world.network.send(self._member.node_id, node_id, frame)

    def flush(self) -> None:
        """Every frame has left in `send`."""


def _raise(error: BaseException) -> None:
    raise error


class World:
    """The whole simulation for one seed."""

    def __init__(self, seed: int, *, nodes: int = 3, clients: int = 5) -> None:
        self.seed = seed
        self.events = Events(seed)
        self.network = Network(self.events)
        self.truth = Truth()
        self.history: list[Operation] = []
        self.journal: list[str] = []
        self.members: dict[str, Member] = {f"node-{i + 1}": None for i in range(nodes)}  # type: ignore[misc]
        for node_id in self.members:
            self.members[node_id] = Member(self, node_id)
        doors = list(self.members.values())
        self.clients = [Client(number, self.events, lambda: [*doors], self.history) for number in range(clients)]
        self.slow_disk_us = 0

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self, *, operations: int = 300, faults: bool = True) -> None:
        """Run until the clients have done `operations`, then heal and check. Raises Violation."""
        for member in self.members.values():
            member.start()
        for client in self.clients:
            client.start()
        if faults:
            self._next_fault()
        self._until(lambda: len(self.history) >= operations, limit=600_000 * MS, what=f"{operations} operations")
        self._heal_all()
        for client in self.clients:
            client.stopped = True
        self._until(lambda: all(client.idle for client in self.clients), limit=10_000 * MS, what="the clients' answers")
        self._until(self._converged, limit=10_000 * MS, what="convergence")
        self._check_states()
        verdict, key = check(self.history)
        if verdict is not Verdict.LINEARIZABLE:
            raise Violation(f"seed {self.seed}: the history of {key} is not linearizable ({verdict.value})")

    def digest(self) -> str:
        """A fingerprint of everything that happened: the same for the same seed, in every process."""
        said = repr((self.events.now, self.network.delivered, self.history, sorted(self.truth.applied.items())))
        return hashlib.sha256(said.encode()).hexdigest()

    def _until(self, reached: Callable[[], bool], *, limit: int, what: str) -> None:
        deadline = self.events.now + limit
        while not reached():
            if self.events.now > deadline:
                raise Violation(f"seed {self.seed}: no {what} within {limit // MS} ms of virtual time\n{self.replay()}")
            try:
                self.events.step()
            except AssertionError as error:
                raise Violation(f"seed {self.seed} at {self.events.now} us: {error}\n{self.replay()}") from error

    def replay(self) -> str:
        """What happened to the cluster, for a person."""
        return "\n".join(self.journal[-40:])

    def fsync_delay(self) -> int:
        return self.events.rng.randint(100, 2000) + self.slow_disk_us

    # -- faults ------------------------------------------------------------------------------------------------------

    def _next_fault(self) -> None:
        self.events.after(self.events.rng.randint(50, 800) * MS, self._fault)

    def _fault(self) -> None:
        if all(client.stopped for client in self.clients):
            return
        rng = self.events.rng
        rng.choices(
            [
                self._crash_one,
                self._crash_all,
                self._partition,
                self._cut_off_leader,
                self._bad_weather,
                self._slow_disk,
                self._heal_all,
            ],
            [6, 1, 4, 5, 4, 2, 4],
        )[0]()
        self._next_fault()

    def _note(self, text: str) -> None:
        self.journal.append(f"{self.events.now // MS:>8} ms  {text}")

    def _crash_one(self) -> None:
        running = [member for member in self.members.values() if member.node is not None]
        if running:
            self._crash(self.events.rng.choice(running))

    def _crash_all(self) -> None:
        for member in self.members.values():
            if member.node is not None:
                self._crash(member)

    def _crash(self, member: Member) -> None:
        self._note(f"{member.node_id} crashes")
        member.crash()

        def restart() -> None:
            if member.node is None:
                self._note(f"{member.node_id} starts")
                member.start()

        self.events.after(self.events.rng.randint(1, 1000) * MS, restart)

    def _partition(self) -> None:
        rng = self.events.rng
        nodes = list(self.members)
        rng.shuffle(nodes)
        at = rng.randint(1, len(nodes) - 1)
        sides, one_way = [set(nodes[:at]), set(nodes[at:])], rng.random() < 0.3
        self._note(f"partition {nodes[:at]} {'-x->' if one_way else '-x-'} {nodes[at:]}")
        self.network.partition(sides, one_way=one_way)

    def _cut_off_leader(self) -> None:
        """A leader that does not know yet that it leads nobody is the one that serves stale reads."""
        leaders = [m.node_id for m in self.members.values() if m.node is not None and m.node.raft.role == LEADER]
        if leaders:
            self._note(f"cut off {leaders[0]}")
            self.network.partition([{leaders[0]}, set(self.members) - {leaders[0]}])

    def _bad_weather(self) -> None:
        rng = self.events.rng
        self.network.weather = Weather(
            loss=rng.choice([0, 0.02, 0.2]), duplicate=rng.choice([0, 0.1]), slow=rng.choice([0, 0.1, 0.3])
        )
        self._note(f"{self.network.weather}")

    def _slow_disk(self) -> None:
        self.slow_disk_us = self.events.rng.choice([0, 5 * MS, 80 * MS])
        self._note(f"an fsync takes {self.slow_disk_us // MS} ms more")

    def _heal_all(self) -> None:
        self._note("all heals")
        self.network.heal()
        self.network.weather = Weather()
        self.slow_disk_us = 0
        for member in self.members.values():
            if member.node is None:
                self._note(f"{member.node_id} starts")
                member.start()

    # -- at the end --------------------------------------------------------------------------------------------------

    def _converged(self) -> bool:
        nodes = [member.node for member in self.members.values()]
        if any(node is None for node in nodes):
            return False
        rafts = [node.raft for node in nodes if node is not None]
        leaders = [raft for raft in rafts if raft.role == LEADER]
        return (
            len(leaders) == 1
            and len({raft.applied_index for raft in rafts}) == 1
            and leaders[0].applied_index == leaders[0].log.last_index
        )

    def _check_states(self) -> None:
        for member in self.members.values():
            assert member.node is not None
            content = hashlib.sha256()
            with member.machine.open_snapshot() as snapshot:
                for key, record in snapshot.items():
                    content.update(len(key).to_bytes(4, "little") + key + len(record).to_bytes(4, "little") + record)
            content.update(member.machine.revision.to_bytes(8, "little"))
            self.truth.has_state(member.node_id, member.machine.applied_index, content.digest())


