"""Ports for servers that are about to be started, where nobody else takes them in between.

A port that the kernel gives for 0 comes from the range that outgoing connections draw theirs from as well: one of those
may have taken it before a server is up, or while a killed one is down. So these come from below that range.
"""

from __future__ import annotations

import errno
import random
import socket
from contextlib import ExitStack
from pathlib import Path

LOWEST = 10_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LINUX_FIRST_EPHEMERAL = 32_768
ATTEMPTS_PER_PORT = 100


def free_ports(count: int, *, host: str = "127.0.0.1") -> list[int]:
    """Ports of `host` that nobody listens on now; all different. OSError where there are none."""
    within = range(LOWEST, _first_ephemeral())
    candidates = random.sample(within, min(len(within), count * ATTEMPTS_PER_PORT))
    with ExitStack() as held:
        ports: list[int] = []
        for port in candidates:
            if len(ports) == count:
                break
            if _take(held.enter_context(socket.socket()), host, port):
                ports.append(port)
    if len(ports) < count:
        raise OSError(errno.EADDRINUSE, f"no {count} free ports between {LOWEST} and {_first_ephemeral()}")
    return ports


def _take(listener: socket.socket, host: str, port: int) -> bool:
    try:
        listener.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    return True


def _first_ephemeral() -> int:
    try:
        return int(EPHEMERAL_RANGE.read_text().split()[0])
    except FileNotFoundError:       # no Linux
        return LINUX_FIRST_EPHEMERAL
