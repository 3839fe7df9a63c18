"""Every setting of a node, with its unit, its default and its bounds. Frozen: a running node is never reconfigured.

A setting that a file may state carries a `Rule`, which says what a value must be and how a person is told. The loader,
the error texts and docs/configuration.md all come from it, so that they cannot disagree.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fastkv.version import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

HTTP_PORT_BELOW_RAFT = 920
"""Where a node's HTTP port is not given, it is the raw-TCP port less this: 9001 goes with 8081."""

OFF = "off"
"""Of a setting that is a path: there is none."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Rule:
    """What one setting may be. `meaning` is a sentence for docs/configuration.md."""

    kind: type
    meaning: str
    unit: str = ""
    minimum: int = 0
    maximum: int = 0
    multiple: int = 1
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """What a good value is, for error texts and the documentation."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is int:
            unit = f" {self.unit}" if self.unit else ""
            step = f", a multiple of {self.multiple}" if self.multiple > 1 else ""
            return f"a whole number from {self.minimum} to {self.maximum}{unit}{step}"
        return "a text that is not empty"

    def check(self, value: object) -> Any:
        """The value, when it is a good one. ValueError otherwise, whose text is `allowed`."""
        good = (
            type(value) is self.kind  # a bool is no int here
            and (not isinstance(value, int) or self.kind is bool or self._fits(value))
            and (self.kind is not str or bool(value))
            and (not self.choices or value in self.choices)
        )
        if not good:
            raise ValueError(self.allowed)
        return value

    def _fits(self, number: int) -> bool:
        return self.minimum <= number <= self.maximum and number % self.multiple == 0

    def parse(self, text: str) -> Any:
        """The value that a flag or an environment variable spells. ValueError as for `check`."""
        if self.kind is bool:
            return self.check({"true": True, "false": False}.get(text.lower(), text))
        if self.kind is not int:
            return self.check(text)
        try:
            number = int(text)
        except ValueError:
            raise ValueError(self.allowed) from None
        return self.check(number)


def _setting(default: _T, rule: Rule) -> _T:
    return field(default=default, metadata={"rule": rule})


def _whole(default: int, unit: str, minimum: int, maximum: int, meaning: str, *, multiple: int = 1) -> int:
    return _setting(default, Rule(int, meaning, unit, minimum, maximum, multiple))


def rules(section: type) -> dict[str, Rule]:
    """The settings of a section that a file may state, by their keys."""
    return {f.name: f.metadata["rule"] for f in dataclasses.fields(section) if "rule" in f.metadata}


