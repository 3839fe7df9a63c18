"""What users and accidents do wrong, on real processes: a clear error, a defined state, nothing lost."""

from __future__ import annotations

import http.client
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastkv
from fastkv.chaos.ports import free_ports
from tests.e2e.cluster import Cluster, Node, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
def single(tmp_path: Path) -> Iterator[Node]:
    """`fastkv serve` without a configuration file: the embedded default, on free ports."""
    raft_port, http_port = free_ports(2)
    node = Node("node-1", None, http_port, raft_port, tmp_path)
    node.start()
    wait_ready(node)
    yield node
    if node.running:
        node.kill()


def wait_ready(node: Node) -> None:
    def ready() -> bool:
        try:
            return node.request("GET", "/readyz", timeout_s=2)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    eventually(ready, within_s=60, what=f"{node.node_id} is ready:\n{node.log_text()}")


def exit_of(node: Node) -> tuple[int, str]:
    """Start, and expect that it does not stay."""
    node.start()
    assert node.process is not None
    return node.process.wait(timeout=60), node.log_text()


def test_a_single_node_is_durable(single: Node) -> None:
    assert single.put("a", "1")[0] == 201
    single.kill()
    single.start()
    wait_ready(single)
    assert single.get("a")[1]["value"] == "1"


def test_it_listens_on_loopback_only(single: Node) -> None:
    assert single.process is not None
    inodes = set()
    for name in os.listdir(f"/proc/{single.process.pid}/fd"):
        target = os.readlink(f"/proc/{single.process.pid}/fd/{name}")
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])
    assert len(listening) == 2
    assert set(listening) <= {"0100007F", "00000000000000000000000001000000"}


def test_another_address_is_refused_unless_written_down(tmp_path: Path) -> None:
    raft_port, http_port = free_ports(2)
    config = tmp_path / "open.yaml"
    config.write_text(f'server:\n  host: "0.0.0.0"\ncluster:\n  data_dir: "{tmp_path / "data2"}"\n')
    node = Node("node-1", config, http_port, raft_port, tmp_path)
    status, log = exit_of(node)
    assert status == 2
    assert "insecure: true" in log


def test_a_port_in_use(single: Node, tmp_path: Path) -> None:
    (other_raft,) = free_ports(1)
    rival = Node("node-1", None, single.http_port, other_raft, tmp_path / "rival")
    rival._directory.mkdir()
    status, log = exit_of(rival)
    assert status == 1
    assert f"127.0.0.1:{single.http_port}" in log
    assert "in use" in log


def test_a_directory_in_use(single: Node, tmp_path: Path) -> None:
    raft_port, http_port = free_ports(2)
    status, log = exit_of(Node("node-1", None, http_port, raft_port, tmp_path))
    assert status == 1
    assert "DIRECTORY_IN_USE" in log or "in use" in log
    assert single.put("still", "serving")[0] == 201


def test_a_directory_of_another_node_or_cluster(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    try:
        cluster.start()
        assert cluster.leader().put("a", "1")[0] == 201
        first, second, _ = cluster
        for node in cluster:
            node.stop()
        (tmp_path / "data" / "node-1").rename(tmp_path / "data" / "aside")
        (tmp_path / "data" / "node-2").rename(tmp_path / "data" / "node-1")
        status, log = exit_of(first)
        assert status == 1
        assert "node-2" in log
        assert "node-1" in log
        (tmp_path / "data" / "node-1").rename(tmp_path / "data" / "node-2")
        (tmp_path / "data" / "aside").rename(tmp_path / "data" / "node-1")
        renamed = tmp_path / "renamed.yaml"
        renamed.write_text(cluster.config.read_text().replace('name: "test', 'name: "other', 1))
        stranger = Node("node-2", renamed, second.http_port, second.raft_port, tmp_path)
        status, log = exit_of(stranger)
        assert status == 1
        assert "cluster" in log
        cluster.start()
        assert cluster.leader().get("a")[1]["value"] == "1"
    finally:
        cluster.close()


def test_a_damaged_log_is_refused_and_a_torn_tail_is_not(single: Node) -> None:
    for number in range(50):
        assert single.put(f"k{number}", "v" * 100)[0] == 201
    single.kill()
    (segment,) = sorted((single.data_path / "wal").glob("*.wal"))[:1]
    whole = segment.read_bytes()
    end = len(whole.rstrip(b"\0"))
    # Another bit in the middle of what had been durable, with good records behind it.
    middle = end // 2
    segment.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x40]) + whole[middle + 1 :])
    status, log = exit_of(single)
    assert status == 1
    assert "repair from peers" in log
    assert segment.read_bytes()[:end] != whole[:end], "the damaged file is left as it was found"
    # The same file with garbage behind its end is a torn write: cut, and everything acknowledged is there.
    segment.write_bytes(whole[: end + 16] + b"\x5a" * 100 + whole[end + 116 :])
    single.start()
    wait_ready(single)
    assert all(single.get(f"k{number}")[0] == 200 for number in range(50))


