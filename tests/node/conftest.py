"""One node by itself, with a transport, a disk and a store that the test drives by hand."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import pytest

from fastkv._core.codes import Kind, Opcode
from fastkv._core.entry import encode_command
from fastkv._core.frames import FrameReader
from fastkv._core.replies import CallbackSink
from fastkv.kv.state import StateMachine
from fastkv.node import Node, NodeSettings
from fastkv.node.ports import Addresses
from fastkv.raft import Member, Membership, Message, Raft, RaftConfig, RaftLog
from fastkv.raft.messages import APPEND_REPLY, HEARTBEAT, PRE_VOTE_REPLY, VOTE_REPLY
from fastkv.storage.memory_log import MemoryDisk, MemoryLogStore
from fastkv.storage.memory_store import MemoryStore, StoredState
from fastkv.wire.client import encode_get
from fastkv.wire.peer import decode_append, decode_raft, encode_message

Answer = tuple[int, int, int, bytes]
Frame = tuple[int, int, int, bytes]


class Wire:
    """A transport that keeps what is sent; `down` holds the peers without a link."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.down: set[str] = set()
        self.flushes = 0

    def send(self, node_id: str, frame: bytes) -> bool:
        if node_id in self.down:
            return False
        self.sent.append((node_id, frame))
        return True

    def flush(self) -> None:
        self.flushes += 1

    def take(self, opcode: int) -> list[tuple[str, Frame]]:
        """Frames of one opcode that were sent since the last look, as (to, (opcode, code, request id, body))."""
        found, rest = [], []
        for to, frame in self.sent:
            (cut,) = FrameReader(1 << 26).feed(frame)
            if cut[0] == opcode:
                found.append((to, (cut[0], cut[2], cut[3], cut[4])))
            else:
                rest.append((to, frame))
        self.sent = rest
        return found

    def messages(self) -> list[Message]:
        """The Raft messages sent since the last look."""
        found = []
        for to, (_, _, _, body) in self.take(Opcode.RAFT):
            found.append(decode_raft("node-1", to, body, Message))
        for to, (_, _, _, body) in self.take(Opcode.APPEND):
            found.append(decode_append("node-1", to, body, Message))
        return found


class Bench:
    """The node `node-1` of a cluster, on a bench."""

    def __init__(
        self,
        voters: tuple[str, ...],
        *,
        max_uncommitted_bytes: int = 1 << 20,
        lease_ns: int = 0,
        lease_reads: bool = True,
        protocol_version: int = 1,
    ) -> None:
        self.wire = Wire()
        self.disk = MemoryDisk()
        self.log = MemoryLogStore(self.disk)
        self.store = MemoryStore(StoredState())
        self.machine = StateMachine(
            self.store,
            memtable_bytes=1 << 20,
            checkpoint_log_bytes=1 << 20,
            checkpoint_age_ticks=50,
            retry_ticks=10,
            snapshots=4,
            snapshot_ttl_ticks=100,
            first_snapshot_id=1,
        )
        raft = Raft(
            RaftConfig("node-1", max_uncommitted_bytes=max_uncommitted_bytes, lease_ns=lease_ns),
            self.log.recovered.hard_state,
            RaftLog(0, 0, [], self.log),
            random.Random(1),
            membership=Membership.of(Member(voter, disk=disk) for disk, voter in enumerate(voters, 1)),
        )
        settings = NodeSettings(
            node_id="node-1",
            disk=1,
            tick_ms=5,
            request_timeout_ticks=100,
            leader_wait_ticks=30,
            read_retry_ticks=20,
            status_ticks=10,
            status_expiry_ticks=30,
            waiting_limit_bytes=4096,
            log_memory_bytes=1 << 20,
            snapshot_log_bytes=1 << 20,
            snapshot_chunk_bytes=1024,
            snapshot_window_bytes=4096,
            snapshot_timeout_ticks=30,
            lease_reads=lease_reads,
            protocol_version=protocol_version,
        )
        self.clock_ns = 0
        self.addresses: Addresses = {}
        self.removed: list[str] = []
        self.wakes = 0
        self.node = Node(
            settings,
            raft,
            self.machine,
            self.store,
            self.log,
            self.wire,
            self._woken,
            clock=lambda: self.clock_ns,
            on_members=self._members,
            on_removed=self.removed.append,
            value_limit_bytes=100,
            open_limit_bytes=8192,
        )
        self.sink = CallbackSink(self.node.outbox, self._failed)

    def _woken(self) -> None:
        self.wakes += 1

    def _members(self, addresses: Addresses) -> None:
        self.addresses = addresses

    def _failed(self, error: BaseException) -> None:
        raise error

    # -- driving it --------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """The disk has everything."""
        self.log.complete(self.log.submitted_ticket)
        if self.log.take_signal():
            self.node.durable()
        self.node.pump()

    def ticks(self, count: int) -> None:
        for _ in range(count):
            self.node.tick()
            self.node.pump()

    def hear(self, message: Message) -> None:
        """A Raft message arrives, through its encoding."""
        for opcode, _, code, request_id, body in FrameReader(1 << 26).feed(encode_message(message)):
            self.node.peer_frame(message.frm, opcode, code, request_id, body)
        self.node.pump()

    def ask(self, opcode: int, body: bytes) -> list[Answer]:
        """Submit a request; the list gets its answer when there is one."""
        answers: list[Answer] = []
        deliver: Callable[[int, int, int, bytes], None] = lambda *answer: answers.append(answer)  # noqa: E731
        self.node.ingress.submit(self.sink, self.sink.expect(deliver), opcode, body)
        return answers

    def put(self, key: bytes, value: bytes = b"v") -> list[Answer]:
        return self.ask(Opcode.PUT, encode_command(Kind.ENTRY_PUT, key, value))

    def get(self, key: bytes, consistency: int = 0) -> list[Answer]:
        return self.ask(Opcode.GET, encode_get(key, consistency))

    def lead(self, *, acknowledged: bool = True) -> None:
        """Become leader of term 1 with node-2's vote, and have everybody acknowledge the no-op."""
        self.node.raft.campaign()
        self.node.pump()
        if self.node.raft.peers:
            self.hear(Message(PRE_VOTE_REPLY, "node-2", "node-1", 1))
            self.sync()
            self.hear(Message(VOTE_REPLY, "node-2", "node-1", 1))
            self.sync()
            for follower in self.node.raft.peers if acknowledged else ():
                self.hear(Message(APPEND_REPLY, follower, "node-1", 1, index=1))
        else:
            self.sync()
            self.sync()
        self.wire.sent.clear()

    def follow(self, leader: str = "node-2", term: int = 1) -> None:
        """Hear a heartbeat of a leader."""
        self.hear(Message(HEARTBEAT, leader, "node-1", term))
        self.wire.sent.clear()


RECORD = struct.Struct("<QQQQ")


@pytest.fixture
def three() -> Bench:
    return Bench(("node-1", "node-2", "node-3"))


@pytest.fixture
def single() -> Bench:
    return Bench(("node-1",))
