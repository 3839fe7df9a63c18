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


JOINT = [("abc", "ab"), ("abc", "bcd"), ("a", "bc"), ("abcd", "abc"), ("ab", "cde")]
"""(voters, outgoing) of changes that add, replace and remove members."""


@pytest.mark.parametrize(("voters", "outgoing"), JOINT)
def test_a_joint_decision_needs_both_majorities(voters: str, outgoing: str) -> None:
    everybody = sorted({*voters, *outgoing})

    def agree(members: set[str]) -> bool:
        return all(len(members & set(half)) > len(half) / 2 for half in (voters, outgoing))

    for values in itertools.product(range(3), repeat=len(everybody)):
        value_of = dict(zip(everybody, values, strict=True))
        expected = max(v for v in range(3) if agree({m for m in everybody if value_of[m] >= v}))
        assert quorum.reached(voters, value_of, outgoing) == expected
    for votes in itertools.product((True, False, None), repeat=len(everybody)):
        cast = {name: vote for name, vote in zip(everybody, votes, strict=True) if vote is not None}
        if agree({m for m in everybody if cast.get(m) is True}):
            expected = quorum.WON
        elif agree({m for m in everybody if cast.get(m) is not False}):
            expected = quorum.OPEN
        else:
            expected = quorum.LOST
        assert quorum.tally(voters, cast, outgoing) == expected


def test_only_voters_count() -> None:
    assert quorum.tally("abc", {"a": True, "x": True, "y": True}) == quorum.OPEN
