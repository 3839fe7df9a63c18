"""Tells the service manager that started this process how far it is: systemd's readiness protocol, sd_notify(3).

systemd names a datagram socket in NOTIFY_SOCKET; each datagram has lines such as `READY=1`. A few lines of own code, so
that a node needs no library for it. Elsewhere the variable is not set, and nothing is told.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)

VARIABLE = "NOTIFY_SOCKET"
READY = "READY=1"
"""The node listens. Whether it has a leader is another question (/readyz): a start must not wait for other machines."""
STOPPING = "STOPPING=1"
TIMEOUT_S = 1.0
"""How long a manager whose queue of datagrams is full is waited for."""


def notify(*lines: str) -> bool:
    """Send the lines to the service manager. False where there is none, or it cannot be told: that stops no node."""
    path = os.environ.get(VARIABLE, "")
    if not path:
        return False
    # A path that begins with @ is a name in the kernel's abstract namespace, which begins with a zero byte.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(TIMEOUT_S)
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        log.warning("cannot tell the service manager at %s=%s: %s", VARIABLE, path, error)
        return False
    return True