class HostPort(NamedTuple):
    """Where to reach a socket: a host name or address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where one node is: `raft` is the raw-TCP port, for peers and clients alike."""

    raft: HostPort
    http: HostPort


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Who belongs to the cluster."""

    name: str = _setting(
        "fastkv",
        Rule(str, "Nodes and clients of another cluster are turned away. Part of a data directory's identity."),
    )
    bootstrap_id: str = _setting(
        "node-1",
        Rule(str, "The node that calls the first election of a new cluster at once. Default: the first node."),
    )
    join: bool = _setting(
        False,
        Rule(
            bool,
            "Whether this node, while its data directory is empty, waits to be added to a cluster that is there "
            "already, rather than founding one with `cluster.nodes`. Also `--join`, `KV_JOIN`.",
        ),
    )
    protocol_version: int = _whole(
        PROTOCOL_VERSION, "version", OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION,
        "The newest version of the protocol that this node speaks. While one node is held at that of the former "
        "release, the cluster speaks it, and can go back to that release ([upgrades](upgrades.md)). Also "
        "`--protocol-version`, `KV_PROTOCOL_VERSION`.",
    )
    data_dir: Path = Path("data")
    """Where the nodes keep their data: each in the directory `data_dir`/`node_id`."""
    nodes: Mapping[str, NodeAddress] = field(
        default_factory=lambda: {"node-1": NodeAddress(HostPort("127.0.0.1", 9001), HostPort("127.0.0.1", 8081))}
    )


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What this node listens on: in a loaded configuration, the ports as they are."""

    host: str = _setting(
        "127.0.0.1",
        Rule(str, "The address to listen on. Default: the host in the node's own address, 127.0.0.1 for localhost."),
    )
    raft_port: int = _whole(
        9001, "port", 1, 65_535, "Where others reach the node by another port. Default: that of its own address."
    )
    http_port: int = _whole(8081, "port", 1, 65_535, "The same for HTTP.")


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Consensus: time and flow control."""

    election_timeout_ms: int = _whole(
        100, "ms", 15, 600_000,
        "How long a follower waits for a leader before it calls an election; each wait is drawn from one to two times "
        "this. At least 3 × heartbeat_timeout_ms.",
    )
    heartbeat_timeout_ms: int = _whole(25, "ms", 5, 200_000, "How often a leader tells its followers that it is there.")
    max_append_bytes: int = _whole(1 * MIB, "bytes", 4 * KIB, 8 * MIB, "The most that one message carries.")
    max_append_entries: int = _whole(16_384, "entries", 1, 1_000_000, "The most entries that one message carries.")
    max_inflight_bytes: int = _whole(
        8 * MIB, "bytes", 4 * KIB, 1 * GIB, "The most that is on its way to one follower before the leader waits."
    )
    max_uncommitted_bytes: int = _whole(
        64 * MIB, "bytes", 1 * MIB, 4 * GIB,
        "The most that waits to be committed. Beyond it, writes are refused as OVERLOADED.",
    )
    log_memory_bytes: int = _whole(
        64 * MIB, "bytes", 1 * MIB, 16 * GIB,
        "Log entries kept in memory for followers that lag; older ones are read from disk.",
    )
    snapshot_log_bytes: int = _whole(
        256 * MIB, "bytes", 64 * KIB, 1024 * GIB,
        "Log kept on disk for members that lag; one that needs older entries is sent a snapshot instead.",
    )
    snapshot_chunk_bytes: int = _whole(
        256 * KIB, "bytes", 4 * KIB, 8 * MIB, "How much of a snapshot one message carries."
    )
    snapshot_window_bytes: int = _whole(
        2 * MIB, "bytes", 4 * KIB, 256 * MIB, "How much of a snapshot may be on its way to a node that fetches one."
    )
    snapshot_timeout_ms: int = _whole(
        1000, "ms", 10, 600_000, "A node that fetches a snapshot asks another member after so long without an answer."
    )
    reads: str = _setting(
        "read-index",
        Rule(
            str,
            "How linearizable reads are confirmed: by a round of messages, or by the leader's lease, which trusts "
            "clocks to run at rates within 10 % of each other.",
            choices=("read-index", "lease"),
        ),
    )


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """The write-ahead log, the tables in memory, and LMDB under them."""

    segment_bytes: int = _whole(
        64 * MIB, "bytes", 64 * KIB, 1 * GIB,
        "Size of one file of the write-ahead log; a multiple of 4096.",
        multiple=4096,
    )
    memtable_bytes: int = _whole(
        64 * MIB, "bytes", 64 * KIB, 4 * GIB, "A checkpoint begins when this much has changed since the last one."
    )
    checkpoint_age_s: int = _whole(30, "s", 1, 86_400, "A checkpoint begins when the oldest change is this old.")
    checkpoint_wal_bytes: int = _whole(
        256 * MIB, "bytes", 1 * MIB, 64 * GIB, "A checkpoint begins when this much log would have to be replayed."
    )
    lmdb_map_bytes: int = _whole(
        64 * GIB, "bytes", 16 * MIB, 16_384 * GIB,
        "The most that LMDB's file may grow to: address space, neither memory nor disk.",
    )
    verify_bytes: int = _whole(
        256 * MIB, "bytes", 0, 16_384 * GIB,
        "Content of the store that a start reads and holds against its hash before it is believed. Of a longer store, "
        "only the pages of the trees are looked at; `fastkv check` reads all.",
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one client and one node may use."""

    value_bytes: int = _whole(1 * MIB, "bytes", 1, 16 * MIB, "The longest value.")
    client_frame_bytes: int = _whole(4 * MIB, "bytes", 64 * KIB, 64 * MIB, "The longest frame that a client may send.")
    peer_frame_bytes: int = _whole(
        64 * MIB, "bytes", 1 * MIB, 256 * MIB,
        "The longest frame that another node may send, and the most that waits to be sent to it.",
    )
    hello_bytes: int = _whole(4096, "bytes", 512, 64 * KIB, "The longest frame before a connection has said who it is.")
    http_body_bytes: int = _whole(8 * MIB, "bytes", 1 * KIB, 256 * MIB, "The longest body of an HTTP request.")
    connections: int = _whole(16_384, "connections", 8, 1_000_000, "Connections at a time, on each of the two ports.")
    output_bytes: int = _whole(
        8 * MIB, "bytes", 64 * KIB, 1 * GIB,
        "Answers that may wait for a client that does not read them, before its requests are not read any more.",
    )
    request_timeout_ms: int = _whole(
        5000, "ms", 100, 600_000, "A write without a result by then is answered OUTCOME_UNKNOWN, a read TIMEOUT."
    )
    leader_wait_ms: int = _whole(
        1000, "ms", 0, 600_000, "How long a request waits for a leader before it is answered NO_LEADER."
    )
    scan_page_items: int = _whole(1000, "items", 1, 100_000, "The most items on one page of a scan.")
    scan_page_bytes: int = _whole(1 * MIB, "bytes", 1 * KIB, 32 * MIB, "The most bytes on one page of a scan.")
    snapshots: int = _whole(64, "snapshots", 1, 10_000, "Scans that may be open at a time.")
    snapshot_ttl_s: int = _whole(30, "s", 1, 3600, "A scan whose next page is not asked for in this time is closed.")
    sessions: int = _whole(
        4096, "sessions", 1, 65_536,
        "Sessions that clients may have open; the one unused longest makes room. Each takes up to 16 KiB.",
    )


