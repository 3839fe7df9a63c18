"""Finds the benchmarks, hands out `measure`, and prints the table."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.measure import Measure, Row, table

ROWS = pytest.StashKey[list[Row]]()


def pytest_configure(config: pytest.Config) -> None:
    """Benchmarks are `bench_*` in `bench_*.py`. Their table replaces pytest-benchmark's, which is in other units."""
    config.addinivalue_line("python_files", "bench_*.py")
    config.addinivalue_line("python_functions", "bench_*")
    config.option.benchmark_quiet = True
    config.option.benchmark_disable_gc = True
    config.stash[ROWS] = []


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Measure:
    """Measures the benchmark that asks for it."""
    subject = request.path.stem.removeprefix("bench_")
    name = request.node.name.removeprefix("bench_")
    return Measure(benchmark, f"{subject}: {name}", request.config.stash[ROWS])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Nanoseconds for an operation, in the order in which they were measured."""
    rows = config.stash[ROWS]
    if rows:
        terminalreporter.section("nanoseconds for an operation")
        for line in table(rows):
            terminalreporter.write_line(line)
