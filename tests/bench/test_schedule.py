"""An open load's moments come at random, at the rate that was asked for."""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from fastkv._core.schedule import Schedule


def gaps_ns(rate: float, count: int, seed: int = 1) -> list[int]:
    moments = Schedule(rate, 1, 1, seed, 1_000_000).moments(count)
    assert moments[0] >= 1_000_000
    return [later - earlier for earlier, later in pairwise(moments)]


@pytest.mark.parametrize("rate", [10.0, 12_345.0, 500_000.0])
def test_the_average_is_the_rate_and_the_gaps_are_exponential(rate: float) -> None:
    gaps = gaps_ns(rate, 50_000)
    assert fmean(gaps) == pytest.approx(1e9 / rate, rel=0.03)
    assert pstdev(gaps) == pytest.approx(1e9 / rate, rel=0.05)
    assert min(gaps) >= 0


def test_the_same_seed_makes_the_same_moments() -> None:
    assert gaps_ns(100.0, 50, seed=7) == gaps_ns(100.0, 50, seed=7)
    assert gaps_ns(100.0, 50, seed=7) != gaps_ns(100.0, 50, seed=8)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_is_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Schedule(rate, 1, 1, 1, 0)
