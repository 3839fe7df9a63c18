"""Majorities against brute force."""

from __future__ import annotations

import itertools

import pytest

from fastkv.raft import quorum

NAMES = "abcdefg"


@pytest.mark.parametrize("count", range(1, 8))
def test_any_two_majorities_share_a_member(count: int) -> None:
    voters = NAMES[:count]
    size = quorum.size(voters)
    majorities = list(itertools.combinations(voters, size))
    assert all(set(a) & set(b) for a in majorities for b in majorities)
    if size > 1:
        smaller = list(itertools.combinations(voters, size - 1))
        assert any(not set(a) & set(b) for a in smaller for b in smaller), "and no smaller size does that"


@pytest.mark.parametrize("count", range(1, 6))
def test_reached_is_the_largest_value_that_a_majority_has(count: int) -> None:
    voters = NAMES[:count]
    for values in itertools.product(range(4), repeat=count):
        value_of = dict(zip(voters, values, strict=True))
        expected = max(v for v in range(4) if sum(x >= v for x in values) > count / 2)
        assert quorum.reached(voters, value_of) == expected


def test_a_voter_without_a_value_has_reached_nothing() -> None:
    assert quorum.reached("abc", {"a": 5}) == 0
    assert quorum.reached("abc", {"a": 5, "b": 3, "stranger": 9}) == 3


@pytest.mark.parametrize("count", range(1, 6))
def test_tally_against_brute_force(count: int) -> None:
    voters = NAMES[:count]
    for votes in itertools.product((True, False, None), repeat=count):
        cast = {name: vote for name, vote in zip(voters, votes, strict=True) if vote is not None}
        could = [
            sum(vote if vote is not None else later for vote, later in zip(votes, rest, strict=True)) > count / 2
            for rest in itertools.product((True, False), repeat=count)
        ]
        expected = quorum.WON if all(could) else quorum.OPEN if any(could) else quorum.LOST
        assert quorum.tally(voters, cast) == expected


def test_only_voters_count() -> None:
    assert quorum.tally("abc", {"a": True, "x": True, "y": True}) == quorum.OPEN
