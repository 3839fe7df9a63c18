"""Rules about more than one setting, and the memory of where each setting came from."""

from __future__ import annotations

import ipaddress

from fastkv.config.document import Element
from fastkv.config.settings import KIB, NodeConfig
from fastkv.errors import ConfigError

ELECTION_HEARTBEATS = 3
"""An election timeout is at least so many heartbeats, so that one that is late or lost costs no leader."""
OPEN_BATCH_APPENDS = 16
"""A node gathers up to so many times `max_append_bytes` of writes before it refuses more within one turn."""
FRAME_SLACK_BYTES = 64 * KIB
"""Headers, and the longest key, of whatever a frame carries."""


class Origins:
    """Where settings came from: a place in a file, a variable, a flag; nothing for a default."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}
        self.explicit_http: set[str] = set()
        """Paths of the nodes whose HTTP address is written out."""

    def note(self, element: Element) -> None:
        """Remember where an element stands."""
        self.places[element.path] = element.place

    def place(self, path: str) -> str:
        """Where a setting came from, for an error text."""
        return self.places.get(path, "default")

    def __contains__(self, path: object) -> bool:
        return path in self.places


def check_together(config: NodeConfig, origins: Origins) -> None:
    """ConfigError where settings contradict each other."""
    raft, limits = config.raft, config.limits
    least_election_ms = ELECTION_HEARTBEATS * raft.heartbeat_timeout_ms
    if raft.election_timeout_ms < least_election_ms:
        _refuse(
            origins, "raft.election_timeout_ms", raft.election_timeout_ms,
            f"at least {ELECTION_HEARTBEATS} x raft.heartbeat_timeout_ms, which is {least_election_ms}",
            also="raft.heartbeat_timeout_ms",
        )
    least_client_bytes = limits.value_bytes + FRAME_SLACK_BYTES
    if limits.client_frame_bytes < least_client_bytes:
        _refuse(
            origins, "limits.client_frame_bytes", limits.client_frame_bytes,
            f"at least limits.value_bytes and {FRAME_SLACK_BYTES} more, which is {least_client_bytes}",
            also="limits.value_bytes",
        )
    if limits.http_body_bytes < limits.value_bytes:
        _refuse(
            origins, "limits.http_body_bytes", limits.http_body_bytes,
            f"at least limits.value_bytes, which is {limits.value_bytes}",
            also="limits.value_bytes",
        )
    open_batch_bytes = OPEN_BATCH_APPENDS * raft.max_append_bytes + limits.value_bytes + FRAME_SLACK_BYTES
    for path, value in (
        ("limits.peer_frame_bytes", limits.peer_frame_bytes),
        ("raft.max_uncommitted_bytes", raft.max_uncommitted_bytes),
    ):
        if value < open_batch_bytes:
            _refuse(
                origins, path, value,
                f"at least {OPEN_BATCH_APPENDS} x raft.max_append_bytes, limits.value_bytes and {FRAME_SLACK_BYTES} "
                f"more, which is {open_batch_bytes}",
                also="raft.max_append_bytes",
            )
    _check_reach(config, origins)


def _check_reach(config: NodeConfig, origins: Origins) -> None:
    host = config.server.host
    if config.server.raft_port == config.server.http_port:
        raise ConfigError(f"the raw-TCP and the HTTP port of {config.node_id} are both {config.server.raft_port}")
    if not is_loopback(host) and not config.security.insecure:
        place = origins.place("server.host")
        if place == "default":
            place = origins.place("cluster.nodes")
        raise ConfigError(
            f"{place}: server.host: {host!r} can be reached from other machines, and fastkv has neither TLS nor "
            "authentication yet: listen on 127.0.0.1, or set security.insecure: true in the configuration file"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket that listens on `host`. A name other than localhost is not trusted."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse(origins: Origins, path: str, value: int, allowed: str, *, also: str) -> None:
    place = origins.place(path)
    if place == "default":
        place = origins.place(also)
    raise ConfigError(f"{place}: {path}: {value} is not allowed: must be {allowed}")
