"""A run second by second: operations and latencies, with the faults and who led. What the chart is drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastkv.chaos.clients import Sample
from fastkv.chaos.record import RunRecord

POINTS = 240
LEAST_BUCKET_S = 0.25


def timeline(record: RunRecord) -> dict[str, Any]:
    """The run as plain values."""
    bucket_s = max(LEAST_BUCKET_S, record.seconds / POINTS)
    count = max(1, int(record.seconds / bucket_s) + 1)
    filled: list[list[Sample]] = [[] for _ in range(count)]
    for sample in record.samples:
        filled[min(max(int(sample.ended / bucket_s), 0), count - 1)].append(sample)
    return {
        "mode": record.mode,
        "seed": record.seed,
        "nodes": record.nodes,
        "network": record.network,
        "seconds": record.seconds,
        "buckets": [_bucket(number * bucket_s, bucket_s, samples) for number, samples in enumerate(filled)],
        "faults": [taken._asdict() for taken in record.taken],
        "leaders": [reign._asdict() for reign in record.reigns],
        "resources": [sample._asdict() for sample in record.resources],
    }


def _bucket(t: float, bucket_s: float, samples: Sequence[Sample]) -> dict[str, float | None]:
    latencies = sorted((s.ended - s.began) * 1000 for s in samples if s.outcome == "ok")
    return {
        "t": t,
        **{
            f"{outcome}_per_s": sum(s.outcome == outcome for s in samples) / bucket_s
            for outcome in ("ok", "failed", "unknown")
        },
        "p50_ms": _percentile(latencies, 0.50),
        "p99_ms": _percentile(latencies, 0.99),
        "max_ms": latencies[-1] if latencies else None,
    }


def _percentile(ordered: Sequence[float], part: float) -> float | None:
    """None where there is nothing."""
    return ordered[min(int(part * len(ordered)), len(ordered) - 1)] if ordered else None
