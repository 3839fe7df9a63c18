"""Which version a connection speaks: the newest that both sides know, or none, and then why.

A server of version 1 knows no ranges: it takes version 1 and refuses all else, as the release did that spoke only that.
"""

from __future__ import annotations

from fastkv.version import OLDEST_PROTOCOL_VERSION
from fastkv.wire.client import PEER_ROLE, Hello

VERSION_WITHOUT_RANGES = 1


def agree(hello: Hello, newest: int, cluster: int) -> tuple[int, str]:
    """The version to speak with whoever says that HELLO; 0 and the reason where there is none.

    `newest` is what this node speaks at most. `cluster` is what its cluster speaks, which another node has to know; 0
    where this one has not joined it yet.
    """
    version = min(hello.version, newest)
    knows_ranges = newest > VERSION_WITHOUT_RANGES
    if version < max(hello.oldest, OLDEST_PROTOCOL_VERSION) or (hello.version > newest and not knows_ranges):
        ours = _versions(OLDEST_PROTOCOL_VERSION, newest)
        return 0, f"this node speaks {ours} of the protocol, not {_versions(hello.oldest, hello.version)}"
    if hello.role == PEER_ROLE and cluster and not hello.oldest <= cluster <= hello.version:
        return 0, (
            f"this cluster speaks version {cluster} of the protocol, and the node that dialled "
            f"{_versions(hello.oldest, hello.version)}: start it with a release that speaks version {cluster}"
        )
    return version, ""


def _versions(oldest: int, newest: int) -> str:
    return f"version {newest}" if oldest >= newest else f"versions {oldest} to {newest}"
