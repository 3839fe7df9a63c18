"""What Prometheus scrapes.

The text format and its escaping are prometheus-client's. Observing is not: what is hot counts into plain numbers,
compiled or not, and a collector reads them when somebody scrapes. So an operation costs an addition or two, and a
scrape costs the scrape.

* `Distribution` is what a histogram is read from;
* `RequestMetrics` counts the requests of the HTTP face, `RawRequests` reads what the raw port has counted;
* `Figures` is everything a node knows of itself at one moment;
* `NodeMetrics` makes the text of both.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fastkv._core import tally, wal_writer
from fastkv._core.codes import Opcode, Status
from fastkv._core.tally import Tally
from fastkv.server.process_metrics import ProcessMetrics
from fastkv.version import __version__

PREFIX = "fastkv"

# Upper bounds of the histograms' buckets, in seconds and entries. What compiled code counts, it has the bounds of.
REQUEST_BOUNDS_S = tally.BOUNDS_S
DISK_BOUNDS_S = wal_writer.FSYNC_BOUNDS_S
BATCH_BOUNDS = wal_writer.BATCH_BOUNDS
CHECKPOINT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

OTHER = "other"
"""The operation of what was refused before it was known as one."""
_OPS: dict[int, str] = {
    Opcode.HELLO: "hello",
    Opcode.PING: "ping",
    Opcode.GET: "get",
    Opcode.PUT: "put",
    Opcode.DELETE: "delete",
    Opcode.SCAN: "scan",
    Opcode.STATUS: "status",
    Opcode.LOG: "log",
    Opcode.SESSION: "session",
    Opcode.ADMIN: "admin",
    Opcode.BACKUP: "backup",
}
_UNASKED = frozenset({Opcode.GOODBYE})
"""What a node says without being asked."""
_READ_CODES = ("OK", "NO_LEADER", "OVERLOADED", "TIMEOUT")
_WRITE_CODES = ("OK", "NO_LEADER", "OVERLOADED", "NO_SPACE", "OUTCOME_UNKNOWN")
_FROM_THE_START = tuple(
    (op, code)
    for op, codes in {"get": _READ_CODES, "scan": _READ_CODES, "put": _WRITE_CODES, "delete": _WRITE_CODES}.items()
    for code in codes
)
"""Shown also while they are 0: Prometheus sees the first failure as an increase only where it has seen the 0 before."""


class Distribution:
    """How often a value fell between which bounds.

    Counter `i` is of values above bound `i - 1` and up to bound `i`; one more counter takes all that is above the last
    bound. Compiled code may count into an array of the same shape and hand it over as `counts`.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...], counts: list[int] | None = None, total: float = 0.0) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1) if counts is None else counts
        self.total = total
        """The sum of all values."""
        if len(self.counts) != len(bounds) + 1:
            raise ValueError(f"{len(bounds)} bounds need {len(bounds) + 1} counters, not {len(self.counts)}")

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def add(self, other: Distribution) -> None:
        """Count everything that another distribution over the same bounds has counted."""
        if self.bounds != other.bounds:
            raise ValueError("distributions over different bounds cannot be added")
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """The cumulative buckets of a Prometheus histogram."""
        names = (*map(str, self.bounds), "+Inf")
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


class Requests(Protocol):
    """Requests of one face: how many, by operation and code, and how long they took, by operation.

    Both labels come from small fixed sets (routes or opcodes, and codes), never from what a client sends.
    """

    @property
    def totals(self) -> Mapping[tuple[str, str], int]:
        """Requests by operation and code."""

    @property
    def durations(self) -> Mapping[str, Distribution]:
        """How long they took, by operation."""


class RequestMetrics:
    """The requests of a face that is told of each: HTTP's."""

    __slots__ = ("durations", "totals")

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, str]] = Counter()
        self.durations: dict[str, Distribution] = {}

    def observe(self, op: str, code: str, seconds: float) -> None:
        """Count one request that has been answered."""
        self.totals[op, code] += 1
        duration = self.durations.get(op)
        if duration is None:
            duration = self.durations[op] = Distribution(REQUEST_BOUNDS_S)
        duration.observe(seconds)


