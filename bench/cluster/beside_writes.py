"""What a transfer costs the writes that go on beside it: the writes, and what each round of it is measured by."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from fastkv._core.workload import Workload
from fastkv.client import load

CONNECTIONS = 64
WRITTEN_KEYS = 100_000
MOST_S = 300.0


@dataclass(frozen=True, slots=True)
class Round:
    """One transfer of a store, and the writes before and during it."""

    megabytes: float
    """Of what was transferred, in millions of bytes."""
    seconds: float
    quiet_p99_us: float
    busy_p99_us: float
    quiet_throughput: float
    busy_throughput: float

    @property
    def megabytes_per_second(self) -> float:
        return self.megabytes / self.seconds

    @property
    def p99_ratio(self) -> float:
        return self.busy_p99_us / self.quiet_p99_us


class Load:
    """Puts on 64 connections, on a thread, until `end`."""

    def __init__(self, endpoint: str) -> None:
        self._enough = False
        self._result: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, args=(endpoint,))
        self._thread.start()

    def _run(self, endpoint: str) -> None:
        self._result = load.run(
            endpoint, Workload({"put": 1}, keys=WRITTEN_KEYS), connections=CONNECTIONS, count=load.WITHOUT_END,
            max_seconds=MOST_S, on_progress=lambda answers: self._enough,
        )  # fmt: skip

    def end(self) -> dict[str, Any]:
        """What came of it. RuntimeError where any write failed."""
        self._enough = True
        self._thread.join()
        result = self._result
        if not result or result["errors"] or result["lost"] or result["unanswered"]:
            raise RuntimeError(f"writes failed: {result}")
        return result
