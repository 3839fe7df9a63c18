"""The latency histogram. The load generator records without Python in between; what is left here is the call."""

from __future__ import annotations

import random

from bench.micro.data import exhaust
from bench.micro.measure import Measure
from fastkv._core.histogram import Histogram

COUNT = 1024


def latencies(seed: int) -> list[int]:
    """Nanoseconds, log-normal around 1 ms as latencies tend to be."""
    rng = random.Random(seed)
    return [int(1e6 * rng.lognormvariate(0, 0.7)) for _ in range(COUNT)]


def recorded(seed: int) -> Histogram:
    histogram = Histogram()
    exhaust(map(histogram.record, latencies(seed)))
    return histogram


def bench_record(measure: Measure) -> None:
    """One duration."""
    histogram, values = Histogram(), latencies(1)
    measure.repeat(lambda: exhaust(map(histogram.record, values)), operations=COUNT)
    assert len(histogram) % COUNT == 0
    assert histogram.max_ns == max(values)


def bench_percentile(measure: Measure) -> None:
    """A walk along the buckets; once a report."""
    histogram = recorded(1)
    assert measure.repeat(lambda: histogram.percentile(99)) > histogram.percentile(50)


def bench_summary(measure: Measure) -> None:
    """All percentiles of a report."""
    histogram = recorded(1)
    assert measure.repeat(histogram.summary_us)["max"] == histogram.max_ns / 1000


def bench_merge(measure: Measure) -> None:
    """One connection's counts into those of all."""
    whole, part = recorded(1), recorded(2)
    measure.repeat(lambda: whole.merge(part))
    assert len(whole) % COUNT == 0
    assert whole.max_ns == max(latencies(1) + latencies(2))
