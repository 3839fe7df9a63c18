"""What a run has left behind: what the verdict, the timeline and the chart are made of. Times count from its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from fastkv.chaos import resources
from fastkv.chaos.agreement import Agreement
from fastkv.chaos.clients import Sample


class Taken(NamedTuple):
    """A fault that was carried out."""

    kind: str
    who: str
    began: float
    ended: float
    """When it was undone and the cluster had a leader that all knew."""
    withheld: int
    counts: bool
    """Whether it did anything: a cut link over which nothing was sent meanwhile is no fault."""


class Reign(NamedTuple):
    """From when on a node was seen to lead; an empty name: nobody was."""

    t: float
    leader: str
    term: int


class LeaderKill(NamedTuple):
    """A leader was killed, and started again."""

    killed: float
    restarted: float


@dataclass
class RunRecord:
    """One run."""

    mode: str
    seed: int
    nodes: list[str]
    network: str
    seconds: float = 0.0
    """How long clients and faults were at work."""
    samples: list[Sample] = field(default_factory=list)
    taken: list[Taken] = field(default_factory=list)
    kills: list[LeaderKill] = field(default_factory=list)
    reigns: list[Reign] = field(default_factory=list)
    resources: list[resources.Sample] = field(default_factory=list)
    overlapping: int = 0
    agreement: Agreement = field(default_factory=Agreement)
    linearizable: bool | None = None
    """None: the search did not come to an end."""
    explanation: str = ""
    """Of a history that is not linearizable: the smallest part of it that shows so."""
    ended_by_themselves: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)
    """What kept the run from going on as it was meant to."""
