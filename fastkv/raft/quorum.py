"""Majorities: n // 2 + 1 of n voters.

While the membership changes (joint consensus, thesis 4.3), a decision needs a majority of the new voters and one of the
old: `outgoing` names the old ones, and is empty at all other times.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

WON = 1
LOST = -1
OPEN = 0


def size(voters: Collection[str]) -> int:
    """How many make a majority."""
    return len(voters) // 2 + 1


def reached(voters: Collection[str], value_of: Mapping[str, int], outgoing: Collection[str] = ()) -> int:
    """The largest value that a majority (of `outgoing` too) has reached; a voter without one counts as 0.

    With match indexes it is the index that a majority holds, with acknowledged rounds the confirmed round.
    """
    values = sorted((value_of.get(voter, 0) for voter in voters), reverse=True)
    value = values[size(voters) - 1]
    return min(value, reached(outgoing, value_of)) if outgoing else value


def tally(voters: Collection[str], votes: Mapping[str, bool], outgoing: Collection[str] = ()) -> int:
    """WON, LOST or OPEN. Only voters count, each once in each of the configurations that it is in."""
    if outgoing:
        # LOST before OPEN before WON: both have to be won, and one that is lost decides.
        return min(tally(voters, votes), tally(outgoing, votes))
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= size(voters):
        return WON
    if refused > len(voters) - size(voters):
        return LOST
    return OPEN
