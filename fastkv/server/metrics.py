"""What Prometheus scrapes.

The text format, its escaping and the metrics of the process are prometheus-client's. Observing is not: what is hot
counts into plain numbers, compiled or not, and a collector reads them when somebody scrapes. So an operation costs an
addition or two, and a scrape costs the scrape.

* `Distribution` is what a histogram is read from;
* `RequestMetrics` counts the requests of one face;
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

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fastkv.version import __version__

PREFIX = "fastkv"

REQUEST_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Bucket bounds of what a client waits for, in seconds: from a local read to the request timeout."""
DISK_BOUNDS_S = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
)  # fmt: skip
"""Bucket bounds of an fdatasync, in seconds: from a fast NVMe drive to a disk that has lost its way."""
CHECKPOINT_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_BOUNDS = tuple(float(2**power) for power in range(15))
"""Bucket bounds of entries in a batch, 1 to 16384."""


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


class RequestMetrics:
    """Requests of one face: how many, by operation and code, and how long they took, by operation.

    Both labels come from small fixed sets (routes or opcodes, and codes), never from what a client sends.
    """

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


@dataclass(slots=True, kw_only=True)
class Figures:
    """What a node knows of itself when it is scraped. What a node does not count yet stays at its default."""

    has_leader: bool
    is_leader: bool
    leader_changes: int
    """Times that this node has seen a leader other than the one before."""
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


class NodeMetrics(Collector):
    """The metrics of one node: `figures()` is called at each scrape, `requests` are those of its faces.

    Has a registry of its own, so that several nodes can live in one process.
    """

    def __init__(self, figures: Callable[[], Figures], requests: Iterable[RequestMetrics]) -> None:
        self._figures = figures
        self._requests = tuple(requests)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(namespace=PREFIX, registry=self._registry)

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
    yield _counter("server_leader_changes", "Changes of leader that this node has seen.", figures.leader_changes)
    yield _gauge("raft_term", "The current Raft term.", figures.term)
    yield _gauge("raft_commit_index", "The highest log index known to be committed.", figures.commit_index)
    yield _gauge("raft_applied_index", "The highest log index applied to the state machine.", figures.applied_index)
    yield _counter("raft_proposals_committed", "Log entries committed.", figures.proposals_committed)
    yield _counter("raft_proposals_applied", "Log entries applied.", figures.proposals_applied)
    yield _counter("raft_proposals_failed", "Proposals refused, or lost with a leadership.", figures.proposals_failed)
    yield _gauge("raft_proposals_pending", "Proposals neither applied nor failed yet.", figures.proposals_pending)
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
    yield _gauge("snapshot_open", "Consistent views held open for scans.", figures.snapshots_open)
    installed = figures.snapshots_installed
    yield _counter("snapshots_installed", "Snapshots that took the place of this node's state.", installed)
    yield _counter("snapshot_sent_bytes", "Bytes of snapshots sent to other nodes.", figures.snapshot_bytes_sent)
    yield _counter("snapshot_received_bytes", "Bytes of snapshots fetched.", figures.snapshot_bytes_received)
    yield _gauge("state_alarm", "1 while this node's state differs from the others'.", int(figures.has_alarm))
    yield _gauge("watchers", "Watches under way.", figures.watchers)


def _faces(figures: Figures, requests: tuple[RequestMetrics, ...]) -> Iterator[Metric]:
    connections = GaugeMetricFamily(f"{PREFIX}_connections", "Open connections.", labels=("kind",))
    for kind, count in sorted(figures.connections.items()):
        connections.add_metric((kind,), count)
    yield connections

    totals: Counter[tuple[str, str]] = Counter()
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
