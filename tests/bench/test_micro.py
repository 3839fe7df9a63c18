"""The micro-benchmarks work, and none of the compiled core is forgotten. What they measure is asserted nowhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.micro.measure import Row, table

ROOT = Path(__file__).parents[2]
CORE = ROOT / "fastkv" / "_core"
MICRO = ROOT / "bench" / "micro"

NOT_MEASURED = {
    "codes": "constants",
    "loadgen": "it measures: `python -m bench` runs it against nodes, and it reports its own CPU time",
    "page_reader": "it has no methods for Python: bench_lmdb_walk reads through it, page by page and window by window",
}
MODULES = sorted(path.stem for path in CORE.glob("*.pyx"))


@pytest.mark.slow
def test_every_benchmark_does_what_it_says() -> None:
    command = [sys.executable, "-m", "pytest", "bench/micro", "--benchmark-disable", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    passed = re.fullmatch(r"(\d+) passed in .*", ended.stdout.splitlines()[-1])
    assert passed is not None, ended.stdout
    assert int(passed[1]) > 100


def test_a_figure_is_printed_for_each_operation() -> None:
    """The same with the clock on, of the cheapest benchmarks."""
    command = [sys.executable, "-m", "pytest", "bench/micro/bench_schedule.py", "bench/micro/bench_buffer.py",
               "--benchmark-max-time", "0.01", "-q", "-p", "no:cacheprovider"]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^schedule: moments +1,024 +[\d.,]+ +[\d.,]+ +[\d,]+$", ended.stdout, re.MULTILINE)
    assert re.search(r"^buffer: write_u64 +1,024 +[\d.,]+ +[\d.,]+ +[\d,]+$", ended.stdout, re.MULTILINE)


def test_the_table_is_aligned() -> None:
    lines = table([Row("one", 1, 1234.56, 2000.0), Row("another", 1024, 0.5, 0.8)])
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split() == ["one", "1", "1,234.6", "2,000.0", "500,000"]
    assert lines[2].split() == ["another", "1,024", "0.5", "0.8", "1,250,000,000"]


def imports_of(path: Path) -> set[str]:
    return {
        node.module
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module is not None
    }


@pytest.mark.parametrize("module", MODULES)
def test_every_compiled_module_is_measured(module: str) -> None:
    path = MICRO / f"bench_{module}.py"
    if module in NOT_MEASURED:
        assert not path.exists(), "it is measured after all"
    else:
        assert f"fastkv._core.{module}" in imports_of(path)


def test_what_is_not_measured_exists() -> None:
    assert set(NOT_MEASURED) < set(MODULES)


def test_consensus_is_measured() -> None:
    assert "fastkv.raft" in imports_of(MICRO / "bench_raft.py")
