"""Seeds to try a test with: the first ones in every run, the others where there is time for them."""

from __future__ import annotations

import pytest
from _pytest.mark import ParameterSet


def seeds(count: int, *, quick: int = 2) -> list[int | ParameterSet]:
    """The seeds 0 to `count` - 1 for `parametrize`; those from `quick` on are marked slow."""
    return [seed if seed < quick else pytest.param(seed, marks=pytest.mark.slow) for seed in range(count)]