@dataclass(frozen=True, slots=True)
class LoggingSettings:
    """What is logged, to stderr."""

    level: str = _setting(
        "info", Rule(str, "The least important line that is logged.", choices=("debug", "info", "warning", "error"))
    )
    format: str = _setting(
        "console", Rule(str, "For a person, or one JSON object a line.", choices=("console", "json"))
    )


@dataclass(frozen=True, slots=True)
class SecuritySettings:
    """Who may reach the node."""

    insecure: bool = _setting(
        False,
        Rule(bool, "Must be true to listen beyond this machine: there is no TLS and no authentication yet."),
    )


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Whether requests are traced."""

    enabled: bool = _setting(
        False,
        Rule(
            bool, "Spans of requests go to the OpenTelemetry collector that OTEL_* variables name. Needs fastkv[otel]."
        ),
    )


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """The page at `/console`."""

    enabled: bool = _setting(True, Rule(bool, "Whether there is a console at `/console`."))
    writes: bool = _setting(
        False,
        Rule(
            bool,
            "Whether the console offers to edit, create and delete keys. It closes no route: whoever reaches the port "
            "can write by `/kv`.",
        ),
    )


@dataclass(frozen=True, slots=True)
class BackupSettings:
    """What is kept for restores to any moment, and how fast backups are sent."""

    archive_dir: str = _setting(
        OFF,
        Rule(
            str,
            "The directory, on another disk at best, to which this node copies its log: with it and a backup, any "
            "state since then can be restored. Each node has its own part of it. `off`: no archive.",
        ),
    )
    archive_interval_s: int = _whole(
        10, "s", 1, 3600, "How often what has been added to the log is archived: as much may be missing after a loss."
    )
    max_bytes_per_s: int = _whole(
        152 * MIB, "bytes", 1 * MIB, 64 * GIB,
        "Backups are sent no faster than this in a second, all that are taken from this node together.",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything that one node has to know before it starts."""

    node_id: str = "node-1"
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    server: ServerSettings = field(default_factory=ServerSettings)
    raft: RaftSettings = field(default_factory=RaftSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)
    limits: Limits = field(default_factory=Limits)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    console: ConsoleSettings = field(default_factory=ConsoleSettings)
    backup: BackupSettings = field(default_factory=BackupSettings)

    @property
    def data_dir(self) -> Path:
        """This node's own directory."""
        return self.cluster.data_dir / self.node_id


SECTIONS: dict[str, type] = {
    "cluster": ClusterConfig,
    "server": ServerSettings,
    "raft": RaftSettings,
    "storage": StorageSettings,
    "limits": Limits,
    "logging": LoggingSettings,
    "security": SecuritySettings,
    "tracing": TracingSettings,
    "console": ConsoleSettings,
    "backup": BackupSettings,
}
"""The sections of a file, in the order in which docs/configuration.md shows them."""
