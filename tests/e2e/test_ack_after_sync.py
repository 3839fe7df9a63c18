"""No client hears of a write before it is on the disks of a majority: seen from outside, in the nodes' system calls."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from pathlib import Path

import pytest

from fastkv._core.codes import FRAME_HEADER_BYTES, FrameFlag, Kind, Opcode, Status
from fastkv._core.entry import encode_command
from fastkv._core.frames import encode_frame
from fastkv.client import load
from fastkv.client.addresses import Address
from tests.e2e import trace
from tests.e2e.cluster import Cluster, eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: acks and syncs are NOT traced"),
]

WRITERS = 8
WRITES_EACH = 50
PATIENT = "raft: {election_timeout_ms: 3000, heartbeat_timeout_ms: 300}\n"
"""A traced node is many times slower than it is otherwise."""


def key_of(request_id: int) -> bytes:
    return f"traced-key-{request_id:08}".encode()


def ack_of(request_id: int) -> bytes:
    """The end of the header of the answer: opcode, flags, status, request id."""
    return struct.pack("<BBHQ", Opcode.PUT, FrameFlag.RESPONSE | FrameFlag.CREATED, Status.OK, request_id)


def write(address: Address, first_id: int) -> None:
    """Writes one after the other, on one connection."""
    with load.connect(address) as client:
        client.settimeout(30)
        for request_id in range(first_id, first_id + WRITES_EACH):
            command = encode_command(Kind.ENTRY_PUT, key_of(request_id), os.urandom(100))
            client.sendall(encode_frame(Opcode.PUT, 0, 0, request_id, command))
            assert ack_of(request_id) in receive(client, FRAME_HEADER_BYTES + 8)


def receive(client: socket.socket, nbytes: int) -> bytes:
    received = b""
    while len(received) < nbytes:
        part = client.recv(nbytes - len(received))
        assert part, "the node hung up"
        received += part
    return received


def early_acks(traces: dict[str, list[trace.Call]], leader: str, request_ids: range) -> list[int]:
    """The writes that were acknowledged before a majority had them on disk."""
    early = []
    for request_id in request_ids:
        acked = trace.sent_at(traces[leader], ack_of(request_id))
        assert acked is not None, f"no answer to {request_id} was traced"
        durable = [trace.durable_at(traced, key_of(request_id)) for traced in traces.values()]
        before = [at for at in durable if at is not None and at <= acked]
        if len(before) <= len(traces) // 2:
            early.append(request_id)
    return early


def test_every_ack_comes_after_the_syncs_of_two_nodes(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, extra=PATIENT)
    outputs = {node.node_id: tmp_path / f"{node.node_id}.strace" for node in cluster}
    try:
        for node in cluster:
            node.start(wrap=trace.wrapping(outputs[node.node_id]))
        leader = cluster.leader()
        address = Address("127.0.0.1", leader.raft_port)
        failures: list[BaseException] = []

        def run(number: int) -> None:
            try:
                write(address, number * WRITES_EACH)
            except BaseException as error:
                failures.append(error)

        writers = [threading.Thread(target=run, args=(number,)) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert failures == []
        assert cluster.leader() is leader
        for node in cluster:
            node.stop()
    finally:
        cluster.close()
    for output in outputs.values():
        eventually(lambda output=output: "+++ exited" in output.read_text()[-200:], within_s=60, what="the trace's end")
    traces = {name: trace.calls(output) for name, output in outputs.items()}
    assert early_acks(traces, leader.node_id, range(WRITERS * WRITES_EACH)) == []


# -- the eye itself ----------------------------------------------------------------------------------------------------


def hexadecimal(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def traced_node(directory: Path, name: str, *, write_at: float, sync_at: float, ack_at: float | None) -> Path:
    """The trace of a node that writes key 7, syncs, and acknowledges, each in 1 ms."""
    pieces = [hexadecimal(b"head"), hexadecimal(key_of(7) + b"value")]
    vectors = ", ".join(f'{{iov_base="{piece}", iov_len=1}}' for piece in pieces)
    events = [
        (write_at, f"11 {write_at:.6f} pwritev(9, [{vectors}], 2, 4096) = 40 <0.001000>"),
        (sync_at, f"11 {sync_at:.6f} fdatasync(9 <unfinished ...>"),
        (sync_at + 0.001, f"11 {sync_at + 0.001:.6f} <... fdatasync resumed>) = 0 <0.001000>"),
    ]
    if ack_at is not None:
        ack = hexadecimal(b"\x08\0\0\0" + ack_of(7))
        events.append((ack_at, f'10 {ack_at:.6f} sendto(12, "{ack}", 24, MSG_NOSIGNAL, NULL, 0) = 24 <0.000010>'))
    path = directory / f"{name}.strace"
    path.write_text("\n".join(text for _, text in sorted(events)) + "\n10 99.000000 +++ exited with 0 +++\n")
    return path


@pytest.mark.parametrize(
    ("leader_sync", "follower_sync", "ack", "early"),
    [
        (1.010, 1.010, 1.020, []),
        (1.010, 1.050, 1.020, [7]),     # only its own disk has it
        (1.050, 1.060, 1.020, [7]),     # no disk has it
        (1.0195, 1.010, 1.020, [7]),    # its own sync has begun, and not ended
        (1.0005, 1.010, 1.020, [7]),    # its own sync began before the write had ended: it does not count
    ],
)
def test_an_early_ack_would_be_seen(
    tmp_path: Path, leader_sync: float, follower_sync: float, ack: float, early: list[int]
) -> None:
    paths = {
        "leader": traced_node(tmp_path, "leader", write_at=1.0, sync_at=leader_sync, ack_at=ack),
        "follower": traced_node(tmp_path, "follower", write_at=1.0, sync_at=follower_sync, ack_at=None),
        "laggard": traced_node(tmp_path, "laggard", write_at=5.0, sync_at=5.1, ack_at=None),
    }
    traces = {name: trace.calls(path) for name, path in paths.items()}
    assert early_acks(traces, "leader", range(7, 8)) == early
