"""The moments of an open load: what the load generator itself adds to a request that it sends at a rate."""

from __future__ import annotations

from bench.micro.measure import Measure
from fastkv._core.schedule import Schedule

COUNT = 1024


def bench_moments(measure: Measure) -> None:
    """A random number and a logarithm for each."""
    schedule = Schedule(100_000.0, 64, 16, 1, 1_000_000)
    moments = measure.repeat(lambda: schedule.moments(COUNT), operations=COUNT)
    assert moments == sorted(moments)
    assert len(moments) == COUNT
