"""Which version two releases speak with each other, and how a refusal reads."""

from __future__ import annotations

import pytest

from fastkv.server.handshake import agree
from fastkv.wire.client import CLIENT_ROLE, PEER_ROLE, Hello


def hello(oldest: int, newest: int, role: int = PEER_ROLE) -> Hello:
    return Hello(newest, role, "x", "demo", b"", oldest=oldest)


@pytest.mark.parametrize(
    ("who", "newest", "cluster", "version"),
    [
        (hello(1, 1), 1, 1, 1),                     # the former release, with itself
        (hello(1, 1), 2, 1, 1),                     # it dials this one
        (hello(1, 2), 2, 1, 2),
        (hello(1, 2), 2, 2, 2),
        (hello(1, 3), 2, 2, 2),                     # the next one dials this one
        (hello(2, 3), 2, 2, 2),
        (hello(2, 3), 2, 0, 2),                     # this node waits to join, and does not know
        (hello(1, 1, CLIENT_ROLE), 2, 2, 1),        # clients of every release are served
        (hello(1, 9, CLIENT_ROLE), 2, 2, 2),
    ],
)
def test_the_newest_version_that_both_know(who: Hello, newest: int, cluster: int, version: int) -> None:
    assert agree(who, newest, cluster) == (version, "")


@pytest.mark.parametrize(
    ("who", "newest", "cluster", "says"),
    [
        (hello(1, 2), 1, 1, "this node speaks version 1 of the protocol, not versions 1 to 2"),
        (hello(3, 4), 2, 1, "this node speaks versions 1 to 2 of the protocol, not versions 3 to 4"),
        (hello(0, 0), 2, 1, "this node speaks versions 1 to 2 of the protocol, not version 0"),
        (hello(7, 7, CLIENT_ROLE), 2, 1, "this node speaks versions 1 to 2 of the protocol, not version 7"),
        (hello(1, 1), 2, 2, "this cluster speaks version 2 of the protocol, and the node that dialled version 1: "),
        (hello(2, 3), 2, 1, "this cluster speaks version 1 of the protocol, and the node that dialled versions 2 to 3"),
    ],
)
def test_none_that_both_know(who: Hello, newest: int, cluster: int, says: str) -> None:
    version, text = agree(who, newest, cluster)
    assert version == 0
    assert text.startswith(says)