def frame(opcode: int, body: bytes, *, length: int | None = None) -> bytes:
    return struct.pack("<IBBHQ", len(body) if length is None else length, opcode, 0, 0, 7) + body


def answer_of(connection: socket.socket) -> tuple[int, int, bytes]:
    """Opcode, status and body of the next frame; the connection closes after an ERROR."""
    header = b""
    while len(header) < 16:
        chunk = connection.recv(16 - len(header))
        assert chunk, "closed without an answer"
        header += chunk
    length, opcode, _, code, _ = struct.unpack("<IBBHQ", header)
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return opcode, code, body


HELLO = b"fkv1" + struct.pack("<HBB", 1, 1, 0) + b"\0\0" * 3


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (frame(0x01, b"", length=1 << 31), b"limit"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b""),
        (frame(0x11, b"no hello"), b"HELLO"),
        (frame(0x01, b"nonsense"), b"HELLO"),
        (frame(0x01, HELLO[:4] + struct.pack("<H", 99) + HELLO[6:]), b"version"),
        (frame(0x01, HELLO) + frame(0x11, b"", length=1 << 30), b"limit"),
    ],
    ids=["length", "http", "no hello", "bad hello", "version", "too long"],
)
def test_hostile_bytes_get_an_error_and_a_close(single: Node, sent: bytes, text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", single.raft_port), timeout=60) as connection:
        connection.sendall(sent)
        opcode, code, body = answer_of(connection)
        if (opcode, code) == (0x01, 0):
            opcode, code, body = answer_of(connection)
        assert code != 0
        assert text.lower() in body.lower()
        assert connection.recv(1) == b"", "the connection is closed"
    assert single.put("after", "fine")[0] in (200, 201)


def test_an_unknown_opcode_is_answered_and_the_connection_goes_on(single: Node) -> None:
    with socket.create_connection(("127.0.0.1", single.raft_port), timeout=60) as connection:
        connection.sendall(frame(0x01, HELLO) + frame(0x3F, b"what") + frame(0x04, b"ping"))
        assert answer_of(connection)[1] == 0
        assert answer_of(connection)[1] == 7
        assert answer_of(connection)[2] == b"ping"


def test_too_large_and_malformed_requests(single: Node) -> None:
    with fastkv.connect(single.endpoint, timeout=60) as kv:
        with pytest.raises(fastkv.TooLarge):
            kv.put("k" * 512, "v")
        with pytest.raises(fastkv.TooLarge):
            kv.put("k", b"v" * ((1 << 20) + 1))
        with pytest.raises(fastkv.InvalidKey):
            kv.put("", "v")
        kv.put("k" * 511, b"v" * (1 << 20))
        assert len(kv.get("k" * 511).value or b"") == 1 << 20
        revision = kv.put("c", "1", if_revision=0)
        with pytest.raises(fastkv.PreconditionFailed) as caught:
            kv.put("c", "2", if_revision=0)
        assert caught.value.revision == revision
    for method, path, body, headers, expected in [
        ("PUT", "/kv/a", b"{nonsense", {"Content-Type": "application/json"}, (400, "INVALID_JSON")),
        ("PUT", "/kv/a", b"", {"Content-Type": "application/json"}, (400, "EMPTY_BODY")),
        ("PUT", "/kv/a", b"{}", {"Content-Type": "application/json"}, (400, "VALUE_REQUIRED")),
        ("PUT", "/kv/" + "k" * 512, b"v", {}, (413, "KEY_TOO_LARGE")),
        ("PUT", "/kv/a", b"v" * ((1 << 20) + 1), {}, (413, "VALUE_TOO_LARGE")),
        ("GET", "/nowhere", None, {}, (404, "NOT_FOUND")),
        ("GET", "/kv/a?consistency=maybe", None, {}, (400, "INVALID_PARAMETER")),
    ]:
        status, answer = single.request(method, path, body, headers)
        assert (status, answer["code"]) == expected, (method, path[:40])
    assert single.request("POST", "/kv/a", b"v")[0] == 405


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raft:\n  election_timeout: 100\n", ["election_timeout", ":2"]),
        ("raft:\n  election_timeout_ms: 50\n", ["election_timeout_ms"]),
        ("raft: [\n", ["YAML"]),
        ("logging:\n  level: loud\n", ["level", "loud"]),
    ],
    ids=["unknown key", "bad value", "bad YAML", "bad level"],
)
def test_bad_configuration(tmp_path: Path, text: str, expected: list[str]) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    raft_port, http_port = free_ports(2)
    status, log = exit_of(Node("node-1", config, http_port, raft_port, tmp_path))
    assert status == 2
    for part in expected:
        assert part in log, log
