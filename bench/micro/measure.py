"""How a call becomes a figure: nanoseconds for each of the operations that it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

from pytest_benchmark.fixture import BenchmarkFixture

T = TypeVar("T")
State = TypeVar("State")

ROUND_OPERATIONS = 4096
"""How many operations a round on fresh state does, at least: so many that the clock's own cost does not count."""


class Row(NamedTuple):
    """One line of the table."""

    name: str
    operations: int
    min_ns: float
    median_ns: float

    @property
    def operations_per_second(self) -> float:
        return 1e9 / self.median_ns


class Measure:
    """Measures one call, once. `rows` gets the figure, unless pytest-benchmark is disabled."""

    def __init__(self, benchmark: BenchmarkFixture, name: str, rows: list[Row]) -> None:
        self._benchmark = benchmark
        self._name = name
        self._rows = rows

    def repeat(self, call: Callable[[], T], *, operations: int = 1) -> T:
        """Call again and again, for as long as pytest-benchmark says; what the last call answered."""
        self._benchmark.extra_info["operations"] = operations
        answer: T = self._benchmark(call)
        self._note(operations)
        return answer

    def fresh(
        self, call: Callable[[State], T], setup: Callable[[], State], *, operations: int, rounds: int = 50
    ) -> T:
        """Call once a round, each time with what `setup` makes, which is not measured; what the last call answered."""
        self._benchmark.extra_info["operations"] = operations
        pedantic: Any = self._benchmark.pedantic
        answer: T = pedantic(call, setup=lambda: ((setup(),), {}), rounds=rounds)
        self._note(operations)
        return answer

    def _note(self, operations: int) -> None:
        measured = self._benchmark.stats
        if measured is not None:
            factor = 1e9 / operations
            self._rows.append(
                Row(self._name, operations, measured.stats.min * factor, measured.stats.median * factor)
            )


def table(rows: Iterable[Row]) -> list[str]:
    """The lines of the table, aligned."""
    header = ("", "operations a call", "ns/operation (min)", "(median)", "operations/s")
    cells = [
        (row.name, f"{row.operations:,}", f"{row.min_ns:,.1f}", f"{row.median_ns:,.1f}",
         f"{row.operations_per_second:,.0f}")
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[column]) for line in (header, *cells)) for column in range(len(header))]
    lines = []
    for name, *figures in (header, *cells):
        aligned = (figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
        lines.append("  ".join([name.ljust(widths[0]), *aligned]))
    return lines
