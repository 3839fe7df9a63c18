"""What every rival can do, and what a measurement says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bench.processes import Servers
from bench.rivals.loads import Data, Load


class RivalError(Exception):
    """A rival did not start, or did not do what it was asked: there is no figure then, instead of a wrong one."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One load on one rival in one round."""

    throughput: float
    """Operations a second that were answered with success."""
    p50_us: float
    p99_us: float
    p999_us: float | None
    """None where the tool does not say."""
    failed: int
    operations: int
    seconds: float
    tool_cpu_seconds: float
    """CPU time of the load generator: near `seconds`, it was the bottleneck."""
    server_cpu_seconds: dict[str, float]
    """CPU time of each server process during the load."""

    @property
    def cpu_us_each(self) -> float:
        """Server CPU time for one operation, all processes together, in µs."""
        return sum(self.server_cpu_seconds.values()) * 1e6 / max(self.operations, 1)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "cpu_us_each": self.cpu_us_each}


class Rival(Protocol):
    """A store under measurement. Used as: missing, version, start, fill, run…, stop of the servers."""

    name: str

    def missing(self) -> str | None:
        """What is not installed and how it is called; None where all is there."""

    def version(self) -> str:
        """As the program itself says."""

    def start(self, directory: Path, servers: Servers) -> None:
        """Start with its data in `directory` and wait until it can serve. RivalError where that fails."""

    def fill(self, data: Data) -> None:
        """Store every key once."""

    def supports(self, load: Load) -> bool:
        """Whether it has the interface that the load uses."""

    def run(self, load: Load, data: Data, seconds: float) -> Measurement:
        """Load it for about that long. RivalError where what was done is not what was counted."""
