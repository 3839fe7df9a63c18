"""Majorities. A function takes the voters it counts, so that a joint configuration (thesis 4.3) is two calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping

WON = 1
LOST = -1
OPEN = 0


def size(voters: Collection[str]) -> int:
    """How many make a majority."""
    return len(voters) // 2 + 1


def reached(voters: Collection[str], value_of: Mapping[str, int]) -> int:
    """The largest value that a majority has reached; a voter without one counts as 0.

    With match indexes it is the index that a majority holds, with acknowledged rounds the confirmed round.
    """
    values = sorted((value_of.get(voter, 0) for voter in voters), reverse=True)
    return values[size(voters) - 1]


def tally(voters: Collection[str], votes: Mapping[str, bool]) -> int:
    """WON, LOST or OPEN. Only voters count, each once."""
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= size(voters):
        return WON
    if refused > len(voters) - size(voters):
        return LOST
    return OPEN