class RawRequests:
    """The requests of the raw port, as its compiled connections have counted them."""

    def __init__(self, counted: Tally) -> None:
        self._tally = counted

    @property
    def totals(self) -> Counter[tuple[str, str]]:
        """Requests by operation and code."""
        names = {int(status): status.name for status in Status}
        totals: Counter[tuple[str, str]] = Counter()
        for (opcode, status), count in self._tally.answered().items():
            if opcode not in _UNASKED:
                totals[_OPS.get(opcode, OTHER), names.get(status, "UNKNOWN")] += count
        return totals

    @property
    def durations(self) -> dict[str, Distribution]:
        """How long they took, by operation."""
        durations: dict[str, Distribution] = {}
        for opcode in {opcode for opcode, _ in self._tally.answered()} - _UNASKED:
            op = _OPS.get(opcode, OTHER)
            durations.setdefault(op, Distribution(REQUEST_BOUNDS_S)).add(
                Distribution(REQUEST_BOUNDS_S, *self._tally.took(opcode))
            )
        return durations


@dataclass(slots=True, kw_only=True)
class Figures:
    """What a node knows of itself when it is scraped. What a node does not count yet stays at its default."""

    has_leader: bool
    is_leader: bool
    leader_changes: int
    """Leaderships that this node has seen begin: another leader, or the same one elected again."""
    term: int
    commit_index: int
    applied_index: int
    proposals_committed: int
    proposals_applied: int
    proposals_failed: int
    proposals_pending: int
    keys: int
    store_bytes: int
    log_bytes: int
    disk_bytes: int
    """Of the file system that the data directory is on."""
    disk_free_bytes: int
    connections: Mapping[str, int]
    """Open connections by kind: client, peer, http."""
    watchers: int = 0
    fsync_seconds: Distribution = field(default_factory=lambda: Distribution(DISK_BOUNDS_S))
    batch_entries: Distribution = field(default_factory=lambda: Distribution(BATCH_BOUNDS))
    checkpoint_seconds: Distribution = field(default_factory=lambda: Distribution(CHECKPOINT_BOUNDS_S))
    peer_round_trip_seconds: Mapping[str, float] = field(default_factory=dict)
    """The latest round trip to each peer, by its id."""
    snapshots_open: int = 0
    """Consistent views that scans hold open."""
    snapshots_installed: int = 0
    snapshot_bytes_sent: int = 0
    snapshot_bytes_received: int = 0
    has_alarm: bool = False
    refuses_writes: bool = False


class NodeMetrics(Collector):
    """The metrics of one node: `figures()` is called at each scrape, `requests` are those of its faces.

    Has a registry of its own, so that several nodes can live in one process.
    """

    def __init__(self, figures: Callable[[], Figures], requests: Iterable[Requests]) -> None:
        self._figures = figures
        self._requests = tuple(requests)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(ProcessMetrics(PREFIX))

    def render(self) -> bytes:
        """Every metric in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing to say before the first scrape; keeps the registry from collecting at registration."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The families of this node, as prometheus-client asks for them."""
        figures = self._figures()
        yield from _consensus(figures)
        yield from _storage(figures)
        yield from _faces(figures, self._requests)
        labels = ("version", "python")
        build = GaugeMetricFamily(f"{PREFIX}_build_info", "What is running; the value is 1.", labels=labels)
        build.add_metric((__version__, platform.python_version()), 1)
        yield build


