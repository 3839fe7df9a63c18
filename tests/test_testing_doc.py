"""docs/testing.md names tests, and bugs that are brought back: they are there, and none is left out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.sim.bugs import BUGS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "testing.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))
FILES = sorted(set(re.findall(r"`(tests/[\w/.*]+)`", PAGE)))


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[name for _, name in NAMED])
def test_a_named_test_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in defined


@pytest.mark.parametrize("pattern", FILES)
def test_a_named_file_is_there(pattern: str) -> None:
    assert list(ROOT.glob(pattern))


def test_every_promise_has_its_row() -> None:
    rows = [int(number) for number in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)]
    assert rows == list(range(1, 35))


def test_every_bug_that_is_brought_back_has_its_row() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE)
    assert rows == list(BUGS)
    mentioned = set(re.findall(r"bugs? `([a-z-]+)`", PAGE)) | set(re.findall(r"`, `([a-z-]+)` \|$", PAGE, re.MULTILINE))
    assert mentioned <= set(BUGS)
