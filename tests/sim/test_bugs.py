"""Bugs brought back on purpose are caught, each within a few seeds: see `docs/testing.md` for how many it takes."""

from __future__ import annotations

import pytest

from tests.sim.bugs import BUGS, seeds_until_caught

RARE = {"lease-kept", "read-without-round", "votes-counted-twice"}
"""They need several things to come together: they are hunted in plans that are made for them."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BUGS if name not in RARE])
def test_a_bug_is_caught(name: str) -> None:
    assert seeds_until_caught(name, limit=40) is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(RARE))
def test_a_rare_bug_is_caught(name: str) -> None:
    assert seeds_until_caught(name, limit=150, hunted=True) is not None
