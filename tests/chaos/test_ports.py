"""Ports that stay free until a server takes them."""

from __future__ import annotations

import errno
import socket

import pytest

from fastkv.chaos import ports
from fastkv.chaos.ports import free_ports


def test_they_differ_and_no_outgoing_connection_draws_them() -> None:
    given = free_ports(20)
    assert len(set(given)) == 20
    assert max(given) < int(ports.EPHEMERAL_RANGE.read_text().split()[0])


def test_what_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    (taken,) = free_ports(1)
    with socket.socket() as held:
        held.bind(("127.0.0.1", taken))
        monkeypatch.setattr(ports, "LOWEST", taken)
        monkeypatch.setattr(ports, "_first_ephemeral", lambda: taken + 1)
        with pytest.raises(OSError, match="no 1 free ports") as raised:
            free_ports(1)
    assert raised.value.errno == errno.EADDRINUSE
    assert free_ports(1) == [taken]
