"""The histogram's percentiles against a sorted list of the same values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastkv._core.histogram import Histogram


@given(
    st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 300), st.integers(1_000, 10_000_000)), min_size=1),
    st.sampled_from([0.0, 1.0, 50.0, 90.0, 99.0, 99.9, 100.0]),
)
def test_a_percentile_is_within_a_bucket_above_the_true_value(values: list[int], percent: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    rank = max(1, int(percent / 100 * len(values) + 0.5))
    true = sorted(values)[rank - 1]
    assert true <= histogram.percentile(percent) <= true + true // 128
    assert histogram.max_ns == max(values)
    assert len(histogram) == histogram.count == len(values)


def test_a_summary_is_in_microseconds() -> None:
    histogram = Histogram()
    for value_ns in (1_000, 2_000, 4_500):
        histogram.record(value_ns)
    summary = histogram.summary_us()
    assert list(summary) == ["p50", "p90", "p99", "p999", "mean", "max"]
    assert summary["mean"] == 2.5
    assert summary["max"] == 4.5
    assert summary["p50"] == pytest.approx(2.0, rel=0.008)


def test_an_empty_histogram_says_zero() -> None:
    assert Histogram().percentile(50) == 0
    assert Histogram().summary_us() == dict.fromkeys(["p50", "p90", "p99", "p999", "mean", "max"], 0.0)


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
def test_a_percent_outside_the_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        Histogram().percentile(percent)


@given(st.lists(st.integers(0, 10**9)), st.lists(st.integers(0, 10**9)))
def test_merged_is_as_if_recorded_in_one(some: list[int], others: list[int]) -> None:
    merged, other, whole = Histogram(), Histogram(), Histogram()
    for value in some:
        merged.record(value)
    for value in others:
        other.record(value)
    for value in some + others:
        whole.record(value)
    merged.merge(other)
    assert len(merged) == len(whole)
    assert merged.summary_us() == pytest.approx(whole.summary_us())
    assert merged.curve_us() == whole.curve_us()


def test_a_curve_goes_halfway_to_the_end_each_time() -> None:
    histogram = Histogram()
    for value in range(1, 1001):
        histogram.record(value * 1000)
    curve = histogram.curve_us()
    assert [percent for percent, _ in curve][:5] == [0.0, 50.0, 75.0, 87.5, 93.75]
    assert curve[-1] == (100.0, 1000.0)
    assert len(curve) == 12         # 2**-10 of a thousand values is less than one
    assert [value for _, value in curve] == sorted(value for _, value in curve)
    assert curve[2][1] == pytest.approx(750, rel=0.01)