def _consensus(figures: Figures) -> Iterator[Metric]:
    yield _gauge("server_has_leader", "1 while a leader is known.", figures.has_leader)
    yield _gauge("server_is_leader", "1 while this node leads.", figures.is_leader)
    yield _counter("server_leader_changes", "Leaderships that this node has seen begin.", figures.leader_changes)
    yield _gauge("server_refuses_writes", "1 while every write is refused, as on a full disk.", figures.refuses_writes)
    yield _gauge("raft_term", "The current Raft term.", figures.term)
    yield _gauge("raft_commit_index", "The highest log index known to be committed.", figures.commit_index)
    yield _gauge("raft_applied_index", "The highest log index applied to the state machine.", figures.applied_index)
    yield _counter("raft_proposals_committed", "Log entries committed.", figures.proposals_committed)
    yield _counter("raft_proposals_applied", "Log entries applied.", figures.proposals_applied)
    failed = figures.proposals_failed
    yield _counter("raft_proposals_failed", "Writes refused, or given up with an unknown outcome.", failed)
    yield _gauge("raft_proposals_pending", "Writes neither applied nor given up yet.", figures.proposals_pending)
    round_trips = GaugeMetricFamily(
        f"{PREFIX}_peer_round_trip_seconds", "The latest round trip to a peer.", labels=("peer",)
    )
    for peer, seconds in figures.peer_round_trip_seconds.items():
        round_trips.add_metric((peer,), seconds)
    yield round_trips


def _storage(figures: Figures) -> Iterator[Metric]:
    yield _histogram("wal_fsync_duration_seconds", "One fdatasync of the write-ahead log.", figures.fsync_seconds)
    yield _histogram("wal_batch_entries", "Log entries in one write of the write-ahead log.", figures.batch_entries)
    yield _histogram("checkpoint_duration_seconds", "One checkpoint of the store.", figures.checkpoint_seconds)
    yield _gauge("keys", "Keys in the store.", figures.keys)
    yield _gauge("store_bytes", "Bytes of the store on disk.", figures.store_bytes)
    yield _gauge("wal_bytes", "Bytes of the write-ahead log on disk.", figures.log_bytes)
    yield _gauge("disk_bytes", "Bytes of the data directory's file system.", figures.disk_bytes)
    yield _gauge("disk_free_bytes", "Bytes of it that are free.", figures.disk_free_bytes)
    yield _gauge("snapshot_open", "Consistent views held open for scans.", figures.snapshots_open)
    installed = figures.snapshots_installed
    yield _counter("snapshots_installed", "Snapshots that took the place of this node's state.", installed)
    yield _counter("snapshot_sent_bytes", "Bytes of snapshots sent to other nodes.", figures.snapshot_bytes_sent)
    yield _counter("snapshot_received_bytes", "Bytes of snapshots fetched.", figures.snapshot_bytes_received)
    yield _gauge("state_alarm", "1 while this node's state differs from the others'.", int(figures.has_alarm))
    yield _gauge("watchers", "Watches under way.", figures.watchers)


def _faces(figures: Figures, requests: tuple[Requests, ...]) -> Iterator[Metric]:
    connections = GaugeMetricFamily(f"{PREFIX}_connections", "Open connections.", labels=("kind",))
    for kind, count in sorted(figures.connections.items()):
        connections.add_metric((kind,), count)
    yield connections

    totals: Counter[tuple[str, str]] = Counter(dict.fromkeys(_FROM_THE_START, 0))
    durations: dict[str, Distribution] = {}
    for face in requests:
        totals.update(face.totals)
        for op, duration in face.durations.items():
            durations.setdefault(op, Distribution(duration.bounds)).add(duration)
    counted = CounterMetricFamily(f"{PREFIX}_requests", "Requests answered.", labels=("op", "code"))
    for (op, code), count in sorted(totals.items()):
        counted.add_metric((op, code), count)
    yield counted
    lasted = HistogramMetricFamily(
        f"{PREFIX}_request_duration_seconds", "From a request's arrival to its answer.", labels=("op",)
    )
    for op, duration in sorted(durations.items()):
        lasted.add_metric((op,), duration.buckets(), duration.total)
    yield lasted


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", text, value=value)


def _histogram(name: str, text: str, distribution: Distribution) -> Metric:
    return HistogramMetricFamily(f"{PREFIX}_{name}", text, buckets=distribution.buckets(), sum_value=distribution.total)
