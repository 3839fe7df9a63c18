"""How many connections a node takes depends on how many files it may have open."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest

import fastkv
from fastkv.chaos.ports import free_ports
from fastkv.client import load
from fastkv.client.addresses import Address
from fastkv.server.descriptors import RESERVED, provide
from tests.e2e.cluster import Node, eventually


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limit as it is set last; the first one is to be given by the test."""
    held: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: held[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: held.append(limit))
    return held


@pytest.mark.parametrize("hard", [1_000_000, resource.RLIM_INFINITY])
def test_the_soft_limit_is_raised_as_far_as_it_is_needed(limits: list[tuple[int, int]], hard: int) -> None:
    limits.append((1024, hard))
    assert provide(10_000) == 10_000
    assert limits[-1] == (20_000 + RESERVED, hard)


@pytest.mark.parametrize("soft", [50_000, resource.RLIM_INFINITY])
def test_a_limit_that_is_high_enough_is_left_alone(limits: list[tuple[int, int]], soft: int) -> None:
    limits.append((soft, resource.RLIM_INFINITY))
    assert provide(10_000) == 10_000
    assert len(limits) == 1


def test_a_low_hard_limit_bounds_the_connections_and_is_told(
    limits: list[tuple[int, int]], caplog: pytest.LogCaptureFixture
) -> None:
    limits.append((1024, 4096))
    assert provide(10_000) == (4096 - RESERVED) // 2
    assert limits[-1] == (4096, 4096)
    assert "ulimit -Hn" in caplog.text
    limits.append((100, 100))
    assert provide(10_000) == 1


@pytest.mark.e2e
def test_a_node_with_few_files_refuses_connections_and_goes_on_writing(tmp_path: Path) -> None:
    raft_port, http_port = free_ports(2)
    node = Node("node-1", None, http_port, raft_port, tmp_path)
    node.start(wrap=("bash", "-c", 'ulimit -Sn 300; ulimit -Hn 400; exec "$@"', "limited"))
    address = Address("127.0.0.1", raft_port)
    held: list[socket.socket] = []
    try:
        eventually(node.status, within_s=60, what="the node to answer")
        with fastkv.connect(str(address)) as kv:
            kv.put("before", "1")
            with pytest.raises(ConnectionError, match=r"limits\.connections"):
                _connect_for_ever(address, held)
            assert len(held) == (400 - RESERVED) // 2 - 1
            assert kv.put("after", "2") > 1
            held.pop().close()
            eventually(lambda: _can_connect(address), within_s=60, what="room for another one")
        assert "400 files" in node.log_text()
    finally:
        for each in held:
            each.close()
        node.kill()


def _connect_for_ever(address: Address, held: list[socket.socket]) -> None:
    while True:
        held.append(load.connect(address))


def _can_connect(address: Address) -> bool:
    try:
        load.connect(address).close()
    except ConnectionError:
        return False
    return True
