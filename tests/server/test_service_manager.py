"""A real datagram socket in systemd's place: what a node tells, when, and that nobody has to listen."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fastkv.chaos.ports import free_ports
from fastkv.server import service_manager
from tests.e2e.cluster import Node

PATIENT_S = 60


@pytest.fixture
def manager(tmp_path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "notify"))
    listening.settimeout(PATIENT_S)
    return listening


def test_the_lines_arrive_as_one_datagram(
    manager: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    assert service_manager.notify(service_manager.READY, "STATUS=serving")
    assert manager.recv(100) == b"READY=1\nSTATUS=serving"


def test_a_name_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(PATIENT_S)
        listening.bind(f"\0fastkv-test{tmp_path}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@fastkv-test{tmp_path}")
        assert service_manager.notify(service_manager.READY)
        assert listening.recv(100) == b"READY=1"


def test_without_a_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not service_manager.notify(service_manager.READY)


def test_a_manager_that_is_gone_is_said_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with caplog.at_level(logging.WARNING):
        assert not service_manager.notify(service_manager.READY)
    assert "cannot tell the service manager at NOTIFY_SOCKET=" in caplog.text


@pytest.fixture
def node_of(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Node]:
    def made() -> Node:
        node = Node("node-1", None, *free_ports(2), tmp_path)
        request.addfinalizer(lambda: node.kill() if node.running else None)
        return node

    return made


@pytest.mark.e2e
def test_a_node_is_ready_once_it_listens_and_says_when_it_stops(
    manager: socket.socket, tmp_path: Path, node_of: Callable[[], Node]
) -> None:
    node = node_of()
    node.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving"
    assert node.request("GET", "/livez")[0] == 200, "it listens already"
    assert node.stop() == 0
    assert manager.recv(1000) == b"STOPPING=1\nSTATUS=handing over"


@pytest.mark.e2e
def test_a_node_that_cannot_start_is_never_ready(
    manager: socket.socket, tmp_path: Path, node_of: Callable[[], Node]
) -> None:
    node = node_of()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", node.raft_port))
        taken.listen()
        node.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert node.process is not None
        assert node.process.wait(PATIENT_S) == 1
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1000)
